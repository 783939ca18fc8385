"""Modules, attention and AdamW in TensorFlow. Twin of pytorch.py as far as images need it; twins of
workloads import this file as `nn` too, because TensorFlow has no modules whose parameters are named by
their place and stored as the other frameworks store them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf


def parameter(*shape: int) -> tf.Variable:
    """Zeros, to be trained."""
    return tf.Variable(tf.zeros(shape))


class Module:
    """Parameters and modules are its attributes, or lists of modules; dotted names say where."""

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """Itself, then those inside."""
        yield prefix, self
        for key, value in vars(self).items():
            for name, inner in _modules(key, value):
                yield from inner.named_modules(f"{prefix}.{name}" if prefix else name)

    def named_parameters(self) -> Iterator[tuple[str, tf.Variable]]:
        for place, module in self.named_modules():
            for key, value in vars(module).items():
                if isinstance(value, tf.Variable):
                    yield f"{place}.{key}" if place else key, value

    def parameters(self) -> list[tf.Variable]:
        return [value for _, value in self.named_parameters()]

    def to(self, dtype: tf.DType) -> None:
        """Parameters of another type, or elsewhere than where a new one would be now, become new
        variables: a variable keeps both."""
        place = tf.zeros(()).device
        for _, module in self.named_modules():
            for key, value in vars(module).items():
                fits = isinstance(value, tf.Variable) and (value.dtype, value.device) == (
                    dtype,
                    place,
                )
                if isinstance(value, tf.Variable) and not fits:
                    setattr(module, key, tf.Variable(tf.cast(value, dtype)))

    def __call__(self, *inputs: Any) -> Any:
        raise NotImplementedError


def _modules(key: str, value: Any) -> Iterator[tuple[str, Module]]:
    if isinstance(value, Module):
        yield key, value
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _modules(f"{key}.{number}", item)


class Linear(Module):
    """x W^T + b, with a weight (outputs, inputs)."""

    def __init__(self, inputs: int, outputs: int, bias: bool) -> None:
        super().__init__()
        self.weight = parameter(outputs, inputs)
        if bias:
            self.bias = parameter(outputs)

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """(..., inputs) -> (..., outputs)."""
        *outer, width = x.shape
        # As one product: of more than two dimensions TensorFlow makes one for each, and as many
        # gradients of the weight.
        y = tf.matmul(tf.reshape(x, (-1, width)), self.weight, transpose_b=True)
        if hasattr(self, "bias"):
            y = tf.nn.bias_add(y, self.bias)
        return tf.reshape(y, (*outer, self.weight.shape[0]))


class LayerNorm(Module):
    """Statistics are float32, as in the other frameworks."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = tf.Variable(tf.ones((width,)))
        self.bias = parameter(width)
        self.eps = eps

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        exact = tf.cast(x, tf.float32)
        centred = exact - tf.reduce_mean(exact, axis=-1, keepdims=True)
        variance = tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True)
        normed = centred * tf.math.rsqrt(variance + self.eps)
        weight, bias = tf.cast(self.weight, tf.float32), tf.cast(self.bias, tf.float32)
        return tf.cast(normed * weight + bias, x.dtype)


def split(x: tf.Tensor, heads: int) -> tf.Tensor:
    """(n, t, heads * size) -> (n, heads, t, size)."""
    n, t, width = x.shape
    return tf.transpose(tf.reshape(x, (n, t, heads, width // heads)), (0, 2, 1, 3))


def attend(
    queries: tf.Tensor, keys: tf.Tensor, values: tf.Tensor, mask: tf.Tensor | None
) -> tf.Tensor:
    """Attention, scaled by 1 / sqrt(size): queries (n, heads, t, size), keys and values
    (n, heads, s, size) -> (n, t, heads * size). TensorFlow has no fused one on a CPU.

    mask: None, or booleans that broadcast to (n, heads, t, s), True where a query may look.
    """
    n, heads, t, size = queries.shape
    scores = tf.matmul(queries * size**-0.5, keys, transpose_b=True)
    scores = tf.cast(scores, tf.float32)  # as inside the fused attention of the other frameworks
    if mask is not None:
        scores = tf.where(mask, scores, tf.float32.min)
    output = tf.matmul(tf.cast(tf.nn.softmax(scores, axis=-1), values.dtype), values)
    return tf.reshape(tf.transpose(output, (0, 2, 1, 3)), (n, t, heads * size))


def norm(width: int, epsilon: float) -> LayerNorm:
    """Layer norm with a weight and a bias."""
    return LayerNorm(width, eps=epsilon)


def gelu(x: tf.Tensor) -> tf.Tensor:
    """x * P(Z < x) for a standard normal Z, with the exact error function."""
    return tf.nn.gelu(x, approximate=False)


class AdamW:
    """AdamW with bias correction (Loshchilov and Hutter 2019), all parameters decayed. The rate
    rises linearly from 0, over `warmup_steps`, to `learning_rate` (0: it is that from the start);
    with `decay_steps` it then falls as half a cosine to 0, where it is after so many steps in all.

    Moments are float32. Parameters in 16 bits are the rounded ones of `exact`, which is float32, or
    updates below half a unit in the last place would never add up.
    state: all that an update changes, but the parameters.
    """

    def __init__(
        self,
        model: Module,
        learning_rate: float,
        warmup_steps: int,
        weight_decay: float,
        betas: tuple[float, float],
        epsilon: float,
        decay_steps: int = 0,
    ) -> None:
        self.model = model
        self.learning_rate = learning_rate
        self.warmup_steps = warmup_steps
        self.decay_steps = decay_steps
        self.constants = (weight_decay, *betas, epsilon)
        self.parameters: list[tf.Variable] = []
        self.state: list[tf.Variable] = []
        self.restart()

    def rate(self, step: tf.Tensor) -> tf.Tensor:
        """The learning rate of the update that follows `step` others."""
        share = step / self.warmup_steps if self.warmup_steps else step + 1
        value = tf.minimum(share, 1.0) * self.learning_rate
        if self.decay_steps:
            length = self.decay_steps - self.warmup_steps
            done = tf.clip_by_value((step - self.warmup_steps) / length, 0.0, 1.0)
            value = value * (0.5 + 0.5 * tf.cos(math.pi * done))
        return value

    def update(self, gradients: Sequence[tf.Tensor]) -> None:
        """One step, in place; `gradients` in the order of the parameters."""
        weight_decay, beta1, beta2, epsilon = self.constants
        rate = self.rate(tf.identity(self.steps))
        steps = self.steps.assign_add(1.0)
        # 1 - beta^steps without the rounding of a difference of two numbers near 1.
        first_share, second_share = (-tf.math.expm1(steps * math.log(b)) for b in (beta1, beta2))
        root = tf.sqrt(second_share)
        for p, exact, first, second, gradient in zip(
            self.parameters, self.exact, self.first, self.second, gradients, strict=True
        ):
            exact.assign(exact * (1.0 - rate * weight_decay))
            # The kernel corrects the rate alone; so corrected, epsilon means what it does elsewhere.
            tf.raw_ops.ResourceApplyAdam(
                var=exact.handle,
                m=first.handle,
                v=second.handle,
                beta1_power=0.0,
                beta2_power=0.0,
                lr=rate * root / first_share,
                beta1=beta1,
                beta2=beta2,
                epsilon=epsilon * root,
                grad=tf.cast(gradient, tf.float32),
            )
            if exact is not p:
                p.assign(tf.cast(exact, p.dtype))

    def restart(self) -> None:
        """The state as before the first step; to be called again when the model has been moved to
        another device or dtype."""
        parameters = self.model.parameters()
        if [id(p) for p in parameters] != [id(p) for p in self.parameters]:
            self._take(parameters)
        for value in (self.steps, *self.first, *self.second):
            value.assign(tf.zeros_like(value))
        for p, exact in zip(self.parameters, self.exact, strict=True):
            if exact is not p:
                exact.assign(tf.cast(p, tf.float32))

    def _take(self, parameters: list[tf.Variable]) -> None:
        """New state for these parameters: a compiled step keeps the variables that it began with."""
        self.parameters = parameters
        with tf.device(parameters[0].device):
            self.steps = tf.Variable(0.0, trainable=False)
            self.first, self.second = (
                [tf.Variable(tf.zeros(p.shape), trainable=False) for p in parameters]
                for _ in range(2)
            )
            self.exact = [
                p if p.dtype == tf.float32 else tf.Variable(tf.cast(p, tf.float32), trainable=False)
                for p in parameters
            ]
        self.state.clear()
        short = [e for e, p in zip(self.exact, parameters, strict=True) if e is not p]
        self.state += [self.steps, *self.first, *self.second, *short]

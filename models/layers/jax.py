"""Modules, attention and AdamW in JAX. Twin of pytorch.py as far as its workloads need it; twins of
workloads import this file as `nn` too: JAX has functions of arrays and no modules, and here is what those
need whose parameters are named by their place and stored as the other frameworks store them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp


class Module:
    """Arrays and modules are its attributes, or lists of modules; dotted names say where. An array whose
    name begins with _ is a constant, every other one a parameter."""

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """Itself, then those inside."""
        yield prefix, self
        for key, value in vars(self).items():
            for name, inner in _modules(key, value):
                yield from inner.named_modules(f"{prefix}.{name}" if prefix else name)

    def named_parameters(self) -> Iterator[tuple[str, jax.Array]]:
        for place, module in self.named_modules():
            for key, value in vars(module).items():
                if isinstance(value, jax.Array) and not key.startswith("_"):
                    yield f"{place}.{key}" if place else key, value

    def parameters(self) -> list[jax.Array]:
        return [value for _, value in self.named_parameters()]

    def update(self, values: Sequence[jax.Array]) -> None:
        """Other parameters in the place of these, in their order."""
        rest = iter(values)
        for _, module in self.named_modules():
            for key, value in vars(module).items():
                if isinstance(value, jax.Array) and not key.startswith("_"):
                    setattr(module, key, next(rest))

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
        self.weight = jnp.zeros((outputs, inputs))
        if bias:
            self.bias = jnp.zeros((outputs,))

    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., inputs) -> (..., outputs)."""
        inner = (((x.ndim - 1,), (1,)), ((), ()))  # of x and the weight as it lies
        y = jax.lax.dot_general(x, self.weight, inner)
        return y + self.bias if hasattr(self, "bias") else y


class Embedding(Module):
    """Row i of its weight (count, width) for a number i."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.weight = jnp.zeros((count, width))

    def __call__(self, numbers: jax.Array) -> jax.Array:
        """(...) -> (..., width)."""
        return take(self.weight, numbers)


class LayerNorm(Module):
    """Statistics are float32, as in the other frameworks."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = jnp.ones((width,))
        self.bias = jnp.zeros((width,))
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        exact = x.astype(jnp.float32)
        centred = exact - jnp.mean(exact, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        return (centred * jax.lax.rsqrt(variance + self.eps) * self.weight + self.bias).astype(
            x.dtype
        )


def take(array: jax.Array, rows: jax.Array) -> jax.Array:
    """array[rows]; rows are in range, and JAX's own default would fill those that are not."""
    return jnp.take(array, rows, axis=0, mode="clip")


def split(x: jax.Array, heads: int) -> jax.Array:
    """(n, t, heads * size) -> (n, t, heads, size), as JAX's attention takes it."""
    n, t, width = x.shape
    return x.reshape(n, t, heads, width // heads)


def attend(
    queries: jax.Array, keys: jax.Array, values: jax.Array, mask: jax.Array | str | None
) -> jax.Array:
    """Attention, scaled by 1 / sqrt(size): queries (n, t, heads, size), keys and values
    (n, s, heads, size) -> (n, t, heads * size).

    mask: None; "causal", for t = s; or booleans that broadcast to (n, heads, t, s), True where a query may
    look. On a CPU and in float32 JAX has no fused one: jax.nn.dot_product_attention is these products.
    """
    n, t, heads, size = queries.shape
    if _has_fused(queries) and (mask is None or isinstance(mask, str)):
        # H200, bfloat16, 12 blocks of 1,024 words: 74 against 120 ms a step, a third of the memory.
        output = jax.nn.dot_product_attention(
            queries,
            keys,
            values,
            scale=size**-0.5,
            is_causal=mask is not None,
            implementation="cudnn",
        )
        return output.reshape(n, t, heads * size)
    scores = jnp.einsum("nthd,nshd->nhts", queries * size**-0.5, keys)
    scores = scores.astype(jnp.float32)  # as inside the fused attention of the other frameworks
    if isinstance(mask, str):
        mask = jnp.tril(jnp.ones((t, t), bool))
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(values.dtype)
    return jnp.einsum("nhts,nshd->nthd", weights, values).reshape(n, t, heads * size)


def _has_fused(x: jax.Array) -> bool:
    """Whether cuDNN has attention for heads like those of x (..., size), where the model is."""
    device: Any = jax.config.jax_default_device or jax.devices()[0]
    if device.platform == "cpu" or x.dtype == jnp.float32:
        return False
    return x.shape[-1] % 8 == 0 and x.shape[-1] <= 128 and float(device.compute_capability) >= 8


def norm(width: int, epsilon: float) -> LayerNorm:
    """Layer norm with a weight and a bias."""
    return LayerNorm(width, eps=epsilon)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean over logits (n, classes), labels (n,), with one exponential a logit: its gradient needs no
    other. The logit of a label is found by comparing, which XLA takes into the same loop; indexing would
    make a gradient of zeros to scatter into."""
    shifted = logits - jax.lax.stop_gradient(jnp.max(logits, axis=1, keepdims=True))
    chosen = jnp.where(jnp.arange(logits.shape[1]) == labels[:, None], shifted, 0.0)
    return jnp.mean(jnp.log(jnp.sum(jnp.exp(shifted), axis=1)) - jnp.sum(chosen, axis=1))


class AdamW:
    """AdamW with bias correction (Loshchilov and Hutter 2019), all parameters decayed. The rate
    rises linearly from 0, over `warmup_steps`, to `learning_rate` (0: it is that from the start);
    with `decay_steps` it then falls as half a cosine to 0, where it is after so many steps in all.

    Moments are float32. Parameters in 16 bits are the rounded ones of exact values, which are float32, or
    updates below half a unit in the last place would never add up.
    state: all that an update changes, but the parameters: steps, moments, and exact values where there are.
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
        self.state: list[jax.Array] = []
        self.restart()

    def rate(self, step: jax.Array) -> jax.Array:
        """The learning rate of the update that follows `step` others."""
        share = step / self.warmup_steps if self.warmup_steps else step + 1
        value = jnp.minimum(share, 1.0) * self.learning_rate
        if self.decay_steps:
            length = self.decay_steps - self.warmup_steps
            done = jnp.clip((step - self.warmup_steps) / length, 0.0, 1.0)
            value = value * (0.5 + 0.5 * jnp.cos(math.pi * done))
        return value

    def update(self, gradients: Sequence[jax.Array]) -> None:
        """One step: the model's parameters become new arrays; `gradients` in the order of the parameters."""
        weight_decay, beta1, beta2, epsilon = self.constants
        parameters = self.model.parameters()
        steps, *rest = self.state
        count = len(parameters)
        first, second, exact = rest[:count], rest[count : 2 * count], rest[2 * count :]
        rate, steps = self.rate(steps), steps + 1
        # 1 - beta^steps without the rounding of a difference of two numbers near 1.
        first_share, second_share = (-jnp.expm1(steps * math.log(b)) for b in (beta1, beta2))
        slopes = [gradient.astype(jnp.float32) for gradient in gradients]
        first = [beta1 * m + (1 - beta1) * g for m, g in zip(first, slopes, strict=True)]
        second = [beta2 * v + (1 - beta2) * g * g for v, g in zip(second, slopes, strict=True)]
        values = [
            p * (1 - rate * weight_decay)
            - rate / first_share * m / (jnp.sqrt(v) / jnp.sqrt(second_share) + epsilon)
            for p, m, v in zip(exact or parameters, first, second, strict=True)
        ]
        self.model.update([v.astype(p.dtype) for v, p in zip(values, parameters, strict=True)])
        self.state[:] = [steps, *first, *second, *(values if exact else [])]

    def restart(self) -> None:
        """The state as before the first step; to be called again when the model has been moved to
        another device or dtype."""
        parameters = self.model.parameters()
        moments = [jnp.zeros(p.shape, jnp.float32) for _ in range(2) for p in parameters]
        exact = [p.astype(jnp.float32) for p in parameters if p.dtype != jnp.float32]
        self.state[:] = [jnp.zeros(()), *moments, *exact]

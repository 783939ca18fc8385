"""Attention, caches and AdamW in MLX. Twin of pytorch.py: a diff shows only the spelling."""

from __future__ import annotations

import math
import platform
from typing import Any, cast

import mlx.core as mx
import numpy as np
from mlx import nn, optimizers
from mlx.utils import tree_flatten, tree_map, tree_unflatten

from models.layers.gradients import mlx as own_gradients


def split(x: mx.array, heads: int) -> mx.array:
    """(n, t, heads * size) -> (n, heads, t, size)."""
    n, t, width = x.shape
    return x.reshape(n, t, heads, width // heads).transpose(0, 2, 1, 3)


def attend(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    mask: mx.array | str | None,
) -> mx.array:
    """Fused attention, scaled by 1 / sqrt(size): queries (n, heads, t, size), keys and values
    (n, key heads, s, size) -> (n, t, heads * size).

    mask: None; "causal", for t = s; or booleans that broadcast to (n, heads, t, s), True where a
    query may look. Fewer key heads than heads: each serves a group of neighbouring ones.
    """
    n, heads, t, size = queries.shape
    given = isinstance(mask, mx.array)
    if not given and t >= LONG and _scalar(queries) and keys.shape[1] == heads:
        output = _attend_in_strips(queries * size**-0.5, keys, values, causal=mask is not None)
    elif (
        mask is None
        and 1 < t == keys.shape[2]
        and t % own_gradients.TILE
        and _in_16_bits_on_cuda(queries)
    ):
        output = cast(mx.array, own_gradients.attend(queries, keys, values))
    else:
        output = mx.fast.scaled_dot_product_attention(
            queries, keys, values, scale=size**-0.5, mask=mask
        )
    return output.transpose(0, 2, 1, 3).reshape(n, t, heads * size)


def store(cache: mx.array, value: mx.array, position: mx.array | int) -> mx.array:
    """`cache` (n, heads, capacity, size) with `value` (n, heads, 1, size) at `position`, an integer
    or an array of one. In place."""
    if isinstance(position, int):
        cache[:, :, position : position + 1] = value
        return cache
    return mx.slice_update(cache, value, position, axes=(2,))


class Linear(nn.Linear):
    """MLX's own, with faster gradients on an NVIDIA GPU."""

    def __call__(self, x: mx.array) -> mx.array:
        if not own_gradients.here():
            return cast(mx.array, super().__call__(x))
        bias = [self.bias] if "bias" in self else []
        return cast(mx.array, own_gradients.linear(x, self.weight, *bias))


class LayerNorm(nn.LayerNorm):
    """MLX's own, with a faster gradient on an NVIDIA GPU. Given a change too, the norm of their sum and
    the sum: a layer that is called, however it is computed, is one whose output the evidence has."""

    def __call__(self, x: mx.array, change: mx.array | None = None) -> Any:
        if own_gradients.here() and own_gradients.fits(x):
            if change is None:
                return own_gradients.norm(self.eps)(x, self.weight, self.bias)
            return own_gradients.norm_sum(self.eps)(x, change, self.weight, self.bias)
        if change is None:
            return super().__call__(x)
        total = x + change
        return super().__call__(total), total


def norm(width: int, epsilon: float) -> LayerNorm:
    """Layer norm with a weight and a bias."""
    return LayerNorm(width, eps=epsilon, affine=True, bias=True)


def widest(x: mx.array) -> mx.Dtype:
    """The most exact floats that the device of `x` computes with; MLX's GPUs have no float64."""
    return mx.float64 if mx.default_device().type == mx.cpu else mx.float32


def power_spectrum(frames: mx.array, window: np.ndarray, fourier: np.ndarray) -> mx.array:
    """Squared magnitude of the Fourier transform of frames (n, t, samples) times `window` (samples,) ->
    (n, t, samples / 2 + 1). fourier (samples, samples + 2): its real, then its imaginary part as a
    product, for float64, in which MLX has no transform; in float32 a GPU may multiply in TF32."""
    if frames.dtype == mx.float64:
        real, imaginary = mx.split(frames @ mx.array(fourier, frames.dtype), 2, axis=-1)
    else:
        spectrum = mx.fft.rfft(frames * mx.array(window, frames.dtype))
        real, imaginary = mx.real(spectrum), mx.imag(spectrum)
    return mx.square(real) + mx.square(imaginary)


def gelu(x: mx.array) -> mx.array:
    """x * P(Z < x) for a standard normal Z, with the exact error function."""
    return cast(mx.array, _gelu(x)) if _scalar(x) else nn.gelu(x)


def linear_gelu(linear: nn.Linear, x: mx.array) -> mx.array:
    """GELU of a linear layer of x (..., inputs)."""
    return gelu(linear(x))


def linear_relu(linear: nn.Linear, x: mx.array) -> mx.array:
    """What is positive, else 0, of a linear layer of x (..., inputs)."""
    return cast(mx.array, nn.relu(linear(x)))


def self_attend(qkv: nn.Linear, x: mx.array, heads: int) -> mx.array:
    """Attention of all of x (n, t, width) to all, whose queries, keys and values `qkv` gives side by
    side -> (n, t, width)."""
    queries, keys, values = (split(part, heads) for part in mx.split(qkv(x), 3, axis=2))
    return attend(queries, keys, values, None)


def add_norm(x: mx.array, change: mx.array, norm: LayerNorm) -> tuple[mx.array, mx.array]:
    """x + change, both (..., width), and the norm of it."""
    y, x = norm(x, change)
    return x, y


# --- what MLX computes value by value on an x86 CPU, put so that a C++ compiler can vectorise it.
# One product's softmax of 6 x 1500 x 1500 then takes 20 ms instead of 160, GELU of 1500 x 1536 six
# instead of 53, with mx.compile; equal within float32's rounding. Elsewhere MLX is as fast itself.

LONG = 64  # queries, from which on a softmax is worth cutting up
STRIP = 1 << 19  # scores at a time: 2 MB, so that they stay in a core's cache
# exp2(f) for |f| <= 1/2, relative error 2e-7; powers of f from the sixth down.
EXP2 = (0.0001535336188319500, 0.001339887440266574, 0.009618437357674640,
        0.05550332471162809, 0.2402264791363012, 0.6931472028550421, 1.0)  # fmt: skip
# erf(x) = x p(x^2) / q(x^2) for |x| < 3.75, 1 within rounding beyond; as in Eigen and XLA.
ERF_END = 3.7439211627767994
ERF_P = (0.00022905065861350646, 0.0034082910107109506, 0.050955695062380861,
         0.18520832239976145, 1.128379143519084)  # fmt: skip
ERF_Q = (-1.1791602954361697e-7, 0.000023547966471313185, 0.0010179625278914885,
         0.014070470171167667, 0.11098505178285362, 0.49746925110067538, 1.0)  # fmt: skip


def _scalar(x: mx.array) -> bool:
    """Whether MLX has no vector code for functions of `x` here."""
    on_cpu = mx.default_device().type == mx.cpu
    return on_cpu and x.dtype == mx.float32 and platform.machine() in ("x86_64", "AMD64")


def _in_16_bits_on_cuda(x: mx.array) -> bool:
    return x.dtype in (mx.bfloat16, mx.float16) and own_gradients.here()


def _polynomial(coefficients: tuple[float, ...], x: mx.array) -> mx.array:
    value = coefficients[0] * x + coefficients[1]
    for coefficient in coefficients[2:]:
        value = value * x + coefficient
    return value


@mx.compile
def _exp_parts(x: mx.array) -> tuple[mx.array, mx.array]:
    """exp(x) = 2^n 2^f: a float whose lowest bits are n, and 2^f."""
    y = mx.maximum(x * 1.4426950408889634, -126.0)
    shifted = y + 12582912.0  # 1.5 * 2^23: the sum has no room for a fraction
    return shifted, _polynomial(EXP2, y - (shifted - 12582912.0))


@mx.compile
def _add_exponent(n: mx.array, fraction: mx.array) -> mx.array:
    return fraction + mx.left_shift(n, mx.array(23, mx.int32))


def exp(x: mx.array) -> mx.array:
    """exp(x) for x <= 0, as of what a softmax sums up."""
    return cast(mx.array, _exp(x)) if _scalar(x) else mx.exp(x)


@mx.custom_function
def _exp(x: Any) -> Any:
    n, fraction = _exp_parts(x)
    return _add_exponent(n.view(mx.int32), fraction.view(mx.int32)).view(mx.float32)


@_exp.vjp
def _exp_vjp(x: mx.array, gradient: mx.array, output: mx.array) -> mx.array:
    return gradient * output


@mx.compile
def _below(x: mx.array) -> mx.array:
    """P(Z < x)."""
    x = mx.clip(x * 0.7071067811865476, -ERF_END, ERF_END)
    square = x * x
    return 0.5 + 0.5 * x * _polynomial(ERF_P, square) / _polynomial(ERF_Q, square)


@mx.custom_function
def _gelu(x: Any) -> Any:
    return x * _below(x)


@_gelu.vjp
def _gelu_vjp(x: mx.array, gradient: mx.array, output: mx.array) -> mx.array:
    return gradient * (_below(x) + x * exp(-0.5 * x * x) * 0.3989422804014327)


def _attend_in_strips(
    queries: mx.array, keys: mx.array, values: mx.array, causal: bool
) -> mx.array:
    """Attention of scaled queries, some rows at a time; causal: without what no row of them sees."""
    n, heads, t, _ = queries.shape
    rows = max(1, STRIP // (n * heads * keys.shape[2]))
    keys, outputs = keys.swapaxes(2, 3), []
    for start in range(0, t, rows):
        end = min(start + rows, t) if causal else keys.shape[3]
        scores = queries[:, :, start : start + rows] @ keys[..., :end]
        if causal:
            hidden = mx.arange(end) > mx.arange(start, end)[:, None]
            scores = mx.where(hidden, mx.finfo(mx.float32).min, scores)
        weights = exp(scores - mx.stop_gradient(mx.max(scores, axis=3, keepdims=True)))
        # The BLAS sums: mx.sum adds one by one, and is off by up to 4e-6 in a row of 1500.
        sums = weights @ mx.ones((end, 1))
        outputs.append((weights @ values[:, :, :end]) / sums)
    return mx.concatenate(outputs, axis=2)


class _Adam(optimizers.AdamW):
    """MLX's own with the whole of its bias correction. MLX takes 1 - 0.999 ** step in float32, which
    is off by 1e-5 at first: enough to turn a ReLU here and there, from which on the updates of a
    hardly used unit have little in common with PyTorch's (2 % of their norm after ten steps of
    eis_predictor, 1e-6 this way). The factors are state: mx.compile would take the exponentials
    into the loop over every weight."""

    def init(self, parameters: dict[str, Any]) -> None:
        super().init(parameters)
        self.state["first_factor"], self.state["second_factor"] = mx.array(0.0), mx.array(0.0)

    def apply_gradients(
        self, gradients: dict[str, Any], parameters: dict[str, Any]
    ) -> dict[str, Any]:
        step = (self.step + 1).astype(mx.float32)
        first, second = (-mx.expm1(step * math.log(beta)) for beta in self.betas)
        self.state["first_factor"], self.state["second_factor"] = 1 / first, mx.rsqrt(second)
        return cast(dict[str, Any], super().apply_gradients(gradients, parameters))

    def apply_single(
        self, gradient: mx.array, parameter: mx.array, state: dict[str, mx.array]
    ) -> mx.array:
        if not self.bias_correction:
            return cast(mx.array, super().apply_single(gradient, parameter, state))
        beta1, beta2 = self.betas
        state["m"] = first = beta1 * state["m"] + (1 - beta1) * gradient
        state["v"] = second = beta2 * state["v"] + (1 - beta2) * mx.square(gradient)
        change = self.learning_rate * self.state["first_factor"] * first
        scale = mx.sqrt(second) * self.state["second_factor"] + self.eps
        return parameter * (1 - self.learning_rate * self.weight_decay) - change / scale


class AdamW:
    """AdamW with bias correction (Loshchilov and Hutter 2019), all parameters decayed. The rate
    rises linearly from 0, over `warmup_steps`, to `learning_rate` (0: it is that from the start);
    with `decay_steps` it then falls as half a cosine to 0, where it is after so many steps in all.

    Moments are float32. Parameters in 16 bits are the rounded ones of `exact`, which is float32, or
    updates below half a unit in the last place would never add up.
    state: all that an update changes, but the parameters; moments are zeros at the start.
    """

    def __init__(
        self,
        model: nn.Module,
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
        self.optimizer = _Adam(
            learning_rate=self.rate,
            betas=list(betas),
            eps=epsilon,
            weight_decay=weight_decay,
            bias_correction=True,
        )
        values = model.trainable_parameters()
        self.optimizer.init(tree_map(lambda p: mx.zeros(p.shape, mx.float32), values))
        self.exact: dict[str, mx.array] = {}
        self.state = [self.optimizer.state, self.exact]
        self.restart()

    def rate(self, step: mx.array) -> mx.array:
        """The learning rate of the update that follows `step` others."""
        step = step.astype(mx.float32)  # as PyTorch counts; MLX's own cannot go below 0
        share = step / self.warmup_steps if self.warmup_steps else step + 1
        value = mx.minimum(share, 1.0) * self.learning_rate
        if self.decay_steps:
            length = self.decay_steps - self.warmup_steps
            done = mx.clip((step - self.warmup_steps) / length, 0.0, 1.0)
            value = value * (0.5 + 0.5 * mx.cos(math.pi * done))
        return value

    def update(self, gradients: dict[str, Any]) -> None:
        """One step: the model's parameters become new arrays; `gradients` as a tree like them."""
        if not self.exact:
            self.optimizer.update(self.model, gradients)
            return
        slopes = tree_map(lambda gradient: gradient.astype(mx.float32), gradients)
        exact = tree_unflatten(list(self.exact.items()))
        updated = tree_flatten(self.optimizer.apply_gradients(slopes, exact))
        self.exact.update(updated)
        dtypes = {name: p.dtype for name, p in tree_flatten(self.model.trainable_parameters())}
        rounded = [(name, value.astype(dtypes[name])) for name, value in updated]
        self.model.update(tree_unflatten(rounded))

    def restart(self) -> None:
        """The state as before the first step; to be called again when parameters were written, or
        moved to another device or dtype."""
        self.optimizer.state.update(tree_map(mx.zeros_like, self.optimizer.state))
        self.exact.clear()
        for name, p in tree_flatten(self.model.trainable_parameters()):
            if p.dtype != mx.float32:
                self.exact[name] = p.astype(mx.float32)

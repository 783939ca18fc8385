"""Gradients for MLX's CUDA backend, where its own are slow, and its sums of 16-bit values are rounded at
every addition (MLX 0.32.4; docs/NVIDIA.md has the profile). The functions are MLX's own; the kernel of a
layer norm's gradient is in ../kernels."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import mlx.core as mx

TILE = 128  # queries: MLX's fused gradient of attention takes only multiples of it


def here() -> bool:
    """Whether MLX computes on an NVIDIA GPU."""
    return mx.default_device().type == mx.gpu and mx.cuda.is_available()


def fits(x: mx.array) -> bool:
    """Whether the kernel of a norm's gradient takes x (..., width), and gains by it."""
    return x.shape[-1] in _kernels().WIDTHS and x.dtype != mx.float64


def _kernels() -> Any:
    from models.layers.kernels import mlx

    return mlx


def _sum_of_rows(x: mx.array) -> mx.array:
    """(n, width) -> (width,). As a product, which adds in float32 and fills the GPU: MLX's reduction
    has one block for 32 columns, and adds bfloat16 in bfloat16. Where products are TF32's, so is this."""
    return (mx.ones((1, x.shape[0]), x.dtype) @ x).reshape(-1)  # an index would be a gather


@mx.custom_function
def linear(x: mx.array, weight: mx.array, *bias: mx.array) -> mx.array:
    """x (..., inputs), weight (outputs, inputs), perhaps bias (outputs,) -> (..., outputs)."""
    return mx.addmm(bias[0], x, weight.T) if bias else x @ weight.T


@linear.vjp
def _linear_vjp(primals: Any, gradient: mx.array, output: mx.array) -> tuple[mx.array, ...]:
    x, weight, *bias = primals
    rows = gradient.reshape(-1, gradient.shape[-1])
    # Laid out like the weights: MLX's own is transposed, and AdamW's kernel then reads it by strides.
    slopes = [gradient @ weight, rows.T @ x.reshape(-1, x.shape[-1])]
    return (*slopes, *(_sum_of_rows(rows) for _ in bias))


def _attend(queries: mx.array, keys: mx.array, values: mx.array, mask: Any = None) -> mx.array:
    scale = queries.shape[-1] ** -0.5
    return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask)


def _filled(x: mx.array) -> mx.array:
    """(n, heads, t, size) with zeros up to a whole tile. mx.pad would fill all of it with zeros first."""
    n, heads, t, size = x.shape
    return mx.concatenate([x, mx.zeros((n, heads, -t % TILE, size), x.dtype)], axis=2)


@mx.custom_function
def attend(queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
    """Scaled attention of all (n, heads, t, size) to all."""
    return _attend(queries, keys, values)


@attend.vjp
def _attend_vjp(primals: Any, gradient: mx.array, output: mx.array) -> tuple[mx.array, ...]:
    # Filled up to whole tiles, and what was filled in hidden: MLX's own fallback keeps all scores.
    t = gradient.shape[2]
    mask = mx.where(mx.arange(t + -t % TILE) < t, 0.0, -mx.inf).astype(gradient.dtype)
    given = [_filled(x) for x in primals]
    found = mx.vjp(functools.partial(_attend, mask=mask), given, [_filled(gradient)])[1]
    return tuple(x[:, :, :t] for x in found)


Norm = Callable[..., Any]


def _norm_gradients(
    x: mx.array, weight: mx.array, besides: mx.array | None, gradient: mx.array, epsilon: float
) -> tuple[mx.array, ...]:
    slope, sums = _kernels().norm_gradient(x, weight, besides, gradient, epsilon)
    of_weight, of_bias = mx.split(sums.sum(0).astype(weight.dtype), 2)
    return slope, of_weight, of_bias


@functools.cache
def norm(epsilon: float) -> Norm:
    """(x (..., width), weight, bias (width,)) -> the layer norm of x."""

    @mx.custom_function
    def found(x: mx.array, weight: mx.array, bias: mx.array) -> mx.array:
        return mx.fast.layer_norm(x, weight, bias, epsilon)

    @found.vjp
    def _(primals: Any, gradient: mx.array, output: mx.array) -> tuple[mx.array, ...]:
        x, weight, _ = primals
        return _norm_gradients(x, weight, None, gradient, epsilon)

    return found


@functools.cache
def norm_sum(epsilon: float) -> Norm:
    """(x and change (..., width), weight, bias (width,)) -> the layer norm of x + change, and that sum."""

    @mx.custom_function
    def found(
        x: mx.array, change: mx.array, weight: mx.array, bias: mx.array
    ) -> tuple[mx.array, mx.array]:
        total = x + change
        return mx.fast.layer_norm(total, weight, bias, epsilon), total

    @found.vjp
    def _(primals: Any, gradients: Any, outputs: Any) -> tuple[mx.array, ...]:
        (_, total), weight, (gradient, besides) = outputs, primals[2], gradients
        slope, *rest = _norm_gradients(total, weight, besides, gradient, epsilon)
        return slope, slope, *rest

    return found

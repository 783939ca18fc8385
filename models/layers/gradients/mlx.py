"""Gradients for MLX's CUDA backend, where its own are slow, and its sums of 16-bit values are rounded at
every addition (MLX 0.32.4; docs/NVIDIA.md has the profile). The functions are MLX's own. A layer norm's
own gradient is left: put this way, it took longer."""

from __future__ import annotations

import functools
from typing import Any

import mlx.core as mx

TILE = 128  # queries: MLX's fused gradient of attention takes only multiples of it


def here() -> bool:
    """Whether MLX computes on an NVIDIA GPU."""
    return mx.default_device().type == mx.gpu and mx.cuda.is_available()


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


@mx.custom_function
def attend(queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
    """Scaled attention of all (n, heads, t, size) to all."""
    return _attend(queries, keys, values)


@attend.vjp
def _attend_vjp(primals: Any, gradient: mx.array, output: mx.array) -> tuple[mx.array, ...]:
    # Filled up to whole tiles, and what was filled in hidden: MLX's own fallback keeps all scores.
    t = gradient.shape[2]
    room = [(0, 0), (0, 0), (0, -t % TILE), (0, 0)]
    mask = mx.where(mx.arange(t + room[2][1]) < t, 0.0, -mx.inf).astype(gradient.dtype)
    given = [mx.pad(x, room) for x in primals]
    found = mx.vjp(functools.partial(_attend, mask=mask), given, [mx.pad(gradient, room)])[1]
    return tuple(x[:, :, :t] for x in found)

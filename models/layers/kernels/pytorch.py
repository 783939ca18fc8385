"""Kernels for NVIDIA's Hopper GPUs in 16 bits, in Triton. Sizes of tiles and numbers of warps are the
fastest that were tried on an H200 with DeiT-small's shapes, 256 images (docs/NVIDIA.md).

Sums over rows come as one line of float32 for each program, to be added up by the caller: no atomics,
so that every run adds in the same order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch.library import wrap_triton

GELU_SUMS, NORM_SUMS = 264, 2112  # programs, two and sixteen for each multiprocessor of 132
_LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _reciprocal(x):
    return tl.inline_asm_elementwise(
        "rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
    )


@triton.jit
def _power_of_2(x):
    return tl.inline_asm_elementwise(
        "ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
    )


@triton.jit
def _normal_below(x, square):
    """P(Z < x) as 1 / (1 + 2^-xq(x^2)), the minimax q of degree 6 of its log-odds: relative error 1e-4
    for |x| <= 5, a twentieth of bfloat16's rounding. The error function itself is bound by arithmetic."""
    q = 1.78742276e-09 * square - 1.70804745e-07
    q = q * square + 6.35533366e-06
    q = q * square - 1.01512101e-04
    q = q * square - 4.15644008e-04
    q = q * square + 1.05607995e-01
    q = q * square + 2.30165193e00
    return _reciprocal(1.0 + _power_of_2(-x * q))


@triton.jit
def _gelu(x_at, y_at, count, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = at < count
    x = tl.load(x_at + at, mask=here).to(tl.float32)
    tl.store(y_at + at, (x * _normal_below(x, x * x)).to(y_at.dtype.element_ty), mask=here)


@triton.jit
def _gelu_gradient(
    x_at, gradient_at, slope_at, sums_at, rows, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for tile in tl.range(tl.program_id(0), tl.cdiv(rows, ROWS), tl.num_programs(0), num_stages=3):
        row = tile * ROWS + tl.arange(0, ROWS)
        here = (row < rows)[:, None] & (column < width)[None, :]
        at = row[:, None].to(tl.int64) * width + column[None, :]
        x = tl.load(x_at + at, mask=here, other=0.0).to(tl.float32)
        gradient = tl.load(gradient_at + at, mask=here, other=0.0).to(tl.float32)
        square = x * x
        density = _power_of_2(square * -0.7213475204444817 - 1.3257480647361595)
        slope = gradient * (_normal_below(x, square) + x * density)
        slope = slope.to(slope_at.dtype.element_ty)
        tl.store(slope_at + at, slope, mask=here)
        total += slope.to(tl.float32)
    sums_at += tl.program_id(0) * width
    tl.store(sums_at + column, tl.sum(total, axis=0), mask=column < width)


@triton.jit
def _add_norm(
    x_at, change_at, weight_at, bias_at, sum_at, y_at, rows,
    EPSILON: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    here = (row < rows)[:, None] & (column < WIDTH)[None, :]
    at = row[:, None].to(tl.int64) * WIDTH + column[None, :]
    x = tl.load(x_at + at, mask=here, other=0.0).to(tl.float32)
    x += tl.load(change_at + at, mask=here, other=0.0).to(tl.float32)
    x = x.to(sum_at.dtype.element_ty)
    tl.store(sum_at + at, x, mask=here)
    x = x.to(tl.float32)
    x = tl.where(here, x - (tl.sum(x, axis=1) / WIDTH)[:, None], 0.0)
    x *= tl.rsqrt(tl.sum(x * x, axis=1) / WIDTH + EPSILON)[:, None]
    weight = tl.load(weight_at + column, mask=column < WIDTH, other=0.0).to(tl.float32)
    bias = tl.load(bias_at + column, mask=column < WIDTH, other=0.0).to(tl.float32)
    y = x * weight[None, :] + bias[None, :]
    tl.store(y_at + at, y.to(y_at.dtype.element_ty), mask=here)


@triton.jit
def _norm_gradient(
    x_at, weight_at, besides_at, gradient_at, slope_at, sums_at, rows,
    EPSILON: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    column = tl.arange(0, COLUMNS)
    weight = tl.load(weight_at + column, mask=column < WIDTH, other=0.0).to(tl.float32)
    of_weight = tl.zeros((ROWS, COLUMNS), tl.float32)
    of_bias = tl.zeros((ROWS, COLUMNS), tl.float32)
    for tile in tl.range(tl.program_id(0), tl.cdiv(rows, ROWS), tl.num_programs(0), num_stages=2):
        row = tile * ROWS + tl.arange(0, ROWS)
        here = (row < rows)[:, None] & (column < WIDTH)[None, :]
        at = row[:, None].to(tl.int64) * WIDTH + column[None, :]
        x = tl.load(x_at + at, mask=here, other=0.0).to(tl.float32)
        gradient = tl.load(gradient_at + at, mask=here, other=0.0).to(tl.float32)
        besides = tl.load(besides_at + at, mask=here, other=0.0).to(tl.float32)
        x = tl.where(here, x - (tl.sum(x, axis=1) / WIDTH)[:, None], 0.0)
        inverse = tl.rsqrt(tl.sum(x * x, axis=1) / WIDTH + EPSILON)[:, None]
        x *= inverse
        of_weight += gradient * x
        of_bias += gradient
        gradient *= weight[None, :]
        along = (tl.sum(gradient * x, axis=1) / WIDTH)[:, None]
        mean = (tl.sum(gradient, axis=1) / WIDTH)[:, None]
        slope = besides + (gradient - mean - x * along) * inverse
        tl.store(slope_at + at, slope.to(slope_at.dtype.element_ty), mask=here)
    sums_at += tl.program_id(0) * 2 * WIDTH + column
    tl.store(sums_at, tl.sum(of_weight, axis=0), mask=column < WIDTH)
    tl.store(sums_at + WIDTH, tl.sum(of_bias, axis=0), mask=column < WIDTH)


@triton.jit
def _attention_gradient(
    output_at, gradient_at, logsumexp_at, qkv_at, slope_at, sums_at, tokens,
    HEADS: tl.constexpr, SIZE: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """Of one head of one item, with all its keys at hand: the algorithm of FlashAttention-2 (Dao 2023)
    without its sums of the queries' gradients over blocks of keys."""
    WIDTH: tl.constexpr = HEADS * SIZE
    item, head = tl.program_id(0) // HEADS, tl.program_id(0) % HEADS
    first = item.to(tl.int64) * tokens
    within = head * SIZE + tl.arange(0, SIZE)
    key = tl.arange(0, KEYS)
    here = (key < tokens)[:, None]
    keys_at = (first + key)[:, None] * (3 * WIDTH) + WIDTH + within[None, :]
    keys = tl.load(qkv_at + keys_at, mask=here, other=0.0)
    values = tl.load(qkv_at + keys_at + WIDTH, mask=here, other=0.0)
    of_keys = tl.zeros((KEYS, SIZE), tl.float32)
    of_values = tl.zeros((KEYS, SIZE), tl.float32)
    sum_of_queries = tl.zeros((SIZE,), tl.float32)
    scale = 1.0 / (SIZE**0.5)
    # What fills up a tile is zero, and adds nothing: scores need no mask.
    for tile in tl.range(0, tl.cdiv(tokens, QUERIES), num_stages=3):
        query = tile * QUERIES + tl.arange(0, QUERIES)
        asked = query < tokens
        queries_at = (first + query)[:, None] * (3 * WIDTH) + within[None, :]
        rows_at = (first + query)[:, None] * WIDTH + within[None, :]
        queries = tl.load(qkv_at + queries_at, mask=asked[:, None], other=0.0)
        gradient = tl.load(gradient_at + rows_at, mask=asked[:, None], other=0.0)
        output = tl.load(output_at + rows_at, mask=asked[:, None], other=0.0)
        along = tl.sum(output.to(tl.float32) * gradient.to(tl.float32), axis=1)
        top = tl.load(logsumexp_at + tl.program_id(0) * tokens + query, mask=asked, other=0.0)
        scores = tl.dot(keys, tl.trans(queries)) * (scale * _LOG2_E)  # (KEYS, QUERIES)
        share = _power_of_2(scores - (top * _LOG2_E)[None, :])
        of_share = tl.dot(values, tl.trans(gradient))
        of_values = tl.dot(share.to(gradient.dtype), gradient, of_values)
        of_scores = (share * (of_share - along[None, :])).to(queries.dtype)
        of_keys = tl.dot(of_scores, queries, of_keys)
        of_queries = tl.trans(tl.dot(tl.trans(keys), of_scores)) * scale
        of_queries = of_queries.to(slope_at.dtype.element_ty)
        tl.store(slope_at + queries_at, of_queries, mask=asked[:, None])
        sum_of_queries += tl.sum(of_queries.to(tl.float32), axis=0)
    of_keys = tl.where(here, of_keys * scale, 0.0).to(slope_at.dtype.element_ty)
    of_values = tl.where(here, of_values, 0.0).to(slope_at.dtype.element_ty)
    tl.store(slope_at + keys_at, of_keys, mask=here)
    tl.store(slope_at + keys_at + WIDTH, of_values, mask=here)
    sums_at += item * (3 * WIDTH) + within
    tl.store(sums_at, sum_of_queries)
    tl.store(sums_at + WIDTH, tl.sum(of_keys.to(tl.float32), axis=0))
    tl.store(sums_at + 2 * WIDTH, tl.sum(of_values.to(tl.float32), axis=0))


def gelu(x: torch.Tensor) -> torch.Tensor:
    """x, in order -> the same shape."""
    y = torch.empty_like(x)
    wrap_triton(_gelu)[(triton.cdiv(x.numel(), 1024),)](x, y, x.numel(), BLOCK=1024, num_warps=4)
    return y


def gelu_gradient(x: torch.Tensor, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x and gradient (..., width), in order -> gradient of x, and its sums (GELU_SUMS, width)."""
    width = x.shape[-1]
    slope = torch.empty_like(x)
    sums = x.new_empty((GELU_SUMS, width), dtype=torch.float32)
    grid = (GELU_SUMS, triton.cdiv(width, 512))
    rows = x.numel() // width
    wrap_triton(_gelu_gradient)[grid](
        x, gradient, slope, sums, rows, width, ROWS=4, COLUMNS=512, num_warps=2
    )  # fmt: skip
    return slope, sums


def add_norm(
    x: torch.Tensor,
    change: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    epsilon: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """x and change (..., width), in order -> their sum and its layer norm."""
    width = x.shape[-1]
    rows = x.numel() // width
    total, y = torch.empty_like(x), torch.empty_like(x)
    tile = {"WIDTH": width, "ROWS": 2, "COLUMNS": triton.next_power_of_2(width)}
    given = (x, change, weight, bias, total, y, rows, epsilon)
    warps = max(1, tile["COLUMNS"] // 1024)  # more columns than that do not fit in one's registers
    wrap_triton(_add_norm)[(triton.cdiv(rows, 2),)](*given, **tile, num_warps=warps)
    return total, y


def norm_gradient(
    x: torch.Tensor,
    weight: torch.Tensor,
    besides: torch.Tensor,
    gradient: torch.Tensor,
    epsilon: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """x, the gradient of its norm, and what of x there is besides, all (..., width) and in order ->
    gradient of x, and sums of those of weight and bias (NORM_SUMS, 2, width)."""
    width = x.shape[-1]
    slope = torch.empty_like(x)
    sums = x.new_empty((NORM_SUMS, 2, width), dtype=torch.float32)
    rows = x.numel() // width
    tile = {"WIDTH": width, "ROWS": 1, "COLUMNS": triton.next_power_of_2(width)}
    given = (x, weight, besides, gradient, slope, sums, rows, epsilon)
    warps = max(1, tile["COLUMNS"] // 1024)  # more columns than that do not fit in one's registers
    wrap_triton(_norm_gradient)[(NORM_SUMS,)](*given, **tile, num_warps=warps)
    return slope, sums


def attention_gradient(
    output: torch.Tensor,
    gradient: torch.Tensor,
    logsumexp: torch.Tensor,
    qkv: torch.Tensor,
    heads: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """output and its gradient (n, t, width), logsumexp (n, heads, t) of the scaled scores, queries,
    keys and values in one (n, t, 3 * width), all in order -> gradient of qkv, and its sums over t
    (n, 3 * width)."""
    n, tokens, width = output.shape
    slope = torch.empty_like(qkv)
    sums = qkv.new_empty((n, 3 * width), dtype=torch.float32)
    tile = {"HEADS": heads, "SIZE": width // heads, "QUERIES": 32}
    tile["KEYS"] = max(64, triton.next_power_of_2(tokens))
    given = (output, gradient, logsumexp, qkv, slope, sums, tokens)
    wrap_triton(_attention_gradient)[(n * heads,)](*given, **tile, num_warps=8)
    return slope, sums

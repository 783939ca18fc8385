"""A kernel for NVIDIA GPUs in CUDA: the gradient of a layer norm. MLX's own (0.32.4) writes what is to be
added up for the weight down, and adds it and the bias's up with one block of threads for 32 columns.

Sums over rows come as one line of float32 for each warp, to be added up by the caller: no atomics, so
that every run adds in the same order.
"""

from __future__ import annotations

import functools
from typing import Any

import mlx.core as mx

LINES = 1056  # warps, eight for each multiprocessor of 132
WIDTHS = (1024,)  # at which it gains; at 384 it does not, and every process compiles it anew
_NORM_GRADIENT = """
    constexpr int EACH = WIDTH / 32, PIECES = EACH / VALUES;
    struct alignas(sizeof(T) * VALUES) Piece { T values[VALUES]; };
    const int lane = threadIdx.x % 32;
    const int first = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
    const int warps = gridDim.x * blockDim.x / 32;
    auto over_row = [](float value) {
        for (int i = 16; i > 0; i /= 2) value += __shfl_xor_sync(0xffffffff, value, i);
        return value / WIDTH;
    };
    auto load = [&](const T* at, float* values) {
        for (int p = 0; p < PIECES; p++) {
            Piece piece = reinterpret_cast<const Piece*>(at)[p * 32 + lane];
            for (int i = 0; i < VALUES; i++) values[p * VALUES + i] = float(piece.values[i]);
        }
    };
    const float epsilon = numbers[0];
    const bool more = numbers[1] != 0;
    float weights[EACH], of_weight[EACH] = {}, of_bias[EACH] = {};
    load(weight, weights);
    const int rows = x_shape[0];
    for (int row = first; row < rows; row += warps) {
        const size_t start = size_t(row) * WIDTH;
        float n[EACH], g[EACH];
        load(x + start, n);
        load(gradient + start, g);
        float mean = 0, variance = 0, along_ones = 0, along_n = 0;
        for (int i = 0; i < EACH; i++) mean += n[i];
        mean = over_row(mean);
        for (int i = 0; i < EACH; i++) {
            n[i] -= mean;
            variance += n[i] * n[i];
        }
        const float inverse = rsqrtf(over_row(variance) + epsilon);
        for (int i = 0; i < EACH; i++) {
            n[i] *= inverse;
            of_weight[i] += g[i] * n[i];
            of_bias[i] += g[i];
            g[i] *= weights[i];
            along_ones += g[i];
            along_n += g[i] * n[i];
        }
        along_ones = over_row(along_ones);
        along_n = over_row(along_n);
        for (int p = 0; p < PIECES; p++) {
            const int at = p * 32 + lane;
            Piece piece;
            if (more) piece = reinterpret_cast<const Piece*>(besides + start)[at];
            for (int i = 0; i < VALUES; i++) {
                const int k = p * VALUES + i;
                const float found = (g[k] - along_ones - n[k] * along_n) * inverse;
                piece.values[i] = T(more ? found + float(piece.values[i]) : found);
            }
            reinterpret_cast<Piece*>(slope + start)[at] = piece;
        }
    }
    for (int p = 0; p < PIECES; p++) {
        for (int i = 0; i < VALUES; i++) {
            const int column = (p * 32 + lane) * VALUES + i;
            sums[size_t(first) * 2 * WIDTH + column] = of_weight[p * VALUES + i];
            sums[size_t(first) * 2 * WIDTH + WIDTH + column] = of_bias[p * VALUES + i];
        }
    }
"""


@functools.cache
def _norm_gradient() -> Any:
    return mx.fast.cuda_kernel(
        name="norm_gradient",
        input_names=["x", "weight", "besides", "gradient", "numbers"],
        output_names=["slope", "sums"],
        source=_NORM_GRADIENT,
    )


def norm_gradient(
    x: mx.array, weight: mx.array, besides: mx.array | None, gradient: mx.array, epsilon: float
) -> tuple[mx.array, mx.array]:
    """x, what of its gradient there is besides, and the gradient of its norm, all (..., width), a multiple
    of 128, at most 2,048 -> gradient of x, and sums of those of weight and bias (LINES, 2 * width)."""
    width = x.shape[-1]
    values = 8 if width % 256 == 0 and x.dtype != mx.float32 else 4  # a load of 16 bytes, or of 8
    rows = [v.reshape(-1, width) for v in (x, x if besides is None else besides, gradient)]
    # No part of the template: one kernel for both is compiled in half the time.
    numbers = mx.array([epsilon, besides is not None], mx.float32)
    slope, sums = _norm_gradient()(
        inputs=[rows[0], weight, rows[1], rows[2], numbers],
        template=[("T", x.dtype), ("WIDTH", width), ("VALUES", values)],
        grid=(LINES * 32, 1, 1),
        threadgroup=(128, 1, 1),
        output_shapes=[rows[0].shape, (LINES, 2 * width)],
        output_dtypes=[x.dtype, mx.float32],
    )
    return slope.reshape(x.shape), sums

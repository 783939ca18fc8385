"""Attention and caches in MLX. Twin of pytorch.py: a diff shows only the spelling."""

from __future__ import annotations

import mlx.core as mx


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
    output = mx.fast.scaled_dot_product_attention(
        queries, keys, values, scale=size**-0.5, mask=mask
    )
    return output.transpose(0, 2, 1, 3).reshape(n, t, heads * size)


def store(cache: mx.array, value: mx.array, position: mx.array) -> mx.array:
    """`cache` (n, heads, capacity, size) with `value` (n, heads, 1, size) at `position`, an array
    of one integer. In place."""
    return mx.slice_update(cache, value, position, axes=(2,))

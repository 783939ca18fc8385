"""Attention and caches in PyTorch. Twin of mlx.py: a diff shows only the spelling."""

from __future__ import annotations

import torch
from torch import nn


def split(x: torch.Tensor, heads: int) -> torch.Tensor:
    """(n, t, heads * size) -> (n, heads, t, size)."""
    n, t, width = x.shape
    return x.view(n, t, heads, width // heads).transpose(1, 2)


def attend(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | str | None,
) -> torch.Tensor:
    """Fused attention, scaled by 1 / sqrt(size): queries (n, heads, t, size), keys and values
    (n, key heads, s, size) -> (n, t, heads * size).

    mask: None; "causal", for t = s; or booleans that broadcast to (n, heads, t, s), True where a
    query may look. Fewer key heads than heads: each serves a group of neighbouring ones.
    """
    n, heads, t, size = queries.shape
    output = nn.functional.scaled_dot_product_attention(
        queries,
        keys,
        values,
        attn_mask=mask if isinstance(mask, torch.Tensor) else None,
        dropout_p=0.0,
        is_causal=isinstance(mask, str),
        scale=size**-0.5,
        enable_gqa=keys.shape[1] != heads,
    )
    return output.transpose(1, 2).reshape(n, t, heads * size)


def store(cache: torch.Tensor, value: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """`cache` (n, heads, capacity, size) with `value` (n, heads, 1, size) at `position`, an array
    of one integer. In place."""
    return cache.index_copy_(2, position, value)

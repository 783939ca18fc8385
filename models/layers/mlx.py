"""Attention, caches and AdamW in MLX. Twin of pytorch.py: a diff shows only the spelling."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from mlx import nn, optimizers
from mlx.utils import tree_flatten, tree_map, tree_unflatten


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


class AdamW:
    """AdamW with bias correction (Loshchilov and Hutter 2019), all parameters decayed. The rate
    rises linearly from 0, over `warmup_steps`, to `learning_rate` (0: it is that from the start).

    Moments are float32. Parameters in 16 bits are updated in float32 too: `lost` keeps what their
    rounding cut off, or updates below half a unit in the last place would never add up.
    state: all that an update changes, but the parameters; zeros at the start.
    """

    def __init__(
        self,
        model: nn.Module,
        learning_rate: float,
        warmup_steps: int,
        weight_decay: float,
        betas: tuple[float, float],
        epsilon: float,
    ) -> None:
        def rate(step: mx.array) -> mx.array:
            share = step / warmup_steps if warmup_steps else step + 1
            return mx.minimum(share, 1.0) * learning_rate

        self.model = model
        self.optimizer = optimizers.AdamW(
            learning_rate=rate,
            betas=list(betas),
            eps=epsilon,
            weight_decay=weight_decay,
            bias_correction=True,
        )
        values = model.trainable_parameters()
        self.optimizer.init(tree_map(lambda p: mx.zeros(p.shape, mx.float32), values))
        self.lost = {
            name: mx.zeros(p.shape, mx.float32)
            for name, p in tree_flatten(values)
            if p.dtype != mx.float32
        }
        self.state = [self.optimizer.state, self.lost]

    def update(self, gradients: dict[str, Any]) -> None:
        """One step: the model's parameters become new arrays; `gradients` as a tree like them."""
        if not self.lost:
            self.optimizer.update(self.model, gradients)
            return
        parameters = dict(tree_flatten(self.model.trainable_parameters()))
        values = {name: p.astype(mx.float32) + self.lost[name] for name, p in parameters.items()}
        slopes = tree_map(lambda gradient: gradient.astype(mx.float32), gradients)
        updated = dict(
            tree_flatten(
                self.optimizer.apply_gradients(slopes, tree_unflatten(list(values.items())))
            )
        )
        rounded = {name: updated[name].astype(p.dtype) for name, p in parameters.items()}
        for name, p in rounded.items():
            self.lost[name] = updated[name] - p.astype(mx.float32)
        self.model.update(tree_unflatten(list(rounded.items())))

    def restart(self) -> None:
        """The state as before the first step."""
        for part in self.state:
            part.update(tree_map(mx.zeros_like, part))

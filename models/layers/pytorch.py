"""Attention, caches and AdamW in PyTorch. Twin of mlx.py: a diff shows only the spelling."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from models.layers.gradients import pytorch as own_gradients


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
    if t == 1:  # the heads of a group as its queries, or every key would be copied for each head
        queries = queries.reshape(n, keys.shape[1], -1, size)
    output = nn.functional.scaled_dot_product_attention(
        queries,
        keys,
        values,
        attn_mask=mask if isinstance(mask, torch.Tensor) else None,
        dropout_p=0.0,
        is_causal=isinstance(mask, str) and t > 1,
        scale=size**-0.5,
        enable_gqa=keys.shape[1] != queries.shape[1],
    )
    return output.reshape(n, heads, t, size).transpose(1, 2).reshape(n, t, heads * size)


def store(cache: torch.Tensor, value: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """`cache` (n, heads, capacity, size) with `value` (n, heads, 1, size) at `position`, an array
    of one integer. In place."""
    return cache.index_copy_(2, position, value)


def norm(width: int, epsilon: float) -> nn.LayerNorm:
    """Layer norm with a weight and a bias."""
    return nn.LayerNorm(width, eps=epsilon, elementwise_affine=True, bias=True)


def widest(x: torch.Tensor) -> torch.dtype:
    """The most exact floats that the device of `x` computes with; Apple's GPUs have no float64."""
    return torch.float32 if x.device.type == "mps" else torch.float64


def gelu(x: torch.Tensor) -> torch.Tensor:
    """x * P(Z < x) for a standard normal Z, with the exact error function."""
    return nn.functional.gelu(x, approximate="none")


def linear_gelu(linear: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """GELU of a linear layer of x (..., inputs)."""
    if own_gradients.here(x):
        return own_gradients.LinearGelu.apply(x, linear.weight, linear.bias)
    return gelu(linear(x))


def linear_relu(linear: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """What is positive, else 0, of a linear layer of x (..., inputs)."""
    if own_gradients.here(x):
        return own_gradients.LinearRelu.apply(x, linear.weight, linear.bias)
    return torch.relu(linear(x))


def self_attend(qkv: nn.Linear, x: torch.Tensor, heads: int) -> torch.Tensor:
    """Attention of all of x (n, t, width) to all, whose queries, keys and values `qkv` gives side by
    side -> (n, t, width)."""
    if own_gradients.here(x) and own_gradients.fits(x, heads):
        return own_gradients.SelfAttention.apply(x, qkv.weight, qkv.bias, heads)
    queries, keys, values = (split(part, heads) for part in torch.chunk(qkv(x), 3, dim=2))
    return attend(queries, keys, values, None)


def add_norm(
    x: torch.Tensor, change: torch.Tensor, norm: nn.LayerNorm
) -> tuple[torch.Tensor, torch.Tensor]:
    """x + change, both (..., width), and the norm of it."""
    if own_gradients.here(x):
        return own_gradients.AddNorm.apply(x, change, norm.weight, norm.bias, norm.eps)
    x = x + change
    return x, norm(x)


@torch.library.custom_op(
    "layers::adamw", mutates_args=("parameters", "first", "second", "exact", "steps")
)
def _adamw(
    parameters: list[torch.Tensor],
    gradients: list[torch.Tensor],
    first: list[torch.Tensor],
    second: list[torch.Tensor],
    exact: list[torch.Tensor],
    steps: torch.Tensor,
    rate: torch.Tensor,
    weight_decay: float,
    beta1: float,
    beta2: float,
    epsilon: float,
) -> None:
    """The kernel of torch.optim.AdamW(fused=True) as one operator, which torch.compile takes into
    the graph of a step; neither the class nor the bare kernel can be compiled (torch 2.13)."""
    steps.add_(1)
    values = exact or parameters
    if exact:  # all of them by a few kernels, not each by its own
        short, gradients = gradients, [torch.empty_like(value) for value in exact]
        torch._foreach_copy_(gradients, short)
    torch._fused_adamw_(
        values,
        gradients,
        first,
        second,
        [],
        [steps] * len(values),
        lr=rate,
        beta1=beta1,
        beta2=beta2,
        weight_decay=weight_decay,
        eps=epsilon,
        amsgrad=False,
        maximize=False,
    )
    if exact:
        torch._foreach_copy_(parameters, exact)


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
        self.parameters = list(model.parameters())
        self.learning_rate = learning_rate
        self.warmup_steps = warmup_steps
        self.decay_steps = decay_steps
        self.constants = (weight_decay, *betas, epsilon)
        self.state: list[torch.Tensor] = []
        self.steps = torch.zeros(())
        self.first: list[torch.Tensor] = []
        self.second: list[torch.Tensor] = []
        self.exact: list[torch.Tensor] = []
        self.restart()

    def rate(self, step: torch.Tensor) -> torch.Tensor:
        """The learning rate of the update that follows `step` others."""
        share = step / self.warmup_steps if self.warmup_steps else step + 1
        value = torch.clamp(share, max=1.0) * self.learning_rate
        if self.decay_steps:
            length = self.decay_steps - self.warmup_steps
            done = torch.clamp((step - self.warmup_steps) / length, min=0.0, max=1.0)
            value = value * (0.5 + 0.5 * torch.cos(math.pi * done))
        return value

    def update(self, gradients: Sequence[torch.Tensor]) -> None:
        """One step, in place; `gradients` in the order of the parameters."""
        with torch.no_grad():
            rate = self.rate(self.steps)
            parameters = [p.detach() for p in self.parameters]
            moments = (self.first, self.second, self.exact)
            _adamw(parameters, list(gradients), *moments, self.steps, rate, *self.constants)

    def restart(self) -> None:
        """The state as before the first step; to be called again when parameters were written, or
        moved to another device or dtype. What fits is kept: a recorded step knows it by its place."""
        short = [p.detach() for p in self.parameters if p.dtype != torch.float32]
        here = self.state and self.steps.device == self.parameters[0].device
        if here and bool(short) == bool(self.exact):
            torch._foreach_zero_([self.steps, *self.first, *self.second])
            if short:
                torch._foreach_copy_(self.exact, short)
            return
        self.state.clear()
        self.first, self.second, self.exact = [], [], []  # gives their memory back first
        self.first, self.second = (
            [torch.zeros_like(p, dtype=torch.float32) for p in self.parameters] for _ in range(2)
        )
        self.exact = [p.float() for p in short]
        self.steps = torch.zeros((), device=self.parameters[0].device)
        self.state += [self.steps, *self.first, *self.second, *self.exact]

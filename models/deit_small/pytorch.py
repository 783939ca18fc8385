"""The vision transformer in PyTorch. Twin of mlx.py: a diff shows only the spelling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from measurement.framework import Differentiate
from models.deit_small.config import BETAS, EPSILON, MLP_RATIO, NORM_EPSILON, Config
from models.layers.pytorch import AdamW, add_norm, linear_gelu, norm, self_attend

# (training, inference): the mode measured faster on a CPU, see benchmarks/deit_small_peers.py.
FASTER_COMPILED = (True, True)


class Attention(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.dimension, 3 * config.dimension, bias=True)
        self.output = nn.Linear(config.dimension, config.dimension, bias=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(self_attend(self.qkv, x, self.heads))


class FeedForward(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.inner = nn.Linear(config.dimension, MLP_RATIO * config.dimension, bias=True)
        self.outer = nn.Linear(MLP_RATIO * config.dimension, config.dimension, bias=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.outer(linear_gelu(self.inner, x))


class Block(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention_norm = norm(config.dimension, NORM_EPSILON)
        self.attention = Attention(config)
        self.feed_forward_norm = norm(config.dimension, NORM_EPSILON)
        self.feed_forward = FeedForward(config)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        change = self.attention(self.attention_norm(x))
        x, y = add_norm(x, change, self.feed_forward_norm)
        return x + self.feed_forward(y)


class Model(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.size = config.patch_size
        mean, scale = config.pixels()
        self._mean = nn.Buffer(torch.from_numpy(mean), persistent=False)
        self._scale = nn.Buffer(torch.from_numpy(scale), persistent=False)
        self.class_token = nn.Parameter(torch.zeros(config.dimension))
        self.positions = nn.Parameter(torch.zeros(config.tokens, config.dimension))
        self.patches = nn.Linear(config.patch_values, config.dimension, bias=True)
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.depth)])
        self.norm = norm(config.dimension, NORM_EPSILON)
        self.head = nn.Linear(config.dimension, config.classes, bias=True)

    def cut(self, images: torch.Tensor) -> torch.Tensor:
        """images (n, side, side, channels) uint8 -> standardised patches, row by row
        (n, patches, patch_values). Bytes are exact in 16-bit floats too."""
        n, side, _, channels = images.shape
        rows = images.reshape(n, side // self.size, self.size, -1, self.size * channels)
        pieces = rows.transpose(2, 3).reshape(n, -1, self.size**2 * channels)
        return (pieces.to(self._mean.dtype) - self._mean) * self._scale

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """images (n, side, side, channels) uint8 -> logits (n, classes)."""
        patches = self.patches(self.cut(images))
        first = self.class_token.expand(images.shape[0], 1, -1)  # len() would fix an export's batch
        x = torch.cat([first, patches], dim=1) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[:, 0]))


def loss(model: Model, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of a batch."""
    return nn.functional.cross_entropy(model(images).float(), labels, reduction="mean")


def predict(model: Model, images: torch.Tensor) -> torch.Tensor:
    """images (n, side, side, channels) -> class (n,)."""
    return torch.argmax(model(images), dim=1)


def score(model: Model, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """1 where the answer is right, else 0: (n,) float32."""
    return (predict(model, images) == labels).float()


def answer(model: Model, images: torch.Tensor) -> torch.Tensor:
    """images (n, side, side, channels) uint8, as a client sends them -> class (n,)."""
    return predict(model, images)


def training(
    model: Model, config: Config, differentiate: Differentiate
) -> tuple[Callable[..., torch.Tensor], Any, Callable[[], None]]:
    """(step, state, restart): a step does one update by AdamW and returns the loss before it; state
    is all that a step changes; restart puts the optimiser, not the parameters, to its start."""
    optimiser = AdamW(
        model,
        learning_rate=config.learning_rate,
        warmup_steps=0,
        weight_decay=config.weight_decay,
        betas=BETAS,
        epsilon=EPSILON,
    )
    parameters = list(model.parameters())
    loss_and_gradients = differentiate(model, loss)

    def step(images: torch.Tensor, labels: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        batch = images.index_select(0, rows), labels.index_select(0, rows)
        value, gradients = loss_and_gradients(model, *batch)
        optimiser.update(gradients)
        return value

    return step, [parameters, optimiser.state], optimiser.restart

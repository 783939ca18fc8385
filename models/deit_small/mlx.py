"""The vision transformer in MLX. Twin of pytorch.py: a diff shows only the spelling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
from mlx import nn

from measurement.framework import Differentiate
from models.deit_small.config import BETAS, EPSILON, MLP_RATIO, NORM_EPSILON, Config
from models.layers.mlx import AdamW, Linear, add_norm, linear_gelu, norm, self_attend

# (training, inference): the mode measured faster on a CPU, see benchmarks/deit_small_peers.py.
FASTER_COMPILED = (True, False)


class Attention(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = Linear(config.dimension, 3 * config.dimension, bias=True)
        self.output = Linear(config.dimension, config.dimension, bias=True)

    def __call__(self, x: mx.array) -> mx.array:
        return self.output(self_attend(self.qkv, x, self.heads))


class FeedForward(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.inner = Linear(config.dimension, MLP_RATIO * config.dimension, bias=True)
        self.outer = Linear(MLP_RATIO * config.dimension, config.dimension, bias=True)

    def __call__(self, x: mx.array) -> mx.array:
        return self.outer(linear_gelu(self.inner, x))


class Block(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention_norm = norm(config.dimension, NORM_EPSILON)
        self.attention = Attention(config)
        self.feed_forward_norm = norm(config.dimension, NORM_EPSILON)
        self.feed_forward = FeedForward(config)

    def __call__(self, x: mx.array) -> mx.array:
        change = self.attention(self.attention_norm(x))
        x, y = add_norm(x, change, self.feed_forward_norm)
        return x + self.feed_forward(y)


class Model(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.size = config.patch_size
        mean, scale = config.pixels()
        self._mean = mx.array(mean)
        self._scale = mx.array(scale)
        self.class_token = mx.zeros(config.dimension)
        self.positions = mx.zeros((config.tokens, config.dimension))
        self.patches = Linear(config.patch_values, config.dimension, bias=True)
        self.blocks = [Block(config) for _ in range(config.depth)]
        self.norm = norm(config.dimension, NORM_EPSILON)
        self.head = Linear(config.dimension, config.classes, bias=True)

    def cut(self, images: mx.array) -> mx.array:
        """images (n, side, side, channels) uint8 -> standardised patches, row by row
        (n, patches, patch_values). Bytes are exact in 16-bit floats too."""
        n, side, _, channels = images.shape
        rows = images.reshape(n, side // self.size, self.size, -1, self.size * channels)
        pieces = rows.swapaxes(2, 3).reshape(n, -1, self.size**2 * channels)
        dtype = self.patches.weight.dtype
        return (pieces.astype(dtype) - self._mean.astype(dtype)) * self._scale.astype(dtype)

    def __call__(self, images: mx.array) -> mx.array:
        """images (n, side, side, channels) uint8 -> logits (n, classes)."""
        patches = self.patches(self.cut(images))
        first = mx.broadcast_to(self.class_token, (images.shape[0], 1, patches.shape[2]))
        x = mx.concatenate([first, patches], axis=1) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[:, 0]))


def loss(model: Model, images: mx.array, labels: mx.array) -> mx.array:
    """Mean cross-entropy of a batch."""
    logits = model(images).astype(mx.float32)
    return nn.losses.cross_entropy(logits, labels, reduction="mean")


def predict(model: Model, images: mx.array) -> mx.array:
    """images (n, side, side, channels) -> class (n,)."""
    return mx.argmax(model(images), axis=1)


def score(model: Model, images: mx.array, labels: mx.array) -> mx.array:
    """1 where the answer is right, else 0: (n,) float32."""
    return (predict(model, images) == labels).astype(mx.float32)


def answer(model: Model, images: mx.array) -> mx.array:
    """images (n, side, side, channels) uint8, as a client sends them -> class (n,)."""
    return predict(model, images)


def training(
    model: Model, config: Config, differentiate: Differentiate
) -> tuple[Callable[..., mx.array], Any, Callable[[], None]]:
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
    loss_and_gradients = differentiate(model, loss)

    def step(images: mx.array, labels: mx.array, rows: mx.array) -> mx.array:
        batch = mx.take(images, rows, axis=0), mx.take(labels, rows, axis=0)
        value, gradients = loss_and_gradients(model, *batch)
        optimiser.update(gradients)
        return value

    return step, [model.state, optimiser.state], optimiser.restart

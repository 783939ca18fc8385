"""The sentence-pair classifier in MLX. Twin of pytorch.py: a diff shows only the spelling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
from mlx import nn

from measurement.framework import Differentiate
from models.bert_tiny.config import (
    BETAS,
    CLASSES,
    EPSILON,
    NORM_EPSILON,
    PAD,
    POSITIONS,
    SEGMENTS,
    VOCABULARY,
    Config,
)
from models.layers.mlx import AdamW, attend, gelu, split

# (training, inference): the mode measured faster on a CPU, see benchmarks/bert_tiny_peers.py.
FASTER_COMPILED = (True, False)


class Embeddings(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, config.hidden_size)
        self.positions = nn.Embedding(POSITIONS, config.hidden_size)
        self.segments = nn.Embedding(SEGMENTS, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=NORM_EPSILON)

    def __call__(self, pieces: mx.array) -> mx.array:
        """pieces (m, t) -> (m, t, hidden_size); every sentence is segment 0."""
        places = self.positions.weight[: pieces.shape[1]] + self.segments.weight[0]
        return self.norm(self.words(pieces) + places)


class Attention(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads = config.heads
        self.query = nn.Linear(config.hidden_size, config.hidden_size, bias=True)
        self.key = nn.Linear(config.hidden_size, config.hidden_size, bias=True)
        self.value = nn.Linear(config.hidden_size, config.hidden_size, bias=True)
        self.output = nn.Linear(config.hidden_size, config.hidden_size, bias=True)

    def __call__(self, x: mx.array, mask: mx.array) -> mx.array:
        query = split(self.query(x), self.heads)
        key = split(self.key(x), self.heads)
        value = split(self.value(x), self.heads)
        return self.output(attend(query, key, value, mask))


class FeedForward(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.inner = nn.Linear(config.hidden_size, config.intermediate_size, bias=True)
        self.outer = nn.Linear(config.intermediate_size, config.hidden_size, bias=True)

    def __call__(self, x: mx.array) -> mx.array:
        return self.outer(gelu(self.inner(x)))


class Block(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=NORM_EPSILON)
        self.feed_forward = FeedForward(config)
        self.feed_forward_norm = nn.LayerNorm(config.hidden_size, eps=NORM_EPSILON)

    def __call__(self, x: mx.array, mask: mx.array) -> mx.array:
        x = self.attention_norm(x + self.attention(x, mask))
        return self.feed_forward_norm(x + self.feed_forward(x))


class Model(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.layers = [Block(config) for _ in range(config.layers)]
        self.head = nn.Linear(4 * config.hidden_size, CLASSES, bias=True)

    def encode(self, pieces: mx.array) -> mx.array:
        """pieces (m, t) -> mean vector of each sentence's own pieces (m, hidden_size)."""
        real = pieces != PAD
        x = self.embeddings(pieces)
        for block in self.layers:
            x = block(x, real[:, None, None, :])
        weights = real.astype(x.dtype)[..., None]
        return mx.sum(x * weights, axis=1) / mx.sum(weights, axis=1)

    def __call__(self, inputs: mx.array) -> mx.array:
        """inputs (n, 2, t) word pieces -> logits (n, CLASSES); one pass for both sentences."""
        n, _, t = inputs.shape
        encoded = self.encode(inputs.reshape(2 * n, t)).reshape(n, 2, -1)
        u, v = encoded[:, 0], encoded[:, 1]
        return self.head(mx.concatenate([u, v, mx.abs(u - v), u * v], axis=1))


def loss(model: Model, inputs: mx.array, labels: mx.array) -> mx.array:
    """Mean cross-entropy of a batch."""
    return nn.losses.cross_entropy(model(inputs), labels, reduction="mean")


def predict(model: Model, inputs: mx.array) -> mx.array:
    """inputs (n, 2, t) -> class (n,)."""
    return mx.argmax(model(inputs), axis=1)


def score(model: Model, inputs: mx.array, labels: mx.array) -> mx.array:
    """1 where the answer is right, else 0: (n,) float32."""
    return (predict(model, inputs) == labels).astype(mx.float32)


def answer(model: Model, inputs: mx.array) -> mx.array:
    """inputs (n, 2, t), as a client sends them -> class (n,)."""
    return predict(model, inputs)


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

    def step(inputs: mx.array, labels: mx.array, rows: mx.array) -> mx.array:
        batch = mx.take(inputs, rows, axis=0), mx.take(labels, rows, axis=0)
        value, gradients = loss_and_gradients(model, *batch)
        optimiser.update(gradients)
        return value

    return step, [model.state, optimiser.state], optimiser.restart

"""The sentence-pair classifier in PyTorch. Twin of mlx.py: a diff shows only the spelling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

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
from models.layers.pytorch import AdamW, attend, gelu, split

# (training, inference): the mode measured faster on a CPU, see benchmarks/bert_tiny_peers.py.
FASTER_COMPILED = (True, True)


class Embeddings(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, config.hidden_size)
        self.positions = nn.Embedding(POSITIONS, config.hidden_size)
        self.segments = nn.Embedding(SEGMENTS, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=NORM_EPSILON)

    def forward(self, pieces: torch.Tensor) -> torch.Tensor:
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

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        query = split(self.query(x), self.heads)
        key = split(self.key(x), self.heads)
        value = split(self.value(x), self.heads)
        return self.output(attend(query, key, value, mask))


class FeedForward(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.inner = nn.Linear(config.hidden_size, config.intermediate_size, bias=True)
        self.outer = nn.Linear(config.intermediate_size, config.hidden_size, bias=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.outer(gelu(self.inner(x)))


class Block(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=NORM_EPSILON)
        self.feed_forward = FeedForward(config)
        self.feed_forward_norm = nn.LayerNorm(config.hidden_size, eps=NORM_EPSILON)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.attention_norm(x + self.attention(x, mask))
        return self.feed_forward_norm(x + self.feed_forward(x))


class Model(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList([Block(config) for _ in range(config.layers)])
        self.head = nn.Linear(4 * config.hidden_size, CLASSES, bias=True)

    def encode(self, pieces: torch.Tensor) -> torch.Tensor:
        """pieces (m, t) -> mean vector of each sentence's own pieces (m, hidden_size)."""
        real = pieces != PAD
        x = self.embeddings(pieces)
        for block in self.layers:
            x = block(x, real[:, None, None, :])
        weights = real.to(x.dtype)[..., None]
        return torch.sum(x * weights, dim=1) / torch.sum(weights, dim=1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """inputs (n, 2, t) word pieces -> logits (n, CLASSES); one pass for both sentences."""
        n, _, t = inputs.shape
        u, v = self.encode(inputs.reshape(2 * n, t)).reshape(n, 2, -1).unbind(dim=1)
        return self.head(torch.cat([u, v, torch.abs(u - v), u * v], dim=1))


def loss(model: Model, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of a batch."""
    return nn.functional.cross_entropy(model(inputs), labels, reduction="mean")


def predict(model: Model, inputs: torch.Tensor) -> torch.Tensor:
    """inputs (n, 2, t) -> class (n,)."""
    return torch.argmax(model(inputs), dim=1)


def score(model: Model, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """1 where the answer is right, else 0: (n,) float32."""
    return (predict(model, inputs) == labels).float()


def answer(model: Model, inputs: torch.Tensor) -> torch.Tensor:
    """inputs (n, 2, t), as a client sends them -> class (n,)."""
    return predict(model, inputs)


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

    def step(inputs: torch.Tensor, labels: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        batch = inputs.index_select(0, rows), labels.index_select(0, rows)
        value, gradients = loss_and_gradients(model, *batch)
        optimiser.update(gradients)
        return value

    return step, [parameters, optimiser.state], optimiser.restart

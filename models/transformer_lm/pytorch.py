"""The language model in PyTorch. Twin of mlx.py: a diff shows only the spelling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from measurement.framework import Differentiate
from models.layers.pytorch import AdamW, add_norm, attend, linear_relu, norm, split
from models.transformer_lm.config import BETAS, EPSILON, NORM_EPSILON, VOCABULARY, Config

# (training, inference): the mode measured faster on a CPU, see benchmarks/transformer_lm_peers.py.
FASTER_COMPILED = (True, False)


class Attention(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.dimension, 3 * config.dimension, bias=False)
        self.output = nn.Linear(config.dimension, config.dimension, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = (split(part, self.heads) for part in torch.chunk(self.qkv(x), 3, dim=2))
        return self.output(attend(query, key, value, "causal"))


class FeedForward(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.inner = nn.Linear(config.dimension, 4 * config.dimension, bias=True)
        self.outer = nn.Linear(4 * config.dimension, config.dimension, bias=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.outer(linear_relu(self.inner, x))


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
        self.embedding = nn.Embedding(VOCABULARY, config.dimension)
        self._positions = nn.Buffer(torch.from_numpy(config.positions()), persistent=False)
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.blocks)])
        self.norm = norm(config.dimension, NORM_EPSILON)
        self.head = nn.Linear(config.dimension, VOCABULARY, bias=True)

    def hidden(self, inputs: torch.Tensor) -> torch.Tensor:
        """inputs (n, t) -> what the head sees (n, t, dimension)."""
        x = self.embedding(inputs)
        x = x + self._positions[: inputs.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """inputs (n, t) words -> logits of the words after each (n, t, VOCABULARY)."""
        return self.head(self.hidden(inputs))


def loss(model: Model, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy over all words."""
    logits = model(inputs).flatten(0, 1).float()
    return nn.functional.cross_entropy(logits, labels.flatten().long(), reduction="mean")


def predict(model: Model, inputs: torch.Tensor) -> torch.Tensor:
    """inputs (n, t) -> the likeliest word after each (n, t)."""
    return torch.argmax(model(inputs), dim=2)


def score(model: Model, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of each sequence's labels, without those below 0: (n,)."""
    logits = model(inputs).float()
    known = labels >= 0
    chosen = torch.where(known, labels, 0).long()[..., None]
    likelihood = torch.gather(logits, 2, chosen)[..., 0] - torch.logsumexp(logits, dim=2)
    return -torch.sum(torch.where(known, likelihood, 0.0), dim=1)


def answer(model: Model, inputs: torch.Tensor) -> torch.Tensor:
    """inputs (n, t), as a client sends them -> the likeliest next word (n,)."""
    return torch.argmax(model.head(model.hidden(inputs)[:, -1]), dim=1)


def training(
    model: Model, config: Config, differentiate: Differentiate
) -> tuple[Callable[..., torch.Tensor], Any, Callable[[], None]]:
    """(step, state, restart): a step does one update by AdamW and returns the loss before it; state
    is all that a step changes; restart puts the optimiser, not the parameters, to its start."""
    optimiser = AdamW(
        model,
        learning_rate=config.learning_rate,
        warmup_steps=config.warmup_steps,
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

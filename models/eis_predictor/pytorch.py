"""The predictor of circuit parameters in PyTorch. Twin of mlx.py: a diff shows only the spelling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from measurement.framework import Differentiate
from models.eis_predictor.config import (
    BETAS,
    COUNT,
    EPSILON,
    INPUTS,
    KNOWN,
    RESNORM_WEIGHT,
    Config,
)
from models.eis_predictor.simulator import GRID
from models.layers.pytorch import AdamW

# (training, inference): the mode measured faster on a CPU, see benchmarks/eis_predictor_peers.py.
FASTER_COMPILED = (True, True)
MASK_SEED = 0  # of dropout


def drop(x: torch.Tensor, rate: float) -> torch.Tensor:
    """Each value 0 with probability `rate`, the others larger by as much."""
    return nn.functional.dropout(x, rate, training=True) if rate else x


class Encoder(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.first = nn.Linear(INPUTS, config.first_width, bias=True)
        self.second = nn.Linear(config.first_width, config.second_width, bias=True)
        self.third = nn.Linear(config.second_width, config.third_width, bias=True)

    def forward(self, inputs: torch.Tensor, rate: float) -> torch.Tensor:
        """inputs (n, 10) -> (n, third_width); rate: of dropout."""
        x = drop(torch.relu(self.first(inputs)), rate)
        x = drop(torch.relu(self.second(x)), rate)
        return self.third(x)


class Columns(nn.Module):
    """A linear layer of samples that stand in columns, so that no head's share is copied."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(shape))
        self.bias = nn.Parameter(torch.zeros(shape[:-1]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., inputs, n) -> (..., outputs, n)."""
        return self.weight @ x + self.bias[..., None]


class Heads(nn.Module):
    """All heads at once, stacked: one product for their hidden layers, one for the classes."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.width = config.head_width
        self.hidden = Columns((COUNT + 1) * config.head_width, config.third_width)
        self.classes = Columns(COUNT, GRID, config.head_width)
        self.resnorm = Columns(1, config.head_width)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x (third_width, n) -> logits (5, GRID, n), residual in kiloohm (n,)."""
        x = torch.relu(self.hidden(x))
        split = COUNT * self.width
        stacked = x[:split].reshape(COUNT, self.width, -1)
        return self.classes(stacked), self.resnorm(x[split:])[0]


class Model(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.encoder = Encoder(config)
        self.heads = Heads(config)

    def forward(self, inputs: torch.Tensor, rate: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
        """inputs (n, 10) -> logits (5, GRID, n), residual in kiloohm (n,)."""
        return self.heads(self.encoder(inputs, rate).T)


def loss(
    model: Model, inputs: torch.Tensor, labels: torch.Tensor, rate: float = 0.0
) -> torch.Tensor:
    """Mean cross-entropy of a batch's unknown parameters, and the weighted squared error of the
    residual; labels (n, 6): five classes, the known ones KNOWN, and the residual."""
    logits, resnorm = model(inputs, rate)
    classes, truth = labels[:, :COUNT].T, labels[:, COUNT].float()
    likelihoods = torch.log_softmax(logits.float(), dim=1)
    same = classes[:, None] == torch.arange(GRID, device=logits.device)[:, None]  # no slow gather
    surprise = -torch.sum(torch.where(same, likelihoods, 0.0), dim=1)
    unknown = classes != KNOWN
    entropy = torch.sum(torch.where(unknown, surprise, 0.0)) / torch.sum(unknown)
    return entropy + RESNORM_WEIGHT * torch.mean((resnorm.float() - truth) ** 2)


def predict(model: Model, inputs: torch.Tensor) -> torch.Tensor:
    """inputs (n, 10) -> likeliest class of every parameter (n, 5)."""
    return torch.argmax(model(inputs)[0], dim=1).T


def score(model: Model, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(n, 61) float32: the probability of every class of every parameter, then the residual."""
    logits, resnorm = model(inputs)
    probabilities = torch.softmax(logits.float(), dim=1).flatten(0, 1)
    return torch.cat([probabilities, resnorm.float()[None]]).T


def answer(model: Model, inputs: torch.Tensor) -> torch.Tensor:
    """inputs (n, 10), as a client sends them -> likeliest class of every parameter (n, 5)."""
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
        decay_steps=config.decay_steps(),
    )
    parameters = list(model.parameters())
    loss_and_gradients = differentiate(model, loss)

    def step(inputs: torch.Tensor, labels: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        batch = inputs.index_select(0, rows), labels.index_select(0, rows)
        value, gradients = loss_and_gradients(model, *batch, config.dropout)
        optimiser.update(gradients)
        return value

    def restart() -> None:
        optimiser.restart()
        if config.dropout:
            torch.manual_seed(MASK_SEED)

    return step, [parameters, optimiser.state], restart

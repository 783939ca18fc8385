"""The predictor of circuit parameters in MLX. Twin of pytorch.py: a diff shows only the spelling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
from mlx import nn

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
from models.layers.mlx import AdamW, exp

# (training, inference): the mode measured faster on a CPU, see benchmarks/eis_predictor_peers.py.
FASTER_COMPILED = (True, True)
MASK_SEED = 0  # of dropout


def drop(x: mx.array, rate: float) -> mx.array:
    """Each value 0 with probability `rate`, the others larger by as much."""
    return x * mx.random.bernoulli(1 - rate, x.shape) * (1 / (1 - rate)) if rate else x


class Encoder(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.first = nn.Linear(INPUTS, config.first_width, bias=True)
        self.second = nn.Linear(config.first_width, config.second_width, bias=True)
        self.third = nn.Linear(config.second_width, config.third_width, bias=True)

    def __call__(self, inputs: mx.array, rate: float) -> mx.array:
        """inputs (n, 10) -> (n, third_width); rate: of dropout."""
        x = drop(nn.relu(self.first(inputs)), rate)
        x = drop(nn.relu(self.second(x)), rate)
        return self.third(x)


class Columns(nn.Module):
    """A linear layer of samples that stand in columns, so that no head's share is copied."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = mx.zeros(shape)
        self.bias = mx.zeros(shape[:-1])

    def __call__(self, x: mx.array) -> mx.array:
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

    def __call__(self, x: mx.array) -> tuple[mx.array, mx.array]:
        """x (third_width, n) -> logits (5, GRID, n), residual in kiloohm (n,)."""
        x = nn.relu(self.hidden(x))
        split = COUNT * self.width
        stacked = x[:split].reshape(COUNT, self.width, -1)
        return self.classes(stacked), self.resnorm(x[split:])[0]


class Model(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.encoder = Encoder(config)
        self.heads = Heads(config)

    def __call__(self, inputs: mx.array, rate: float = 0.0) -> tuple[mx.array, mx.array]:
        """inputs (n, 10) -> logits (5, GRID, n), residual in kiloohm (n,)."""
        return self.heads(self.encoder(inputs, rate).T)


def loss(model: Model, inputs: mx.array, labels: mx.array, rate: float = 0.0) -> mx.array:
    """Mean cross-entropy of a batch's unknown parameters, and the weighted squared error of the
    residual; labels (n, 6): five classes, the known ones KNOWN, and the residual."""
    logits, resnorm = model(inputs, rate)
    classes, truth = labels[:, :COUNT].T, labels[:, COUNT].astype(mx.float32)
    logits = logits.astype(mx.float32)
    shifted = logits - mx.stop_gradient(mx.max(logits, axis=1, keepdims=True))
    same = classes[:, None] == mx.arange(GRID)[:, None]  # a gather has a slower gradient
    surprise = mx.log(mx.sum(exp(shifted), axis=1)) - mx.sum(mx.where(same, shifted, 0.0), axis=1)
    unknown = classes != KNOWN
    entropy = mx.sum(mx.where(unknown, surprise, 0.0)) / mx.sum(unknown)
    return entropy + RESNORM_WEIGHT * mx.mean((resnorm.astype(mx.float32) - truth) ** 2)


def predict(model: Model, inputs: mx.array) -> mx.array:
    """inputs (n, 10) -> likeliest class of every parameter (n, 5)."""
    return mx.argmax(model(inputs)[0], axis=1).T


def score(model: Model, inputs: mx.array, labels: mx.array) -> mx.array:
    """(n, 61) float32: the probability of every class of every parameter, then the residual."""
    logits, resnorm = model(inputs)
    probabilities = mx.softmax(logits.astype(mx.float32), axis=1).flatten(0, 1)
    return mx.concatenate([probabilities, resnorm.astype(mx.float32)[None]]).T


def answer(model: Model, inputs: mx.array) -> mx.array:
    """inputs (n, 10), as a client sends them -> likeliest class of every parameter (n, 5)."""
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
        decay_steps=config.decay_steps(),
    )
    loss_and_gradients = differentiate(model, loss)

    def step(inputs: mx.array, labels: mx.array, rows: mx.array) -> mx.array:
        batch = mx.take(inputs, rows, axis=0), mx.take(labels, rows, axis=0)
        value, gradients = loss_and_gradients(model, *batch, config.dropout)
        optimiser.update(gradients)
        return value

    def restart() -> None:
        optimiser.restart()
        if config.dropout:
            mx.random.seed(MASK_SEED)

    state = [model.state, optimiser.state]
    return step, state + [mx.random.state] * bool(config.dropout), restart

"""The classifier of points in MLX. Twin of pytorch.py: a diff shows only the spelling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_map

from measurement.framework import Differentiate
from models.blobs.config import CLASSES, FEATURES, Config

FASTER_COMPILED = (False, False)  # (training, inference): so small that starting costs most


class Model(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.head = nn.Linear(FEATURES, CLASSES, bias=True)

    def __call__(self, points: mx.array) -> mx.array:
        """points (n, FEATURES) -> logits (n, CLASSES)."""
        return self.head(points)


def loss(model: Model, points: mx.array, labels: mx.array) -> mx.array:
    """Mean cross-entropy of a batch."""
    return nn.losses.cross_entropy(model(points), labels, reduction="mean")


def predict(model: Model, points: mx.array) -> mx.array:
    """points (n, FEATURES) -> class (n,)."""
    return mx.argmax(model(points), axis=1)


def score(model: Model, points: mx.array, labels: mx.array) -> mx.array:
    """1 where the class is right, else 0: (n,)."""
    return (predict(model, points) == labels).astype(mx.float32)


def answer(model: Model, points: mx.array) -> mx.array:
    """points (n, FEATURES), as a client sends them -> class (n,)."""
    return predict(model, points)


def training(
    model: Model, config: Config, differentiate: Differentiate
) -> tuple[Callable[..., mx.array], Any, Callable[[], None]]:
    """(step, state, restart): a step does one update by plain SGD and returns the loss before it;
    state is all that a step changes; restart puts the optimiser back to the start."""
    loss_and_gradients = differentiate(model, loss)

    def step(points: mx.array, labels: mx.array, rows: mx.array) -> mx.array:
        batch = mx.take(points, rows, axis=0), mx.take(labels, rows, axis=0)
        value, gradients = loss_and_gradients(model, *batch)
        model.update(
            tree_map(
                lambda parameter, gradient: parameter - config.learning_rate * gradient,
                model.trainable_parameters(),
                gradients,
            )
        )
        return value

    def restart() -> None:
        """Plain SGD remembers nothing."""

    return step, [model.state], restart

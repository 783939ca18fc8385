"""The classifier of points in tape. Twin of pytorch.py: a diff shows only the spelling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tape as nn

from measurement.framework import Differentiate
from models.blobs.config import CLASSES, FEATURES, Config

FASTER_COMPILED = (False, False)  # (training, inference): so small that starting costs most


class Model(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.head = nn.Linear(FEATURES, CLASSES, bias=True)

    def forward(self, points: nn.Tensor) -> nn.Tensor:
        """points (n, FEATURES) -> logits (n, CLASSES)."""
        return self.head(points)


def loss(model: Model, points: nn.Tensor, labels: nn.Tensor) -> nn.Tensor:
    """Mean cross-entropy of a batch."""
    return nn.cross_entropy(model(points), labels)


def predict(model: Model, points: nn.Tensor) -> nn.Tensor:
    """points (n, FEATURES) -> class (n,)."""
    return nn.argmax(model(points))


def score(model: Model, points: nn.Tensor, labels: nn.Tensor) -> nn.Tensor:
    """1 where the class is right, else 0: (n,)."""
    return nn.equal(predict(model, points), labels)


def answer(model: Model, points: nn.Tensor) -> nn.Tensor:
    """points (n, FEATURES), as a client sends them -> class (n,)."""
    return predict(model, points)


def training(
    model: Model, config: Config, differentiate: Differentiate
) -> tuple[Callable[..., nn.Tensor], Any, Callable[[], None]]:
    """(step, state, restart): a step does one update by plain SGD and returns the loss before it;
    state is all that a step changes; restart puts the optimiser back to the start."""
    parameters = model.parameters()
    loss_and_gradients = differentiate(model, loss)

    def step(points: nn.Tensor, labels: nn.Tensor, rows: nn.Tensor) -> nn.Tensor:
        batch = nn.take(points, rows), nn.take(labels, rows)
        value, gradients = loss_and_gradients(model, *batch)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.value -= config.learning_rate * gradient
        return value

    def restart() -> None:
        """Plain SGD remembers nothing."""

    return step, parameters, restart

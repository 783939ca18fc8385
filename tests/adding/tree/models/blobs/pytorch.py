"""The classifier of points in PyTorch. Twin of mlx.py: a diff shows only the spelling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from measurement.framework import Differentiate
from models.blobs.config import CLASSES, FEATURES, Config

FASTER_COMPILED = (False, False)  # (training, inference): so small that starting costs most


class Model(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.head = nn.Linear(FEATURES, CLASSES, bias=True)

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        """points (n, FEATURES) -> logits (n, CLASSES)."""
        return self.head(points)


def loss(model: Model, points: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of a batch."""
    return nn.functional.cross_entropy(model(points), labels, reduction="mean")


def predict(model: Model, points: torch.Tensor) -> torch.Tensor:
    """points (n, FEATURES) -> class (n,)."""
    return torch.argmax(model(points), dim=1)


def score(model: Model, points: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """1 where the class is right, else 0: (n,)."""
    return (predict(model, points) == labels).float()


def answer(model: Model, points: torch.Tensor) -> torch.Tensor:
    """points (n, FEATURES), as a client sends them -> class (n,)."""
    return predict(model, points)


def training(
    model: Model, config: Config, differentiate: Differentiate
) -> tuple[Callable[..., torch.Tensor], Any, Callable[[], None]]:
    """(step, state, restart): a step does one update by plain SGD and returns the loss before it;
    state is all that a step changes; restart puts the optimiser back to the start."""
    parameters = list(model.parameters())
    loss_and_gradients = differentiate(model, loss)

    def step(points: torch.Tensor, labels: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        batch = points.index_select(0, rows), labels.index_select(0, rows)
        value, gradients = loss_and_gradients(model, *batch)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.sub_(gradient, alpha=config.learning_rate)
        return value

    def restart() -> None:
        """Plain SGD remembers nothing."""

    return step, parameters, restart

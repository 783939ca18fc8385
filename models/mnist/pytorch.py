"""The MNIST multilayer perceptron in PyTorch. Twin of mlx.py: a diff shows only the spelling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from measurement.framework import Differentiate
from models.mnist.config import CLASSES, PIXEL_MEAN, PIXEL_STD, PIXELS, Config

# (training, inference): the mode measured faster on a CPU, see benchmarks/mnist_peers.py.
FASTER_COMPILED = (True, False)


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, bias=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.linear(x))


class Model(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        widths = [PIXELS, *[config.hidden_size] * config.layers]
        self.hidden = nn.ModuleList(
            [Block(inputs, outputs) for inputs, outputs in zip(widths, widths[1:], strict=False)]
        )
        self.head = nn.Linear(widths[-1], CLASSES, bias=True)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """images (n, 784) -> logits (n, 10)."""
        x = images
        for block in self.hidden:
            x = block(x)
        return self.head(x)


def loss(model: Model, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of a batch."""
    return nn.functional.cross_entropy(model(images), labels, reduction="mean")


def predict(model: Model, images: torch.Tensor) -> torch.Tensor:
    """images (n, 784) -> digit (n,)."""
    return torch.argmax(model(images), dim=1)


def score(model: Model, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """images (n, 784), labels (n,) -> 1 where the digit is right, else 0, (n,)."""
    return (predict(model, images) == labels).float()


def answer(model: Model, pixels: torch.Tensor) -> torch.Tensor:
    """pixels (n, 784) in [0, 1], as a client sends them -> digit (n,)."""
    return predict(model, (pixels - PIXEL_MEAN) / PIXEL_STD)


def training(
    model: Model, config: Config, differentiate: Differentiate
) -> tuple[Callable[..., torch.Tensor], list[Any], Callable[[], None]]:
    """(step, state, restart): a step does one update by plain SGD and returns the loss before it;
    state is all that a step changes; restart puts the optimiser back to the start."""
    parameters = list(model.parameters())
    loss_and_gradients = differentiate(model, loss)

    def step(images: torch.Tensor, labels: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        # index_select gathers rows about a quarter faster than images[rows] on the CPU.
        batch = images.index_select(0, rows), labels.index_select(0, rows)
        value, gradients = loss_and_gradients(model, *batch)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.sub_(gradient, alpha=config.learning_rate)
        return value

    def restart() -> None:
        """Plain SGD remembers nothing."""

    return step, parameters, restart

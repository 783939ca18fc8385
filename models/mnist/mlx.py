"""The MNIST multilayer perceptron in MLX. Twin of pytorch.py: a diff shows only the spelling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_map

from measurement.framework import Differentiate
from models.mnist.config import CLASSES, PIXEL_MEAN, PIXEL_STD, PIXELS, Config

# (training, inference): the mode measured faster on a CPU, see benchmarks/mnist_peers.py.
FASTER_COMPILED = (True, True)


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, bias=True)

    def __call__(self, x: mx.array) -> mx.array:
        return nn.relu(self.linear(x))


class Model(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        widths = [PIXELS, *[config.hidden_size] * config.layers]
        self.hidden = [
            Block(inputs, outputs) for inputs, outputs in zip(widths, widths[1:], strict=False)
        ]
        self.head = nn.Linear(widths[-1], CLASSES, bias=True)

    def __call__(self, images: mx.array) -> mx.array:
        """images (n, 784) -> logits (n, 10)."""
        x = images
        for block in self.hidden:
            x = block(x)
        return self.head(x)


def loss(model: Model, images: mx.array, labels: mx.array) -> mx.array:
    """Mean cross-entropy of a batch."""
    logits = model(images)
    if mx.default_device().type == mx.gpu:
        return nn.losses.cross_entropy(logits, labels, reduction="mean")
    # The same function with one exponential instead of two (logsumexp, then softmax in its
    # gradient): exp is slow on MLX's CPU, 8 % of a step; on a GPU the extra kernels cost 20 %.
    shifted = logits - mx.stop_gradient(mx.max(logits, axis=1, keepdims=True))
    chosen = mx.take_along_axis(shifted, labels[:, None], axis=1)[:, 0]
    return mx.mean(mx.log(mx.sum(mx.exp(shifted), axis=1)) - chosen)


def predict(model: Model, images: mx.array) -> mx.array:
    """images (n, 784) -> digit (n,)."""
    return mx.argmax(model(images), axis=1)


def score(model: Model, images: mx.array, labels: mx.array) -> mx.array:
    """images (n, 784), labels (n,) -> 1 where the digit is right, else 0, (n,)."""
    return (predict(model, images) == labels).astype(mx.float32)


def answer(model: Model, pixels: mx.array) -> mx.array:
    """pixels (n, 784) in [0, 1], as a client sends them -> digit (n,)."""
    return predict(model, (pixels - PIXEL_MEAN) / PIXEL_STD)


def training(
    model: Model, config: Config, differentiate: Differentiate
) -> tuple[Callable[..., mx.array], list[Any], Callable[[], None]]:
    """(step, state, restart): a step does one update by plain SGD and returns the loss before it;
    state is all that a step changes; restart puts the optimiser back to the start."""
    loss_and_gradients = differentiate(model, loss)

    def step(images: mx.array, labels: mx.array, rows: mx.array) -> mx.array:
        batch = mx.take(images, rows, axis=0), mx.take(labels, rows, axis=0)
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

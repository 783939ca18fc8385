"""The MNIST multilayer perceptron in JAX. Twin of pytorch.py: a diff shows only the spelling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from measurement.framework import Differentiate
from models.layers import jax as nn
from models.layers.jax import cross_entropy, take
from models.mnist.config import CLASSES, PIXEL_MEAN, PIXEL_STD, PIXELS, Config

# (training, inference): one by one JAX compiles and starts every operation alone.
FASTER_COMPILED = (True, True)


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, bias=True)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.relu(self.linear(x))


class Model(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        widths = [PIXELS, *[config.hidden_size] * config.layers]
        self.hidden = [
            Block(inputs, outputs) for inputs, outputs in zip(widths, widths[1:], strict=False)
        ]
        self.head = nn.Linear(widths[-1], CLASSES, bias=True)

    def __call__(self, images: jax.Array) -> jax.Array:
        """images (n, 784) -> logits (n, 10)."""
        x = images
        for block in self.hidden:
            x = block(x)
        return self.head(x)


def loss(model: Model, images: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean cross-entropy of a batch."""
    return cross_entropy(model(images), labels)


def predict(model: Model, images: jax.Array) -> jax.Array:
    """images (n, 784) -> digit (n,)."""
    return jnp.argmax(model(images), axis=1)


def score(model: Model, images: jax.Array, labels: jax.Array) -> jax.Array:
    """images (n, 784), labels (n,) -> 1 where the digit is right, else 0, (n,)."""
    return (predict(model, images) == labels).astype(jnp.float32)


def answer(model: Model, pixels: jax.Array) -> jax.Array:
    """pixels (n, 784) in [0, 1], as a client sends them -> digit (n,)."""
    return predict(model, (pixels - PIXEL_MEAN) / PIXEL_STD)


def training(
    model: Model, config: Config, differentiate: Differentiate
) -> tuple[Callable[..., jax.Array], list[Any], Callable[[], None]]:
    """(step, state, restart): a step does one update by plain SGD and returns the loss before it;
    state is all that a step changes; restart puts the optimiser back to the start."""
    loss_and_gradients = differentiate(model, loss)

    def step(images: jax.Array, labels: jax.Array, rows: jax.Array) -> jax.Array:
        batch = take(images, rows), take(labels, rows)
        value, gradients = loss_and_gradients(model, *batch)
        parameters = zip(model.parameters(), gradients, strict=True)
        model.update([p - config.learning_rate * gradient for p, gradient in parameters])
        return value

    def restart() -> None:
        """Plain SGD remembers nothing."""

    return step, [model], restart

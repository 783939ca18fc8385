"""A tiny network with an activation and unequal layers, in each framework and in NumPy."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

import frameworks

NAMES = [name for name in frameworks.names() if frameworks.available(name)]
SHAPES = {
    "layers.0.weight": (5, 3),
    "layers.0.bias": (5,),
    "layers.1.weight": (5, 5),
    "layers.1.bias": (5,),
    "out.weight": (2, 5),
    "out.bias": (2,),
}
RATE = 0.1


def torch_parts() -> SimpleNamespace:
    import torch

    class Net(torch.nn.Module):
        def __init__(self, fails: bool = False) -> None:
            super().__init__()
            self.out = torch.nn.Linear(5, 2)  # defined first, computed last
            self.layers = torch.nn.ModuleList([torch.nn.Linear(3, 5), torch.nn.Linear(5, 5)])
            self.fails = fails

        def forward(self, x):
            for layer in self.layers:
                x = torch.tanh(layer(x))
            if self.fails:
                raise ArithmeticError("in the middle")
            return self.out(x)

    def loss(model, x, y):
        return ((model(x) - y) ** 2).mean()

    def training(model):
        parameters = list(model.parameters())

        def step(x, y, rows):
            value = loss(model, x.index_select(0, rows), y.index_select(0, rows))
            gradients = torch.autograd.grad(value, parameters)
            with torch.no_grad():
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.sub_(gradient, alpha=RATE)
            return value.detach()

        return step, parameters

    return SimpleNamespace(Net=Net, loss=loss, training=training)


def mlx_parts() -> SimpleNamespace:
    import mlx.core as mx
    from mlx import nn
    from mlx.utils import tree_map

    class Net(nn.Module):
        def __init__(self, fails: bool = False) -> None:
            super().__init__()
            self.out = nn.Linear(5, 2)
            self.layers = [nn.Linear(3, 5), nn.Linear(5, 5)]
            self.fails = fails

        def __call__(self, x):
            for layer in self.layers:
                x = mx.tanh(layer(x))
            if self.fails:
                raise ArithmeticError("in the middle")
            return self.out(x)

    def loss(model, x, y):
        return mx.mean((model(x) - y) ** 2)

    def training(model):
        both = nn.value_and_grad(model, loss)

        def step(x, y, rows):
            value, gradients = both(model, mx.take(x, rows, axis=0), mx.take(y, rows, axis=0))
            moved = tree_map(lambda p, g: p - RATE * g, model.trainable_parameters(), gradients)
            model.update(moved)
            return value

        return step, [model.state]

    return SimpleNamespace(Net=Net, loss=loss, training=training)


def tensorflow_parts() -> SimpleNamespace:
    import tensorflow as tf

    from models.layers import tensorflow as nn

    class Net(nn.Module):
        def __init__(self, fails: bool = False) -> None:
            super().__init__()
            self.out = nn.Linear(5, 2, bias=True)
            self.layers = [nn.Linear(3, 5, bias=True), nn.Linear(5, 5, bias=True)]
            self.fails = fails

        def __call__(self, x):
            for layer in self.layers:
                x = tf.tanh(layer(x))
            if self.fails:
                raise ArithmeticError("in the middle")
            return self.out(x)

    def loss(model, x, y):
        return tf.reduce_mean((model(x) - y) ** 2)

    def training(model):
        def step(x, y, rows):
            parameters = model.parameters()
            with tf.GradientTape() as tape:
                value = loss(model, tf.gather(x, rows), tf.gather(y, rows))
            for p, gradient in zip(parameters, tape.gradient(value, parameters), strict=True):
                p.assign_sub(RATE * gradient)
            return value

        return step, [model.parameters()]

    return SimpleNamespace(Net=Net, loss=loss, training=training)


PARTS = {"pytorch": torch_parts, "mlx": mlx_parts, "tensorflow": tensorflow_parts}


def plain(values: dict[str, Any], x: np.ndarray) -> dict[str, np.ndarray]:
    """Every layer's output in NumPy, float64."""
    w = {name: value.astype(np.float64) for name, value in values.items()}
    first = x @ w["layers.0.weight"].T + w["layers.0.bias"]
    second = np.tanh(first) @ w["layers.1.weight"].T + w["layers.1.bias"]
    out = np.tanh(second) @ w["out.weight"].T + w["out.bias"]
    return {"layers.0": first, "layers.1": second, "out": out, "": out}

"""The network of networks.py in MLX."""

from __future__ import annotations

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_map
from networks import RATE

COMPILER = "g++"  # what compiling needs on a CPU
POOL = ""  # its CPU kernels run on one thread


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

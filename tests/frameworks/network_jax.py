"""The network of networks.py in JAX."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from networks import RATE

from models.layers import jax as nn

COMPILER = ""  # XLA brings its own
POOL = "once"  # its size is fixed with the first device


class Net(nn.Module):
    def __init__(self, fails: bool = False) -> None:
        super().__init__()
        self.out = nn.Linear(5, 2, bias=True)
        self.layers = [nn.Linear(3, 5, bias=True), nn.Linear(5, 5, bias=True)]
        self.fails = fails

    def __call__(self, x):
        for layer in self.layers:
            x = jnp.tanh(layer(x))
        if self.fails:
            raise ArithmeticError("in the middle")
        return self.out(x)


def loss(model, x, y):
    return jnp.mean((model(x) - y) ** 2)


def training(model):
    def step(x, y, rows):
        def of(values):
            model.update(values)
            return loss(model, x[rows], y[rows])

        parameters = model.parameters()
        value, gradients = jax.value_and_grad(of)(parameters)
        model.update([p - RATE * g for p, g in zip(parameters, gradients, strict=True)])
        return value

    return step, [model]

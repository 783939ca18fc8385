"""The network of networks.py in tape."""

from __future__ import annotations

import tape
from networks import RATE

COMPILER = "compiler"  # what compiling needs on a CPU
POOL = ""  # tape has no threads of its own


class Net(tape.Module):
    def __init__(self, fails: bool = False) -> None:
        self.out = tape.Linear(5, 2, bias=True)
        self.layers = [tape.Linear(3, 5, bias=True), tape.Linear(5, 5, bias=True)]
        self.fails = fails

    def forward(self, x):
        for layer in self.layers:
            x = tape.tanh(layer(x))
        if self.fails:
            raise ArithmeticError("in the middle")
        return self.out(x)


def loss(model, x, y):
    return tape.squared_error(model(x), y)


def training(model):
    def step(x, y, rows):
        value = loss(model, tape.take(x, rows), tape.take(y, rows))
        parameters = model.parameters()
        for p, gradient in zip(parameters, tape.gradients(value, parameters), strict=True):
            p.value -= RATE * gradient
        return value

    return step, model.parameters()

"""The network of networks.py in TensorFlow."""

from __future__ import annotations

import tensorflow as tf
from networks import RATE

from models.layers import tensorflow as nn

COMPILER = ""  # XLA brings its own
POOL = "once"  # its size is fixed by the first operation


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

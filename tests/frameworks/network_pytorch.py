"""The network of networks.py in PyTorch."""

from __future__ import annotations

import torch
from networks import RATE

COMPILER = "g++"  # what compiling needs on a CPU
POOL = "any time"  # its size can be changed


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

"""A framework for the example of docs/ADDING.md: NumPy arrays that remember what they were made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

__version__ = "1.0"
products: list[int] = []  # FLOPs of every matrix product
Back = Callable[[np.ndarray], list[np.ndarray]]  # a gradient -> those of the inputs


class Tensor:
    """value: an array; inputs and back: what it was made of, where that is trained."""

    def __init__(
        self, value: Any, inputs: tuple[Tensor, ...] = (), back: Back | None = None
    ) -> None:
        self.value = np.asarray(value)
        self.inputs, self.back = inputs, back
        self.shape, self.dtype = self.value.shape, self.value.dtype

    def __getitem__(self, rows: Any) -> Tensor:
        return Tensor(self.value[rows])


class Module:
    """Tensors and modules are its attributes, or lists of modules. heard: what was called, for who asks."""

    heard: list[tuple[Module, Tensor]] | None = None

    def __call__(self, *inputs: Tensor) -> Tensor:
        output: Tensor = self.forward(*inputs)  # type: ignore[attr-defined]
        if Module.heard is not None:
            Module.heard.append((self, output))
        return output

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        yield prefix, self
        for key, value in vars(self).items():
            for number, module in enumerate(value if isinstance(value, list) else [value]):
                if isinstance(module, Module):
                    name = f"{key}.{number}" if isinstance(value, list) else key
                    yield from module.named_modules(f"{prefix}.{name}".lstrip("."))

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        for place, module in self.named_modules():
            for key, value in vars(module).items():
                if isinstance(value, Tensor):
                    yield f"{place}.{key}".lstrip("."), value

    def parameters(self) -> list[Tensor]:
        return [value for _, value in self.named_parameters()]


class Linear(Module):
    """x W^T + b, with a weight (outputs, inputs)."""

    def __init__(self, inputs: int, outputs: int, bias: bool) -> None:
        self.weight = Tensor(np.zeros((outputs, inputs), np.float32))
        self.bias = Tensor(np.zeros(outputs, np.float32))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.value

        def back(gradient: np.ndarray) -> list[np.ndarray]:
            found = [gradient.sum(axis=0), product(gradient.T, x.value)]
            return [*found, product(gradient, weight)] if x.back else found  # not of data

        inputs = (self.bias, self.weight, x) if x.back else (self.bias, self.weight)
        return Tensor(product(x.value, weight.T) + self.bias.value, inputs, back)


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    products.append(2 * a.shape[0] * a.shape[1] * b.shape[1])
    return a @ b


def tanh(x: Tensor) -> Tensor:
    value = np.tanh(x.value)
    return Tensor(value, (x,), lambda gradient: [gradient * (1 - value * value)])


def squared_error(x: Tensor, y: Tensor) -> Tensor:
    """Mean over all elements."""
    apart = x.value - y.value
    return Tensor(np.mean(apart**2), (x,), lambda gradient: [gradient * 2 * apart / apart.size])


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over logits (n, classes), labels (n,)."""
    rows = np.arange(len(labels.value)), labels.value
    shifted = logits.value - logits.value.max(axis=1, keepdims=True)
    sums = np.exp(shifted).sum(axis=1, keepdims=True)

    def back(gradient: np.ndarray) -> list[np.ndarray]:
        found = np.exp(shifted) / sums
        found[rows] -= 1
        return [gradient * found / len(found)]

    return Tensor(np.mean(np.log(sums[:, 0]) - shifted[rows]), (logits,), back)


def take(x: Tensor, rows: Tensor) -> Tensor:
    return x[rows.value]


def argmax(x: Tensor) -> Tensor:
    return Tensor(np.argmax(x.value, axis=1))


def equal(x: Tensor, y: Tensor) -> Tensor:
    return Tensor((x.value == y.value).astype(np.float32))


def gradients(loss: Tensor, parameters: list[Tensor]) -> list[np.ndarray]:
    """Of a number by each of the parameters."""
    found = {id(loss): np.float32(1)}
    order: dict[int, Tensor] = {}

    def visit(tensor: Tensor) -> None:
        if id(tensor) not in order:
            for one in tensor.inputs:
                visit(one)
            order[id(tensor)] = tensor

    visit(loss)
    for tensor in reversed(order.values()):
        if tensor.back:
            for one, gradient in zip(tensor.inputs, tensor.back(found[id(tensor)]), strict=True):
                found[id(one)] = found.get(id(one), np.float32(0)) + gradient
    return [found[id(parameter)] for parameter in parameters]

"""A tiny network with an activation and unequal layers, in each framework (network_<framework>.py: Net, loss,
training; COMPILER, what compiling needs on a CPU; POOL, when its threads can be set) and in NumPy."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
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
WRITTEN = sorted(
    p.stem.removeprefix("network_") for p in Path(__file__).parent.glob("network_*.py")
)


def parts_of(name: str) -> ModuleType:
    """The network in a framework, which is imported now."""
    return importlib.import_module(f"network_{name}")


def plain(values: dict[str, Any], x: np.ndarray) -> dict[str, np.ndarray]:
    """Every layer's output in NumPy, float64."""
    w = {name: value.astype(np.float64) for name, value in values.items()}
    first = x @ w["layers.0.weight"].T + w["layers.0.bias"]
    second = np.tanh(first) @ w["layers.1.weight"].T + w["layers.1.bias"]
    out = np.tanh(second) @ w["out.weight"].T + w["out.bias"]
    return {"layers.0": first, "layers.1": second, "out": out, "": out}

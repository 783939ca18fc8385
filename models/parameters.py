"""Initial values drawn in NumPy, one random stream per parameter name: twins start equal."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Normal:
    """Drawn from a normal distribution around 0."""

    std: float


@dataclass(frozen=True)
class Constant:
    """The same everywhere, as the weights and biases of a norm."""

    value: float


# An integer is the fan in: U(-1/sqrt(fan in), 1/sqrt(fan in)), the default of nn.Linear in both.
Initial = int | Normal | Constant
Parameters = Mapping[str, tuple[tuple[int, ...], Initial]]


def draw(parameters: Parameters, seed: int) -> dict[str, np.ndarray]:
    """parameters: name -> (shape, initial). A stream per name keeps a parameter's values when
    another one is added or reordered. Returns name -> float32 array."""

    def values(name: str) -> np.ndarray:
        shape, initial = parameters[name]
        return _values(np.random.default_rng([seed, zlib.crc32(name.encode())]), shape, initial)

    # NumPy lets go of the interpreter meanwhile; 172 million values took one core 3 s.
    with ThreadPoolExecutor() as threads:
        return dict(zip(parameters, threads.map(values, parameters), strict=True))


def _values(generator: np.random.Generator, shape: tuple[int, ...], initial: Initial) -> np.ndarray:
    if isinstance(initial, Constant):
        return np.full(shape, initial.value, np.float32)
    if isinstance(
        initial, Normal
    ):  # in float32 from the start: a large model fits twice, not thrice
        return generator.standard_normal(shape, np.float32) * np.float32(initial.std)
    bound = initial**-0.5
    return generator.uniform(-bound, bound, shape).astype(np.float32)

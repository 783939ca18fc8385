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
    another one is added or reordered. Returns name -> float32 array. Raises MemoryError before the
    first is drawn where there is no room for one."""
    drawn = {name: np.empty(shape, np.float32) for name, (shape, _) in parameters.items()}

    def fill(name: str) -> None:
        generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
        _fill(drawn[name], generator, parameters[name][1])

    # NumPy lets go of the interpreter meanwhile; 172 million values took one core 3 s.
    with ThreadPoolExecutor() as threads:
        for _ in threads.map(fill, parameters):
            pass
    return drawn


def _fill(values: np.ndarray, generator: np.random.Generator, initial: Initial) -> None:
    if isinstance(initial, Constant):
        values.fill(initial.value)
    elif isinstance(initial, Normal):  # in float32 from the start: a large model fits once
        generator.standard_normal(dtype=np.float32, out=values)
        values *= np.float32(initial.std)
    else:
        bound = initial**-0.5
        values[...] = generator.uniform(-bound, bound, values.shape)

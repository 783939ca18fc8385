"""Initial values drawn in NumPy, one random stream per parameter name: twins start equal."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np


def draw(shapes: Mapping[str, tuple[tuple[int, ...], int]], seed: int) -> dict[str, np.ndarray]:
    """U(-1/sqrt(fan in), 1/sqrt(fan in)), the default of nn.Linear in PyTorch and in MLX.

    shapes: name -> (shape, fan in). A stream per name keeps a parameter's values when another
    one is added or reordered. Returns name -> float32 array.
    """
    values = {}
    for name, (shape, fan_in) in shapes.items():
        generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
        bound = fan_in**-0.5
        values[name] = generator.uniform(-bound, bound, shape).astype(np.float32)
    return values

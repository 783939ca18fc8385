"""Three matrices multiplied in turn in MLX. Twin of pytorch.py: a diff shows only the spelling.

No device is named here: the session chooses the one that `half` is submitted to.
"""

from __future__ import annotations

import mlx.core as mx
from mlx import nn

from models.device_switch.config import Config

# (the first device's half, the second's): neither was measured faster compiled on a CPU, where the
# products take nearly all of the time.
FASTER_COMPILED = (False, False)
Three = tuple[mx.array, mx.array, mx.array]


def normalised(x: mx.array, y: mx.array) -> mx.array:
    """The product x y (size, size), every column divided by its largest value."""
    product = x @ y
    return product / product.max(axis=0)


class Model(nn.Module):
    """Nothing in it is learnt."""

    def __init__(self, config: Config) -> None:
        super().__init__()

    def __call__(self, a: mx.array, b: mx.array, c: mx.array) -> Three:
        """a, b, c (size, size) -> the products a b, b c and c a, normalised."""
        return normalised(a, b), normalised(b, c), normalised(c, a)


def half(model: Model, a: mx.array, b: mx.array, c: mx.array) -> Three:
    """What one device computes before the matrices go to the other."""
    return model(a, b, c)

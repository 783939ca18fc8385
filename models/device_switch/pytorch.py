"""Three matrices multiplied in turn in PyTorch. Twin of mlx.py: a diff shows only the spelling.

No device is named here: the session puts the matrices on one and calls `half`.
"""

from __future__ import annotations

import torch
from torch import nn

from models.device_switch.config import Config

# (the first device's half, the second's): neither was measured faster compiled on a CPU, where the
# products take nearly all of the time.
FASTER_COMPILED = (False, False)
Three = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def normalised(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The product x y (size, size), every column divided by its largest value."""
    product = x @ y
    # `max(dim=0)` would look for the rows too, and a division that is not in place writes elsewhere.
    return product.div_(product.amax(dim=0))


class Model(nn.Module):
    """Nothing in it is learnt."""

    def __init__(self, config: Config) -> None:
        super().__init__()

    def forward(self, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> Three:
        """a, b, c (size, size) -> the products a b, b c and c a, normalised."""
        return normalised(a, b), normalised(b, c), normalised(c, a)


def half(model: Model, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> Three:
    """What one device computes before the matrices go to the other."""
    return model(a, b, c)

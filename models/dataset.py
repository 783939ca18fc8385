"""Data as every framework receives it: NumPy arrays, and where they came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


class Portions(Protocol):
    """A training set too large to stay in memory, cut up; every portion but the last is full."""

    count: int
    items: int  # of the whole set

    def sizes(self, number: int) -> int:
        """How many items a portion has."""
        ...

    def read(self, number: int) -> dict[str, np.ndarray]:
        """Arrays as `Data.train` has them. Those of the last portion are as long as all others, so
        that nothing is compiled anew: rows behind its items mean nothing."""
        ...


@dataclass(frozen=True)
class Data:
    """The arrays of one data set.

    train, test: name -> array whose first axis counts items; both frameworks keep them resident
    on the device and gather a batch by row numbers.
    portions: of a training set that is streamed; then `train` is its first portion. The items of a
    portion are a multiple of the batch, so that only the very last batch is short.
    name: the data set asked for. source: where the bytes came from, for people.
    sha256: one digest of the data as read.
    """

    train: dict[str, np.ndarray]
    test: dict[str, np.ndarray]
    name: str
    source: str
    sha256: str
    portions: Portions | None = None

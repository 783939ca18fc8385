"""Data as every framework receives it: NumPy arrays, and where they came from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Data:
    """The arrays of one data set.

    train, test: name -> array whose first axis counts items; both frameworks keep them resident
    on the device and gather a batch by row numbers.
    name: the data set asked for. source: where the bytes came from, for people.
    sha256: one digest of the data as read.
    """

    train: dict[str, np.ndarray]
    test: dict[str, np.ndarray]
    name: str
    source: str
    sha256: str

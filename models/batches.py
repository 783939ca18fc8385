"""The order in which a workload sees its items: row numbers, the same for every framework."""

from __future__ import annotations

import numpy as np


def epoch_rows(items: int, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Row numbers of each batch of one epoch: a fresh permutation, cut into int32 arrays of
    `batch_size`; the last one keeps the remainder, so that every item is seen once."""
    order = np.random.default_rng([seed, epoch, 0x0BA7C4]).permutation(items).astype(np.int32)
    return [order[start : start + batch_size] for start in range(0, items, batch_size)]

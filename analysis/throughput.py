"""Throughput by batch size, from the seconds of single batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

SERIES = "batch_seconds."
"""Prefix of the samples of a trial that hold a batch size's seconds."""


def by_batch(seconds: Mapping[str, Sequence[float] | np.ndarray]) -> dict[int, float]:
    """Size as text -> seconds of each batch; returns size -> items a second, smallest size first.

    >>> by_batch({"32": [0.5, 0.25, 0.5], "8": [0.25]})
    {8: 32.0, 32: 64.0}
    """
    sizes = sorted(map(int, seconds))
    return {size: size / float(np.median(seconds[str(size)])) for size in sizes}


def of_samples(series: Mapping[str, np.ndarray]) -> dict[int, float]:
    """`by_batch` of the samples that one trial kept.

    >>> of_samples({"batch_seconds.4": np.array([0.5, 0.5]), "epoch_seconds": np.array([3.0])})
    {4: 8.0}
    """
    return by_batch({k.removeprefix(SERIES): v for k, v in series.items() if k.startswith(SERIES)})

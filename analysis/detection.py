"""How many pairs does it take to see a difference here? Counted on the pairs that were run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analysis.flags import MINIMUM_PAIRS
from analysis.statistics import paired_ratio


def detection(
    ratios: Sequence[float], rng: np.random.Generator, subsets: int = 400, alpha: float = 0.05
) -> tuple[tuple[int, float], ...]:
    """(n, share of random subsets of n pairs that show a difference) from 6 pairs to all of them.

    The truth is known where an arm was slowed on purpose (share found) and where an arm runs
    against itself (share of false alarms). Subsets of one study overlap: this describes the study
    at hand and estimates no error rate. Empty under 6 pairs.

    >>> ratios = [1.04, 1.06, 1.05, 1.03, 1.07, 1.05, 1.04, 1.06]
    >>> detection(ratios, np.random.default_rng(1))
    ((6, 1.0), (8, 1.0))
    """
    values = np.asarray(ratios, dtype=np.float64)
    found = []
    for n in _sizes(len(values)):
        draws = 1 if n == len(values) else subsets
        shown = 0
        for _ in range(draws):
            chosen = rng.choice(values, n, replace=False)
            p = paired_ratio(chosen, np.ones(n)).p
            shown += p is not None and p <= alpha
        found.append((n, shown / draws))
    return tuple(found)


def _sizes(pairs: int) -> list[int]:
    if pairs < MINIMUM_PAIRS:
        return []
    steps = [n for n in (6, 8, 10, 15, 20, 30, 50, 100) if n < pairs]
    return [*steps, pairs] if pairs - (steps or [0])[-1] > 1 or not steps else [*steps[:-1], pairs]

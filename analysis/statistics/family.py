"""Q8: several tests of one declared family."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Q8: Holm's step-down adjustment (Holm 1979) of one declared family of p-values.

    Sorted ascending: adjusted_(i) = max over j <= i of min(1, (m - j + 1) p_(j)).

    >>> [round(p, 6) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    ascending = np.argsort(p, kind="stable")
    scaled = (len(p) - np.arange(len(p))) * p[ascending]
    adjusted = np.empty_like(p)
    adjusted[ascending] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return tuple(float(value) for value in adjusted)


def holm_pairs(family: int, alpha: float = 0.05) -> int:
    """Pairs needed before any row of a family can survive Holm: ceil(1 + log2(m / alpha)).

    >>> [holm_pairs(m) for m in (1, 10, 20, 100)]
    [6, 9, 10, 12]
    """
    return int(np.ceil(1 + np.log2(family / alpha)))

"""Interpolated order-statistic intervals for a quantile: no shape is assumed.

Sources: Hettmansperger & Sheather 1986 (Statist. Probab. Lett. 4) for the median; Nyblom 1992
(Statist. Probab. Lett. 14) for any quantile.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import lru_cache

import numpy as np
from scipy import stats


@lru_cache(maxsize=256)
def _tails(n: int, q: float) -> tuple[float, ...]:
    """T_r = P(B <= r - 1) for r = 0...n with B ~ Binomial(n, q)."""
    return (0.0, *(float(t) for t in stats.binom.cdf(np.arange(n), n, q)))


def nyblom(n: int, q: float, tail: float) -> tuple[int, float]:
    """Rank and weight of the lower confidence limit of the `q` quantile of `n` values.

    r is the largest rank with T_r <= tail, where T_r = P(B <= r - 1), B ~ Binomial(n, q); and

        weight = 1 / (1 + r (1-q) / ((n-r) q) * (T_{r+1} - tail) / (tail - T_r))

    The limit is (1 - weight) x_(r) + weight x_(r+1), ranks counted from 1. r = 0: no limit exists.
    `tail` is one side's error (0.025 for 95 %), taken as it is: 1 - tail would lose every
    p below 1e-16.

    >>> rank, weight = nyblom(6, 0.5, 0.025)
    >>> rank, round(weight, 8)
    (1, 0.35714286)
    >>> nyblom(5, 0.5, 0.025)[0]
    0
    """
    tails = _tails(n, q)
    r = bisect_right(tails, tail) - 1
    if r == 0:
        return 0, 0.0
    above = tail - tails[r]
    if r == n or above == 0.0:
        return r, 0.0
    return r, 1 / (1 + r * (1 - q) / ((n - r) * q) * (tails[r + 1] - tail) / above)


def interval(ordered: np.ndarray, q: float, tail: float) -> tuple[float, float]:
    """Limits of the `q` quantile of ascending values; infinite where the sample cannot give one.

    Values may end in +inf (a run that never arrived): an upper limit that touches one is infinite.
    The upper limit is the lower limit of the mirrored sample.

    >>> interval(np.arange(1.0, 7.0), 0.5, 0.025)
    (1.3571428571428572, 5.642857142857142)
    >>> interval(np.arange(1.0, 6.0), 0.5, 0.025)
    (-inf, inf)
    """
    n = len(ordered)
    return (
        _limit(ordered, *nyblom(n, q, tail), missing=-np.inf),
        _limit(ordered[::-1], *nyblom(n, 1 - q, tail), missing=np.inf),
    )


def _limit(ordered: np.ndarray, rank: int, weight: float, missing: float) -> float:
    if rank == 0:
        return missing
    inner = float(ordered[rank - 1])
    if weight == 0.0:  # also keeps 0 * inf out
        return inner
    outer = float(ordered[rank])
    if np.isinf(inner) or np.isinf(outer):  # no way between them: take the cautious one
        return inner
    return (1 - weight) * inner + weight * outer

"""Interpolated order-statistic intervals for a quantile: no shape is assumed.

Sources: Hettmansperger & Sheather 1986 (Statist. Probab. Lett. 4) for the median; Nyblom 1992
(Statist. Probab. Lett. 14) for any quantile.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from math import floor, inf, isinf, log

import numpy as np
from scipy import stats


@lru_cache(maxsize=1024)
def tails(n: int, q: float) -> tuple[float, ...]:
    """T_r = P(B <= r - 1) for r = 0...n with B ~ Binomial(n, q).

    >>> tails(3, 0.5)
    (0.0, 0.125, 0.5, 0.875)
    """
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
    at = tails(n, q)
    r = bisect_right(at, tail) - 1
    if r == 0:
        return 0, 0.0
    above = tail - at[r]
    if r == n or above == 0.0:
        return r, 0.0
    return r, 1 / (1 + r * (1 - q) / ((n - r) * q) * (at[r + 1] - tail) / above)


def interval(ordered: Sequence[float] | np.ndarray, q: float, tail: float) -> tuple[float, float]:
    """Limits of the `q` quantile of ascending values; infinite where the sample cannot give one.

    Values may end in +inf (a run that never arrived): an upper limit that touches one is infinite.
    The upper limit is the lower limit of the mirrored sample.

    >>> interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 0.5, 0.025)
    (1.3571428571428572, 5.642857142857142)
    >>> interval([1.0, 2.0, 3.0, 4.0, 5.0], 0.5, 0.025)
    (-inf, inf)
    """
    n = len(ordered)
    low, high = -inf, inf
    rank, weight = nyblom(n, q, tail)
    if rank:
        low = _between(ordered[rank - 1], ordered[min(rank, n - 1)], weight)
    rank, weight = nyblom(n, 1 - q, tail)
    if rank:
        high = _between(ordered[n - rank], ordered[max(n - rank - 1, 0)], weight)
    return low, high


def _between(inner: float, outer: float, weight: float) -> float:
    if weight == 0.0 or isinf(inner) or isinf(outer):  # no way to infinity: the cautious end
        return float(inner)
    return float((1 - weight) * inner + weight * outer)


def point(ordered: Sequence[float], q: float) -> float:
    """The `q` quantile of ascending values, linear between order statistics, as numpy's.

    >>> point([1.0, 2.0, 4.0, 8.0], 0.5), point([1.0, 2.0], 0.9)
    (3.0, 1.9)
    """
    place = q * (len(ordered) - 1)
    rank = min(int(place), len(ordered) - 1)
    weight = place - rank
    return ordered[rank] if weight == 0 else _between(ordered[rank], ordered[rank + 1], weight)


def runs_needed(q: float, tail: float) -> int:
    """The fewest runs whose minimum...maximum is an interval of the `q` quantile.

    Formula: the smallest n with max(q, 1 - q)^n <= tail.

    >>> runs_needed(0.5, 0.025), runs_needed(0.9, 0.025), runs_needed(0.99, 0.025)
    (6, 36, 368)
    """
    outer = max(q, 1 - q)
    n = floor(log(tail) / log(outer))
    return n if outer**n <= tail else n + 1

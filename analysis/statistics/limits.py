"""Confidence limits as a function of the error allowed: combine them, invert them to a p-value.

MOVER, "method of variance estimates recovery", joins the limits of independent estimates by
square-and-add (Zou & Donner 2008, Statist. Med. 27). Everything is on the log scale.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from math import inf, nextafter, sqrt

import numpy as np
from scipy.optimize import brentq

from analysis.statistics.orderstat import interval, point, tails


@dataclass(frozen=True)
class Limits:
    """at(tail): lower and upper limit whose one-sided error is `tail` each; infinite = none.

    The limits draw together as the tail grows to 0.5. kinks: the ascending tails, ending in 0.5,
    between which they are smooth or missing.
    """

    at: Callable[[float], tuple[float, float]]
    kinks: tuple[float, ...]


def _nothing(tail: float) -> tuple[float, float]:
    return -inf, inf


# Functions of the module and partials of them throughout: a result crosses between processes.
UNKNOWN = Limits(_nothing, (0.5,))


def of_quantile(values: np.ndarray, q: float) -> tuple[float, Limits]:
    """The `q` quantile of one arm with its limits, by interpolated order statistics.

    >>> median, limits = of_quantile(np.arange(1.0, 7.0), 0.5)
    >>> median, limits.at(0.025)
    (3.5, (1.3571428571428572, 5.642857142857142))
    """
    ordered = np.sort(values).tolist()
    return point(ordered, q), Limits(partial(interval, ordered, q), _kinks(len(ordered), q))


@lru_cache(maxsize=1024)
def _kinks(n: int, q: float) -> tuple[float, ...]:
    """Tails at which a limit stands on a rank."""
    both = {*tails(n, q), *tails(n, 1 - q)}
    return (*sorted(t for t in both if 0 < t < 0.5), 0.5)


def mover(
    estimates: Sequence[tuple[float, Limits]], weights: Sequence[float]
) -> tuple[float, Limits]:
    """Sum of weighted independent estimates, with limits.

    Formula: sum -/+ sqrt(sum of (weight (estimate - limit))^2), where the limit is the lower one
    of a positive weight and the upper one of a negative weight for the lower limit of the sum.

    >>> one = of_quantile(np.arange(1.0, 7.0), 0.5)
    >>> total, joined = mover([one, one], [1, -1])
    >>> total, round(joined.at(0.025)[1], 6)
    (0.0, 3.030458)
    """
    parts = [(e, limits.at, w) for (e, limits), w in zip(estimates, weights, strict=True)]
    total = sum(weight * estimate for estimate, _, weight in parts)

    kinks = {limits.kinks for _, limits in estimates}
    every = kinks.pop() if len(kinks) == 1 else tuple(sorted({k for some in kinks for k in some}))
    return total, Limits(partial(_joined, total, parts), every)


def _joined(
    total: float,
    parts: Sequence[tuple[float, Callable[[float], tuple[float, float]], float]],
    tail: float,
) -> tuple[float, float]:
    down = up = 0.0
    for estimate, limits_at, weight in parts:
        low, high = limits_at(tail)
        # Close to tail 0.5 a skew quantile's limit can pass its estimate: no distance then.
        below, above = max(estimate - low, 0.0), max(high - estimate, 0.0)
        if weight < 0:
            below, above = above, below
        down += (weight * below) ** 2
        up += (weight * above) ** 2
    return total - sqrt(down), total + sqrt(up)


def smallest_tail(margin: Callable[[float], float], kinks: Sequence[float]) -> float | None:
    """The smallest tail at which `margin`, which grows with the tail, is above 0; None if never.

    Bisects over the kinks, then finds the root of the smooth piece between two of them (Brent
    1973): a tenth of the work of bisecting over the tail itself, and p far below 1e-16 keeps
    its digits.

    >>> smallest_tail(lambda tail: tail - 0.2, (0.1, 0.3, 0.5))
    0.2
    """
    index = bisect_left(kinks, True, key=lambda tail: margin(tail) > 0)
    if index == len(kinks):
        return None
    high = kinks[index]
    if index == 0 or margin(nextafter(high, 0.0)) <= 0:  # jumps: a limit comes into being here
        return high
    return float(brentq(margin, kinks[index - 1], high, xtol=1e-300, rtol=1e-14))


def p_by_inversion(limits: Limits) -> float:
    """Q2: the smallest two-sided alpha at which the interval excludes 0 on the log scale.

    So interval and verdict never disagree. All of n values on one side give 2**(1 - n); 1 if even
    the interval of alpha = 1 holds 0.

    >>> p_by_inversion(of_quantile(np.log([1.1, 1.2, 1.3, 1.4, 1.5, 1.6]), 0.5)[1])
    0.03125
    """

    def outside(tail: float) -> float:
        low, high = limits.at(tail)
        return max(low, -high)

    tail = smallest_tail(outside, limits.kinks)
    return 1.0 if tail is None else 2 * tail

"""Ratios of two arms with intervals whose error rates are known.

Numbers in, a frozen result out; every result carries its warnings. One number per run and metric:
the unit of replication is the process. All work is done on logarithms, so that A/B and B/A agree.
Values are positive and in any unit, the same for both arms; ratios have none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from analysis import flags
from analysis.flags import MINIMUM_PAIRS, Flag
from analysis.statistics.orderstat import interval
from measurement.errors import InputError

Limits = Callable[[float], tuple[float, float]]  # one side's error -> limits on the log scale


@dataclass(frozen=True)
class Ratio:
    """How many times the first arm's value is the second's.

    estimate, low, high: the ratio and its interval at `confidence`; low and high are None when
    refused. p: two-sided, from the same interval. n: pairs, or the runs of the smaller arm.
    wins: pairs in which the first value is smaller (None if unpaired); ties: pairs without a
    difference. geometric_mean: ratio of geometric means, the average run's view.
    """

    estimate: float
    low: float | None
    high: float | None
    p: float | None
    n: int
    wins: int | None
    ties: int | None
    geometric_mean: float
    confidence: float
    warnings: tuple[Flag, ...]


@dataclass(frozen=True)
class Equivalence:
    """Are two arms the same within a margin? low, high: the interval that must lie inside it."""

    same: bool
    margin: float
    low: float | None
    high: float | None
    n: int


def positive(values: Sequence[float] | np.ndarray, what: str = "values") -> np.ndarray:
    """The values as float64; InputError unless all are finite and above zero.

    >>> positive([1, 2])
    array([1., 2.])
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise InputError(f"{what}: expected one number per run, got shape {array.shape}")
    wrong = array[~(np.isfinite(array) & (array > 0))]
    if len(wrong):
        raise InputError(
            f"{what}: {wrong[0]} is no measurement; expected finite numbers above 0"
            " (a run that never arrived belongs to a time-to-target analysis)"
        )
    return array


def paired_ratio(
    first: Sequence[float] | np.ndarray,
    second: Sequence[float] | np.ndarray,
    confidence: float = 0.95,
) -> Ratio:
    """Q1, Q2: how much larger is a typical run of `first` than its partner in `second`?

    Formula: exp of the median of d_i = log(first_i / second_i); the interval is that of
    interpolated order statistics (Hettmansperger & Sheather 1986, Nyblom 1992); p is the smallest
    alpha whose interval excludes 1, so that the two never disagree; the least possible p is
    2**(1 - n). Coverage 94.3 to 95.2 % for 6 or more pairs in random order, drift included.
    Under 6 pairs interval and p are refused (flag FEW).

    >>> r = paired_ratio([8.0, 8.2, 8.1, 8.4, 8.0, 8.3], [10.0, 10.1, 10.0, 10.2, 10.1, 10.0])
    >>> f"{r.estimate:.3f} [{r.low:.3f}, {r.high:.3f}] p {r.p:.5f}, {r.wins} of {r.n}"
    '0.811 [0.795, 0.828] p 0.03125, 6 of 6'
    """
    a, b = positive(first, "first arm"), positive(second, "second arm")
    if len(a) != len(b):
        raise InputError(f"pairs need both arms: got {len(a)} and {len(b)} runs")
    if not len(a):
        raise InputError("no pairs: expected at least one run of each arm")
    ratios = np.sort(np.log(a) - np.log(b))
    return _result(
        estimate=float(np.median(ratios)),
        limits=lambda tail: interval(ratios, 0.5, tail),
        n=len(ratios),
        wins=int(np.sum(a < b)),
        ties=int(np.sum(a == b)),
        mean=float(np.mean(ratios)),
        confidence=confidence,
        warnings=(),
        what="pairs",
    )


def unpaired_ratio(
    first: Sequence[float] | np.ndarray,
    second: Sequence[float] | np.ndarray,
    confidence: float = 0.95,
) -> Ratio:
    """Q1': ratio of medians of runs that were not paired (other people's data).

    Formula: an interpolated order-statistic interval of each arm's median on the log scale, joined
    by MOVER (square-and-add; Zou & Donner 2008). Under 6 runs an arm interval and p are refused.
    Always flagged NOT-INTERLEAVED: if all of one arm ran first, drift alone gives 20 to 100 %
    false positives.

    >>> r = unpaired_ratio([8.0, 8.2, 8.1, 8.4, 8.0, 8.3], [10.0, 10.1, 10.0, 10.2, 10.1, 10.0])
    >>> f"{r.estimate:.3f} [{r.low:.3f}, {r.high:.3f}]", r.warnings[0].name
    ('0.811 [0.794, 0.833]', 'NOT-INTERLEAVED')
    """
    a = np.sort(np.log(positive(first, "first arm")))
    b = np.sort(np.log(positive(second, "second arm")))
    if not len(a) or not len(b):
        raise InputError(f"an arm is empty: got {len(a)} and {len(b)} runs")
    return _result(
        estimate=float(np.median(a) - np.median(b)),
        limits=lambda tail: _mover(a, b, tail),
        n=min(len(a), len(b)),
        wins=None,
        ties=None,
        mean=float(np.mean(a) - np.mean(b)),
        confidence=confidence,
        warnings=(flags.not_interleaved(),),
        what="runs",
    )


def _mover(a: np.ndarray, b: np.ndarray, tail: float) -> tuple[float, float]:
    """Limits of median(a) - median(b), a and b ascending: d -/+ sqrt of the two distances."""
    mid_a, mid_b = float(np.median(a)), float(np.median(b))
    (low_a, high_a), (low_b, high_b) = interval(a, 0.5, tail), interval(b, 0.5, tail)
    return (
        mid_a - mid_b - float(np.hypot(mid_a - low_a, high_b - mid_b)),
        mid_a - mid_b + float(np.hypot(high_a - mid_a, mid_b - low_b)),
    )


def _result(
    estimate: float,
    limits: Limits,
    n: int,
    wins: int | None,
    ties: int | None,
    mean: float,
    confidence: float,
    warnings: tuple[Flag, ...],
    what: str,
) -> Ratio:
    geometric_mean = float(np.exp(mean))
    low = high = p = None
    if n < MINIMUM_PAIRS:
        warnings = (*warnings, flags.few(n, what))
    else:
        lower, upper = limits((1 - confidence) / 2)
        low, high, p = float(np.exp(lower)), float(np.exp(upper)), p_by_inversion(limits)
        if not lower <= mean <= upper:
            warnings = (*warnings, flags.split(geometric_mean))
    return Ratio(
        estimate=float(np.exp(estimate)),
        low=low,
        high=high,
        p=p,
        n=n,
        wins=wins,
        ties=ties,
        geometric_mean=geometric_mean,
        confidence=confidence,
        warnings=(*warnings, flags.rare(n, rare_share(n))),
    )


def p_by_inversion(limits: Limits) -> float:
    """Q2: the smallest two-sided alpha at which the interval excludes 0 on the log scale.

    `limits` maps one side's error to the limits; they must narrow as it grows. Bisection runs on
    log(tail), so that p far below 1e-16 keeps its digits.

    >>> ratios = np.log([1.1, 1.2, 1.3, 1.4, 1.5, 1.6])
    >>> round(p_by_inversion(lambda tail: interval(ratios, 0.5, tail)), 9)
    0.03125
    """

    def excludes(log_tail: float) -> bool:
        low, high = limits(float(np.exp(log_tail)))
        return low > 0 or high < 0

    inside, outside = -745.0, float(np.log(0.5))  # exp(-745) is the smallest float above 0
    if not excludes(outside):
        return 1.0
    for _ in range(60):
        middle = (inside + outside) / 2
        inside, outside = (inside, middle) if excludes(middle) else (middle, outside)
    return float(2 * np.exp(outside))


def equivalence(
    first: Sequence[float] | np.ndarray,
    second: Sequence[float] | np.ndarray,
    margin: float = 0.05,
    alpha: float = 0.05,
) -> Equivalence:
    """Q3: two one-sided tests (TOST): are the arms the same within a margin fixed beforehand?

    True when the 1 - 2 alpha interval of `paired_ratio` lies inside 1/(1+margin)...1+margin.
    "p >= 0.05" is no such evidence: it calls a 5 % slower arm the same in 47 to 89 % of studies
    of up to 10 pairs. Possible from 5 pairs; 82 % power needs 30 pairs at 5 % spread.

    >>> equivalence([1.00, 1.01, 0.99, 1.01, 1.00, 1.00], [1.0] * 6).same
    True
    """
    if not margin > 0:
        raise InputError(f"margin {margin}: expected a number above 0, such as 0.05")
    a, b = positive(first, "first arm"), positive(second, "second arm")
    if len(a) != len(b):
        raise InputError(f"pairs need both arms: got {len(a)} and {len(b)} runs")
    low, high = interval(np.sort(np.log(a) - np.log(b)), 0.5, alpha)
    if not (np.isfinite(low) and np.isfinite(high)):
        return Equivalence(False, margin, None, None, len(a))
    edge = float(np.log1p(margin))
    inside = -edge < low and high < edge
    return Equivalence(inside, margin, float(np.exp(low)), float(np.exp(high)), len(a))


def rare_share(n: int) -> float:
    """RARE: a behaviour with up to this share of runs stays unseen in n runs with p >= 0.05.

    >>> [round(100 * rare_share(n)) for n in (3, 5, 6, 10, 20)]
    [63, 45, 39, 26, 14]
    """
    return float(1 - 0.05 ** (1 / n))

"""Q6: time to a target that some runs never reach: such a run counts as infinity, never as absent.

Dropping the failures would declare an arm faster for failing. Times are in any unit (seconds or
epochs), the same in both arms; censored runs stopped at their budget without having arrived.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from analysis import flags
from analysis.flags import Flag
from analysis.statistics.checks import Values, numbers, tail
from analysis.statistics.orderstat import interval
from analysis.statistics.ratio import few
from measurement.errors import InputError

MINIMUM_RUNS = 4
"""Per arm: with three, the smallest two-sided permutation p is 2/20 = 0.1."""

LARGE = 500
"""Runs of the smaller arm, from which on permutations are no longer drawn: at 9,999 of them their own
error is larger than that of the limit."""


@dataclass(frozen=True)
class Arrival:
    """When the runs of one arm reached the target.

    times, waiting: steps of the Kaplan-Meier curve, the share of runs still on the way from each
    time on. median, low, high: median time with infinity for "never", and its order-statistic
    interval (None under six runs; may end at infinity). expected: `expected_time` with restarts.
    arrived of n runs; share with its Clopper-Pearson interval. budgets: the times at which runs that never arrived were stopped.
    """

    times: tuple[float, ...]
    waiting: tuple[float, ...]
    median: float
    low: float | None
    high: float | None
    expected: float
    arrived: int
    n: int
    share_low: float
    share_high: float
    budgets: tuple[float, ...]
    warnings: tuple[Flag, ...]


@dataclass(frozen=True)
class LogRank:
    """Permutation log-rank test of two arms: O - E of the first arm, two-sided p (None if refused).

    n: runs of the smaller arm.
    """

    observed_minus_expected: float
    p: float | None
    n: int
    warnings: tuple[Flag, ...]

    @property
    def refused(self) -> str | None:
        """Why there is no p, in words."""
        return " ".join(flag.sentence for flag in self.warnings) if self.p is None else None


def _checked(times: Values, budgets: Values) -> tuple[np.ndarray, np.ndarray]:
    t, b = numbers(times, "times"), numbers(budgets, "budgets")
    if not len(t) or t.shape != b.shape:
        raise InputError(f"one time and one budget a run: got {len(t)} times, {len(b)} budgets")
    if np.isnan(t).any() or (t <= 0).any() or not np.isfinite(b).all() or (b <= 0).any():
        raise InputError("times and budgets must be above 0; only a time may be infinite (never)")
    return t, b


def arrival(times: Values, budgets: Values, confidence: float = 0.95) -> Arrival:
    """Kaplan-Meier curve, median time and share of runs that reached the target.

    times: one a run, infinity = never; budgets: when each run stopped, same unit. Kaplan & Meier
    1958, by `scipy.stats.ecdf`; median by interpolated order statistics on the log scale (none
    under 6 runs); share by Clopper & Pearson 1934. Flag NEVER if a run missed. InputError: no run,
    unequal numbers of times and budgets, a NaN, a value not above 0, an infinite budget,
    confidence outside (0, 1).

    >>> a = arrival([3.0, 4.0, 4.0, 5.0, 6.0, float("inf")], budgets=[10.0] * 6)
    >>> a.median, a.arrived, a.n, round(a.share_low, 3), a.high
    (4.5, 5, 6, 0.359, inf)
    """
    side, (t, budget) = tail(confidence), _checked(times, budgets)
    never = np.isinf(t)
    n, arrived = len(t), int(np.sum(~never))
    sample = stats.CensoredData.right_censored(np.where(never, budget, t), never)
    curve = stats.ecdf(sample).sf
    share = stats.binomtest(arrived, n).proportion_ci(confidence, method="exact")
    low = high = None
    if few(n, confidence, "runs") is None:
        ends = interval(np.log(np.sort(t)), 0.5, side)
        low, high = (float(end) for end in np.exp(ends))
    return Arrival(
        times=tuple(float(x) for x in curve.quantiles),
        waiting=tuple(float(x) for x in curve.probabilities),
        median=float(np.median(t)),
        low=low,
        high=high,
        expected=expected_time(times, budgets),
        arrived=arrived,
        n=n,
        share_low=float(share.low),
        share_high=float(share.high),
        budgets=tuple(float(x) for x in budget[never]),
        warnings=() if arrived == n else (flags.never(n - arrived, n),),
    )


def expected_time(times: Values, budgets: Values) -> float:
    """Time until success for who starts again after every failure: ERT of the COCO platform.

    Formula: all time spent / runs that arrived, where a run that never arrived spent its budget;
    infinity if none arrived (Hansen et al. 2010, doi 10.1145/1830761.1830790). It orders arms
    rightly where a median of those that arrived rewards failing. Same unit as the times. Two arms
    compare only at equal budgets. InputError: as `arrival`.

    >>> expected_time([3.0, 5.0, float("inf")], budgets=[10.0] * 3)
    9.0
    """
    t, budget = _checked(times, budgets)
    never = np.isinf(t)
    if never.all():
        return float("inf")
    return float(np.where(never, budget, t).sum() / np.count_nonzero(~never))


def log_rank_scores(times: np.ndarray, events: np.ndarray) -> np.ndarray:
    """event_i minus the Nelson-Aalen hazard of the pooled sample at t_i; an arm's sum is O - E.

    >>> log_rank_scores(np.array([1.0, 2.0]), np.array([True, True]))
    array([ 0.5, -0.5])
    """
    distinct = np.unique(times[events])
    at_risk = np.sum(times[None, :] >= distinct[:, None], axis=1)
    deaths = np.sum((times[None, :] == distinct[:, None]) & events[None, :], axis=1)
    hazard = np.concatenate([[0.0], np.cumsum(deaths / at_risk)])
    return events - hazard[np.searchsorted(distinct, times, side="right")]


def log_rank(
    first: Values,
    second: Values,
    first_budgets: Values,
    second_budgets: Values,
    rng: np.random.Generator,
) -> LogRank:
    """Do two arms reach the target at different times? Permutation log-rank, exact when small, the
    normal limit of the same permutations from `LARGE` runs an arm on.

    Statistic: sum of `log_rank_scores` over the first arm. The asymptotic test is wrong in small
    samples (6.6 to 6.8 % at 3 to 6 runs); the permutation test needs equal budgets (Wang, Lagakos
    & Gray 2010). Refused: fewer than 4 runs an arm (flag FEW); runs that never arrived and budgets
    that differ by more than 1 % (BUDGETS); nobody arrived (NEVER). Times and budgets as in
    `arrival`, which says what raises InputError; rng draws the permutations of larger samples.

    >>> fast, slow = [3.0, 3.1, 3.2, 3.3], [5.0, 5.1, 5.2, 5.3]
    >>> round(log_rank(fast, slow, [9.0] * 4, [9.0] * 4, np.random.default_rng(1)).p, 4)
    0.0286
    """
    one, other = _checked(first, first_budgets), _checked(second, second_budgets)
    t, budget = (np.concatenate(both) for both in zip(one, other, strict=True))
    events = np.isfinite(t)
    scores = log_rank_scores(np.where(events, t, budget), events)
    a, b = scores[: len(first)], scores[len(first) :]
    statistic = float(a.sum())

    n, missed = min(len(a), len(b)), int(np.count_nonzero(~events))
    refusals = []
    if n < MINIMUM_RUNS:
        refusals.append(flags.few_arrivals(n, MINIMUM_RUNS))
    if not events.any():
        refusals.append(flags.never(missed, len(t)))
    if missed and budget.max() > 1.01 * budget.min():
        refusals.append(flags.budgets(float(budget.min()), float(budget.max())))
    if refusals:
        return LogRank(statistic, None, n, tuple(refusals))
    warnings = (flags.never(missed, len(t)),) if missed else ()
    if n >= LARGE:
        # Hoeffding 1951: scores add up to 0, so the sum of a random part of them has this variance.
        spread = np.sqrt(len(a) * len(b) / len(t) / (len(t) - 1) * float(np.sum(scores**2)))
        p = float(2 * stats.norm.sf(abs(statistic) / spread)) if spread > 0 else 1.0
        return LogRank(statistic, p, n, warnings)
    test = stats.permutation_test(
        (a, b),
        lambda x, y, axis: np.sum(x, axis=axis),
        permutation_type="independent",
        vectorized=True,
        n_resamples=9999,
        rng=rng,
    )
    return LogRank(statistic, float(test.pvalue), n, warnings)

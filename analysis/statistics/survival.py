"""Q6: time to a target that some runs never reach: such a run counts as infinity, never as absent.

Dropping the failures would declare an arm faster for failing. Times are in any unit (seconds or
epochs), the same in both arms; censored runs stopped at their budget without having arrived.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from analysis import flags
from analysis.flags import MINIMUM_PAIRS, Flag
from analysis.statistics.checks import Values, numbers
from analysis.statistics.orderstat import interval
from measurement.errors import InputError

MINIMUM_RUNS = 4
"""Per arm: with three, the smallest two-sided permutation p is 2/20 = 0.1."""


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
    """Permutation log-rank test of two arms: O - E of the first arm, two-sided p."""

    observed_minus_expected: float
    p: float | None
    refused: str | None


def _checked(times: Values, budgets: Values) -> tuple[np.ndarray, np.ndarray]:
    t, b = numbers(times, "times"), numbers(budgets, "budgets")
    if not len(t) or t.shape != b.shape:
        raise InputError(f"one time and one budget a run: got {len(t)} times, {len(b)} budgets")
    if np.isnan(t).any() or (t <= 0).any() or not np.isfinite(b).all() or (b <= 0).any():
        raise InputError("times and budgets must be above 0; only a time may be infinite (never)")
    return t, b


def arrival(times: Sequence[float], budgets: Sequence[float], confidence: float = 0.95) -> Arrival:
    """Kaplan-Meier curve, median time and share of runs that reached the target.

    times: one a run, infinity = never; budgets: when each run stopped, same unit. Kaplan & Meier
    1958, by `scipy.stats.ecdf`; median by interpolated order statistics on the log scale; share
    by Clopper & Pearson 1934.

    >>> a = arrival([3.0, 4.0, 4.0, 5.0, 6.0, float("inf")], budgets=[10.0] * 6)
    >>> a.median, a.arrived, a.n, round(a.share_low, 3), a.high
    (4.5, 5, 6, 0.359, inf)
    """
    t, budget = _checked(times, budgets)
    never = np.isinf(t)
    n, arrived = len(t), int(np.sum(~never))
    sample = stats.CensoredData.right_censored(np.where(never, budget, t), never)
    curve = stats.ecdf(sample).sf
    share = stats.binomtest(arrived, n).proportion_ci(confidence, method="exact")
    low = high = None
    if n >= MINIMUM_PAIRS:
        low, high = (
            float(x) for x in np.exp(interval(np.log(np.sort(t)), 0.5, (1 - confidence) / 2))
        )
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
    first: Sequence[float],
    second: Sequence[float],
    first_budgets: Sequence[float],
    second_budgets: Sequence[float],
    rng: np.random.Generator,
) -> LogRank:
    """Do two arms reach the target at different times? Permutation log-rank, exact when small.

    Statistic: sum of `log_rank_scores` over the first arm. The asymptotic test is wrong in small
    samples (6.6 to 6.8 % at 3 to 6 runs); the permutation test needs equal budgets (Wang, Lagakos
    & Gray 2010). Refused: fewer than 4 runs an arm; censored runs with budgets that differ by
    more than 1 %; nobody arrived.

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

    def refuse(reason: str) -> LogRank:
        return LogRank(statistic, None, reason)

    if min(len(a), len(b)) < MINIMUM_RUNS:
        return refuse(f"{min(len(a), len(b))} runs in an arm: p < 0.05 needs {MINIMUM_RUNS}.")
    if not events.any():
        return refuse("No run of either arm reached the target.")
    if not events.all() and budget.max() > 1.01 * budget.min():
        return refuse(
            "Some runs never arrived and budgets differ "
            f"({budget.min():.3g} to {budget.max():.3g}): a longer budget arrives more often."
        )
    test = stats.permutation_test(
        (a, b),
        lambda x, y, axis: np.sum(x, axis=axis),
        permutation_type="independent",
        vectorized=True,
        n_resamples=9999,
        rng=rng,
    )
    return LogRank(statistic, float(test.pvalue), None)

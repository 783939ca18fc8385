"""Time to a target: scipy's published example, infinity for never, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis.statistics import survival
from analysis.statistics.survival import arrival, expected_time, log_rank, log_rank_scores
from measurement.errors import InputError

INF = float("inf")
# The example of scipy.stats.logrank: weeks of survival with glioma, by treatment.
EVENTS = (
    [6, 13, 21, 30, 37, 38, 49, 50, 63, 79, 86, 98, 202, 219],
    [10, 10, 12, 13, 14, 15, 16, 17, 18, 20, 24, 24, 25, 28, 30, 33, 35, 37, 40, 40, 46, 48, 76,
     81, 82, 91, 112, 181],
)  # fmt: skip
CENSORED = ([31, 47, 80, 82, 82, 149], [34, 40, 70])


def test_log_rank_scores_on_the_glioma_example():
    t = np.array([*EVENTS[0], *CENSORED[0], *EVENTS[1], *CENSORED[1]], dtype=float)
    events = np.array([True] * 14 + [False] * 6 + [True] * 28 + [False] * 3)
    first = np.arange(len(t)) < 20
    expected = variance = 0.0
    for time in np.unique(t[events]):
        at_risk, at_risk_first = np.sum(t >= time), np.sum((t >= time) & first)
        deaths = np.sum((t == time) & events)
        expected += deaths * at_risk_first / at_risk
        if at_risk > 1:
            share = at_risk_first / at_risk
            variance += deaths * share * (1 - share) * (at_risk - deaths) / (at_risk - 1)
    scores = log_rank_scores(t, events)
    assert scores.sum() == pytest.approx(0, abs=1e-12)
    assert scores[first].sum() == pytest.approx(14 - expected)
    theirs = stats.logrank(
        *(stats.CensoredData(uncensored=u, right=c) for u, c in zip(EVENTS, CENSORED, strict=True))
    )
    assert theirs.statistic == pytest.approx(-2.73799, abs=1e-5)
    assert (14 - expected) / np.sqrt(variance) == pytest.approx(theirs.statistic)


def test_curve_median_and_share():
    a = arrival([3, 4, 4, 5, 6, INF], [10] * 6)
    assert a.times == (3, 4, 5, 6, 10)
    assert a.waiting == pytest.approx((5 / 6, 3 / 6, 2 / 6, 1 / 6, 1 / 6))
    assert (a.median, a.arrived, a.n, a.budgets) == (4.5, 5, 6, (10,))
    assert (a.share_low, a.share_high) == pytest.approx(
        stats.binomtest(5, 6).proportion_ci(method="exact"), abs=1e-12
    )
    assert a.high == INF
    assert a.low == pytest.approx(np.exp(np.log(3) + 5 / 14 * np.log(4 / 3)))
    assert [flag.name for flag in a.warnings] == ["NEVER"]


def test_nobody_arrives():
    a = arrival([INF] * 6, [10] * 6)
    assert (a.median, a.low, a.high, a.arrived) == (INF, INF, INF, 0)
    test = log_rank([INF] * 6, [INF] * 6, [10] * 6, [10] * 6, np.random.default_rng(0))
    assert test.p is None
    assert "12 of 12 runs missed the target" in test.refused
    assert a.expected == INF


def test_few_runs_have_no_interval():
    a = arrival([3, 4, 5], [10] * 3)
    assert (a.median, a.low, a.high) == (4, None, None)


def test_log_rank_is_exact_when_small_and_refuses_three_runs():
    rng = np.random.default_rng(0)
    four = log_rank([1, 2, 3, 4], [5, 6, 7, 8], [9] * 4, [9] * 4, rng)
    assert four.p == pytest.approx(2 / 70)
    three = log_rank([1, 2, 3], [5, 6, 7], [9] * 3, [9] * 3, rng)
    assert three.p is None
    assert "3 runs" in three.refused


def test_unequal_budgets_are_refused_only_when_a_run_was_cut_off():
    rng = np.random.default_rng(0)
    cut = log_rank([1, 2, 3, INF], [5, 6, 7, 8], [9] * 4, [20] * 4, rng)
    assert cut.p is None
    assert "budgets differ" in cut.refused
    assert "neither a test nor the expected times compare" in cut.refused
    assert [flag.name for flag in cut.warnings] == ["BUDGETS"]
    assert log_rank([1, 2, 3, 4], [5, 6, 7, 8], [9] * 4, [20] * 4, rng).p is not None


@given(st.lists(st.floats(1, 100), min_size=6, max_size=15), st.data())
@settings(deadline=None, max_examples=50)
def test_failing_never_helps(times, data):
    worse = list(times)
    worse[data.draw(st.integers(0, len(times) - 1))] = INF
    before, after = (arrival(t, [100.0] * len(times)) for t in (times, worse))
    assert after.median >= before.median
    assert after.low >= before.low
    assert after.arrived == before.arrived - 1
    more = arrival([*times, INF], [100.0] * (len(times) + 1))
    assert more.median >= before.median
    assert more.share_high <= 1


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan")])
def test_no_time_is_refused(wrong):
    with pytest.raises(InputError):
        arrival([1.0, wrong], [3.0, 3.0])
    with pytest.raises(InputError):
        arrival([1.0, 2.0], [3.0, wrong])
    with pytest.raises(InputError):
        arrival([1.0], [3.0, 3.0])
    with pytest.raises(InputError):
        arrival([], [])


def test_expected_time_is_all_time_over_arrivals():
    assert expected_time([3, 5, INF, INF], [10, 10, 8, 8]) == (3 + 5 + 8 + 8) / 2
    assert expected_time([3.0], [10.0]) == 3
    assert arrival([3, 5, INF, INF], [10, 10, 8, 8]).expected == 12


def test_expected_time_is_what_restarting_costs():
    """Restart until success: the mean of many such stories."""
    rng = np.random.default_rng(0)
    runs, budgets = np.array([3.0, 5.0, INF, 4.0, INF]), np.full(5, 9.0)
    spent = []
    for _ in range(4000):
        total = 0.0
        while np.isinf(time := rng.choice(runs)):
            total += 9.0
        spent.append(total + time)
    assert np.mean(spent) == pytest.approx(expected_time(runs, budgets), rel=0.05)


@given(st.lists(st.floats(1, 50), min_size=4, max_size=8), st.data())
@settings(deadline=None, max_examples=25)
def test_failing_never_helps_the_slower_arm(fast, data):
    """Infinity for a run of the slower arm: O - E of the faster one can only grow."""
    slow = [t * 1.5 for t in fast]
    worse = list(slow)
    worse[data.draw(st.integers(0, len(slow) - 1))] = INF
    budgets = [100.0] * len(fast)
    before, after = (
        log_rank(fast, other, budgets, budgets, np.random.default_rng(0)) for other in (slow, worse)
    )
    assert after.observed_minus_expected >= before.observed_minus_expected - 1e-9
    assert expected_time(worse, budgets) >= expected_time(slow, budgets)
    more = [*slow, INF]
    assert expected_time(more, [100.0] * len(more)) >= expected_time(slow, budgets)
    assert arrival(more, [100.0] * len(more)).median >= arrival(slow, budgets).median


def test_log_rank_draws_with_the_generator_passed_in():
    rng = np.random.default_rng
    first, second, budgets = [*range(1, 13)], [*range(4, 16)], [99.0] * 12
    one, other = (log_rank(first, second, budgets, budgets, rng(3)) for _ in range(2))
    assert one == other
    assert (one.n, one.warnings, one.refused) == (12, (), None)


def test_many_runs_are_tested_by_the_limit_of_the_same_permutations(monkeypatch):
    rng = np.random.default_rng(5)
    one, other = rng.lognormal(0, 0.5, 120), rng.lognormal(0.12, 0.5, 130)
    one[:20] = INF
    budgets = [9.0] * 120, [9.0] * 130
    drawn = log_rank(one, other, *budgets, np.random.default_rng(1))
    monkeypatch.setattr(survival, "LARGE", 100)
    limit = log_rank(one, other, *budgets, np.random.default_rng(1))
    assert 0.01 < limit.p < 0.9 and limit.p == pytest.approx(drawn.p, rel=0.1)
    assert limit.observed_minus_expected == drawn.observed_minus_expected
    assert [flag.name for flag in limit.warnings] == ["NEVER"]

"""Ranks and weights of order statistics, sameness, percentiles inside runs, and diagnostics."""

from __future__ import annotations

import numpy as np
import pytest
from recordings import totals
from scipy import stats

from analysis.statistics import (
    diagnostics,
    equivalence,
    paired_ratio,
    percentile_ratio,
    rare_share,
    run_percentile,
)
from analysis.statistics.diagnostics import autocorrelation, order_effect, resolution
from analysis.statistics.orderstat import interval, nyblom


def names(result) -> list[str]:
    return [flag.name for flag in result.warnings]


@pytest.mark.parametrize(
    ("n", "q", "rank", "weight"),
    [(6, 0.5, 1, 0.35714286), (10, 0.5, 2, 0.65765766), (100, 0.5, 40, 0.76320062),
     (36, 0.9, 29, 0.07884825)],
)  # fmt: skip
def test_nyblom_weights(n, q, rank, weight):
    assert nyblom(n, q, 0.025) == (rank, pytest.approx(weight, abs=5e-9))


@pytest.mark.parametrize(
    ("n", "q", "lower", "upper"),
    [(100, 0.5, 40, 61), (10, 0.5, 2, 9), (6, 0.5, 1, 6), (100, 0.9, 84, 96), (36, 0.9, 29, 36)],
)
def test_exact_ranks(n, q, lower, upper):
    assert nyblom(n, q, 0.025)[0] == lower
    assert n + 1 - nyblom(n, 1 - q, 0.025)[0] == upper


def test_no_interval_where_none_exists():
    assert interval(np.arange(5.0), 0.5, 0.025) == (-np.inf, np.inf)
    low, high = interval(np.arange(35.0), 0.9, 0.025)
    assert np.isfinite(low)
    assert high == np.inf
    assert np.isfinite(interval(np.arange(36.0), 0.9, 0.025)[1])


@pytest.mark.parametrize("q", [0.5, 0.9])
def test_ranks_agree_with_scipy_quantile_test(q):
    values = np.sort(np.random.default_rng(4).normal(size=60))
    exact = stats.quantile_test(values, p=q).confidence_interval(0.95)
    assert values[nyblom(60, q, 0.025)[0] - 1] == exact.low
    assert values[60 - nyblom(60, 1 - q, 0.025)[0]] == exact.high


def test_no_difference_at_all_is_p_one():
    r = paired_ratio([2.0] * 8, [2.0] * 8)
    assert (r.estimate, r.low, r.high, r.p, r.wins, r.ties) == (1, 1, 1, 1, 0, 8)


def test_equivalence_needs_the_whole_interval_inside():
    close = np.array([1.0, 1.01, 0.99, 1.02, 0.98, 1.0, 1.01, 0.99])
    assert equivalence(close, np.ones(8)).same
    assert not equivalence(close, np.ones(8), margin=0.005).same
    assert not equivalence(close * 1.05, np.ones(8)).same
    assert not equivalence(np.array([0.5, 2.0] * 4), np.ones(8)).same  # p = 1 is no sameness
    few = equivalence([1.0] * 4, [1.0] * 4)
    assert (few.same, few.low, few.high) == (False, None, None)


def test_percentiles_are_taken_inside_runs():
    assert run_percentile(np.arange(1, 102)) == np.quantile(np.arange(1, 102), 0.9) == 91
    values = [1.0, 1.1, 1.2, 1.1, 1.0, 1.2], [2.0] * 6
    plain = paired_ratio(*values)
    assert percentile_ratio(*values, calls=100) == plain
    assert names(percentile_ratio(*values, calls=99))[0] == "FEW-LATENCIES"
    assert names(percentile_ratio(*values, calls=300, percentile=99))[0] == "FEW-LATENCIES"
    assert percentile_ratio(*values, calls=1000, percentile=99) == plain
    assert names(percentile_ratio(*values, calls=999, percentile=1))[0] == "FEW-LATENCIES"


def test_rare_share():
    shares = [round(100 * rare_share(n), 1) for n in (3, 5, 6, 10, 20, 30, 50, 100)]
    assert shares == [63.2, 45.1, 39.3, 25.9, 13.9, 9.5, 5.8, 3.0]


def test_resolution_is_the_half_width():
    r = paired_ratio([0.98, 1.0, 1.02, 0.99, 1.01, 1.0], [1.0] * 6)
    assert np.log1p(resolution(r)) == pytest.approx(np.log(r.high / r.low) / 2)
    assert resolution(paired_ratio([1.0] * 3, [1.0] * 3)) is None


def test_carry_over_is_seen_and_needs_six_pairs_an_order():
    rng = np.random.default_rng(2)
    first = np.array([True, False] * 8)
    ratios = np.exp(np.where(first, 0.1, -0.1) + rng.normal(0, 0.01, 16))
    assert names(order_effect(ratios, first)) == ["ORDER"]
    assert names(order_effect(np.exp(rng.normal(0, 0.05, 16)), first)) == []
    assert names(order_effect(ratios[:10], first[:10])) == ["FEW"]
    assert names(order_effect(ratios[:4], [True] * 4)) == ["FEW"]


def test_p_of_the_autocorrelation_counts_every_equal_order():
    """Of 720 orders of three fast and three slow runs 2 * 3! * 3! are as clustered as this one."""
    found = autocorrelation([1.0, 1.0, 1.0, 2.0, 2.0, 2.0], np.random.default_rng(0))
    assert found.p == pytest.approx(0.1, abs=0.01)


def test_no_drift_in_a_constant_or_a_short_arm():
    rng = np.random.default_rng(0)
    assert autocorrelation([3.0] * 10, rng).p == 1
    assert autocorrelation([1.0, 2.0, 3.0], rng).p == 1


def test_random_state_is_what_was_passed_in():
    one, other = (
        autocorrelation(totals("MLX GPU")[:12], np.random.default_rng(7)) for _ in range(2)
    )
    assert one == other


@pytest.mark.parametrize("carried", [0.0, 0.15])
def test_the_autocorrelation_of_many_is_the_limit_of_the_same_orders(carried, monkeypatch):
    rng = np.random.default_rng(3)
    x = rng.normal(size=150)
    for i in range(1, 150):
        x[i] += carried * x[i - 1]
    drawn = autocorrelation(np.exp(x), np.random.default_rng(1))
    monkeypatch.setattr(diagnostics, "LARGE", 100)
    limit = autocorrelation(np.exp(x), np.random.default_rng(1))
    assert limit.p == pytest.approx(drawn.p, abs=0.01) and limit.lag1 == drawn.lag1

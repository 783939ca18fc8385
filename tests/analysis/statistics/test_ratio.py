"""Ratios against published numbers, exact ranks, scipy, and what must hold for any data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis.statistics import (
    equivalence,
    holm,
    holm_pairs,
    paired_ratio,
    percentile_ratio,
    rare_share,
    run_percentile,
    unpaired_ratio,
)
from analysis.statistics.diagnostics import autocorrelation, order_effect, resolution
from analysis.statistics.orderstat import interval, nyblom
from measurement.errors import InputError

M1 = json.loads((Path(__file__).parents[1] / "data" / "m1_iter_total.json").read_text())
MLX, TORCH = M1["mlx_gpu"], M1["pytorch_mps"]


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


def test_published_m1_values_unpaired():
    r = unpaired_ratio(MLX, TORCH)
    assert (r.estimate, r.low, r.high) == pytest.approx(
        (0.56399348, 0.55716732, 0.56944843), abs=1e-6
    )
    assert r.p == pytest.approx(2.0**-99, rel=1e-6)
    assert r.p == pytest.approx(1.5777218e-30, rel=1e-6)
    assert r.geometric_mean == pytest.approx(0.51404167, abs=1e-6)
    assert names(r) == ["NOT-INTERLEAVED", "SPLIT", "RARE"]
    ninety = unpaired_ratio(MLX, TORCH, confidence=0.90)
    assert (ninety.low, ninety.high) == pytest.approx((0.55932423, 0.56831228), abs=1e-6)


@pytest.mark.parametrize(
    ("n", "estimate", "low", "high", "p"),
    [
        (10, 0.53545908, 0.49475, 0.55168316, 2.0**-9),
        (6, 0.50300928, 0.40777367, 0.53261844, 2**-5),
    ],
)
def test_published_m1_prefixes(n, estimate, low, high, p):
    r = unpaired_ratio(MLX[:n], TORCH[:n])
    assert (r.estimate, r.low, r.high) == pytest.approx((estimate, low, high), abs=1e-6)
    assert r.p == pytest.approx(p, rel=1e-6)


def test_published_m1_values_through_the_paired_code():
    r = paired_ratio(MLX, TORCH)
    assert (r.estimate, r.low, r.high) == pytest.approx(
        (0.55482677, 0.53579595, 0.56421493), abs=1e-6
    )
    assert (r.wins, r.ties, r.n) == (100, 0, 100)


@pytest.mark.parametrize("ratio", [paired_ratio, unpaired_ratio])
def test_five_are_refused(ratio):
    r = ratio(MLX[:5], TORCH[:5])
    assert (r.low, r.high, r.p) == (None, None, None)
    assert "FEW" in names(r)
    assert any("93.75 %" in str(flag) for flag in r.warnings)


@pytest.mark.parametrize("n", [6, 7, 10, 30, 100, 400])
def test_all_on_one_side_gives_the_least_p(n):
    slower = 1 + np.random.default_rng(n).uniform(0.01, 0.2, n)
    assert paired_ratio(slower, np.ones(n)).p == pytest.approx(2.0 ** (1 - n), rel=1e-6)


def test_no_difference_at_all_is_p_one():
    r = paired_ratio([2.0] * 8, [2.0] * 8)
    assert (r.estimate, r.low, r.high, r.p, r.wins, r.ties) == (1, 1, 1, 1, 0, 8)


times = st.floats(1e-6, 1e6)
pairs = st.lists(st.tuples(times, times), min_size=6, max_size=40).map(
    lambda values: tuple(np.array(side) for side in zip(*values, strict=True))
)


@given(pairs)
@settings(deadline=None, max_examples=80)
def test_swapping_the_arms_gives_reciprocals(arms):
    for ratio in (paired_ratio, unpaired_ratio):
        one, other = ratio(*arms), ratio(*arms[::-1])
        assert one.estimate * other.estimate == pytest.approx(1, rel=1e-9)
        assert one.low * other.high == pytest.approx(1, rel=1e-9)
        assert one.high * other.low == pytest.approx(1, rel=1e-9)
        assert one.p == pytest.approx(other.p, rel=1e-6)


@given(pairs, st.floats(0.01, 100))
@settings(deadline=None, max_examples=60)
def test_scaling_one_arm_scales_the_ratio(arms, c):
    for ratio in (paired_ratio, unpaired_ratio):
        plain, scaled = ratio(*arms), ratio(arms[0] * c, arms[1])
        for name in ("estimate", "low", "high", "geometric_mean"):
            assert getattr(scaled, name) == pytest.approx(c * getattr(plain, name), rel=1e-9)


@given(pairs, st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=60)
def test_order_of_the_pairs_changes_nothing(arms, random):
    index = list(range(len(arms[0])))
    random.shuffle(index)
    one, other = paired_ratio(*arms), paired_ratio(arms[0][index], arms[1][index])
    assert (one.estimate, one.low, one.high, one.p, one.wins) == (
        other.estimate, other.low, other.high, other.p, other.wins,
    )  # fmt: skip


@given(pairs, st.data())
@settings(deadline=None, max_examples=60)
def test_one_wild_run_moves_the_ratio_by_at_most_one_order_statistic(arms, data):
    first, second = arms
    wild = first.copy()
    wild[data.draw(st.integers(0, len(first) - 1))] *= 1000
    ordered = np.sort(first / second)
    n = len(ordered)
    middle = ordered[max(n // 2 - 2, 0) : min(n // 2 + 2, n)]
    moved = paired_ratio(wild, second).estimate
    assert middle[0] * (1 - 1e-9) <= moved <= middle[-1] * (1 + 1e-9)


@given(pairs)
@settings(deadline=None, max_examples=60)
def test_verdict_and_interval_never_disagree(arms):
    for ratio in (paired_ratio, unpaired_ratio):
        r = ratio(*arms)
        if abs(r.p - 0.05) > 1e-9:
            assert (r.p < 0.05) == (not r.low <= 1 <= r.high)


@pytest.mark.parametrize("wrong", [0.0, -1.0, np.nan, np.inf])
def test_no_measurement_is_refused(wrong):
    for ratio in (paired_ratio, unpaired_ratio):
        with pytest.raises(InputError, match="no measurement"):
            ratio([1.0] * 5 + [wrong], [1.0] * 6)


def test_arms_that_do_not_pair_are_refused():
    with pytest.raises(InputError, match="6 and 5"):
        paired_ratio([1.0] * 6, [1.0] * 5)
    with pytest.raises(InputError, match="empty"):
        unpaired_ratio([], [1.0])
    with pytest.raises(InputError, match="no pairs"):
        paired_ratio([], [])


def test_equivalence_needs_the_whole_interval_inside():
    close = np.array([1.0, 1.01, 0.99, 1.02, 0.98, 1.0, 1.01, 0.99])
    assert equivalence(close, np.ones(8)).same
    assert not equivalence(close, np.ones(8), margin=0.005).same
    assert not equivalence(close * 1.05, np.ones(8)).same
    assert not equivalence(np.array([0.5, 2.0] * 4), np.ones(8)).same  # p = 1 is no sameness
    few = equivalence([1.0] * 4, [1.0] * 4)
    assert (few.same, few.low, few.high) == (False, None, None)


def test_equivalence_of_the_published_data_uses_the_90_percent_interval():
    ninety, tost = paired_ratio(MLX, TORCH, confidence=0.9), equivalence(MLX, TORCH)
    assert (tost.low, tost.high) == pytest.approx((ninety.low, ninety.high))


def test_percentiles_are_taken_inside_runs():
    assert run_percentile(np.arange(1, 102)) == np.quantile(np.arange(1, 102), 0.9) == 91
    values = [1.0, 1.1, 1.2, 1.1, 1.0, 1.2], [2.0] * 6
    plain = paired_ratio(*values)
    assert percentile_ratio(*values, calls=100) == plain
    assert names(percentile_ratio(*values, calls=99))[0] == "FEW-LATENCIES"
    assert names(percentile_ratio(*values, calls=300, percentile=99))[0] == "FEW-LATENCIES"
    assert percentile_ratio(*values, calls=1000, percentile=99) == plain


def test_holm():
    assert holm([0.01, 0.04, 0.03]).adjusted == pytest.approx((0.03, 0.06, 0.06))
    assert holm([0.01, 0.02, 0.03, 0.04]).adjusted == pytest.approx((0.04, 0.06, 0.06, 0.06))
    assert holm([0.8, 0.9]).adjusted == (1, 1)
    assert [holm_pairs(m) for m in (1, 10, 20, 100)] == [6, 9, 10, 12]


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


def test_drift_of_the_published_arms():
    for values, lag1 in ((MLX, 0.818), (TORCH, 0.825)):
        found = autocorrelation(values, np.random.default_rng(0), "arm")
        assert found.lag1 == pytest.approx(lag1, abs=5e-4)
        assert found.p == pytest.approx(1e-4)
        assert names(found) == ["DRIFT"]


def test_no_drift_in_a_constant_or_a_short_arm():
    rng = np.random.default_rng(0)
    assert autocorrelation([3.0] * 10, rng).p == 1
    assert autocorrelation([1.0, 2.0, 3.0], rng).p == 1


def test_random_state_is_what_was_passed_in():
    one, other = (autocorrelation(MLX[:12], np.random.default_rng(7)) for _ in range(2))
    assert one == other

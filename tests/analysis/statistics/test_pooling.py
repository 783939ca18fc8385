"""Several machines (Q7) and several models (Q11): formulas, refusals, coverage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis.statistics import (
    across_machines,
    anytime_ratio,
    models_ratio,
    paired_ratio,
    unpaired_ratio,
)


def measured(logs, n: int = 10, seed: int = 0, sd: float = 0.05):
    """One ratio a machine or model, with the true log ratios given."""
    rng = np.random.default_rng(seed)
    return [
        paired_ratio(np.exp(log + rng.normal(0, sd, n)), np.exp(rng.normal(0, sd, n)))
        for log in logs
    ]


def names(result) -> list[str]:
    return [flag.name for flag in result.warnings]


@pytest.mark.parametrize("k", (3, 4, 6, 9))
def test_interval_over_machines_is_students(k):
    ratios = measured(np.linspace(-0.3, 0.2, k), seed=k)
    logs = np.log([r.estimate for r in ratios])
    m, t = across_machines(ratios), stats.ttest_1samp(logs, 0)
    assert np.log([m.low, m.high]) == pytest.approx(t.confidence_interval(0.95))
    assert m.p == pytest.approx(t.pvalue)
    assert m.spread == pytest.approx(logs.std(ddof=1))
    assert (m.k, m.estimate) == (k, pytest.approx(stats.gmean([r.estimate for r in ratios])))
    half = stats.t.ppf(0.975, k - 1) * logs.std(ddof=1) * np.sqrt(1 + 1 / k)
    assert np.log([m.prediction_low, m.prediction_high]) == pytest.approx(
        (logs.mean() - half, logs.mean() + half)
    )
    assert names(m) == (["K-FEW"] if k < 6 else [])


def test_next_machine_falls_into_the_prediction_interval():
    rng, inside = np.random.default_rng(1), 0
    for _ in range(2000):
        logs = rng.normal(0.1, 0.2, 5)
        ratios = [paired_ratio(np.exp([log] * 6), np.ones(6)) for log in logs[:4]]
        m = across_machines(ratios)
        inside += m.prediction_low <= np.exp(logs[4]) <= m.prediction_high
    assert 0.935 <= inside / 2000 <= 0.965


@pytest.mark.parametrize("k", (1, 2))
def test_one_or_two_machines_speak_for_themselves_only(k):
    m = across_machines(measured([0.1] * k))
    assert (m.low, m.high, m.p, m.prediction_low, m.prediction_high) == (None,) * 5
    assert m.these_low < m.estimate < m.these_high
    assert names(m) == ["K-FEW"]
    assert "these machines only" in m.warnings[0].sentence
    assert (m.spread is None) == (k == 1)


def test_one_machine_is_its_own_ratio():
    (ratio,) = measured([0.1])
    m, one = across_machines([ratio]), models_ratio([ratio])
    assert (m.these_low, m.these_high) == pytest.approx((ratio.low, ratio.high))
    assert (one.low, one.high, one.p) == pytest.approx((ratio.low, ratio.high, ratio.p))


@pytest.mark.parametrize("k", (2, 3, 6))
def test_interval_of_these_machines_covers_their_mean(k):
    rng, hits = np.random.default_rng(k), 0
    for i in range(400):
        logs = rng.normal(0, 0.2, k)
        m = across_machines(measured(logs, n=10, seed=1000 * k + i))
        hits += m.these_low <= np.exp(logs.mean()) <= m.these_high
    assert hits / 400 >= 0.94


@given(st.permutations(range(5)))
@settings(deadline=None, max_examples=20)
def test_order_of_machines_and_models_changes_nothing(order):
    ratios = measured([0.3, -0.1, 0.2, 0.05, 0.0])
    shuffled = [ratios[i] for i in order]
    assert across_machines(shuffled) == across_machines(ratios)
    assert models_ratio(shuffled) == models_ratio(ratios)


def test_equal_machines_give_a_point_and_no_nan():
    exact = [paired_ratio([2.0] * 6, [1.0] * 6)] * 3
    m = across_machines(exact)
    assert (m.low, m.high, m.prediction_low, m.p, m.spread) == pytest.approx((2, 2, 2, 0, 0))
    assert across_machines([paired_ratio([1.0] * 6, [1.0] * 6)] * 3).p == 1


def test_a_machine_with_few_pairs_refuses_the_fixed_set_only():
    m = across_machines([*measured([0.1, 0.2, 0.3]), *measured([0.2], n=5)])
    assert (m.these_low, m.these_high) == (None, None)
    assert m.low < m.estimate < m.high
    assert names(m) == ["K-FEW", "FEW"]


def test_models_are_joined_by_square_and_add():
    ratios = measured([0.5, -0.5, 0.1])
    m = models_ratio(ratios)
    centre = np.mean(np.log([r.estimate for r in ratios]))
    down = np.sqrt(sum(np.log(r.estimate / r.low) ** 2 for r in ratios)) / 3
    up = np.sqrt(sum(np.log(r.high / r.estimate) ** 2 for r in ratios)) / 3
    assert np.log([m.estimate, m.low, m.high]) == pytest.approx(
        (centre, centre - down, centre + up)
    )
    assert m.geometric_mean == pytest.approx(stats.gmean([r.geometric_mean for r in ratios]))
    assert (m.n, m.wins) == (10, None)


def test_a_model_with_five_pairs_refuses_the_interval():
    m = models_ratio([*measured([0.1]), *measured([0.2], n=5)])
    assert (m.low, m.high, m.p, m.n) == (None, None, None, 5)
    assert "FEW" in names(m)


def test_what_forbids_a_verdict_on_one_forbids_it_on_all():
    values = np.exp(np.random.default_rng(2).normal(0, 0.05, (2, 10)))
    mixed = [*measured([0.1, 0.2, 0.1]), unpaired_ratio(*values), unpaired_ratio(*values)]
    assert names(models_ratio(mixed)).count("NOT-INTERLEAVED") == 1
    assert names(across_machines(mixed)).count("NOT-INTERLEAVED") == 1


def test_confidence_is_chosen_when_ratios_are_joined():
    ratios = measured([0.1, 0.2, 0.3])
    wide, narrow = across_machines(ratios, 0.95), across_machines(ratios, 0.8)
    assert wide.these_low < narrow.these_low
    assert wide.low < narrow.low
    assert narrow.confidence == 0.8


def test_a_ratio_without_limits_yet_refuses_the_interval():
    six = anytime_ratio([1.0, 1.1, 1.2, 1.3, 1.4, 1.5], [1.0] * 6)  # starts at 8 pairs
    for result in (models_ratio([*measured([0.1]), six]), across_machines([six] * 3)):
        limits = (result.low, result.high) if hasattr(result, "n") else (result.these_low,)
        assert set(limits) == {None}
        assert "FEW" in names(result)

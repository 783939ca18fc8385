"""What must hold for any data, in every function that gives a ratio with an interval."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.statistics import (
    anytime_ratio,
    average_ratio,
    equivalence,
    models_ratio,
    p_by_inversion,
    paired_ratio,
    percentile_ratio,
    tail_ratio,
    unpaired_ratio,
    wins_share,
)


def percentile(a, b, confidence=0.95):
    return percentile_ratio(a, b, 1000, 90, confidence)


def percentile_unpaired(a, b, confidence=0.95):
    return percentile_ratio(a, b, 1000, 90, confidence, paired=False)


def average_unpaired(a, b, confidence=0.95):
    return average_ratio(a, b, confidence, paired=False)


def models(a, b, confidence=0.95):
    """Two models: all pairs, and the first eight with the first arm slower by half."""
    return models_ratio([paired_ratio(a, b), paired_ratio(a[:8], b[:8])], confidence)


MEDIANS = [paired_ratio, unpaired_ratio, percentile, percentile_unpaired, anytime_ratio, models]
RATIOS = [*MEDIANS, tail_ratio, average_ratio, average_unpaired]
LEAST = {tail_ratio: 36, average_ratio: 30, average_unpaired: 30}  # others: 8


def arms_for(function, greatest: int = 50):
    least = LEAST.get(function, 8)
    times = st.floats(1e-3, 1e3)
    return st.lists(st.tuples(times, times), min_size=least, max_size=greatest).map(
        lambda values: tuple(np.array(side) for side in zip(*values, strict=True))
    )


def for_every(functions, *more, examples=25):
    """Run a property with data for each of the functions."""

    def decorate(test):
        @pytest.mark.parametrize("function", functions)
        @given(data=st.data())
        @settings(deadline=None, max_examples=examples)
        def run(function, data):
            test(function, *data.draw(arms_for(function)), *(data.draw(m) for m in more))

        run.__name__ = test.__name__
        return run

    return decorate


@for_every(RATIOS)
def test_swapped_arms_give_reciprocals(function, a, b):
    one, other = function(a, b), function(b, a)
    for x, y in (("estimate", "estimate"), ("low", "high"), ("high", "low")):
        assert getattr(one, x) * getattr(other, y) == pytest.approx(1, rel=1e-9)
    assert one.p == pytest.approx(other.p, rel=1e-6)


@for_every(RATIOS, st.floats(0.01, 100))
def test_scaling_an_arm_scales_the_ratio(function, a, b, c):
    plain, scaled = function(a, b), function(a * c, b)
    for name in ("estimate", "low", "high"):
        assert getattr(scaled, name) == pytest.approx(c * getattr(plain, name), rel=1e-9)


@for_every(RATIOS, st.floats(0.5, 2))
def test_p_and_interval_never_disagree(function, a, b, shift):
    for confidence in (0.5, 0.9, 0.95):
        r = function(a * shift, b, confidence=confidence)
        if abs(r.p - (1 - confidence)) > 1e-9 and min(abs(np.log([r.low, r.high]))) > 1e-12:
            assert (r.p <= 1 - confidence) == (not r.low <= 1 <= r.high)


@for_every(RATIOS)
def test_more_confidence_is_never_narrower(function, a, b):
    wide, narrow = function(a, b), function(a, b, confidence=0.8)
    slack = 1 + 1e-12
    assert wide.low <= narrow.low * slack
    assert wide.high * slack >= narrow.high
    assert wide.low <= wide.estimate * slack
    assert wide.estimate <= wide.high * slack


@for_every(RATIOS, st.randoms(use_true_random=False))
def test_order_of_the_pairs_changes_nothing(function, a, b, random):
    if function is models:
        return  # takes the first eight apart
    order = list(range(len(a)))
    random.shuffle(order)
    one, other = function(a, b), function(a[order], b[order])
    for name in ("estimate", "low", "high", "p"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-9)


@for_every([paired_ratio, percentile, anytime_ratio], st.randoms(use_true_random=False))
def test_one_wild_run_moves_nothing_by_more_than_one_rank(function, a, b, random):
    wild = a.copy()
    wild[random.randrange(len(a))] *= 1000
    # The others move down by one rank at the most: at worst all of them do.
    d = np.sort(np.log(a / b))
    moved = function(np.exp([*d[1:], d[-1] + 10]), np.ones(len(d)))
    before, after = function(a, b), function(wild, b)
    for name in ("estimate", "low", "high"):
        least, now, most = (getattr(r, name) for r in (before, after, moved))
        assert least * (1 - 1e-9) <= now <= most * (1 + 1e-9)


@pytest.mark.parametrize("n", (8, 12, 40))
def test_all_on_one_side_gives_the_least_p(n):
    slow = 1 + np.random.default_rng(n).uniform(0.01, 0.2, n)
    for function in (paired_ratio, percentile):
        assert function(slow, np.ones(n)).p == pytest.approx(2.0 ** (1 - n), rel=1e-12)
    r = models_ratio([paired_ratio(slow, np.ones(n))])
    assert r.p == pytest.approx(2.0 ** (1 - n), rel=1e-9)


@given(arms_for(anytime_ratio))
@settings(deadline=None, max_examples=60)
def test_anytime_interval_holds_the_planned_one(arms):
    anytime, planned = anytime_ratio(*arms), paired_ratio(*arms)
    assert anytime.low <= planned.low * (1 + 1e-12)  # a logarithm and back rounds
    assert anytime.high >= planned.high * (1 - 1e-12)
    assert anytime.p >= planned.p
    assert anytime.estimate == planned.estimate


@given(arms_for(paired_ratio), st.floats(0.01, 1))
@settings(deadline=None, max_examples=60)
def test_sameness_agrees_with_the_interval(arms, margin):
    for paired, ratio in ((True, paired_ratio), (False, unpaired_ratio)):
        same, ninety = equivalence(*arms, margin, paired=paired), ratio(*arms, confidence=0.9)
        assert (same.low, same.high) == pytest.approx((ninety.low, ninety.high))
        assert same.same == (1 / (1 + margin) < same.low and same.high < 1 + margin)
        assert same.same == (same.p <= 0.05)
        assert equivalence(*arms[::-1], margin, paired=paired).same == same.same


@given(arms_for(paired_ratio))
@settings(deadline=None, max_examples=40)
def test_limits_of_a_ratio_are_its_own(arms):
    for function in (paired_ratio, unpaired_ratio, anytime_ratio):
        r = function(*arms)
        assert np.exp(r.limits.at((1 - 0.95) / 2)) == pytest.approx((r.low, r.high))
        assert p_by_inversion(r.limits) == r.p


@given(arms_for(paired_ratio))
@settings(deadline=None, max_examples=40)
def test_shares_of_both_arms_and_of_ties_sum_to_one(arms):
    one, other = wins_share(*arms), wins_share(*arms[::-1])
    assert one.estimate + other.estimate + one.ties / one.n == pytest.approx(1)
    assert one.wins == paired_ratio(*arms).wins
    assert one.low <= one.estimate <= one.high
    if not one.ties:
        assert one.low == pytest.approx(1 - other.high)


@for_every([paired_ratio, unpaired_ratio, tail_ratio, anytime_ratio, models])
def test_limits_draw_together_up_to_the_largest_tail(function, a, b):
    lows, highs = zip(*map(function(a, b).limits.at, np.linspace(0.001, 0.5, 60)), strict=True)
    for values in (np.array(lows), -np.array(highs)):
        values = values[np.isfinite(values)]
        assert (np.diff(values) >= -1e-12).all()

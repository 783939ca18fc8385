"""Crossings: known places, symmetry, refusals, error rates of the shipped function."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.statistics import crossings, paired_ratio
from measurement.errors import InputError

OCTAVES = 2.0 ** np.arange(4, 15)
NOISE = np.exp(np.array([-0.03, -0.02, -0.01, 0.01, 0.02, 0.03]))


def curve(logs, values=None, noise=NOISE):
    """Exact curve of log ratios, the same spread at every value."""
    values = OCTAVES[: len(logs)] if values is None else values
    return crossings(
        values, [np.exp(log) * noise for log in logs], [np.ones(len(noise))] * len(logs)
    )


def test_a_straight_line_crosses_where_it_is_drawn():
    found = curve([-0.3, -0.1, 0.3, 0.5]).found
    assert len(found) == 1
    one = found[0]
    assert one.value == pytest.approx(32 * 2**0.25)
    assert one.between == (32.0, 64.0)
    assert one.rising
    assert one.warnings == ()
    # The limits of Q1 joined by straight lines over log2, by hand.
    ratio = paired_ratio(NOISE, np.ones(6))
    low, high = np.log(ratio.low), np.log(ratio.high)
    assert one.low == pytest.approx(32 * 2 ** ((0.1 - high) / 0.4))
    assert one.high == pytest.approx(32 * 2 ** ((0.1 - low) / 0.4))


def test_undecided_values_lie_inside_the_interval():
    one = curve([-0.3, -0.1, -0.005, 0.004, 0.1, 0.3]).found[0]
    assert one.between == (32.0, 256.0)
    assert one.low < 64 < 128 < one.high
    assert one.value == pytest.approx(64 * 2 ** (5 / 9))


def test_medians_that_pass_1_repeatedly_are_not_located():
    one = curve([-0.3, 0.004, -0.004, 0.004, 0.3]).found[0]
    assert one.value is None
    assert 16 < one.low < 32 and 128 < one.high < 256
    assert [flag.name for flag in one.warnings] == ["NOT-LOCATED"]


def test_a_median_of_exactly_1_is_the_place():
    one = curve([-0.3, 0.0, 0.3]).found[0]
    assert one.value == 32.0
    assert one.low < 32 < one.high


def test_no_crossing_where_one_arm_wins_everywhere():
    found = curve([0.1, 0.2, 0.3])
    assert found.found == () and found.signs == (1, 1, 1)


def test_a_side_taken_from_one_end_only_is_no_crossing():
    found = curve([-0.3, -0.1, 0.002, 0.004])
    assert found.found == () and found.signs == (-1, -1, 0, 0)


def test_a_dip_inside_needs_holm():
    dip = [0.3, 0.3, -0.3, 0.3, 0.3]
    assert curve(dip).found == ()  # 6 pairs cannot survive Holm over five values
    twelve = np.concatenate([NOISE, NOISE * 1.001])
    found = curve(dip, noise=twelve).found
    assert [one.rising for one in found] == [False, True]
    assert [one.between for one in found] == [(32.0, 64.0), (64.0, 128.0)]


def test_neighbours_read_from_the_ends_meet():
    found = curve([-0.5, -0.5, 0.5, 0.5, 0.5])
    assert found.signs == (-1, -1, 1, 1, 1)
    assert all(p > 0.05 for p in found.adjusted)  # by themselves none is decided


def test_five_pairs_show_nothing():
    found = curve([-0.5, 0.5], noise=NOISE[:5])
    assert found.found == () and found.signs == (0, 0)
    assert [flag.name for flag in found.warnings] == ["FEW"]


def test_a_value_with_few_pairs_has_no_limits_and_widens_the_interval():
    ones = np.ones(6)
    first = [NOISE * np.exp(-0.5), NOISE[:5] * np.exp(0.01), NOISE * np.exp(0.5)]
    found = crossings([16, 32, 64], first, [ones, ones[:5], ones])
    assert found.signs == (-1, 0, 1)
    assert (found.found[0].low, found.found[0].high) == (16.0, 64.0)
    assert [flag.name for flag in found.warnings] == ["FEW"]


def random_study(seed, n=8, k=6):
    rng = np.random.default_rng(seed)
    mean = np.linspace(-0.4, 0.4, k) * rng.choice([-1, 1])
    return np.exp(rng.normal(mean[:, None], 0.08, (k, n))), np.exp(rng.normal(0, 0.08, (k, n)))


@pytest.mark.parametrize("seed", range(10))
def test_exchanging_the_arms_mirrors_the_curve(seed):
    a, b = random_study(seed)
    one, other = crossings(OCTAVES[:6], a, b), crossings(OCTAVES[:6], b, a)
    assert one.signs == tuple(-sign for sign in other.signs)
    assert len(one.found) == len(other.found) > 0
    for x, y in zip(one.found, other.found, strict=True):
        assert x.rising != y.rising and x.between == y.between
        assert (x.value, x.low, x.high) == pytest.approx((y.value, y.low, y.high))


@pytest.mark.parametrize("seed", range(10))
def test_the_unit_of_the_parameter_scales_the_crossing(seed):
    a, b = random_study(seed)
    for x, y in zip(
        crossings(OCTAVES[:6], a, b).found, crossings(3 * OCTAVES[:6], a, b).found, strict=True
    ):
        assert (3 * x.value, 3 * x.low, 3 * x.high) == pytest.approx((y.value, y.low, y.high))


@pytest.mark.parametrize("seed", range(10))
def test_the_order_of_the_blocks_and_the_unit_of_the_metric_change_nothing(seed):
    a, b = random_study(seed)
    shuffled = np.random.default_rng(seed).permutation(a.shape[1])
    one = crossings(OCTAVES[:6], a, b).found
    other = crossings(OCTAVES[:6], 60 * a[:, shuffled], 60 * b[:, shuffled]).found
    for x, y in zip(one, other, strict=True):
        assert (x.value, x.low, x.high) == pytest.approx((y.value, y.low, y.high))


@pytest.mark.parametrize("seed", range(10))
def test_the_place_lies_in_its_interval_and_between_its_values(seed):
    for one in crossings(OCTAVES[:6], *random_study(seed)).found:
        assert one.between[0] <= one.low <= one.value <= one.high <= one.between[1]


@pytest.mark.parametrize(
    ("values", "first", "second", "expected"),
    [
        ([16], [NOISE], [NOISE], "expected two or more, each above the last"),
        ([32, 16], [NOISE] * 2, [NOISE] * 2, "each above the last"),
        ([16, 16], [NOISE] * 2, [NOISE] * 2, "each above the last"),
        ([0, 16], [NOISE] * 2, [NOISE] * 2, "values of the parameter: 0.0 is no measurement"),
        ([16, np.nan], [NOISE] * 2, [NOISE] * 2, "nan is no measurement"),
        ([16, 32], [NOISE], [NOISE] * 2, "2 values need as many arms: got 1 and 2"),
        ([16, 32], [NOISE] * 2, [NOISE, NOISE[:5]], "got 6 and 5 runs"),
        ([16, 32], [NOISE, -NOISE], [NOISE] * 2, "is no measurement"),
        ([16, 32], [NOISE, []], [NOISE, []], "no pairs"),
    ],
)
def test_what_is_no_sweep_is_refused_by_name(values, first, second, expected):
    with pytest.raises(InputError, match=expected):
        crossings(values, first, second)


def studies(rng, logs, pairs, replicates):
    """Studies of throttled runs: 2 % spread, a fifth of the runs 15 % slower, blocks alike."""
    size = (replicates, 2, len(logs), pairs)
    runs = rng.normal(0, 0.02, size) + np.where(rng.random(size) < 0.2, np.log(1.15), 0)
    runs[:, 0] += rng.normal(0, 0.02, (replicates, 1, pairs)) + np.asarray(logs)[:, None]
    for first, second in np.exp(runs):
        yield crossings(OCTAVES[: len(logs)], first, second)


@pytest.mark.parametrize("pairs", [6, 10, 30])
@pytest.mark.parametrize(("place", "most"), [(2.0, 98.5), (2.5, 100.0)])
def test_the_interval_holds_the_true_place(pairs, place, most):
    """94 to 96 % on a measured value, 96 to 100 % between two."""
    truth = 16 * 2**place
    held = [
        one.low <= truth * (1 + 1e-12) and truth <= one.high * (1 + 1e-12)
        for found in studies(
            np.random.default_rng([pairs, int(2 * place)]), 0.3 * (np.arange(6) - place), pairs, 500
        )
        for one in found.found
    ]
    assert len(held) >= 450  # the curve is steep: nearly every study shows the crossing, once
    assert 91.5 <= 100 * np.mean(held) <= most


@pytest.mark.parametrize("pairs", [6, 10, 30])
def test_a_crossing_that_is_not_there_is_rarely_shown(pairs):
    """The worst case: far above 1 at one end and exactly 1 elsewhere; at most 5 % wanted."""
    logs = [0.3, *[0.0] * 7]
    shown = [bool(s.found) for s in studies(np.random.default_rng([pairs, 7]), logs, pairs, 500)]
    assert 100 * np.mean(shown) <= 7.5

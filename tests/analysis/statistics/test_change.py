"""The change between two sessions: known truth, error rates, symmetry, refusals."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.statistics.change import change_ratio
from measurement.errors import InputError

REPLICATES = 1000


def lognormal(rng, n):
    return np.exp(rng.normal(0, 0.05, n))


def throttled(rng, n):
    return np.exp(rng.normal(0, 0.02, n)) * np.where(rng.random(n) < 0.2, 1.3, 1.0)


def sessions(rng, shape, n, truth=1.0):
    """(new, its control, old, its control): sessions differ in speed, blocks inside them too."""
    session = np.exp(rng.normal(0, 0.2))
    blocks = session * np.exp(rng.normal(0, 0.05, n)), np.exp(rng.normal(0, 0.05, n))
    return (
        truth * shape(rng, n) * blocks[0],
        shape(rng, n) * blocks[0],
        shape(rng, n) * blocks[1],
        shape(rng, n) * blocks[1],
    )


@pytest.mark.parametrize("n", [6, 10, 30])
@pytest.mark.parametrize("shape", [lognormal, throttled])
def test_an_unchanged_framework_is_accused_in_at_most_five_percent(shape, n):
    rng = np.random.default_rng([n, 7])
    found = [change_ratio(*sessions(rng, shape, n)).ratio.p <= 0.05 for _ in range(REPLICATES)]
    assert 0.5 <= 100 * np.mean(found) <= 5.5


@pytest.mark.parametrize("n", [10, 30])
def test_the_interval_holds_the_truth(n):
    rng = np.random.default_rng([n, 8])
    ratios = [change_ratio(*sessions(rng, lognormal, n, 1.1)).ratio for _ in range(REPLICATES)]
    assert 94 <= 100 * np.mean([r.low <= 1.1 <= r.high for r in ratios]) <= 99.5
    if n == 30:
        assert np.mean([r.p <= 0.05 and r.estimate > 1 for r in ratios]) > 0.95


def test_a_change_as_large_as_the_margin_is_rarely_called_the_same():
    rng = np.random.default_rng(9)
    found = [change_ratio(*sessions(rng, lognormal, 30, 1.05)).same.same for _ in range(500)]
    assert 100 * np.mean(found) <= 5.5


def test_a_quiet_control_shows_the_same_within_the_margin():
    values = [1.00, 1.01, 0.99, 1.01, 1.00, 1.00]
    found = change_ratio([1.3 * v for v in values], [1.3] * 6, values, [1.0] * 6)
    assert found.same.same
    assert found.ratio.p > 0.05


def test_swapping_the_sessions_gives_the_reciprocal(rng):
    new, new_control, old, old_control = sessions(rng, lognormal, 10, 1.2)
    one = change_ratio(new, new_control, old, old_control).ratio
    other = change_ratio(old, old_control, new, new_control).ratio
    assert one.estimate * other.estimate == pytest.approx(1)
    assert one.low * other.high == pytest.approx(1)
    assert one.p == pytest.approx(other.p)


def test_a_session_of_another_speed_changes_nothing(rng):
    new, new_control, old, old_control = sessions(rng, lognormal, 10)
    one = change_ratio(new, new_control, old, old_control).ratio
    slow = change_ratio(3 * new, 3 * new_control, old, old_control).ratio
    assert slow.low == pytest.approx(one.low)
    assert slow.p == pytest.approx(one.p)


def test_always_flagged_as_two_sessions_and_never_as_not_interleaved(rng):
    names = [flag.name for flag in change_ratio(*sessions(rng, lognormal, 8)).warnings]
    assert names[0] == "TWO-SESSIONS"
    assert "NOT-INTERLEAVED" not in names


def test_five_pairs_get_no_interval(rng):
    new, new_control, old, old_control = sessions(rng, lognormal, 6)
    found = change_ratio(new[:5], new_control[:5], old, old_control)
    assert (found.ratio.low, found.ratio.p, found.same.same) == (None, None, False)
    assert "FEW" in [flag.name for flag in found.warnings]


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (([1.0], [1.0, 2.0], [1.0], [1.0]), "new session: pairs need both arms, got 1 and 2"),
        (([1.0], [1.0], [], []), "old session: no pairs"),
        (([1.0], [1.0], [1.0], [0.0]), "old session: second arm: 0.0 is no measurement"),
        (([np.nan], [1.0], [1.0], [1.0]), "new session: first arm: nan is no measurement"),
    ],
)
def test_bad_input_is_refused_by_name(bad, said):
    with pytest.raises(InputError, match=said):
        change_ratio(*bad)


def test_a_margin_must_be_above_zero():
    with pytest.raises(InputError, match="margin 0"):
        change_ratio([1.0], [1.0], [1.0], [1.0], margin=0)

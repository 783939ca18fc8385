"""Planning: the recommended pairs give the power they promise, and refusals are one line."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import planning, planning_report, simulate
from analysis.page import markdown
from analysis.planning import MOST_PAIRS, STEPS, Plan, plan, smoothed, spread_bounds
from analysis.planning_report import Pace, Pilot
from analysis.statistics import paired_ratio
from measurement.errors import InputError


@pytest.fixture(autouse=True)
def few_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Studies that look after every pair are drawn 200 times; eight are enough here."""
    monkeypatch.setattr(planning, "LOOKED_AT", 8)


PILOT = Pilot("mnist-a", "mlx", "pytorch", "train/total_seconds", "training time", 3)


def pilot(pairs: int, variation: float = 0.05, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    first, second = (simulate.lognormal(rng, pairs, variation) for _ in range(2))
    return first / second


def made(
    pairs: int = 10, variation: float = 0.05, seed: int = 0, studies: int = 60, **options: float
) -> Plan:
    ratios, rng = pilot(pairs, variation, seed), np.random.default_rng(1)
    return plan(ratios, rng, studies=studies, **options)  # type: ignore[arg-type]


def power_of(pairs: int, studies: int = 400) -> float:
    rng = np.random.default_rng(5)
    found = [
        paired_ratio(1.05 * simulate.lognormal(rng, pairs), simulate.lognormal(rng, pairs)).p
        for _ in range(studies)
    ]
    return float(np.mean([p is not None and p <= 0.05 for p in found]))


def test_a_large_pilot_finds_the_number_that_gives_the_power() -> None:
    """27 pairs give 80 % at 5 % spread of a run; the smoothing asks for somewhat more."""
    found = made(pairs=100, studies=300)
    assert found.seen.expected.pairs is not None
    assert 24 <= found.seen.expected.pairs <= 45
    assert 0.75 <= power_of(found.seen.expected.pairs) <= 0.97


def test_most_small_pilots_lead_to_a_study_of_enough_power() -> None:
    enough = [
        pairs is None or pairs >= 26
        for seed in range(12)
        for pairs in [made(pairs=10, seed=seed).seen.safe.pairs]
    ]
    assert sum(enough) >= 7  # 73 to 86 % of pilots; under 7 of 12 has p < 0.05 even at 73 %


def test_an_unsmoothed_pilot_has_a_hole_where_the_test_looks() -> None:
    centred = np.array([-3.0, -2.0, -1.0, 1.0, 2.0, 3.0])
    drawn = smoothed(centred, (1, 4000), np.random.default_rng(0))[0]
    assert np.mean(np.abs(drawn) < 0.5) > 0.03
    assert abs(np.median(drawn)) < 0.2


def test_more_is_needed_for_less() -> None:
    small, large = (made(difference=difference).seen.expected.pairs for difference in (0.03, 0.1))
    assert small is not None and large is not None and small > 2 * large
    alone, family = (made(family=family).seen.expected.pairs for family in (1, 10))
    assert alone is not None and family is not None and family > alone
    narrow, wide = (made(margin=margin).same.expected.pairs for margin in (0.03, 0.1))
    assert narrow is not None and wide is not None and narrow > 2 * wide


def test_a_faster_arm_needs_as_many_pairs_as_a_slower_one() -> None:
    mirrored = [1.08, 1.05, 1.02, 1.01, 1 / 1.01, 1 / 1.02, 1 / 1.05, 1 / 1.08]
    slower, faster = (
        plan(mirrored, np.random.default_rng(1), difference=share, studies=150).seen.expected.pairs
        for share in (0.05, 1 / 1.05 - 1)
    )
    assert slower is not None and faster is not None
    assert abs(np.log(slower / faster)) < 0.35


def test_out_of_reach_is_said_not_guessed() -> None:
    found = made(variation=0.6, difference=0.005, margin=0.005)
    assert found.seen.safe.pairs is None and found.same_looks.median is None
    text = markdown(planning_report.page(found, PILOT, None))
    assert f"more than {MOST_PAIRS}" in text and "more than 400" in text and "unknown" in text


def test_a_pilot_without_spread_needs_the_least_there_is() -> None:
    found = plan([1.0] * 6, np.random.default_rng(0), studies=20)
    assert found.seen.safe.pairs == found.same.safe.pairs == 6
    assert found.same_looks.median == 8


def test_the_same_seed_gives_the_same_plan() -> None:
    assert made(variation=0.02) == made(variation=0.02)


def test_progress_is_called_as_often_as_it_says() -> None:
    calls: list[int] = []
    plan([1.0] * 6, np.random.default_rng(0), studies=10, progress=lambda: calls.append(1))
    assert len(calls) == STEPS


@given(st.integers(6, 200))
def test_a_larger_pilot_knows_its_spread_better(pairs: int) -> None:
    low, high = spread_bounds(pairs)
    assert low < 1 < high
    assert spread_bounds(pairs + 1)[1] < high


@pytest.mark.parametrize(
    ("ratios", "options", "expected"),
    [
        ([1.0] * 5, {}, "the pilot has 5 pairs"),
        ([], {}, "the pilot has 0 pairs"),
        ([1.0] * 5 + [float("nan")], {}, "nan is no measurement"),
        ([1.0] * 5 + [0.0], {}, "0.0 is no measurement"),
        ([1.0] * 6, {"difference": 0.0}, "difference 0: expected a share such as 0.05"),
        ([1.0] * 6, {"difference": -1.0}, "difference -1"),
        ([1.0] * 6, {"difference": float("nan")}, "difference nan"),
        ([1.0] * 6, {"margin": 0.0}, "margin 0: expected a share above 0"),
        ([1.0] * 6, {"margin": float("inf")}, "margin inf"),
        ([1.0] * 6, {"power": 80.0}, "power 80: expected a share from 0.5 to 0.99"),
        ([1.0] * 6, {"power": 1.0}, "power 1"),
        ([1.0] * 6, {"family": 0}, "family 0: expected 1 or more"),
    ],
)
def test_refusals(ratios: list[float], options: dict[str, float], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        plan(ratios, np.random.default_rng(0), **options)  # type: ignore[arg-type]


def test_the_pace_leaves_out_a_pause_between_two_sittings() -> None:
    starts = [
        (block, arm, (1000 if block > 2 else 0) + 10.0 * block + 4 * place)
        for block in range(6)
        for place, arm in enumerate(("mlx", "pytorch"))
    ]
    found = planning_report.pace(starts, ("mlx", "pytorch"))
    assert found == Pace(block_seconds=10.0, pair_seconds=10.0)
    assert planning_report.pace(starts[:2], ("mlx", "pytorch")) is None


def test_the_page_names_the_numbers_and_the_time() -> None:
    found = made()
    page = planning_report.page(found, PILOT, Pace(60.0, 24.0))
    safe = found.seen.safe.pairs
    assert safe is not None
    assert f"plan {safe} pairs, {planning_report.duration(60 * safe)}" in page.verdict[0]
    assert page.sections[0].drawings[0].light[:4] == b"\x89PNG"
    names = {record["curve"] for record in planning_report.records(found)}
    assert len(names) == 8
    assert planning_report.metrics(found)["plan/difference_pairs_safe"] == safe

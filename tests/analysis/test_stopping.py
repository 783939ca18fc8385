"""A study that looks after every block: when it stops, and which interval may then speak."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import rows as made

from analysis import comparison
from analysis.detection import detection
from analysis.stopping import FIRST_LOOK, look

DESIGN = {"stopping": "anytime"}


def looked_at(pairs: int, speed: float, seed: int = 1, cap: int = 100):
    study = made.study(cap, design=DESIGN)
    return study, made.rows(pairs, seed, {**made.SPEED, "mlx blas=mkl": speed})


def test_no_look_before_the_interval_exists():
    study, found = looked_at(FIRST_LOOK - 1, 0.2)
    seen = look(study, found)
    assert not seen.resolved and "first look is at 8" in seen.sentence


def test_a_clear_difference_stops_at_the_first_look():
    seen = look(*looked_at(FIRST_LOOK, 0.2))
    assert seen.resolved and "a difference is shown" in seen.sentence


def test_equal_arms_go_on_until_the_whole_interval_is_inside_the_margin():
    assert not look(*looked_at(10, 1.0)).resolved
    seen = look(*looked_at(90, 1.0))
    assert seen.resolved and "the same within 5 %" in seen.sentence


def test_unequal_work_stops_at_once():
    study, found = looked_at(FIRST_LOOK, 1.0)
    found = made.changed(found, "mlx blas=mkl", 3, receipt={"steps": 1})
    seen = look(study, found)
    assert seen.resolved and "not equal work" in seen.sentence


def test_only_the_interval_that_is_valid_at_any_time_speaks():
    study, found = looked_at(12, 0.93)
    fixed = comparison.analyse(replace(study, design={}), found, np.random.default_rng(1))
    anytime = comparison.analyse(study, found, np.random.default_rng(1))
    assert len(fixed.comparisons) == len(anytime.comparisons)
    for one, other in zip(fixed.comparisons, anytime.comparisons, strict=True):
        if one.ratio is None or other.ratio is None:
            assert one.ratio is other.ratio is None
            continue
        assert other.ratio.low <= one.ratio.low <= one.ratio.high <= other.ratio.high, one.metric
        assert "PEEKED" not in {flag.name for flag in other.flags}
        assert other.same.low == other.ratio.low
    assert "PEEKED" in {
        flag.name
        for c in comparison.analyse(
            replace(study, design={}, pairs=6), found, np.random.default_rng(1)
        ).comparisons
        for flag in c.flags
    }


@pytest.mark.parametrize("pairs", [0, 3, 5, 6, 7, 8, 9, 12, 30])
def test_detection_counts_from_six_pairs_to_all(pairs: int):
    rng = np.random.default_rng(2)
    sizes = [n for n, _ in detection(np.exp(rng.normal(0.05, 0.02, pairs)), rng, subsets=5)]
    assert sizes == sorted(set(sizes))
    assert (sizes[-1] == pairs and sizes[0] >= 6) if pairs >= 6 else sizes == []


def test_detection_finds_the_known_and_not_the_absent():
    rng = np.random.default_rng(3)
    shown = dict(detection(np.exp(rng.normal(0.05, 0.03, 40)), rng))
    absent = dict(detection(np.exp(rng.normal(0.0, 0.03, 40)), rng))
    assert shown[6] < shown[20] <= shown[40] == 1.0
    assert max(absent.values()) < 0.3

"""Receipts, the first array that differs, and the completion audit."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from measurement.audit import (
    COMPLETION_BOUNDS,
    RESIDUE_BOUND,
    completed,
    completion,
    receipt_difference,
)
from measurement.comparison import first_difference

COUNTS = ("items", "steps", "flops", "eval_items", "inference_items", "latency_calls")
RECEIPT = {**dict.fromkeys(COUNTS, 300), "weight_change_norm": 3.5, "check_value": 0.21}
finite = st.floats(-1e6, 1e6, allow_subnormal=False)
bad = st.sampled_from([math.nan, math.inf, -math.inf])


# --- receipt_difference


@given(st.sampled_from(COUNTS), st.integers(1, 10**6))
def test_a_count_that_differs_is_named(field, more):
    other = {**RECEIPT, field: RECEIPT[field] + more}
    assert field in (receipt_difference(RECEIPT, other) or "")
    assert field in (receipt_difference(other, RECEIPT) or "")


@given(st.sampled_from(["weight_change_norm", "check_value"]), st.floats(0, 3))
def test_learning_may_differ_by_rounding_only(field, factor):
    other = {**RECEIPT, field: RECEIPT[field] * factor}
    said = receipt_difference(RECEIPT, other)
    assert (said is None) == (receipt_difference(other, RECEIPT) is None)
    if 0.96 < factor < 1.04:
        assert said is None
    if not 0.94 < factor < 1.06:
        assert said is not None and field in said


@pytest.mark.parametrize("field", list(RECEIPT))
@pytest.mark.parametrize("value", [None, math.nan, math.inf, "gone"])
def test_a_receipt_with_a_gap_or_a_nonsense_value_is_refused(field, value):
    gap = {**RECEIPT, field: value}
    if value == "gone":
        del gap[field]
    for a, b in ((gap, RECEIPT), (RECEIPT, gap), (gap, dict(gap))):
        said = receipt_difference(a, b)
        assert said is not None and field in said and "\n" not in said


@pytest.mark.parametrize(
    ("field", "quality"),
    [("answers", "answer_quality"), ("single_answers", "single_answer_quality")],
)
def test_other_answers_pass_where_each_model_holds_its_own_for_as_good(field, quality):
    """0.47 of the norm apart: two sound language models before training, with 10,000 words."""
    given = {**RECEIPT, field: [100.0, 1539532.5, 1765395.0]}
    other = {**RECEIPT, field: [100.0, 1530158.0, 1042754.0]}
    for own, its, equal in (
        (1421.5, 1421.7, True),
        (1421.5, 1465.0, False),
        (1421.5, 1934.3, False),  # half of them elsewhere
        (1421.5, None, False),
        (None, None, False),
        (math.nan, math.nan, False),
        (1.0, 125 / 128, True),  # DeiT, asked singly and in a batch
        (1.0, 121 / 128, False),
        (1.0, 0.5, False),
        (1.0, 1.03, False),  # no shares
    ):
        a, b = {**given, quality: own}, {**other, quality: its}
        assert (receipt_difference(a, b) is None) == equal
        assert equal or field in (receipt_difference(b, a) or "")
    fewer = {**other, field: [99.0, *other[field][1:]], quality: 1421.5}
    assert field in (receipt_difference({**given, quality: 1421.5}, fewer) or "")
    elsewhere = [{**RECEIPT, "initial": [1.0, place], quality: 1421.5} for place in (0.4, 0.2)]
    assert receipt_difference(*elsewhere)


def test_completion_is_not_misled_by_what_a_read_back_took_off_the_device():
    """MLX on CUDA: the step after a read-back of 0.7 GB took 0.1 s longer, the double one was called
    three times the single one."""
    now, away = [0.0], [False]

    def timed_steps(steps):
        seconds = steps * 0.09 + (0.1 if away[0] else 0.0)
        away[0] = False
        now[0] += seconds
        return seconds

    def read_back():
        away[0] = True

    ratio, residue = completion(timed_steps, read_back, lambda: now[0], 0.1)
    assert ratio == pytest.approx(2.0) and residue == 0.0


def test_missing_receipts_are_refused():
    for a, b in ((None, None), (None, RECEIPT), (RECEIPT, None)):
        assert "missing" in (receipt_difference(a, b) or "")
    assert receipt_difference({}, {}) is not None


def test_two_arms_that_learned_nothing_are_refused():
    lazy = {**RECEIPT, "weight_change_norm": 0.0}
    assert "changed" in (receipt_difference(lazy, dict(lazy)) or "")
    assert receipt_difference(RECEIPT, dict(RECEIPT)) is None


# --- first_difference


@given(st.integers(0, 2**32 - 1), st.integers(0, 2), st.floats(1.5, 1e3))
def test_the_first_array_that_differs_is_named(seed, index, factor):
    r = np.random.default_rng(seed)
    a = {name: r.standard_normal((3, 4)) for name in ("x", "y", "z")}
    b = copy.deepcopy(a)
    for name in list(a)[index:]:
        b[name][1, 2] += factor * 1e-4 * np.abs(a[name]).max()
    named = list(a)[index]
    for difference in (first_difference(a, b, 1e-4), first_difference(b, a, 1e-4)):
        assert difference is not None and difference.startswith(f"{named} differs")
    assert first_difference(a, b, 1e-4 * factor * 1.01) is None
    assert first_difference(a, copy.deepcopy(a), 0.0) is None


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        ({"x": [1.0, 2.0]}, {"x": [[1.0, 2.0]]}, "x has shape (2,) against (1, 2)"),
        ({"x": [1.0]}, {}, "x is missing"),
        ({}, {"x": [1.0]}, "x is missing"),
        ({"x": [1.0], "y": [1.0]}, {"y": [2.0]}, "x is missing"),
        ({"x": [math.nan]}, {"x": [math.nan]}, "x differs"),
        ({"x": [math.nan, 1.0]}, {"x": [1.0, 1.0]}, "x differs"),
        ({"x": [1.0, 1.0]}, {"x": [math.nan, 1.0]}, "x differs"),
        ({"x": [math.inf]}, {"x": [math.inf]}, "x differs"),
        ({"x": [math.inf, 1.0]}, {"x": [1.0, 1.0]}, "x differs"),
        ({"x": [0.0]}, {"x": [1e-20]}, "x differs"),
        ({"x": 1.0}, {"x": 1.1}, "x differs"),
        ({"x": np.uint8([0])}, {"x": np.uint8([255])}, "x differs"),
    ],
)
def test_first_difference_on_shapes_gaps_and_nonsense(a, b, said):
    assert (first_difference(a, b, 1e-3) or "").startswith(said)
    assert first_difference(b, a, 1e-3) is not None


def test_equal_nothing_is_equal():
    assert first_difference({}, {}, 0.0) is None
    assert first_difference({"x": np.zeros((0, 3))}, {"x": np.zeros((0, 3))}, 0.0) is None
    assert first_difference({"x": np.zeros(3)}, {"x": np.zeros(3)}, 0.0) is None


# --- completion


class Device:
    """A clock, and work that takes simulated time when it is waited for."""

    def __init__(self, submit: float, work: float, waits: bool) -> None:
        self.now, self.pending = 0.0, 0.0
        self.submit, self.work, self.waits = submit, work, waits

    def timed_steps(self, steps: int) -> float:
        start = self.now
        for _ in range(steps):
            self.now += self.submit
            self.pending += self.work
        if self.waits:
            self.drain()
        return self.now - start

    def drain(self) -> None:
        self.now, self.pending = self.now + self.pending, 0.0

    def audit(self) -> bool:
        ratio, residue = completion(self.timed_steps, self.drain, lambda: self.now, 0.1)
        return completed(ratio, residue)


@pytest.mark.parametrize("work", [1e-5, 1e-3, 0.2, 30.0])
def test_an_honest_barrier_passes_the_audit(work):
    assert Device(work / 10, work, waits=True).audit()


@pytest.mark.parametrize("work", [1e-5, 1e-3, 0.2, 30.0])
@pytest.mark.parametrize("submit", [0.0, 1e-9, 1e-6])
def test_a_barrier_that_does_not_wait_fails_the_audit(work, submit):
    """Also on a clock too coarse to see the submission at all."""
    assert not Device(submit, work, waits=False).audit()


def test_work_done_once_fails_the_audit():
    """Steps that cost nothing beside a fixed cost: twice the steps take the same time."""
    clock = Device(0.0, 0.0, waits=True)

    def timed(steps: int) -> float:
        clock.now += 0.2
        return 0.2

    ratio, residue = completion(timed, lambda: None, lambda: clock.now, 0.1)
    assert ratio == pytest.approx(1.0) and not completed(ratio, residue)


@given(st.floats(allow_nan=True), st.floats(allow_nan=True))
def test_completed_holds_inside_its_bounds_only(ratio, residue):
    inside = COMPLETION_BOUNDS[0] <= ratio <= COMPLETION_BOUNDS[1] and residue <= RESIDUE_BOUND
    assert completed(ratio, residue) == inside

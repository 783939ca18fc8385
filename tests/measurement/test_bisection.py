"""A simulated probe with a known threshold: the search always finds it, and says when it cannot."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from measurement.bisection import Found, Probe, search, slope, step, steps

BASE, ITEM = 1000, 7


def up_to(threshold: int, tried: list[int] | None = None):  # noqa: ANN201
    def probe(items: int) -> Probe:
        if tried is not None:
            tried.append(items)
        if items <= threshold:
            return Probe(items, "fits", peak_bytes=BASE + ITEM * items)
        return Probe(items, "too large", "no memory", BASE + ITEM * threshold)

    return probe


@given(
    threshold=st.integers(0, 10**6),
    most=st.integers(1, 10**6),
    resolution=st.sampled_from([0.0, 0.001, 0.02, 0.3, 1.0]),
    confirm=st.booleans(),
)
def test_the_threshold_is_always_found(
    threshold: int, most: int, resolution: float, confirm: bool
) -> None:
    tried: list[int] = []
    found = search(up_to(threshold, tried), resolution, most, confirm)
    assert max(tried) <= most and not found.conflicts
    assert tried == [probe.items for probe in found.probes]
    if threshold >= most:
        assert (found.largest, found.first) == (most, None)
        assert f"most={most}" in found.censored
        return
    assert found.censored == "" and found.first is not None
    assert found.largest <= threshold < found.first
    assert found.first - found.largest <= step(found.largest, resolution)
    if resolution == 0:
        assert found.largest == threshold
    assert len(tried) <= 2 * math.log2(threshold + 2) + 4
    assert tried.count(found.first) == 1 + confirm
    assert found.at(found.first).reason == "no memory"
    assert (found.at(found.largest) is None) == (found.largest == 0)


@given(threshold=st.integers(1, 10**5), deaf=st.integers(1, 10**5))
def test_a_probe_without_an_answer_leaves_an_at_least(threshold: int, deaf: int) -> None:
    real = up_to(threshold)

    def probe(items: int) -> Probe:
        return Probe(items, "no answer", "it took longer") if items >= deaf else real(items)

    found = search(probe, 0.0, 10**6)
    assert found.largest <= threshold and found.largest < deaf
    if deaf <= threshold or any(p.outcome == "no answer" for p in found.probes):
        assert "it took longer" in found.censored
    else:
        assert found.censored == "" and found.largest == threshold


@given(threshold=st.integers(1, 5000), resolution=st.sampled_from([0.0, 0.02]))
def test_what_is_said_to_be_left_is_never_too_little(threshold: int, resolution: float) -> None:
    said: list[int | None] = []
    found = search(up_to(threshold), resolution, 10**5, left=said.append)
    assert len(said) == len(found.probes)
    for place, number in enumerate(said):
        assert number is None or number >= len(said) - place


def test_steps_of_nothing_left() -> None:
    assert steps(10, 11, 0.0) == 0 and steps(0, 1, 0.02) == 0


def test_answers_that_contradict_each_other_are_said() -> None:
    calls: dict[int, int] = {}

    def moody(items: int) -> Probe:
        calls[items] = calls.get(items, 0) + 1
        fits = items <= 10 and not (items == 10 and calls[items] > 1)
        return Probe(items, "fits" if fits else "too large", "" if fits else "noise", 100 + items)

    found = search(moody, 0.0, 100)
    assert found.largest == 8 and found.first == 10  # 9 was never tried
    assert found.conflicts == ("10 fitted in one probe and not in another (noise)",)


def test_a_larger_one_that_fits_is_said() -> None:
    calls: dict[int, int] = {}

    def odd(items: int) -> Probe:
        calls[items] = calls.get(items, 0) + 1
        fits = items <= 10 or (items == 11 and calls[items] > 1)
        if items == 10 and calls[items] > 1:
            fits = False
        return Probe(items, "fits" if fits else "too large", "" if fits else "odd", 100 + items)

    said = " ".join(search(odd, 0.0, 100).conflicts)
    assert "11 fitted, although 10 did not: the answer is not monotonic" in said


def test_a_peak_that_falls_is_said() -> None:
    peaks = {1: 100, 2: 110, 4: 90, 8: 200}
    found = search(
        lambda n: Probe(n, "fits" if n < 9 else "too large", peak_bytes=peaks.get(n, 300)),
        1.0,
        64,
    )
    assert found.conflicts == ("the peak at 4 is 18 % below that at 2",)


def test_the_memory_of_one_item() -> None:
    rise, start = slope(search(up_to(700), 0.02, 10**5)) or (0.0, 0.0)
    assert rise == pytest.approx(ITEM) and start == pytest.approx(BASE)
    one = (Probe(1, "fits", peak_bytes=5), Probe(1, "fits", peak_bytes=6))
    assert slope(Found(one, 1, 2, "", ())) is None

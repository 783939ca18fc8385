"""The largest count that still fits: doubling until it does not, then bisection; arithmetic only.

A probe is expensive and may fail, so everything that was tried is kept, and an end that came too
early is said: a search that a probe did not answer knows no more than 'at least'.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

PEAK_TOLERANCE = 0.05  # a peak may be this much below that of a smaller count before it is said


@dataclass(frozen=True)
class Probe:
    """One count tried. reason: why it does not fit, or why there is no answer. peak_bytes: memory
    as far as it was seen; None where it was not."""

    items: int
    outcome: Literal["fits", "too large", "no answer"]
    reason: str = ""
    peak_bytes: int | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Found:
    """largest: the most items that fit, 0 where not even one does; first: the fewest that do not,
    None where none was seen; censored: why the largest is only 'at least', '' where it is not;
    conflicts: what the probes say against each other, a sentence each."""

    probes: tuple[Probe, ...]
    largest: int
    first: int | None
    censored: str
    conflicts: tuple[str, ...]

    def at(self, items: int | None) -> Probe | None:
        """The first probe of a count that says what the search concluded of it."""
        outcome = "fits" if items == self.largest else "too large"
        return next((p for p in self.probes if p.items == items and p.outcome == outcome), None)


def search(
    probe: Callable[[int], Probe],
    resolution: float,
    most: int,
    confirm: bool = True,
    left: Callable[[int | None], None] = lambda probes: None,
) -> Found:
    """The largest count from 1 to `most` that fits.

    resolution: the fewest that do not fit are above it by at most this share (0: by one item).
    confirm: both are tried once more. left(probes): told before each probe how many are left, None
    while that is not known. The probes should be monotonic; where they are not, Found says so.
    """
    probes: list[Probe] = []

    def fits(items: int, known: int | None) -> bool:
        left(known)
        probes.append(probe(items))
        if probes[-1].outcome == "no answer":
            raise _NoAnswer(f"the probe of {items}: {probes[-1].reason}")
        return probes[-1].outcome == "fits"

    low, high = 0, 1
    try:
        while fits(high, None):
            low = high
            if high >= most:
                return _found(probes, f"larger ones were not tried (most={most})")
            high = min(2 * high, most)
        again = 2 * confirm
        while high - low > step(low, resolution):
            middle = (low + high) // 2
            if fits(middle, steps(low, high, resolution) + again):
                low = middle
            else:
                high = middle
        for number, items in enumerate([n for n in (low, high) if n][: again or 0]):
            fits(items, again - number)
    except _NoAnswer as error:
        return _found(probes, str(error))
    return _found(probes, "")


class _NoAnswer(Exception):
    """A probe ended without one."""


def step(low: int, resolution: float) -> int:
    """How far apart the two ends may be left."""
    return max(1, int(resolution * low))


def steps(low: int, high: int, resolution: float) -> int:
    """Probes of a bisection that are still to come, at most.

    >>> steps(64, 128, 0.0), steps(64, 128, 0.02)
    (6, 6)
    """
    return max(0, math.ceil(math.log2((high - low) / step(low, resolution))))


def _found(probes: list[Probe], censored: str) -> Found:
    fitting = [p.items for p in probes if p.outcome == "fits"]
    too_large = [p.items for p in probes if p.outcome == "too large"]
    first = min(too_large, default=None)
    largest = max((n for n in fitting if first is None or n < first), default=0)
    return Found(tuple(probes), largest, first, censored, tuple(_conflicts(probes)))


def _conflicts(probes: list[Probe]) -> list[str]:
    said = []
    too_large = {p.items: p for p in probes if p.outcome == "too large"}
    fitting = {p.items: p for p in probes if p.outcome == "fits"}
    for items in sorted(too_large.keys() & fitting.keys()):
        said.append(f"{items} fitted in one probe and not in another ({too_large[items].reason})")
    first = min(too_large, default=None)
    beyond = [n for n in fitting if first is not None and n > first]
    if beyond:
        said.append(f"{max(beyond)} fitted, although {first} did not: the answer is not monotonic")
    measured = sorted((p.items, p.peak_bytes) for p in fitting.values() if p.peak_bytes)
    for (fewer, high), (more, low) in zip(measured, measured[1:], strict=False):
        if low < high * (1 - PEAK_TOLERANCE):
            share = 100 * (1 - low / high)
            said.append(f"the peak at {more} is {share:.0f} % below that at {fewer}")
    return said


def slope(found: Found) -> tuple[float, float] | None:
    """(bytes of one more item, bytes at none) by least squares over the counts that fit from a
    quarter of the largest on; None where fewer than two were measured."""
    points = {
        p.items: p.peak_bytes
        for p in found.probes
        if p.outcome == "fits" and p.peak_bytes and 4 * p.items >= found.largest
    }
    if len(points) < 2:
        return None
    rise, start = np.polyfit(list(points), [float(value) for value in points.values()], 1)
    return float(rise), float(start)

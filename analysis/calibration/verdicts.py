"""What is counted in a simulated study, and where its rate must lie.

A band is what is known about the true rate beforehand; it is never read off this calibration.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import numpy as np

from analysis import simulate
from analysis.calibration.cell import Band
from analysis.simulate import Shape

SIZES = (6, 10, 30, 100)
EQUAL = "equal arms"
UNLIKE_ARMS = "unlike arms"
SEQUENTIAL = "drift, one arm after the other"
ALPHA = 0.05

NOMINAL = Band(
    4.3,
    5.7,
    "nominal 5 %; interpolating between ranks misses it by up to 0.7 points (Hettmansperger & "
    "Sheather 1986; Nyblom 1992)",
)
NOMINAL_COVERAGE = Band(
    94.3, 95.7, "nominal 95 %; interpolating between ranks misses it by up to 0.7 points"
)
EXACT = Band(4.5, 5.5, "nominal 5 %")
EXACT_COVERAGE = Band(94.5, 95.5, "nominal 95 %")
CAUTIOUS = Band(
    2.0, 5.0, "at most the nominal 5 %: square-and-add is cautious, not blind (Zou & Donner 2008)"
)
CAUTIOUS_COVERAGE = Band(94.5, 98.0, "at least the nominal 95 %: square-and-add is cautious")
REFUSED = Band(100, 100, "the sample cannot carry an interval")


class Interval(Protocol):
    """What every ratio of the library has."""

    @property
    def low(self) -> float | None: ...
    @property
    def high(self) -> float | None: ...
    @property
    def p(self) -> float | None: ...


def differs(result: Interval) -> bool:
    """The verdict "there is a difference"."""
    return result.p is not None and result.p <= ALPHA


def slower(result: Interval) -> bool:
    """The verdict "the first arm is slower"."""
    return differs(result) and result.low is not None and result.low > 1


def covers(result: Interval, truth: float) -> bool:
    """The interval exists and holds the true ratio."""
    return result.low is not None and result.high is not None and result.low <= truth <= result.high


def refused(result: Interval) -> bool:
    """Neither interval nor p."""
    return result.low is None and result.high is None and result.p is None


def simulated(percent: float, studies: int = 4000) -> Band:
    """A rate known from an independent simulation of so many studies, give or take its error.

    Three standard errors, and never less than the rule of three: what was never seen in n studies
    may happen in 3/n of them.

    >>> print(simulated(42)), print(simulated(100))
    39.7 to 44.3
    at least 99.9
    (None, None)
    """
    reach = max(3 * float(np.sqrt(percent * (100 - percent) / studies)), 300 / studies)
    return Band(
        round(max(percent - reach, 0), 1),
        round(min(percent + reach, 100), 1),
        f"{percent:g} % in an independent simulation of {studies} studies, by other code",
    )


@lru_cache(maxsize=64)
def true_median_of_pairs(first: Shape, second: Shape) -> float:
    """Median ratio of a pair of runs of two shapes: from a million pairs, as all truths here."""
    return float(np.median(_million(first, 1) / _million(second, 2)))


@lru_cache(maxsize=64)
def true_average(first: Shape, second: Shape) -> float:
    """Ratio of the geometric means of two shapes."""
    return float(np.exp(np.mean(np.log(_million(first, 1))) - np.mean(np.log(_million(second, 2)))))


@lru_cache(maxsize=64)
def true_percentile(first: Shape, second: Shape, percentile: float) -> float:
    """Ratio of a percentile of two shapes; 50: of the medians."""
    a, b = (np.percentile(x, percentile) for x in (_million(first, 1), _million(second, 2)))
    return float(a / b)


def _million(shape: Shape, seed: int) -> np.ndarray:
    return shape(np.random.default_rng([20240229, seed]), 1_000_000)


def narrow(rng: np.random.Generator, n: int) -> np.ndarray:
    """A very steady machine, 2 % spread."""
    return simulate.lognormal(rng, n, 0.02)


def wide(rng: np.random.Generator, n: int) -> np.ndarray:
    """A noisy machine, 15 % spread."""
    return simulate.lognormal(rng, n, 0.15)


UNLIKE: dict[str, Shape] = {
    "bimodal20": simulate.bimodal20,
    "outliers": simulate.outliers,
    "lognormal 15 %": wide,
    "heavy": simulate.heavy,
}
"""Shapes of the first arm when the second one is `narrow`."""

"""Cells of Q1 to Q5: typical run, difference, sameness, average, percentiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from analysis import simulate, statistics
from analysis.calibration import verdicts as v
from analysis.calibration.cell import Band, Cell, Study
from analysis.calibration.verdicts import SIZES, Interval
from analysis.simulate import DRIFTS, SHAPES, Shape, lognormal

Method = Callable[[np.ndarray, np.ndarray], Interval]
Counted = Callable[[Interval], bool]


def two_arms(
    method: Method, counted: Counted, n: int, first: Shape, second: Shape, ratio: float = 1.0
) -> Study:
    """Independent runs of both arms; the first arm's are `ratio` times as long."""
    return lambda rng: counted(method(ratio * first(rng, n), second(rng, n)))


def drifting(method: Method, n: int, drift: str, sequential: bool) -> Study:
    """One program measured against itself while the machine drifts."""

    def study(rng: np.random.Generator) -> bool:
        times = simulate.session(rng, 2 * n, drift)
        if sequential:
            return v.differs(method(*simulate.one_after_the_other(times)))
        return v.differs(method(*simulate.in_random_pairs(rng, times)))

    return study


def covering(method: Method, n: int, shape: Shape, truth: Callable[[], float]) -> Study:
    """Two unlike arms; counted when the interval holds the true ratio."""
    return lambda rng: v.covers(method(shape(rng, n), v.narrow(rng, n)), truth())


def typical_run() -> Iterator[Cell]:
    """Q1, Q2 of pairs, and Q1' of runs that were not paired."""
    paired, unpaired = statistics.paired_ratio, statistics.unpaired_ratio
    ours = partial(Cell, "Q1", "paired_ratio")
    other = partial(Cell, "Q1'", "unpaired_ratio")
    fooled = Band(8, 100, "one arm after the other: drift counts as a difference")
    for n in SIZES:
        for name, shape in SHAPES.items():
            same = partial(two_arms, counted=v.differs, n=n, first=shape, second=shape)
            yield ours("false positives", v.EQUAL, name, n, same(paired), v.NOMINAL)
            yield other("false positives", v.EQUAL, name, n, same(unpaired), v.CAUTIOUS)
        for name, shape in v.UNLIKE.items():
            middle = covering(paired, n, shape, partial(v.true_median_of_pairs, shape, v.narrow))
            yield ours("coverage", v.UNLIKE_ARMS, name, n, middle, v.NOMINAL_COVERAGE)
            medians = covering(unpaired, n, shape, partial(v.true_percentile, shape, v.narrow, 50))
            yield other("coverage", v.UNLIKE_ARMS, name, n, medians, v.CAUTIOUS_COVERAGE)
        for drift in DRIFTS:
            study = drifting(paired, n, drift, sequential=False)
            yield ours(
                "false positives", "drift, pairs in random order", drift, n, study, v.NOMINAL
            )
            study = drifting(unpaired, n, drift, sequential=True)
            yield other("false positives", v.SEQUENTIAL, drift, n, study, fooled, "counter-example")
    refuse = partial(two_arms, counted=v.refused, first=lognormal, second=lognormal)
    yield ours("refused", "too few pairs", "", 5, refuse(paired, n=5), v.REFUSED)
    yield other("refused", "too few runs", "", 5, refuse(unpaired, n=5), v.REFUSED)


POWER = {  # percent of studies that see a true ratio of 1.05, at 6, 10, 30 pairs
    "lognormal": (27, 42, 85),
    "outliers": (46, 68, 99),
    "bimodal20": (33, 49, 96),
    "bimodal50": (17, 23, 74),
    "heavy": (30, 48, 92),
}
SAME = {  # percent called the same within 5 % at a true ratio of 1, at 6, 10, 30, 100 pairs
    "lognormal": (12, 23, 82, 100),
    "outliers": (29, 57, 99, 100),
    "bimodal20": (9, 42, 97, 100),
}


def power() -> Iterator[Cell]:
    """Q2: how often is a 5 % slower arm found?"""
    cell = partial(Cell, "Q1", "paired_ratio", "power", "ratio 1.05")
    for name, expected in POWER.items():
        bands = (*(v.simulated(percent) for percent in expected), Band(97, 100, "close to 1"))
        for n, band in zip(SIZES, bands, strict=True):
            shape = SHAPES[name]
            study = two_arms(statistics.paired_ratio, v.differs, n, shape, shape, 1.05)
            yield cell(name, n, study, band)


def sameness() -> Iterator[Cell]:
    """Q3: the same within 5 %, at the edge of the margin (an error) and at 1 (power)."""
    # With few pairs the interval seldom fits into the margin at all, and the error is smaller.
    error = Band(0, 5.7, "at most the nominal 5 %, as the interval of paired_ratio")
    cell = partial(Cell, "Q3", "equivalence")
    for name, powers in SAME.items():
        for n, percent in zip(SIZES, powers, strict=True):
            edge, one = (_called_same(n, SHAPES[name], ratio) for ratio in (1.05, 1.0))
            yield cell("false positives", "ratio 1.05, margin 5 %", name, n, edge, error)
            yield cell("power", "ratio 1, margin 5 %", name, n, one, v.simulated(percent))
    wrong_rule = "p of 0.05 or more read as the same, ratio 1.05"
    for n, missed in zip(SIZES[:2], (73, 58), strict=True):
        study = two_arms(
            statistics.paired_ratio, lambda r: not v.differs(r), n, lognormal, lognormal, 1.05
        )
        yield Cell(
            "Q3",
            "paired_ratio",
            "false positives",
            wrong_rule,
            "lognormal",
            n,
            study,
            v.simulated(missed),
            "counter-example",
        )
    four = np.array([1.0, 1.1, 0.9, 1.05])
    yield cell(
        "refused",
        "too few pairs",
        "",
        4,
        lambda rng: statistics.equivalence(rng.permutation(four), four).low is None,
        v.REFUSED,
    )


def _called_same(n: int, shape: Shape, ratio: float) -> Study:
    return lambda rng: statistics.equivalence(ratio * shape(rng, n), shape(rng, n)).same


AVERAGE = {  # shape of the first arm -> true coverage at 30 and 100 pairs
    "lognormal 15 %": (v.EXACT_COVERAGE, v.EXACT_COVERAGE),
    "bimodal20": (Band(92.0, 95.5, "a mode with a share of 20 % is seen"),) * 2,
    "outliers": (
        Band(74, 84, "one sample of 30 in five holds no slow run of a share of 5 %"),
        Band(86, 92, "a sample of 100 holds them unevenly"),
    ),
    "heavy": (
        Band(79, 88, "much of a heavy tail lies outside a sample of 30"),
        Band(86, 92, "some of it still outside a sample of 100"),
    ),
}


def average() -> Iterator[Cell]:
    """Q4: the average run. Coverage fails where slow runs are rare: shown, and always flagged."""
    method = statistics.average_ratio
    cell = partial(Cell, "Q4", "average_ratio")
    for name, bands in AVERAGE.items():
        for n, band in zip((30, 100), bands, strict=True):
            shape = v.UNLIKE[name]
            study = covering(method, n, shape, partial(v.true_average, shape, v.narrow))
            if band.high < 94:
                setting = "unlike arms, slow runs rare"
                yield cell("coverage", setting, name, n, study, band, "limit")
            else:
                yield cell("coverage", v.UNLIKE_ARMS, name, n, study, band)
    equal = two_arms(method, v.differs, 30, lognormal, lognormal)
    yield cell("false positives", v.EQUAL, "lognormal", 30, equal, v.EXACT)
    few = two_arms(method, v.refused, 29, lognormal, lognormal)
    yield cell("refused", "too few pairs", "", 29, few, v.REFUSED)


CALLS = 100


def percentiles() -> Iterator[Cell]:
    """Q5: p90 of the calls inside a run; Q5': p90 over runs."""
    inside = partial(Cell, "Q5", "percentile_ratio", "false positives")
    over = partial(Cell, "Q5'", "tail_ratio")
    pooled = Band(35, 80, "calls of one run are no independent runs")
    for within in (0.2, 0.6):
        for n in SIZES[:3]:
            icc = f"ICC {within:g}"
            study = _latencies(n, within, pooled=False)
            yield inside("p90 of 100 calls a run", icc, n, study, v.NOMINAL)
            study, setting = _latencies(n, within, pooled=True), "p90 of the calls of all runs"
            yield over("false positives", setting, icc, n, study, pooled, "counter-example")
    p90 = statistics.tail_ratio
    cautious = Band(94.5, 98.5, v.CAUTIOUS_COVERAGE.source)
    for n in (36, 100):
        for name, shape in v.UNLIKE.items():
            study = covering(p90, n, shape, partial(v.true_percentile, shape, v.narrow, 90))
            yield over("coverage", f"p90 over runs, {v.UNLIKE_ARMS}", name, n, study, cautious)
    few = two_arms(p90, v.refused, 35, lognormal, lognormal)
    yield over("refused", "too few runs", "", 35, few, v.REFUSED)


def _latencies(n: int, within: float, pooled: bool) -> Study:
    """A program's calls against its own calls."""

    def study(rng: np.random.Generator) -> bool:
        first, second = (simulate.calls(rng, n, CALLS, within) for _ in range(2))
        if pooled:
            return v.differs(statistics.tail_ratio(first.ravel(), second.ravel()))
        p90, other = ([statistics.run_percentile(run) for run in arm] for arm in (first, second))
        return v.differs(statistics.percentile_ratio(p90, other, CALLS))

    return study


def cells() -> Iterator[Cell]:
    """All of Q1 to Q5."""
    for part in (typical_run, power, sameness, average, percentiles):
        yield from part()

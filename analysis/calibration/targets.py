"""Cells of Q6: time to a target that some runs never reach."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from analysis import simulate, statistics
from analysis.calibration import verdicts as v
from analysis.calibration.cell import Band, Cell, Study
from analysis.calibration.verdicts import SIZES
from analysis.simulate import BUDGET

FAILS = 0.4
FASTER = 0.9
TRADE = "fails in 40 %, else 10 % faster"


def cells() -> Iterator[Cell]:
    """The test, the median time, the expected time with restarts, and what dropping failures does."""
    # With many censored runs the test has few values to choose from and errs less.
    exact = Band(2.0, 5.5, "at most the nominal 5 %: the permutation test is exact")
    wrong = Band(0, 1.2, "the arm that fails is not the earlier one")
    test = partial(Cell, "Q6", "log_rank", dear=True)
    for n in SIZES[:3]:
        for never in (0.0, 0.5):
            study = _log_rank(n, never, never, 1.0)
            yield test("false positives", v.EQUAL, f"{100 * never:g} % never", n, study, exact)
    study = _log_rank(6, FAILS, 0.0, FASTER)
    yield test("false positives", f"called earlier: {TRADE}", "", 6, study, wrong)
    three = np.array([1.0, 1.1, 1.2])
    yield test(
        "refused",
        "too few runs",
        "",
        3,
        lambda rng: statistics.log_rank(three, three, [2.0] * 3, [2.0] * 3, rng).p is None,
        v.REFUSED,
    )
    for n in SIZES[:3]:
        unless = 100 * (1 - (1 - FAILS) ** n)
        band = Band(round(unless - 0.1, 1), 100, "unless none of the runs failed")
        setting = f"called later: {TRADE}"
        yield Cell("Q6", "expected_time", "power", setting, "", n, _expected_later(n), band)
    median = partial(Cell, "Q6", "arrival", dear=True)
    cautious = Band(94.3, 99.5, "at least 95 %: a limit that touches a failure is infinite")
    for n in SIZES:
        for never, band in ((0.0, v.NOMINAL_COVERAGE), (0.2, cautious)):
            variant, study = f"{100 * never:g} % never", _median_time(n, never)
            yield median("coverage", "median time", variant, n, study, band)
    yield Cell(
        "Q6",
        "unpaired_ratio",
        "false positives",
        f"failures dropped, called earlier: {TRADE}",
        "",
        30,
        _failures_dropped,
        Band(20, 100, "without its failures the failing arm looks faster"),
        "counter-example",
    )


def _log_rank(n: int, never: float, other_never: float, scale: float) -> Study:
    """Counted: a difference; of unlike arms only one in favour of the first."""
    alike, budgets = never == other_never, [BUDGET] * n

    def study(rng: np.random.Generator) -> bool:
        first = simulate.arrival_times(rng, n, never, scale)
        second = simulate.arrival_times(rng, n, other_never)
        test = statistics.log_rank(first, second, budgets, budgets, rng)
        found = test.p is not None and test.p <= v.ALPHA
        return found and (alike or test.observed_minus_expected > 0)

    return study


def _expected_later(n: int) -> Study:
    def study(rng: np.random.Generator) -> bool:
        failing = simulate.arrival_times(rng, n, FAILS, FASTER)
        later = statistics.expected_time(failing, [BUDGET] * n)
        return later > statistics.expected_time(simulate.arrival_times(rng, n, 0), [BUDGET] * n)

    return study


def _median_time(n: int, never: float) -> Study:
    # The median of all runs is this quantile of those that arrive.
    truth = simulate.arrival_quantile(0.5 / (1 - never))

    def study(rng: np.random.Generator) -> bool:
        found = statistics.arrival(simulate.arrival_times(rng, n, never), [BUDGET] * n)
        return found.low is not None and found.high is not None and found.low <= truth <= found.high

    return study


def _failures_dropped(rng: np.random.Generator) -> bool:
    failing = simulate.arrival_times(rng, 30, FAILS, FASTER)
    arrived = failing[np.isfinite(failing)]
    ratio = statistics.unpaired_ratio(arrived, simulate.arrival_times(rng, 30, 0))
    return v.differs(ratio) and ratio.estimate < 1

"""Cells of Q7 to Q11: machines, families, stopping, drift, models, sessions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from analysis import simulate, statistics
from analysis.calibration import verdicts as v
from analysis.calibration.cell import Band, Cell, Study
from analysis.calibration.verdicts import SIZES, Interval
from analysis.simulate import lognormal
from analysis.statistics import Ratio

PAIRS_A_MACHINE = 10
FAMILY = 5
MODELS = 6
PERMUTATIONS = 999


def measured(rng: np.random.Generator, logs: np.ndarray, n: int = PAIRS_A_MACHINE) -> list[Ratio]:
    """One Q1 ratio for each true log ratio."""
    return [
        statistics.paired_ratio(np.exp(log) * lognormal(rng, n), lognormal(rng, n)) for log in logs
    ]


def machines() -> Iterator[Cell]:
    """Q7: does a ratio hold on other machines? n is the number of machines."""
    cell = partial(Cell, "Q7", "across_machines", dear=True)
    fixed = Band(94.5, 99.5, v.CAUTIOUS_COVERAGE.source)
    for k in (3, 6):
        for tau in (0.05, 0.2):
            variant = f"spread {100 * tau:g} %"
            for setting, band in (
                ("mean of machines like these", v.EXACT_COVERAGE),
                ("next machine", Band(94.5, 97, "95 %, more where noise adds to the spread")),
                ("mean of these machines", fixed),
            ):
                study = _machines(k, tau, setting)
                yield cell("coverage", setting, variant, k, study, band)
        met = 100 * (1 - 0.75**k)
        never = f"{100 - met:.0f} % of samples never meet the odd one"
        band = Band(round(met - 3, 1), round(met + 3, 1), never)
        study = _machines(k, 0.2, "mean of machines like these", odd=True)
        yield cell("coverage", "one machine in four is odd", "", k, study, band, "limit")
    yield cell(
        "refused",
        "too few machines",
        "",
        2,
        lambda rng: v.refused(statistics.across_machines(measured(rng, np.zeros(2)))),
        v.REFUSED,
    )


def _machines(k: int, tau: float, asked: str, odd: bool = False) -> Study:
    def study(rng: np.random.Generator) -> bool:
        if odd:  # a fourth of all machines lies apart, so that the spread over all is tau
            apart = tau / np.sqrt(0.25 * 0.75)
            logs, mean = apart * (rng.random(k + 1) < 0.25), 0.25 * apart
        else:
            logs, mean = rng.normal(0, tau, k + 1), 0.0
        found = statistics.across_machines(measured(rng, logs[:k]))
        low, high, truth = {
            "mean of machines like these": (found.low, found.high, mean),
            "next machine": (found.prediction_low, found.prediction_high, logs[k]),
            "mean of these machines": (found.these_low, found.these_high, logs[:k].mean()),
        }[asked]
        return low is not None and high is not None and bool(low <= np.exp(truth) <= high)

    return study


def families() -> Iterator[Cell]:
    """Q8: a declared family of tests, all of them true nulls; counted when any is rejected."""
    whole = Band(3.5, 5.7, "at most the nominal 5 % for the whole family (Holm 1979)")
    any_row = Band(19.7, 25.4, "1 - (1 - p)^5 with p between 4.3 and 5.7 %")
    cell = partial(Cell, "Q8", "holm", "false positives")
    for n in SIZES[1:3]:
        yield cell(f"any of {FAMILY} equal rows", "", n, _family(n, adjusted=True), whole)
        setting, study = f"any of {FAMILY} equal rows, not adjusted", _family(n, adjusted=False)
        yield cell(setting, "", n, study, any_row, "counter-example")
    won = statistics.paired_ratio([1.0] * 8, [2.0 + i / 10 for i in range(8)])
    yield Cell(
        "Q8",
        "holm_pairs",
        "refused",
        "too few pairs for a family of 10, all won",
        "",
        8,
        lambda rng: (
            statistics.holm_pairs(10) > 8
            and min(statistics.holm([won.p or 0.0] * 10).adjusted) > v.ALPHA
        ),
        v.REFUSED,
    )


def _family(n: int, adjusted: bool) -> Study:
    def study(rng: np.random.Generator) -> bool:
        p = [1.0 if ratio.p is None else ratio.p for ratio in measured(rng, np.zeros(FAMILY), n)]
        return min(statistics.holm(p).adjusted if adjusted else p) <= v.ALPHA

    return study


RESOLVED = {10: 10.56, 30: 53.22, 100: 99.27}
"""Percent of studies whose anytime interval has excluded 1 by so many pairs, at a true ratio of 1.05
and 5 % spread: exact, by the recursion over the number of wins (a test repeats it)."""

EVER_WRONG = 3.09
"""The same at a true ratio of 1, by 200 pairs."""

MOST_PAIRS = 200


def stopping() -> Iterator[Cell]:
    """Q9: looking after every pair."""
    anytime, every = partial(Cell, "Q9", "anytime_ratio", dear=True), "a look after every pair"
    exact = "exact, by the recursion over the number of wins"
    study = _ever(1.0, range(6, MOST_PAIRS + 1), statistics.anytime_ratio)
    band = Band(EVER_WRONG, EVER_WRONG, f"{exact}; at most 5 % for ever (Ville 1939)")
    yield anytime("false positives", f"{every}, from 6", "", MOST_PAIRS, study, band)
    for n, percent in RESOLVED.items():
        study = _ever(1.05, range(8, n + 1), statistics.anytime_ratio)
        band = Band(percent, percent, exact)
        yield anytime("power", f"{every}, ratio 1.05", "", n, study, band)
    band = Band(95, 100, "at least the nominal 95 %, wherever one stops")
    yield anytime("coverage", "stopped when decided, ratio 1.05", "", MOST_PAIRS, _stopped, band)
    few = two_sevens(statistics.anytime_ratio)
    yield anytime("refused", "too few pairs", "", 7, few, v.REFUSED)
    peeking = _ever(1.0, range(10, 101), statistics.paired_ratio)
    yield Cell(
        "Q9",
        "paired_ratio",
        "false positives",
        f"{every}, from 10",
        "",
        100,
        peeking,
        Band(25, 32, "28 to 29 % in an independent simulation of 2000 studies, by other code"),
        "counter-example",
        dear=True,
    )


def two_sevens(method: Callable[[np.ndarray, np.ndarray], Interval]) -> Study:
    """Seven pairs."""
    return lambda rng: v.refused(method(lognormal(rng, 7), lognormal(rng, 7)))


def _ever(
    ratio: float, looks: range, method: Callable[[np.ndarray, np.ndarray], Interval]
) -> Study:
    """Counted: at any of the looks there is "a difference"."""

    def study(rng: np.random.Generator) -> bool:
        first, second = ratio * lognormal(rng, looks[-1]), lognormal(rng, looks[-1])
        return any(v.differs(method(first[:n], second[:n])) for n in looks)

    return study


def _stopped(rng: np.random.Generator) -> bool:
    """Counted: the interval holds the truth at the pair where it first excludes 1 or lies within
    the margin of 5 %."""
    first, second = 1.05 * lognormal(rng, MOST_PAIRS), lognormal(rng, MOST_PAIRS)
    for n in range(8, MOST_PAIRS + 1):
        found = statistics.anytime_ratio(first[:n], second[:n])
        if v.differs(found) or statistics.equivalence_of(found, 0.05, 0.025).same:
            break
    return v.covers(found, 1.05)


def independence() -> Iterator[Cell]:
    """Q10: do runs depend on the run before, or on who ran first?"""
    cell = partial(Cell, "Q10", "autocorrelation", dear=True)
    exact = Band(3.9, 5.5, "nominal 5 %: the permutation test is exact")
    for n, found in zip(SIZES, (19, 39, 91, 100), strict=True):
        yield cell("false positives", "no drift", "", n, partial(_no_drift, n), exact)
        yield cell("power", "AR(1) of 0.8", "", n, partial(_drift, n), v.simulated(found))
    for n in SIZES[2:]:
        setting, study = "no carry-over", partial(_carried_over, n)
        yield Cell("Q10", "order_effect", "false positives", setting, "", n, study, v.CAUTIOUS)


def _no_drift(n: int, rng: np.random.Generator) -> bool:
    return _flagged(rng, lognormal(rng, n))


def _drift(n: int, rng: np.random.Generator) -> bool:
    return _flagged(rng, simulate.session(rng, n, "AR(1)"))


def _flagged(rng: np.random.Generator, times: np.ndarray) -> bool:
    return statistics.autocorrelation(times, rng, permutations=PERMUTATIONS).p < v.ALPHA


def _carried_over(n: int, rng: np.random.Generator) -> bool:
    ratios, first_ran_first = lognormal(rng, n) / lognormal(rng, n), rng.random(n) < 0.5
    effect = statistics.order_effect(ratios, first_ran_first.tolist())
    return any(flag.name == "ORDER" for flag in effect.warnings)


def summaries() -> Iterator[Cell]:
    """Q11: several models; the share of wins; the change between two sessions."""
    models = partial(Cell, "Q11", "models_ratio")
    cautious = Band(
        96.5, 99.5, "97 to 99 % in an independent simulation; square-and-add is cautious"
    )
    discrete = Band(95, 100, "at least 95 %: exact and discrete (Clopper & Pearson 1934)")
    changed = Band(1.5, 5.0, v.CAUTIOUS.source)
    for n in SIZES:
        setting, study = f"mean of {MODELS} models", partial(_models, n)
        yield models("coverage", setting, "", n, study, cautious)
        yield Cell("Q1", "wins_share", "coverage", v.EQUAL, "", n, partial(_wins, n), discrete)
        setting, study = "no change, later session 30 % slower", partial(_session, n)
        yield Cell("sessions", "change_ratio", "false positives", setting, "", n, study, changed)
    yield models(
        "refused",
        "too few pairs",
        "",
        5,
        lambda rng: v.refused(statistics.models_ratio(measured(rng, np.zeros(MODELS), 5))),
        v.REFUSED,
    )


def _models(n: int, rng: np.random.Generator) -> bool:
    logs = np.linspace(-1, 1, MODELS)  # ratios from 0.37 to 2.7, their mean is 1
    return v.covers(statistics.models_ratio(measured(rng, logs, n)), 1.0)


def _wins(n: int, rng: np.random.Generator) -> bool:
    share = statistics.wins_share(lognormal(rng, n), lognormal(rng, n))
    return share.low <= 0.5 <= share.high


def _session(n: int, rng: np.random.Generator) -> bool:
    new, control, old, old_control = (lognormal(rng, n) for _ in range(4))
    return v.differs(statistics.change_ratio(1.3 * new, 1.3 * control, old, old_control).ratio)


VALUES = 2.0 ** np.arange(4, 10)
SLOPE = 0.2
"""Of the true log ratio, for each doubling of the parameter."""


def places() -> Iterator[Cell]:
    """Where along a parameter the ratio of two arms passes 1."""
    cell = partial(Cell, "parameter", "crossings", dear=True)
    on_value = Band(93, 97, "the test of a single value, inverted: 95 % give or take interpolation")
    between = Band(94.5, 100, "at least 95 %: straight limits between two values are cautious")
    never = Band(0, 5.0, "at most the nominal 5 %: one of two opposite sides must be wrong")
    for n in SIZES[1:3]:
        yield cell("coverage", "crossing on a value", "", n, partial(_located, 64.0, n), on_value)
        yield cell("coverage", "crossing between two", "", n, partial(_located, 90.5, n), between)
        yield cell("false positives", "no crossing, arms equal", "", n, partial(_crossed, n), never)


def _arms_along(
    rng: np.random.Generator, logs: np.ndarray, n: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    return [np.exp(log) * lognormal(rng, n) for log in logs], [lognormal(rng, n) for _ in logs]


def _located(place: float, n: int, rng: np.random.Generator) -> bool:
    found = statistics.crossings(
        VALUES, *_arms_along(rng, SLOPE * np.log2(VALUES / place), n)
    ).found
    return len(found) == 1 and found[0].low <= place <= found[0].high


def _crossed(n: int, rng: np.random.Generator) -> bool:
    return bool(statistics.crossings(VALUES, *_arms_along(rng, np.zeros(len(VALUES)), n)).found)


def cells() -> Iterator[Cell]:
    """All of Q7 to Q11, and what has no number."""
    for part in (machines, families, stopping, independence, summaries, places):
        yield from part()

"""Warnings that other people's recordings call for, each with the number that raised it."""

from __future__ import annotations

from analysis.flags import Flag, not_interleaved
from analysis.units import quantity

SEPARATE = not_interleaved(
    "A CSV file holds one arm by itself: nothing says that the arms ran in random order in pairs."
)


def one_process(runs: int) -> Flag:
    """ONE-PROCESS: at the level of processes each arm was measured once (Kalibera & Jones 2013)."""
    return Flag(
        "ONE-PROCESS",
        f"The {runs} rows of an arm are iterations of one loop, as far as a CSV can say: "
        "one process an arm. Intervals describe that session.",
        "Measure with `study`: a fresh process for each trial.",
    )


def drift(arm: str, lag1: float, p: float) -> Flag:
    """DRIFT of an arm that was measured by itself: no pairs take it out."""
    return Flag(
        "DRIFT",
        f"Runs of {arm} depend on the run before (lag-1 {lag1:+.2f}, p {p:.2g}): intervals that "
        "take them for independent are too narrow.",
        "Look at the ratios between blocks.",
    )


def halves(arm: str, ratio: float) -> Flag:
    """HALVES: the arm differs from itself, so that much is no difference between arms."""
    return Flag(
        "HALVES",
        f"{arm} differs from itself: its first half took {ratio:.4g} times its second half.",
        "Trust no difference of that size.",
    )


def warm_up(arm: str, first: float, typical: float, what: str) -> Flag:
    """WARM-UP: the first value of the process holds more than the work."""
    return Flag(
        "WARM-UP",
        f"The first {what} of {arm} took {quantity(first, 's')}, {first / typical:.3g} times the "
        f"median ({quantity(typical, 's')}).",
        "Use medians; report the first one apart.",
    )


def epoch_timer(first: float, second: float) -> Flag:
    """EPOCH-TIMER: the clocks inside the run stop at different points."""
    return Flag(
        "EPOCH-TIMER",
        f"The epochs are {100 * first:.1f} % of the run's total in one arm and "
        f"{100 * second:.1f} % in the other: epoch timers are not comparable.",
        "Use totals.",
    )


def unequal_work(first: str, second: str) -> Flag:
    """UNEQUAL-WORK: a ratio of two different jobs says nothing about who does the job."""
    return Flag("UNEQUAL-WORK", f"Not equal work: {first} against {second}.", "Give no ratio.")


WORK_UNKNOWN = Flag(
    "NO-EVIDENCE",
    "Nothing shows that the two files hold the same work.",
    "Check the code that made them.",
)

SINGLE = Flag(
    "FEW",
    "Every row has its own batch size: one run a cell, so nothing is known about the spread.",
    "Run each batch size at least 6 times in each arm.",
)

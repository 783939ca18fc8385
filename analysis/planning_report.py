"""A plan for people: sentences, tables, one figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from analysis.findings import Drawing  # noqa: E402
from analysis.page import Grid, Page, Section  # noqa: E402
from analysis.planning import MOST_LOOKS, MOST_PAIRS, Looking, Need, Plan  # noqa: E402
from analysis.style import Theme, drawing, plain_log  # noqa: E402
from analysis.wording import percent  # noqa: E402


@dataclass(frozen=True)
class Pilot:
    """Where a plan comes from. arms: of the whole study; label: of the metric."""

    study: str
    numerator: str
    denominator: str
    metric: str
    label: str
    arms: int


@dataclass(frozen=True)
class Pace:
    """Seconds from the start of one block to the next, and of the two arms' share of it."""

    block_seconds: float
    pair_seconds: float


def pace(starts: Sequence[tuple[int, str, float]], arms: tuple[str, str]) -> Pace | None:
    """How long a block takes, from when its trials started; idle gaps are part of it.

    starts: (pair, arm, start in seconds) of every trial. Medians over blocks, so that a pause of
    a study that was resumed does not count. None when only one block has run.

    >>> starts = [(0, "a", 0.0), (0, "b", 4.0), (0, "c", 6.0), (1, "b", 9.0), (1, "a", 11.0)]
    >>> pace([*starts, (1, "c", 15.0)], ("a", "b"))
    Pace(block_seconds=9.0, pair_seconds=6.0)
    """
    ordered = sorted(starts, key=lambda start: start[2])
    firsts: dict[int, float] = {}
    took: dict[str, list[float]] = {arm: [] for arm in arms}
    for (pair, arm, start), following in zip(ordered, [*ordered[1:], None], strict=True):
        firsts.setdefault(pair, start)
        if following is not None and arm in took:
            took[arm].append(following[2] - start)
    blocks = np.diff(list(firsts.values()))
    if not len(blocks) or not all(took.values()):
        return None
    return Pace(float(np.median(blocks)), sum(float(np.median(times)) for times in took.values()))


def duration(seconds: float) -> str:
    """A time span in one unit that people read at a glance.

    >>> duration(50), duration(600), duration(7200), duration(4 * 86400)
    ('50 s', '10 min', '2.0 h', '4.0 days')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 2 * 86400 else f"{seconds / 86400:.1f} days"


def count(pairs: int | None, most: int = MOST_PAIRS) -> str:
    """Pairs in words.

    >>> count(12), count(None)
    ('12', 'more than 2000')
    """
    return f"more than {most}" if pairs is None else str(pairs)


def sentences(plan: Plan, pilot: Pilot, pace: Pace | None) -> tuple[str, ...]:
    """The answer, the number to plan with first."""
    ratio = f"{pilot.numerator} / {pilot.denominator}"
    holm = f", one row of a family of {plan.family}" if plan.family > 1 else ""
    said = [
        f"To see a difference of {percent(plan.difference)} in {pilot.label} ({ratio}) with "
        f"{percent(plan.power)} power{holm}: {_need(plan.seen, pace)}.",
        f"To call the two the same within {percent(plan.margin)}, if they are equal, with "
        f"{percent(plan.power)} power: {_need(plan.same, pace)}.",
        "A study with until_resolved=true would stop after "
        f"{_looks(plan.different_looks)} if the difference is {percent(plan.difference)}, after "
        f"{_looks(plan.same_looks)} if there is none.",
        f"These rest on {plan.pilot_pairs} pairs of {pilot.study}, whose log ratios spread by "
        f"{percent(plan.spread)}. The spread of so few is uncertain itself: the larger number holds "
        "if the true spread is as large as the pilot allows with 80 % confidence.",
    ]
    if pace is None:
        said.append("How long that takes is unknown: the pilot has one block only.")
    else:
        said.append(
            f"A block of the pilot's {pilot.arms} arms took {duration(pace.block_seconds)} "
            f"(median, idle gaps included), the two arms alone {duration(pace.pair_seconds)}."
        )
    return tuple(said)


def _need(need: Need, pace: Pace | None) -> str:
    safe, expected = need.safe.pairs, need.expected.pairs
    least = count(need.lucky.pairs)
    text = f"plan {count(safe)} pairs" if safe is not None else f"{count(safe)} pairs may be needed"
    time = ""
    if pace is not None and safe is not None:
        time = (
            f", {duration(safe * pace.block_seconds)} with all arms of the pilot or "
            f"{duration(safe * pace.pair_seconds)} with these two"
        )
    return f"{text}{time} ({count(expected)} with the pilot's own spread, {least} at best)"


def _looks(looking: Looking) -> str:
    median, late = (count(n, MOST_LOOKS) for n in (looking.median, looking.nine_in_ten))
    return f"{median} pairs (median; nine in ten by {late})"


def page(plan: Plan, pilot: Pilot, pace: Pace | None) -> Page:
    """The plan as a page: sentences, numbers, figure, method."""
    rows = tuple(
        (
            question,
            count(need.expected.pairs),
            f"{count(need.lucky.pairs)} to {count(need.safe.pairs)}",
            _time(need.safe.pairs, pace.block_seconds if pace else None),
            _time(need.safe.pairs, pace.pair_seconds if pace else None),
        )
        for question, need in (
            (f"see a difference of {percent(plan.difference)}", plan.seen),
            (f"the same within {percent(plan.margin)}", plan.same),
        )
    )
    header = (
        "conclusion", "pairs, pilot's spread", "range", "time for the larger, all arms",
        "the two arms alone",
    )  # fmt: skip
    return Page(
        title=f"Plan from {pilot.study}",
        subtitle=f"{pilot.label} ({pilot.metric}), {pilot.numerator} over {pilot.denominator}; "
        f"{plan.pilot_pairs} pairs.",
        verdict=sentences(plan, pilot, pace),
        sections=(
            Section("Numbers", grid=Grid(header, rows), drawings=(figure(plan),)),
            Section(
                "How",
                points=(
                    "Studies are drawn from the pilot's log ratios, centred on their median, "
                    "smoothed (Silverman 1986), shifted to the true ratio, and given to the shipped "
                    "functions: paired_ratio, equivalence, anytime_ratio.",
                    "The range comes from the confidence limits of the spread (80 % on each side; "
                    "Browne 1995). It assumes that the pilot's machine stays as it was.",
                    "Fix the number of pairs before the first trial of the new study; the pilot's "
                    "own pairs do not count in it.",
                ),
            ),
        ),
    )


def _time(pairs: int | None, seconds: float | None) -> str:
    return "unknown" if pairs is None or seconds is None else duration(pairs * seconds)


def figure(plan: Plan) -> Drawing:
    """Power against pairs for the three ways to a conclusion."""
    return drawing(
        "power",
        "Power against the number of pairs, drawn from the pilot",
        f"Share of drawn studies that see a difference of {percent(plan.difference)}: "
        f"{percent(plan.power)} at {count(plan.seen.expected.pairs)} pairs, range "
        f"{count(plan.seen.lucky.pairs)} to {count(plan.seen.safe.pairs)}; that call equal arms the "
        f"same: at {count(plan.same.expected.pairs)} pairs, range {count(plan.same.lucky.pairs)} to "
        f"{count(plan.same.safe.pairs)}; decided by the anytime-valid interval.",
        lambda theme: _draw(plan, theme),
    )


def _draw(plan: Plan, theme: Theme) -> Figure:
    shown, axes = plt.subplots(figsize=(9, 4.6))
    for index, (label, need) in enumerate(
        (
            (f"difference of {percent(plan.difference)} seen", plan.seen),
            (f"equal arms the same within {percent(plan.margin)}", plan.same),
        )
    ):
        colour, marker = theme.arms[index], "os"[index]
        n, share = zip(*need.expected.points, strict=True)
        axes.plot(n, share, color=colour, linewidth=1.8, label=label)
        grid = np.geomspace(6, max(curve.points[-1][0] for curve in (need.lucky, need.safe)), 200)
        low, high = (_at(grid, curve.points) for curve in (need.safe, need.lucky))
        axes.fill_between(grid, low, high, color=colour, alpha=0.15, linewidth=0)
        for pairs, size in ((need.expected.pairs, 5), (need.safe.pairs, 8)):
            if pairs is not None:
                axes.plot(pairs, plan.power, marker, color=colour, markersize=size)
                axes.annotate(
                    str(pairs), (pairs, plan.power), textcoords="offset points",
                    xytext=(0, 8 if index == 0 else -15), ha="center", color=colour, fontsize=9,
                )  # fmt: skip
    for index, (label, looking) in enumerate(
        (
            (f"until_resolved, true difference {percent(plan.difference)}", plan.different_looks),
            ("until_resolved, equal arms", plan.same_looks),
        )
    ):
        n, share = zip(*looking.points, strict=True)
        axes.plot(
            n, share, color=theme.arms[(2, 5)[index]], linestyle=("--", ":")[index], label=label
        )
        if looking.median is not None:
            axes.plot(looking.median, 0.5, "D^"[index], color=theme.arms[(2, 5)[index]])
    axes.axhline(plan.power, color=theme.ink, linewidth=0.8)
    axes.set_xscale("log")
    plain_log(axes.xaxis, 100)
    axes.set_ylim(0, 1.03)
    axes.set_xlabel(
        "pairs (logarithmic); shaded: spread uncertain; large mark: plan with this; at 0.5: median"
    )
    axes.set_ylabel("share of studies that conclude it")
    axes.grid(linewidth=0.6)
    shown.legend(loc="outside upper left", ncols=2)
    return shown


def _at(grid: np.ndarray, points: Sequence[tuple[int, float]]) -> np.ndarray:
    n, share = zip(*points, strict=True)
    return np.interp(grid, n, share)


def records(plan: Plan) -> list[dict[str, Any]]:
    """Every point of every curve, for CSV."""
    curves = {
        f"{name} {spread}": curve.points
        for name, need in (("difference", plan.seen), ("same", plan.same))
        for spread, curve in (
            ("expected spread", need.expected),
            ("small spread", need.lucky),
            ("large spread", need.safe),
        )
    }
    curves["decided, true difference"] = plan.different_looks.points
    curves["decided, equal arms"] = plan.same_looks.points
    return [
        {"curve": name, "pairs": n, "share": share}
        for name, points in curves.items()
        for n, share in points
    ]


def metrics(plan: Plan) -> dict[str, float]:
    """The numbers of the plan as metrics of a run; one that is out of reach is absent."""
    found = {
        "plan/difference_pairs": plan.seen.expected.pairs,
        "plan/difference_pairs_safe": plan.seen.safe.pairs,
        "plan/same_pairs": plan.same.expected.pairs,
        "plan/same_pairs_safe": plan.same.safe.pairs,
        "plan/until_resolved_pairs_if_different": plan.different_looks.median,
        "plan/until_resolved_pairs_if_equal": plan.same_looks.median,
    }
    return {name: float(pairs) for name, pairs in found.items() if pairs is not None}

"""When may a study that looks after every block stop? Only the anytime-valid interval decides."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analysis import fairness, wording
from analysis.statistics import Equivalence, Ratio, anytime_ratio, equivalence_of
from analysis.statistics.anytime import pairs_needed
from analysis.table import build

if TYPE_CHECKING:
    from tracking.read import Row, Study

FIRST_LOOK = pairs_needed(0.05)
"""The anytime-valid interval at 95 % has no limits with fewer pairs."""


@dataclass(frozen=True)
class Look:
    """One look at a running study: may it stop, and the sentence that says why or why not."""

    resolved: bool
    sentence: str
    ratio: Ratio | None = None


def sameness(ratio: Ratio, margin: float) -> Equivalence:
    """Q3 of a study that is looked at: the whole interval inside the margin. There is no 90 %
    interval that would stay valid however often it is read."""
    return equivalence_of(ratio, margin, alpha=0.025)


def planned(study: Study, pairs: Sequence[int]) -> int:
    """How many pairs there should be; pairs: the numbers of those that there are. Where it is looked at
    after every block there may be any number, but none may be missing in between."""
    return max(pairs, default=-1) + 1 if study.anytime else study.pairs


def look(study: Study, rows: Iterable[Row]) -> Look:
    """Is the first pairing of a study decided in its metric?

    Decided: the anytime-valid interval excludes 1, or lies inside the margin; or the two arms may
    not be compared at all, so that further pairs would be wasted. Raises InputError as
    `table.build` does.
    """
    table, question = build(study, rows), study.comparisons[0]
    pairs = [
        pair
        for pair in table.pairs(question.numerator, question.denominator)
        if all(study.metric in row.metrics for row in pair[1:])
    ]
    if len(pairs) < FIRST_LOOK:
        return Look(False, f"{len(pairs)} pairs; the first look is at {FIRST_LOOK}")
    refused = fairness.refusal(question.role, pairs)
    if refused:
        return Look(True, f"stops, since no number of pairs gives a ratio: {refused}")
    ratio = anytime_ratio(
        [a.metrics[study.metric] for _, a, _ in pairs],
        [b.metrics[study.metric] for _, _, b in pairs],
    )
    known = "no limits yet"
    if ratio.low is not None and ratio.high is not None:
        known = f"between {wording.number(ratio.low)} and {wording.number(ratio.high)}"
    text = f"{ratio.n} pairs: ratio {wording.number(ratio.estimate)}, {known}"
    if ratio.p is not None and ratio.p <= 0.05:
        return Look(True, f"{text}; a difference is shown", ratio)
    if sameness(ratio, study.margin).same:
        return Look(True, f"{text}; the same within {wording.percent(study.margin)}", ratio)
    return Look(False, f"{text}; not decided", ratio)

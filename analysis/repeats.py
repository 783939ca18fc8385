"""The same question asked in several studies: a verdict from the one that was liked best is none.

All pairs of all studies that asked it, finished or not, kept or deleted, answer it together. How many
there would be was not fixed beforehand, so their interval is the one that may be looked at after every
pair (Howard & Ramdas 2022, Bernoulli 28:3); a study's own verdict stands where both say the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from analysis import fairness, statistics, wording
from analysis.flags import Flag
from analysis.table import build
from measurement.errors import InputError

if TYPE_CHECKING:
    from analysis.table import Table
    from tracking.read import Pairing, Row, Study

_ASKED = (
    "workload", "mode", "checkpoint", "preset", "epochs", "dataset", "condition", "slowdown_percent",
)  # fmt: skip
_LISTED = 8


@dataclass(frozen=True)
class Other:
    """What another study says to a question: both values of all pairs that it has, none where it is
    refused. same_code: whether the measuring code was that of this study, so that the question is quite
    the same."""

    name: str
    deleted: bool
    ratios: tuple[tuple[float, float], ...]
    same_code: bool


def candidates(study: Study, known: Sequence[Study]) -> list[Study]:
    """The studies whose design asks a question of this one's on this machine, by any name."""
    return [
        other
        for other in known
        if other.run_id not in study.runs
        and other.machine == study.machine
        and all(other.design.get(key) == study.design.get(key) for key in _ASKED)
        and {*map(_key, other.comparisons)} & {*map(_key, study.comparisons)}
    ]


def _key(pairing: Pairing) -> tuple[str, str]:
    return pairing.numerator, pairing.denominator


def others(
    table: Table,
    arms: tuple[str, str],
    role: str,
    metric: str,
    known: Sequence[tuple[Study, Sequence[Row]]],
) -> list[Other]:
    """What the other studies say to one pairing and metric, oldest first."""
    pairs = table.pairs(*arms)
    if not pairs or role not in wording.QUESTIONS:
        return []
    _, first, second = pairs[0]
    found = []
    for study, rows in known:
        if not any(_key(other) == arms for other in study.comparisons):
            continue
        deleted = any(row.deleted for row in rows)
        try:
            both = build(study, [replace(row, deleted=False) for row in rows]).pairs(*arms)
        except InputError:  # what cannot be read as a study answers nothing
            found.append(Other(study.name, deleted, (), False))
            continue
        both = [
            (number, a, b)
            for number, a, b in both
            if a.cell == first.cell and b.cell == second.cell
            if a.metrics.get(metric, 0) > 0 and b.metrics.get(metric, 0) > 0
        ]
        if not both:
            continue
        refused = fairness.refusal(role, both)
        ratios = tuple((a.metrics[metric], b.metrics[metric]) for _, a, b in both)
        same = all(_code(r.tags) == _code(first.tags) for _, a, b in both for r in (a, b))
        found.append(Other(study.name, deleted, () if refused else ratios, same))
    return found


def _code(tags: Mapping[str, str]) -> str:
    return tags.get("code_sha256") or tags.get("mlflow.source.git.commit", "")


def judged(
    own: Sequence[tuple[float, float]], found: Sequence[Other], margin: float, outcome: str
) -> tuple[Flag, ...]:
    """REPEATED, with every study's ratio; UNTIL-SIGNIFICANT where all pairs together do not say what
    this study's verdict, `outcome`, says."""
    if not found:
        return ()
    listed = "; ".join(
        f"{other.name}{' (deleted)' * other.deleted} {_said(other)}" for other in found[-_LISTED:]
    )
    flags = [
        Flag(
            "REPEATED",
            f"{len(found)} other studies here asked the same: {listed}. This one says {_median(own)}.",
            "Fix the number of pairs once, or use until_resolved.",
        )
    ]
    whole = [*own, *(pair for other in found if other.same_code for pair in other.ratios)]
    if len(whole) > len(own) and outcome in ("better", "worse", "same"):
        first, second = [a for a, _ in whole], [b for _, b in whole]
        ratio = statistics.anytime_ratio(first, second)
        if outcome == "same":
            agrees = statistics.equivalence(first, second, margin).same
        else:
            below = _ratio(own) < 1
            agrees = ratio.p is not None and ratio.p <= 0.05 and (ratio.estimate < 1) == below
        if not agrees:
            flags.append(
                Flag(
                    "UNTIL-SIGNIFICANT",
                    f"All {len(whole)} pairs of these studies together (ratio "
                    f"{wording.number(ratio.estimate)}) do not show it: who repeats a study until it "
                    "says something will be told something.",
                    "Run one study with until_resolved.",
                )
            )
    return tuple(flags)


def _said(other: Other) -> str:
    if not other.ratios:
        return "without a ratio"
    code = "" if other.same_code else ", other code"
    return f"{_median(other.ratios)} from {len(other.ratios)} pairs{code}"


def _median(ratios: Sequence[tuple[float, float]]) -> str:
    return wording.number(_ratio(ratios))


def _ratio(pairs: Sequence[tuple[float, float]]) -> float:
    return statistics.paired_ratio([a for a, _ in pairs], [b for _, b in pairs]).estimate

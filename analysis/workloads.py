"""Several studies in one report: the first question of each, adjusted because all are asked at once.

No average over workloads is formed: which workloads were chosen would decide it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from analysis import flags, stopping, wording
from analysis.findings import ArmSummary, Comparison
from analysis.flags import BLOCKING
from analysis.sessions import Session
from analysis.statistics import holm, holm_pairs
from measurement.errors import InputError

if TYPE_CHECKING:
    from tracking.read import Study

ASKED = ("headline", "version")
"""Roles of the pairing that a study was made for."""


@dataclass(frozen=True)
class Headline:
    """The first question of one study.

    comparison: with p, outcome and verdict adjusted over all studies of the report; None where the
    study has none, and `refused` says why. alone: the outcome in its own study. numbers: every
    metric of that pairing as its study found it. itself: an arm against itself on the primary metric,
    where the study has that. condition: of the numerator, as it ran.
    """

    study: str
    workload: str
    mode: str
    machine: str
    condition: dict[str, str]
    arms: tuple[ArmSummary, ...] = ()
    comparison: Comparison | None = None
    alone: str = "none"
    numbers: tuple[Comparison, ...] = ()
    itself: Comparison | None = None
    refused: str = ""

    @property
    def place(self) -> str:
        """'cpu, float32, preset study'."""
        get = self.condition.get
        preset = f"preset {get('preset')}" if get("preset") else ""
        return ", ".join(filter(None, (get("device"), get("dtype"), preset)))

    @property
    def verdict(self) -> str:
        """The sentence that the evidence allows, or why there is none."""
        return self.comparison.verdict if self.comparison else f"no ratio: {self.refused}"


@dataclass(frozen=True)
class Workloads:
    """Everything that a report over several studies shows. needed_pairs: before any of so many
    questions can be answered."""

    headlines: tuple[Headline, ...]
    needed_pairs: int
    notes: tuple[str, ...]


def collect(found: Sequence[Session]) -> Workloads:
    """The first question of each study, in the order given, with Holm over all of them.

    A study that was refused, or whose question came to no p, stays in the family as p = 1: it was
    asked. Raises InputError for fewer than two studies and for one that is named twice.
    """
    names = [session.study.name for session in found]
    if len(names) < 2 or len(set(names)) < len(names):
        raise InputError(
            f"studies {', '.join(names)}: expected two or more different ones, as in first,second"
        )
    headlines = [_headline(session) for session in found]
    adjusted = holm([_p(headline) for headline in headlines]).adjusted
    needed = holm_pairs(len(found))
    return Workloads(
        headlines=tuple(
            _adjusted(headline, session, p, len(found), needed)
            for headline, session, p in zip(headlines, found, adjusted, strict=True)
        ),
        needed_pairs=needed,
        notes=_notes(headlines),
    )


def _p(headline: Headline) -> float:
    c = headline.comparison
    return 1.0 if c is None or c.p is None else c.p


def _headline(session: Session) -> Headline:
    study, findings = session.study, session.findings
    pairing = next((p for p in study.comparisons if p.role in ASKED), None)
    cell = dict(session.rows[0].cell) if session.rows else {}
    condition = (session.condition(pairing.numerator) if pairing else {}) or cell
    base = Headline(
        study=study.name,
        workload=condition.get("workload") or str(study.design.get("workload", "unknown")),
        mode=study.mode,
        machine=session.machine,
        condition=condition,
    )
    if findings is None:
        return replace(base, refused=session.refused)
    if pairing is None:
        return replace(base, refused="its pairings ask something else; read its own report")
    numbers = tuple(
        c
        for c in findings.comparisons
        if (c.role, c.numerator, c.denominator)
        == (pairing.role, pairing.numerator, pairing.denominator)
    )
    asked = next(c for c in numbers if c.metric == study.metric)
    return replace(
        base,
        arms=tuple(
            arm
            for name in (pairing.numerator, pairing.denominator)
            for arm in findings.arms
            if arm.name == name
        ),
        comparison=asked,
        alone=asked.outcome,
        numbers=numbers,
        itself=next(
            (
                c
                for c in findings.comparisons
                if c.role == "resolution" and c.metric == study.metric and c.ratio
            ),
            None,
        ),
        refused=asked.refused or asked.not_measured or "",
    )


def _adjusted(headline: Headline, session: Session, p: float, family: int, needed: int) -> Headline:
    """The same question as one of a family of so many: p, outcome and verdict anew."""
    c = headline.comparison
    if c is None or c.ratio is None or c.p is None:
        return headline
    return replace(headline, comparison=adjusted(c, session.study, p, family, needed))


def adjusted(c: Comparison, study: Study, p: float, family: int, needed: int) -> Comparison:
    """A comparison of a study as one of `family` questions that are answered at once: with p, outcome
    and verdict anew. needed: pairs before one of so many can be answered."""
    if c.ratio is None:
        return c
    kept = tuple(flag for flag in c.flags if flag.name not in ("HOLM-FEW", "UNDECIDED"))
    if c.ratio.n < needed and p > 0.05:  # where others have more pairs, Holm may let it pass
        kept += (flags.holm_few(c.ratio.n, family, needed),)
    blocking = tuple(dict.fromkeys(flag.name for flag in kept if flag.name in BLOCKING))
    planned = stopping.planned(study, [point.pair for point in c.points])
    c = replace(c, p=p, family=family, flags=kept)
    c = replace(c, outcome=wording.outcome(c, planned, blocking))
    if c.outcome == "undecided":
        c = replace(c, flags=(*kept, flags.UNDECIDED))
    return replace(c, verdict=wording.verdict(c, planned, blocking))


def _notes(headlines: Sequence[Headline]) -> tuple[str, ...]:
    notes = []
    machines = sorted({headline.machine for headline in headlines if headline.machine})
    if len(machines) > 1:
        notes.append(
            f"The studies ran on {len(machines)} machines ({', '.join(machines)}): a difference "
            "between two rows may be one between machines."
        )
    for key in ("device", "dtype"):
        values = {h.condition[key] for h in headlines if h.condition.get(key)}
        if len(values) > 1:
            notes.append(
                f"Rows differ in {key} ({', '.join(sorted(values))}); read each by itself."
            )
    return tuple(notes)

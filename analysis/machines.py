"""Does it hold on other machines? Per machine first, then over machines; unlike is never pooled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from analysis import wording
from analysis.findings import Comparison
from analysis.flags import BLOCKING, Flag
from analysis.sessions import Difference, Keys, Session, differences, named
from analysis.statistics import Machines, across_machines, holm
from measurement.errors import InputError
from tracking.names import METRICS

if TYPE_CHECKING:
    from tracking.read import Pairing, Study


@dataclass(frozen=True)
class Asked:
    """What to compare. metric None: each study's own; numerator and denominator name arms, and
    where they are None every pairing of `role` is taken; studies: named ones must go together."""

    metric: str | None = None
    role: str = "headline"
    numerator: str | None = None
    denominator: str | None = None
    studies: tuple[str, ...] = ()


@dataclass(frozen=True)
class Member:
    """One machine of a group: its study, its facts, and why it is not pooled ("" = it is)."""

    machine: str
    facts: dict[str, str]
    study: str
    start_seconds: float
    comparison: Comparison
    excluded: str = ""


@dataclass(frozen=True)
class Question:
    """One pairing in one metric over the machines of a group.

    pooled: Q7; same_low, same_high: its 90 % interval, which must lie inside the margin for "the
    same". p: of the t interval over machines, Holm-adjusted if `family` is above 0 (the size of
    the declared family). outcome: better, worse (of the numerator), same, undecided, none.
    """

    numerator: str
    denominator: str
    metric: str
    label: str
    better: str | None
    margin: float
    members: tuple[Member, ...]
    pooled: Machines | None = None
    same: bool = False
    p: float | None = None
    family: int = 0
    outcome: str = "none"
    verdict: str = ""
    flags: tuple[Flag, ...] = ()


@dataclass(frozen=True)
class Group:
    """Studies that measured the same under the same conditions, at most one for each machine.

    differs: the keys in which this group differs from the first, as a sentence.
    """

    keys: Keys
    questions: tuple[Question, ...]
    left_out: tuple[str, ...]
    differs: str = ""


@dataclass(frozen=True)
class Across:
    """Everything that a report over machines shows. left_out: studies in no group, with reasons."""

    workload: str
    groups: tuple[Group, ...]
    left_out: tuple[str, ...]


def across(workload: str, found: Sequence[Session], asked: Asked) -> Across:
    """Compare machines within every condition that was measured.

    Raises InputError: a metric that is none; no study that holds what is asked; studies named by
    the user that differ in a condition (names every key, both values and the arms).
    """
    if asked.metric is not None and asked.metric not in METRICS:
        raise InputError(f"'{asked.metric}' is no metric; see tracking/names.py")
    left_out, usable = [], []
    for session in found:
        reason = session.refused or _unasked(session, asked)
        if reason:
            left_out.append(f"study {_label(session, found)}: {reason}")
        else:
            usable.append(session)
    if asked.studies and left_out:
        raise InputError(left_out[0])
    if not usable:
        raise InputError(
            f"no study of {workload} has {_words(asked)}"
            + (f" ({'; '.join(left_out[:3])})" if left_out else "; run `study` first")
        )
    grouped: dict[str, list[Session]] = {}
    for session in usable:
        grouped.setdefault(repr(_keys(session, asked)), []).append(session)
    if asked.studies and len(grouped) > 1:
        as_named = sorted(usable, key=lambda s: asked.studies.index(s.study.name))
        first, *others = as_named
        other = next(s for s in others if _different(first, s, asked))
        raise InputError(
            "studies of different conditions are not pooled: "
            + named(_different(first, other, asked), _label(first, found), _label(other, found))
            + "; name studies that ran under one condition"
        )
    groups = [_group(sessions, asked) for sessions in grouped.values()]
    groups.sort(key=lambda group: -len({m.machine for q in group.questions for m in q.members}))
    first_keys = groups[0].keys
    return Across(
        workload,
        (
            groups[0],
            *(
                replace(g, differs=named(differences(first_keys, g.keys), "the first", "this one"))
                for g in groups[1:]
            ),
        ),
        tuple(left_out),
    )


def _label(session: Session, found: Sequence[Session]) -> str:
    """The study's name, with the machine where others have the same name."""
    name = session.study.name
    several = sum(other.study.name == name for other in found) > 1
    return f"{name} on {session.study.machine or session.machine}" if several else name


def _words(asked: Asked) -> str:
    if asked.numerator or asked.denominator:
        return f"the arms '{asked.numerator}' and '{asked.denominator}' in one pairing"
    return f"a pairing of the role '{asked.role}'"


def _pairings(study: Study, asked: Asked) -> list[Pairing]:
    if asked.numerator or asked.denominator:
        wanted = (asked.numerator, asked.denominator)
        return [p for p in study.comparisons if (p.numerator, p.denominator) == wanted]
    return [p for p in study.comparisons if p.role == asked.role]


def _unasked(session: Session, asked: Asked) -> str:
    """Why a study has nothing to say here; '' when it has."""
    pairings = _pairings(session.study, asked)
    if not pairings:
        return f"it lacks {_words(asked)}"
    for pairing in pairings:
        for arm in (pairing.numerator, pairing.denominator):
            if not session.condition(arm):
                return f"no trial of {arm} finished"
    return "" if session.machine else "its trials carry no machine fingerprint"


def _keys(session: Session, asked: Asked) -> dict[str, dict[str, str]]:
    """What must be equal: the design's metric, margin and family, and both arms' conditions."""
    study = session.study
    keys = {
        "design": {
            "metric": asked.metric or study.metric,
            "margin": f"{study.margin:g}",
            "family": ", ".join(study.family),
        }
    }
    for number, pairing in enumerate(_pairings(study, asked)):
        suffix = f" {number + 1}" if number else ""
        for side in ("numerator", "denominator"):
            keys[side + suffix] = dict(sorted(session.condition(getattr(pairing, side)).items()))
    return keys


def _different(first: Session, second: Session, asked: Asked) -> list[Difference]:
    return differences(_keys(first, asked), _keys(second, asked))


def _group(found: Sequence[Session], asked: Asked) -> Group:
    """One group: the newest complete study of each machine; older ones are named."""
    chosen, left_out = [], []
    for machine in sorted({session.machine for session in found}):
        own = [session for session in found if session.machine == machine]  # newest first
        newest = next((s for s in own if _complete(s, asked)), own[0])
        chosen.append(newest)
        for other in own:
            if other is not newest:
                reason = (
                    "an older study of the same machine"
                    if _complete(other, asked)
                    else "incomplete, and another study of the same machine is not"
                    if _complete(newest, asked)
                    else "another incomplete study of the same machine"
                )
                left_out.append(f"study {other.study.name} ({machine}): {reason}")
    study = chosen[0].study
    metrics = dict.fromkeys((asked.metric or study.metric, *study.family))
    questions = [
        _question(chosen, number, metric, asked)
        for number in range(len(_pairings(study, asked)))
        for metric in metrics
    ]
    return Group(
        keys=_keys(chosen[0], asked),
        questions=tuple(_with_verdict(q) for q in _with_family(questions, study, asked)),
        left_out=tuple(left_out),
    )


def _complete(session: Session, asked: Asked) -> bool:
    return all(session.pairs(p) >= session.study.pairs for p in _pairings(session.study, asked))


def _question(found: Sequence[Session], number: int, metric: str, asked: Asked) -> Question:
    members = tuple(_member(session, number, metric, asked) for session in found)
    first, about = members[0].comparison, METRICS[metric]
    pooled = [m.comparison.ratio for m in members if not m.excluded and m.comparison.ratio]
    # The 90 % interval is for two one-sided tests of sameness at 5 %.
    narrow = across_machines(pooled, 0.9) if pooled else None
    return Question(
        numerator=first.numerator,
        denominator=first.denominator,
        metric=metric,
        label=about.label,
        better=about.better,
        margin=first.margin,
        members=members,
        pooled=across_machines(pooled) if pooled else None,
        same=narrow is not None
        and narrow.low is not None
        and narrow.high is not None
        and 1 / (1 + first.margin) < narrow.low
        and narrow.high < 1 + first.margin,
    )


def _member(session: Session, number: int, metric: str, asked: Asked) -> Member:
    pairing, study = _pairings(session.study, asked)[number], session.study
    assert session.findings is not None
    compared = [
        c
        for c in session.findings.comparisons
        if (c.numerator, c.denominator, c.role)
        == (pairing.numerator, pairing.denominator, pairing.role)
    ]
    c = next((c for c in compared if c.metric == metric), None)
    if c is None:
        raise InputError(
            f"metric '{metric}' is not divided; choose one of: "
            + ", ".join(sorted(c.metric for c in compared))
        )
    return Member(
        machine=session.machine,
        facts=session.facts,
        study=study.name,
        start_seconds=session.start_seconds,
        comparison=c,
        excluded=_excluded(c, study),
    )


def _excluded(c: Comparison, study: Study) -> str:
    """Why one machine's ratio is not pooled; '' when it is."""
    if c.ratio is None:
        return c.verdict
    if study.anytime:
        return "its number of pairs was decided by looking at the result"
    if c.ratio.n != study.pairs:
        return f"{c.ratio.n} of {study.pairs} planned pairs"
    if c.ratio.low is None:
        return c.verdict
    stopping = [flag for flag in c.flags if flag.name in BLOCKING or flag.name == "A/A"]
    return f"{stopping[0].name}: {stopping[0].sentence}" if stopping else ""


def _with_family(found: Sequence[Question], study: Study, asked: Asked) -> list[Question]:
    """Holm over the declared metrics of the pairings asked about; other rows are hints."""
    declared = asked.numerator is None and asked.role in wording.QUESTIONS
    family = study.family or (study.metric,)
    members = [q for q in found if declared and q.metric in family]
    if not members:
        return [_with_p(q, q.pooled.p if q.pooled else None, 0) for q in found]
    # Declared rows that came to nothing stay in the family, as p = 1.
    adjusted = holm([_p(q) for q in members]).adjusted
    by_row = {
        (q.numerator, q.denominator, q.metric): p for q, p in zip(members, adjusted, strict=True)
    }
    return [
        _with_p(q, by_row.get((q.numerator, q.denominator, q.metric)), len(members))
        if (q.numerator, q.denominator, q.metric) in by_row and q.pooled and q.pooled.p is not None
        else _with_p(q, q.pooled.p if q.pooled else None, 0)
        for q in found
    ]


def _p(q: Question) -> float:
    return 1.0 if q.pooled is None or q.pooled.p is None else q.pooled.p


def _with_p(q: Question, p: float | None, family: int) -> Question:
    return replace(q, p=p, family=family)


def _with_verdict(q: Question) -> Question:
    """The sentence allowed: a claim on machines like these needs three of them and p <= 0.05."""
    if q.pooled is None:
        return replace(q, verdict=f"no machine gives a ratio of {q.label} that may be pooled")
    m, words = q.pooled, wording.number
    names = ", ".join(member.machine for member in q.members if not member.excluded)
    if m.low is None or m.high is None or q.p is None:
        known = (
            f"between {words(m.these_low)} and {words(m.these_high)}"
            if m.these_low is not None and m.these_high is not None
            else f"{words(m.estimate)}"
        )
        return replace(
            q,
            flags=m.warnings,
            verdict=f"these machines only ({names}): the ratio of {q.label} of {q.numerator} over "
            f"{q.denominator} is {known}; {3 - m.k} more for a claim on other machines",
        )
    limits = f"ratio {words(m.estimate)}, 95 % interval {words(m.low)} to {words(m.high)}"
    assert m.prediction_low is not None and m.prediction_high is not None
    after = (
        f"{m.k} machines; the next machine's ratio is expected between "
        f"{words(m.prediction_low)} and {words(m.prediction_high)}"
    )
    if q.p <= 0.05 and q.better is not None and not math.isclose(m.estimate, 1.0):
        better = (m.estimate < 1) == (q.better == "lower")
        verdict = (
            f"on machines like these {q.numerator} {wording.verb(q.metric, better)} "
            f"{q.denominator}: {q.label}, {limits}; {after}"
        )
        outcome = "better" if better else "worse"
    elif q.same:
        outcome = "same"
        verdict = (
            f"on machines like these {q.numerator} and {q.denominator} are the same within "
            f"{wording.percent(q.margin)}: {q.label}, {limits}; {after}"
        )
    else:
        outcome, verdict = "undecided", f"undecided over machines: {q.label}, {limits}; {after}"
    return replace(q, outcome=outcome, verdict=verdict, flags=m.warnings)

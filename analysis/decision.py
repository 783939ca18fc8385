"""Which framework, for what matters to somebody, by workload and device: from measured studies only.

No verdict is formed here that the analysis of a study refuses: where it does, the answer says that, why,
and what would settle it. Every answer says what would change it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from statistics import median

import numpy as np

from analysis import wording
from analysis.alternatives import better, with_changes
from analysis.answers import (
    ALONE,
    INDICATED,
    NONE,
    NOT_MEASURED,
    SAME,
    SHOWN,
    UNDECIDED,
    Answer,
    Decision,
)
from analysis.findings import Comparison
from analysis.flags import UNDECIDED as UNDECIDED_FLAG
from analysis.flags import Flag
from analysis.priorities import PRIORITIES, Prices, Question, chip, framework, question
from analysis.sessions import Session
from analysis.statistics import holm, holm_pairs
from analysis.units import quantity
from analysis.workloads import adjusted
from measurement.errors import InputError
from tracking.names import METRICS, SIZE


def decide(
    priority: str,
    found: Sequence[Session],
    rng: np.random.Generator,
    prices: Prices | None = None,
    walk: Callable[[list[Question]], Iterable[Question]] = iter,
) -> Decision:
    """The answers that these studies give.

    found: studies, each analysed alone, in any order. rng: for the numbers of pairs that would settle
    what is undecided, a second or two each; walk: goes over the questions, and may say how far it is.
    prices: chip, or machine, -> USD an hour, for studies that ran without a price. Raises InputError:
    an unknown priority; no study that compares two frameworks.
    """
    if priority not in PRIORITIES:
        raise InputError(
            f"priority='{priority}': expected one of {', '.join(PRIORITIES)}; choose what matters most"
        )
    prices = prices or {}
    asked = [one for session in found if (one := question(session, priority, prices))]
    if not asked:
        names = ", ".join(dict.fromkeys(session.study.name for session in found[:5]))
        raise InputError(
            f"no study compares two frameworks (looked at: {names or 'none, there is no study'}); run "
            "one with 'mlflow run . -e study'"
        )
    mains = corrected(_mains(asked))
    family = _size(mains)
    answers = [
        _answer(
            priority,
            main,
            [one.session for one in asked if one.place[:2] == main.place[:2]],
            prices,
            rng,
            family,
        )
        for main in walk(mains)
    ]
    return Decision(
        priority,
        tuple(_with_places(answer, answers) for answer in answers),
        tuple(_across(answers)),
        tuple(_notes(len(asked) - len(mains), family)),
        family,
    )


def _mains(asked: Sequence[Question]) -> list[Question]:
    """The study that answers for each place: the newest whose pairs are all there, else the newest.
    What it says has no part in that."""
    found: dict[tuple[str, str, str, str], Question] = {}
    for one in sorted(asked, key=lambda q: (not q.complete, -q.session.start_seconds)):
        found.setdefault(one.place, one)
    return [found[place] for place in sorted(found)]


def _size(mains: Iterable[Question]) -> int:
    """A question that came to nothing counts too: it was asked."""
    return sum(max(1, len(main.comparisons)) for main in mains)


def corrected(mains: Sequence[Question]) -> list[Question]:
    """The same questions with what Holm over all of them leaves of each."""
    every = [c for main in mains for c in main.comparisons or (None,)]
    needed = holm_pairs(len(every))
    ps = iter(holm([1.0 if c is None or c.p is None else c.p for c in every]).adjusted)
    done = []
    for main in mains:
        own = [next(ps) for _ in main.comparisons or (None,)]
        found = tuple(
            c if c.p is None else adjusted(c, main.study, p, len(every), needed)
            for c, p in zip(
                main.comparisons, own, strict=False
            )  # none where there is no comparison
        )
        done.append(replace(main, adjusted=found))
    return done


# --- the answer


def _answer(
    priority: str,
    asked: Question,
    others: Sequence[Session],
    prices: Prices,
    rng: np.random.Generator,
    family: int,
) -> Answer:
    workload, mode, machine, device = asked.place
    found, session = asked.comparisons, asked.session
    certainty, contenders = concluded(asked)
    choice = contenders[0] if certainty in (SHOWN, ALONE, INDICATED) else ""
    deciding = _deciding(found, choice)
    flags = [
        flag for c in asked.adjusted for flag in c.flags if not choice or flag != UNDECIDED_FLAG
    ]
    if certainty == INDICATED:
        flags.append(_undeclared(found[0].label))
    answer = Answer(
        workload=workload,
        mode=mode,
        machine=machine,
        chip=chip(session),
        device=device,
        study=asked.study.name,
        metric=asked.metric,
        certainty=certainty,
        sentence=_sentence(asked, certainty, contenders, deciding),
        condition=session.condition(found[0].numerator) if found else {},
        choice=choice,
        framework=framework(session, choice) if choice else "",
        contenders=contenders,
        comparisons=found,
        adjusted=asked.adjusted,
        values=_values(found),
        flags=tuple(dict.fromkeys(flags)),
    )
    return with_changes(answer, asked, others, priority, prices, deciding, family, rng)


def concluded(asked: Question) -> tuple[str, tuple[str, ...]]:
    """(certainty, arms that nothing beat). The choice is one that beat another and is left alone, by the
    study's own verdicts; that they hold beside the other questions of the card makes it surer."""
    won, left = _left(asked.comparisons)
    if won:
        if not asked.declared:
            return INDICATED, left
        return (SHOWN if _left(asked.adjusted) == (True, left) else ALONE), left
    found = [c for c in asked.comparisons if c.outcome != "none"]
    if not found:
        missing = all(c.not_measured for c in asked.comparisons)
        return (NOT_MEASURED if missing and not asked.session.refused else NONE), ()
    alike = {arm for c in found if c.outcome == "same" for arm in (c.numerator, c.denominator)}
    return (SAME if left and alike.issuperset(left) else UNDECIDED), left


def _left(comparisons: Sequence[Comparison]) -> tuple[bool, tuple[str, ...]]:
    """(whether one arm is left that beat another, arms that nothing beat)."""
    found = [c for c in comparisons if c.outcome != "none"]
    arms = dict.fromkeys(arm for c in found for arm in (c.numerator, c.denominator))
    winners = {better(c) for c in found} - {""}
    losers = {
        c.denominator if better(c) == c.numerator else c.numerator for c in found if better(c)
    }
    left = tuple(arm for arm in arms if arm not in losers)
    return len(left) == 1 and left[0] in winners, left


def _deciding(found: Sequence[Comparison], choice: str) -> Comparison | None:
    """The comparison that an answer is told by: of a choice, where it leads by least."""
    own = [c for c in found if c.ratio is not None and choice in (c.numerator, c.denominator)]
    if own:
        return min(own, key=lambda c: abs(math.log(c.ratio.estimate)) if c.ratio else math.inf)
    return next((c for c in found if c.ratio is not None), found[0] if found else None)


def _sentence(
    asked: Question, certainty: str, contenders: Sequence[str], deciding: Comparison | None
) -> str:
    """What the analysis says, word for word, or why it says nothing."""
    if deciding is None:
        what = "not measured" if certainty == NOT_MEASURED else "no ratio"
        return f"{what}: {asked.refused}"
    found = [deciding, *(c for c in asked.comparisons if c is not deciding)]
    said = [_verdict(c, len(found)) for c in found]
    if len({c.verdict for c in found}) == 1:
        said = [deciding.verdict]
    compared = {frozenset((c.numerator, c.denominator)) for c in asked.comparisons}
    if certainty == UNDECIDED and len(contenders) > 1 and frozenset(contenders[:2]) not in compared:
        said.append(f"{' and '.join(contenders[:2])} were not compared with each other")
    return "; ".join(said)


def _verdict(c: Comparison, several: int) -> str:
    """With the arms' names where it lacks them and there are others."""
    named = several < 2 or c.verdict.startswith(c.numerator)
    return c.verdict if named else f"{c.numerator} / {c.denominator}: {c.verdict}"


def _values(found: Iterable[Comparison]) -> dict[str, tuple[float, float, float]]:
    by_arm: dict[str, list[float]] = {}
    for c in found:
        by_arm.setdefault(c.numerator, []).extend(point.numerator for point in c.points)
        by_arm.setdefault(c.denominator, []).extend(point.denominator for point in c.points)
    return {arm: (median(v), min(v), max(v)) for arm, v in by_arm.items() if v}


def _undeclared(label: str) -> Flag:
    return Flag(
        "UNDECLARED",
        f"That {label} would be asked was not declared before the first trial: it is one of many "
        "metrics, and p counts only the questions of this card.",
        "Take it as shown once another study says the same.",
    )


# --- over devices


def _with_places(answer: Answer, answers: Sequence[Answer]) -> Answer:
    """Other devices and machines on which the same workload has another answer."""
    found = [
        f"On {other.place}: {other.choice} ({other.certainty}, study {other.study})."
        for other in answers
        if (other.workload, other.mode) == (answer.workload, answer.mode)
        and other is not answer
        and other.framework not in ("", answer.framework)
    ]
    return replace(answer, changes=(*answer.changes, *found))


def _across(answers: Sequence[Answer]) -> Iterable[str]:
    """One workload on several devices: what separate runs say, which is no verdict."""
    for workload, mode in dict.fromkeys((a.workload, a.mode) for a in answers):
        own = [a for a in answers if (a.workload, a.mode) == (workload, mode)]
        places = [(a, arm, a.values[arm]) for a in own if (arm := _best(a))]
        if len(places) < 2:
            continue
        about = METRICS[own[0].metric]
        sign = -1 if about.better == "higher" else 1
        places.sort(key=lambda place: sign * place[2][0])
        listed = [f"{arm} on {a.place} {quantity(v[0], about.unit)}" for a, arm, v in places]
        subject = wording.subject(mode, workload)
        text = f"{subject[0].upper()}{subject[1:]}, medians of separate runs: {', '.join(listed)}"
        if unlike := _unlike([a for a, _, _ in places]):
            yield f"{text}. Not the same work ({unlike}), so nothing follows."
            continue
        (first, _, best), (_, _, second) = places[:2]
        apart = best[1] > second[2] if sign < 0 else best[2] < second[1]
        said = f"every run on {first.place} is better than every one on the next"
        said = said if apart else "the runs of the first two overlap"
        yield f"{text}; {said}. They are unpaired, which is no verdict."


def _best(answer: Answer) -> str:
    """The chosen arm, or of those that nothing beat the one with the better median; '' without."""
    arms = [arm for arm in answer.contenders if arm in answer.values]
    sign = -1 if answer.metric and METRICS[answer.metric].better == "higher" else 1
    return min(arms, key=lambda arm: sign * answer.values[arm][0], default="")


def _unlike(answers: Sequence[Answer]) -> str:
    """The first size of the work that differs, '' where all agree."""
    sizes = sorted({key for a in answers for key in a.condition if key.startswith(SIZE)})
    for key in ("preset", "dataset", "checkpoint", "epochs", "batch_size", *sizes):
        values = sorted({a.condition.get(key, "unknown") for a in answers})
        if len(values) > 1:
            return f"{key.removeprefix(SIZE)} is {' and '.join(values)}"
    return ""


def _notes(older: int, family: int) -> Iterable[str]:
    if family > 1:
        yield (
            f"p is Holm-adjusted over the {family} questions of this card, which are answered at once; "
            f"{holm_pairs(family)} pairs are the fewest that can answer one of so many."
        )
    if older:
        yield (
            f"{older} other studies of these workloads and devices did not answer: the newest whose "
            "pairs are all there does, whatever it says. They were searched for conditions with "
            "another answer."
        )

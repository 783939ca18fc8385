"""What would change an answer: the ends of its interval, other metrics, other conditions, more pairs;
and the command that would settle it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from analysis import wording
from analysis.answers import (
    ALONE,
    NONE,
    NOT_MEASURED,
    SAME,
    SHOWN,
    UNDECIDED,
    Answer,
    Elsewhere,
)
from analysis.findings import Comparison
from analysis.flags import BLOCKING, MINIMUM_PAIRS
from analysis.planning import MOST_LOOKS, MOST_PAIRS, pairs_for
from analysis.priorities import COST, PRIORITIES, Prices, Question, framework, priced, question
from analysis.sessions import Difference, Session, differences
from analysis.statistics import holm_pairs
from analysis.units import quantity
from tracking.names import METRICS, SIZE

_LISTED = 4  # keys in which conditions differ, before "and so many more"
_MANY = 100  # pairs, beyond which it is better to look after each and stop
_ROLES = ("headline", "as shipped", "sweep")  # pairings of two frameworks
_LOADED = ("blas_loaded", "blas_threads", "target")  # said by blas and threads; of no time
_UNTRUSTED = ("completion audit", "not in the same state")  # a busy machine's doing, mostly
_DISTURBED = frozenset({"LOAD", "STOLEN-CPU", "SWAP", "THERMAL", "CPU-QUOTA", "DRIFT"})


def with_changes(
    answer: Answer,
    asked: Question,
    others: Sequence[Session],
    priority: str,
    prices: Prices,
    deciding: Comparison | None,
    family: int,
    rng: np.random.Generator,
) -> Answer:
    """The answer with what would change it. others: every study of its workload and mode; deciding:
    the comparison it is told by; family: questions that are answered at once."""
    elsewhere = (
        *_other_priorities(answer, asked, priority, prices),
        *_other_conditions(answer, asked, others, prices),
    )
    pairs, more = _further(answer, deciding, family, rng)
    return replace(
        answer,
        elsewhere=elsewhere,
        changes=(
            *_interval(answer, deciding),
            *(_learnt(asked) if priority == "accuracy" else ()),
            *(f"With {e.where}: {e.better}. {e.comparison.verdict}." for e in elsewhere),
            *more,
        ),
        settle=_settle(answer, asked, priority, pairs, holm_pairs(family)),
    )


def _interval(answer: Answer, c: Comparison | None) -> list[str]:
    """How large the advantage may be at either end."""
    if c is None or c.ratio is None or c.ratio.low is None or c.ratio.high is None:
        return []
    level = f"{c.label}, ends of the {wording.percent(c.ratio.confidence)} interval"
    ends = [(_better_at(c, end), max(end, 1 / end) - 1) for end in (c.ratio.low, c.ratio.high)]
    if not answer.choice:
        allowed = " to ".join(f"{arm} better by {wording.percent(by)}" for arm, by in ends)
        return [f"The interval allows anything from {allowed} ({level})."]
    least, most = (wording.percent(by) for by in sorted(by for _, by in ends))
    other = c.denominator if answer.choice == c.numerator else c.numerator
    first, second = (other, answer.choice) if c.better == "lower" else (answer.choice, other)
    verb = "needs" if c.better == "lower" else "gives"
    return [f"{first} {verb} {least} to {most} more than {second} ({level})."]


def _better_at(c: Comparison, ratio: float) -> str:
    return c.numerator if (ratio < 1) == (c.better == "lower") else c.denominator


def better(c: Comparison) -> str:
    """The arm that is better by a verdict, else ''."""
    return {"better": c.numerator, "worse": c.denominator}.get(c.outcome, "")


def _other_priorities(
    answer: Answer, asked: Question, priority: str, prices: Prices
) -> Iterator[Elsewhere]:
    """Priorities that would choose another framework, in this very study."""
    if not answer.choice:
        return
    for other in PRIORITIES:
        same = question(asked.session, other, prices) if other != priority else None
        for c in same.comparisons if same else ():
            arm = better(c)
            if arm and framework(asked.session, arm) != answer.framework:
                yield Elsewhere(f"priority={other}", arm, c)
                break


def _other_conditions(
    answer: Answer, asked: Question, others: Sequence[Session], prices: Prices
) -> list[Elsewhere]:
    """Where the same metric has another answer under another condition of this device, newest first."""
    base = _cells(asked.session, asked.comparisons)
    answered = {(c.numerator, c.denominator) for c in asked.comparisons}
    found: dict[str, Elsewhere] = {}
    for session in sorted(others, key=lambda s: -s.start_seconds):
        findings = session.findings
        known = [c for c in (findings.comparisons if findings else ()) if c.role in _ROLES]
        if asked.metric == COST:
            known += priced(session, known, prices)
        for c in known:
            arm, cell = better(c), session.condition(c.numerator)
            whose = {framework(session, one) for one in (c.numerator, c.denominator)}
            here = (session.machine, cell.get("device")) == (answer.machine, answer.device)
            own = session is asked.session and (c.numerator, c.denominator) in answered
            if c.metric != asked.metric or not arm or len(whose) < 2 or not here or own:
                continue
            if framework(session, arm) == answer.framework:
                continue
            differs = _differs(base, _cells(session, [c])) or "the same condition, another time"
            where = f"{differs} (study {session.study.name})"
            found.setdefault(differs, Elsewhere(where, arm, c))
    return list(found.values())


def _cells(session: Session, found: Iterable[Comparison]) -> dict[str, dict[str, str]]:
    """Framework -> its condition."""
    return {
        framework(session, arm): {
            key: value for key, value in session.condition(arm).items() if key not in _LOADED
        }
        for c in found
        for arm in (c.numerator, c.denominator)
    }


def _differs(base: Mapping[str, dict[str, str]], other: Mapping[str, dict[str, str]]) -> str:
    """'dtype bfloat16 in place of float32', of the frameworks that both have."""
    both = [name for name in base if name in other]
    found = differences({n: base[n] for n in both}, {n: other[n] for n in both})
    found.sort(key=lambda d: d.key.startswith(SIZE))
    more = len(found) - _LISTED
    said = ", ".join(_in_place(d, len(both)) for d in found[:_LISTED])
    return said + (f" and {more} more" if more > 0 else "")


def _in_place(d: Difference, both: int) -> str:
    whose = f" of {' and '.join(d.places)}" if len(d.places) < both else ""
    name = d.key.removeprefix(SIZE)
    return f"{name}{whose} {d.second or 'unknown'} in place of {d.first or 'unknown'}"


def _learnt(asked: Question) -> Iterator[str]:
    """What was learnt, which is not raced, and who arrived."""
    findings = asked.session.findings
    if findings is None or not asked.comparisons:
        return
    arms = [asked.comparisons[0].numerator, asked.comparisons[0].denominator]
    about = METRICS[findings.study.quality]
    values = {arm.name: arm.values.get(about.name) for arm in findings.arms if arm.name in arms}
    medians = [f"{arm} {quantity(v[0], about.unit)}" for arm, v in values.items() if v]
    if medians:
        yield (
            f"Medians of {about.label}: {', '.join(medians)}. It is no race: both compute the same "
            "from the same weights, which the evidence of equal work shows."
        )
    for target in findings.targets:
        if [target.numerator, target.denominator] == arms and target.unit == "s":
            shares = [
                f"{a.arrived} of {a.n} runs of {arm}"
                for arm, a in zip(arms, (target.first, target.second), strict=True)
            ]
            p = target.test.p
            test = f"log-rank p {p:.2g}" if p is not None else f"no test: {target.test.refused}"
            yield f"Arrived at the target: {' and '.join(shares)}; {test}."


def _further(
    answer: Answer, c: Comparison | None, family: int, rng: np.random.Generator
) -> tuple[int | None, list[str]]:
    """(pairs of a new study that would decide it, the sentence). None where pairs alone would not."""
    blocked = bool({flag.name for flag in answer.flags} & BLOCKING)
    if c is None or c.ratio is None or answer.certainty not in (ALONE, UNDECIDED, NONE) or blocked:
        return None, []
    least = holm_pairs(family)
    if c.ratio.n < MINIMUM_PAIRS:
        pairs = max(20, least)
        return pairs, [
            f"{c.ratio.n} pairs allow no interval: {least} are the fewest, {pairs} are advised."
        ]
    away = abs(math.log(c.ratio.estimate))
    small = away < math.log1p(c.margin) / 2
    difference = None if small else c.ratio.estimate - 1
    ratios = [point.ratio for point in c.points]
    expected, safe = pairs_for(ratios, rng, difference, c.margin, family=family)
    what = f"show a difference of {wording.percent(math.expm1(away))}, if it is so large"
    if small:
        what = f"call the two the same within {wording.percent(c.margin)}, if they are"
    if expected is None or safe is None:
        told = f"more than {MOST_PAIRS} pairs may be needed: until then take either"
        return MOST_PAIRS, [f"To {what}, {told}."]
    expected, safe = max(expected, least), max(safe, least)
    return safe, [
        f"To {what}, plan a new study of {safe} pairs ({expected} with the spread seen here; 80 % "
        "power). Pairs added to this study would not count."
    ]


# --- the command that would settle it


def _settle(answer: Answer, asked: Question, priority: str, pairs: int | None, least: int) -> str:
    """One command line; '' where nothing is left to settle, or nothing could. least: pairs that can
    answer one question of the card."""
    study, workload = asked.study, answer.workload
    if answer.certainty in (SHOWN, SAME) or not asked.metric:
        return ""
    if answer.certainty == NOT_MEASURED and priority == "energy":
        return "mlflow run . -e doctor"
    if answer.certainty == NOT_MEASURED and priority == "cost":
        return "mlflow run . -e decide -P priority=cost -P price_per_hour=USD"
    if "not equal work" in answer.sentence:
        return f"mlflow run . -e verify -P workload={workload}"
    if priority == "memory" and answer.certainty == NONE and answer.device != "cpu":
        return f"mlflow run . -e max_batch -P workload={workload} -P device={answer.device}"
    if any(flag.name == "INCOMPLETE" for flag in answer.flags):
        return _study(answer, asked, study.pairs, study.name)
    return _study(answer, asked, pairs or max(study.pairs, least))


def _study(answer: Answer, asked: Question, pairs: int, name: str = "") -> str:
    """`study` with the options of this one. name: to go on with it, where what it left to the machine
    is left again."""
    design = asked.study.design
    left = tuple(design.get("by_machine", ())) if name else ()
    own = [arm for c in asked.comparisons for arm in (c.numerator, c.denominator)]
    arms = list(answer.contenders) if len(answer.contenders) > 1 else own
    if name or not arms:
        arms = [arm for arm in asked.study.arms if "(again)" not in arm]
    condition = design.get("condition", {})
    unlike = "not like with like" in answer.sentence  # the usual arms are like
    disturbed = {flag.name for flag in answer.flags} & _DISTURBED or any(
        word in answer.sentence for word in _UNTRUSTED
    )
    usual = {"mode": "train", "dtype": "float32", "dataset": ""}
    given: dict[str, object] = {
        "name": name,
        "workload": answer.workload,
        "mode": answer.mode,
        "preset": design.get("preset", ""),
        "device": answer.device,
        "dtype": str(condition.get("dtype", "float32")),
        "dataset": "synthetic" if design.get("dataset") == "synthetic" else "",
        "epochs": design.get("epochs") if answer.mode == "train" else "",
        "arms": "" if unlike else f"'{', '.join(dict.fromkeys(arms))}'",
        "pairs": MOST_LOOKS if pairs > _MANY else pairs,
        "until_resolved": "true" if pairs > _MANY else "",
        "wait_quiet": 300 if disturbed else "",
    }
    return "mlflow run . -e study " + " ".join(
        f"-P {key}={value}"
        for key, value in given.items()
        if key not in left and value not in (None, "", 0, usual.get(key))
    )

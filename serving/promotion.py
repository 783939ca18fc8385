"""May a challenger take the champion's place? Decided by the study's own analysis, and by nothing else.

It may where its quality is significantly better, or the same within a margin fixed beforehand while
something else that the study declared is significantly better and nothing of it worse; on complete
evidence. Of two studies only the quality is compared: their times are not (NOT-INTERLEAVED). Whatever
is missing is a refusal in one line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from analysis import statistics, wording
from analysis.findings import Comparison, Findings
from analysis.flags import BLOCKING
from analysis.table import Table, build, check_values
from measurement.errors import InputError
from measurement.schedule import AGAIN
from tracking import read, registry
from tracking.names import METRICS

if TYPE_CHECKING:
    from tracking.read import Row, Study

MARGIN = 0.01
"""Of a quality, as a ratio: fixed here, before any run, unless a command states another one."""
Analysed = Callable[["Study"], Findings]
_ASIDE = frozenset({"injected", "resolution"})  # pairings that ask nothing of the frameworks


@dataclass(frozen=True)
class Grounds:
    """Why a promotion is allowed: sentences with their numbers, and the studies they come from."""

    sentences: tuple[str, ...]
    studies: tuple[str, ...]
    margin: float


def judge(
    champion: Row, challenger: Row, metric: str, margin: float, analysed: Analysed
) -> Grounds:
    """The grounds of a promotion. metric: a quality (accuracy, perplexity), or a declared metric of
    the one study that holds both. analysed: gives a study's findings. Raises InputError, in one line
    that names what is missing."""
    if not 0 < margin <= 0.2:
        raise InputError(
            f"margin={margin:g}: expected a share above 0 and at most 0.2, such as 0.01"
        )
    for row, who in ((challenger, "the challenger"), (champion, "the champion")):
        if said := registry.unfit(row, metric, champion.cell["workload"]):
            raise InputError(f"not promoted: {who}'s run {row.run_id} has {said}")
        if row.altered:
            raise InputError(
                f"not promoted: {', '.join(row.altered[:3])} of {who}'s run {row.run_id} is not as it "
                "was recorded"
            )
        if not row.study or row.pair is None:
            raise InputError(
                f"not promoted: {who}'s run {row.run_id} is a trial by itself, n = 1; expected one of a "
                "study, which says how far seeds scatter: run 'mlflow run . -e study'"
            )
    _same_data(champion, challenger)
    if (champion.study, champion.machine) != (challenger.study, challenger.machine):
        return _apart(champion, challenger, metric, margin)
    if _arm(champion) == _arm(challenger):
        raise InputError(
            f"not promoted: both are trials of the arm '{_arm(champion)}' of study '{champion.study}', "
            "which differ in their seed: the better one is better by chance"
        )
    return _together(champion, challenger, metric, margin, analysed)


def _same_data(champion: Row, challenger: Row) -> None:
    for key in ("dataset", "data_sha256"):
        values = [row.tags.get(key) or row.cell.get(key, "") for row in (champion, challenger)]
        if values[0] != values[1] or not values[0]:
            raise InputError(
                f"not promoted: {key} is '{values[1][:16]}' for the challenger and '{values[0][:16]}' for "
                "the champion, so their qualities are of two test sets; train both on one"
            )


def _together(
    champion: Row, challenger: Row, metric: str, margin: float, analysed: Analysed
) -> Grounds:
    """Of one study: its own comparison of the two arms, with the quality in the declared family."""
    study = read.study(champion.study, champion.machine or None)
    declared = tuple(dict.fromkeys((study.metric, *study.family)))
    quality = study.quality if study.target else metric
    asked = tuple(dict.fromkeys((*declared, metric, quality)))
    findings = analysed(replace(study, family=asked, margin=min(margin, study.margin)))
    pair = _arm(challenger), _arm(champion)
    own = [
        _as_seen(c, pair[0])
        for c in findings.comparisons
        if {c.numerator, c.denominator} == {*pair} and c.role not in _ASIDE
    ]
    found = {c.metric: c for c in reversed(own)}  # the first role that asks it counts
    if metric not in found:
        raise InputError(
            f"not promoted: study '{study.name}' compares no '{pair[0]}' with '{pair[1]}' by {metric}; "
            "run a study whose arms are these two"
        )
    for name in dict.fromkeys((metric, quality)):
        _complete(found.get(name), name, study.name)
    for name in dict.fromkeys((quality, metric)):
        c = found[name]
        if c.outcome != "better" and not _equivalent(c):
            how = "worse" if c.outcome == "worse" else "undecided"
            raise InputError(f"not promoted: {how} by {name}: {c.verdict}")
    first, margin = found[metric], found[metric].margin
    if first.outcome == "better":
        return Grounds(_said(first, found[quality]), (study.name,), margin)
    others = [c for n, c in found.items() if n in declared and n != metric]
    better = [c for c in others if c.outcome == "better"]
    worse = [c for c in others if c.outcome == "worse"]
    doubt = _doubtful(findings, pair)
    if doubt and any(registry.timed(c.metric) for c in (*better, *worse)):
        raise InputError(
            f"not promoted: the same by {metric}, and {doubt}, so that its times decide nothing; repeat "
            "the study on a quiet machine"
        )
    if worse:
        raise InputError(f"not promoted: the same by {metric}, but {worse[0].verdict}")
    if not better:
        few = next((str(flag) for c in others for flag in c.flags if flag.name == "HOLM-FEW"), "")
        raise InputError(
            f"not promoted: the same within {wording.percent(first.margin)} by {metric}, and nothing that "
            f"study '{study.name}' declared ({', '.join(n for n in declared if n != metric)}) is "
            f"significantly better; the champion stays{f' ({few})' * bool(few)}"
        )
    return Grounds(_said(first, *better), (study.name,), margin)


def _arm(row: Row) -> str:
    """The second copy of an arm, by which a machine is compared with itself, is the same condition."""
    return row.arm.replace(AGAIN, "").strip()


def _doubtful(findings: Findings, pair: tuple[str, str]) -> str:
    """What disturbed the clocks of more than half of an arm's trials; "" where nothing did."""
    for arm in pair:
        trials = [str(one["flags"]).split() for one in findings.trials if one["arm"] == arm]
        found = [registry.DOUBTFUL_TIMES.intersection(flags) for flags in trials]
        spoilt = sum(map(bool, found))
        if 2 * spoilt > len(trials):
            return f"{', '.join(sorted(set().union(*found)))} in {spoilt} of {len(trials)} trials of '{arm}'"
    return ""


def _as_seen(c: Comparison, challenger: str) -> Comparison:
    """A comparison with its outcome as the challenger sees it; the verdict keeps its own words."""
    turned = {"better": "worse", "worse": "better"}
    if c.numerator == challenger:
        return c
    return replace(c, outcome=turned.get(c.outcome, c.outcome))


def _complete(c: Comparison | None, metric: str, study: str) -> None:
    """Raises InputError where a comparison allows no verdict, with the reason."""
    if c is None:
        raise InputError(f"not promoted: study '{study}' has no {metric} of these arms; declare it")
    if c.refused or c.not_measured:
        raise InputError(
            f"not promoted: {metric} of study '{study}': {c.refused or c.not_measured}"
        )
    blocking = [flag.name for flag in c.flags if flag.name in BLOCKING]
    if blocking:
        raise InputError(
            f"not promoted: {', '.join(dict.fromkeys(blocking))} of study '{study}' forbids a verdict "
            f"by {metric}; run the study again undisturbed"
        )
    if c.outcome == "none":
        raise InputError(f"not promoted: {c.verdict}")


def _equivalent(c: Comparison) -> bool:
    """The same within the margin, by test; a difference that is shown may be smaller than that."""
    return c.same is not None and c.same.same


def _said(*found: Comparison) -> tuple[str, ...]:
    return tuple(dict.fromkeys(c.verdict for c in found))


def _apart(champion: Row, challenger: Row, metric: str, margin: float) -> Grounds:
    """Of two studies: the quality alone, which no drift of a machine changes."""
    if not metric.startswith("eval/"):
        raise InputError(
            f"not promoted: the two are of the studies '{challenger.study}' and '{champion.study}', whose "
            f"{metric} cannot be compared (NOT-INTERLEAVED); run one study with both arms"
        )
    values = [_values(row, metric) for row in (challenger, champion)]
    ratio = statistics.unpaired_ratio(values[0], values[1])
    if ratio.low is None or ratio.high is None or ratio.p is None:
        few = min(len(found) for found in values)
        raise InputError(
            f"not promoted: {few} trials of an arm are too few to compare {metric}; expected 6 or more "
            "in each study"
        )
    better = METRICS[metric].better
    said = (
        f"{METRICS[metric].label} of {challenger.arm} (study {challenger.study}, "
        f"{len(values[0])} trials) over {champion.arm} (study {champion.study}, {len(values[1])}): ratio "
        f"{wording.number(ratio.estimate)}, 95 % interval {wording.number(ratio.low)} to "
        f"{wording.number(ratio.high)}"
    )
    if ratio.p <= 0.05 and ratio.estimate != 1:
        if (ratio.estimate < 1) == (better == "lower"):
            return Grounds((said,), (challenger.study, champion.study), margin)
        raise InputError(f"not promoted: worse by {metric}: {said}")
    if statistics.equivalence_of(ratio, margin).same:
        raise InputError(
            f"not promoted: the same within {wording.percent(margin)} by {metric}, and of two studies "
            "nothing else is compared (NOT-INTERLEAVED); run one study with both arms"
        )
    raise InputError(f"not promoted: undecided by {metric}: {said}; run more pairs in a new study")


def _values(row: Row, metric: str) -> Sequence[float]:
    """Of every trial of a run's arm, in a study that is complete. Raises InputError."""
    study = read.study(row.study, row.machine or None)
    table: Table = build(study, read.trials_of(study))
    found = list(table.arms.get(row.arm, {}).values())
    if len(found) < study.pairs and not study.anytime:
        raise InputError(
            f"not promoted: study '{study.name}' has {len(found)} of {study.pairs} planned trials of "
            f"'{row.arm}'; resume it first"
        )
    for one in found:
        check_values(one)
        if one.altered:
            raise InputError(
                f"not promoted: run {one.run_id} of '{row.arm}' is not as it was recorded"
            )
        if said := registry.unfit(one, metric, row.cell["workload"]):
            raise InputError(f"not promoted: run {one.run_id} of '{row.arm}' has {said}")
    return [one.metrics[metric] for one in found]

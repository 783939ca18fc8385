"""A study of numbers of ranks -> speed-up and efficiency with intervals, or one sentence why not.

Strong scaling: the same global batch on more ranks, so the work is equal and times may be divided.
Weak scaling: the batch grows with the ranks, so the work is not equal; only rates are compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from analysis import fairness, flags, statistics, wording
from analysis.findings import Comparison, Findings, Point
from analysis.flags import BLOCKING, Flag
from analysis.scaling_jobs import Arm, Job, Share, job, shares
from analysis.statistics import Ratio
from analysis.table import Table, build
from measurement.audit import parity_difference, receipt_difference

if TYPE_CHECKING:
    from tracking.read import Row

RATE = "train/items_per_second"
COUNTED = ("items", "eval_items")
"""What the receipts of a weak arm and of one rank must state alike: the whole data, every epoch."""
_ASKED = frozenset({"UNDECIDED", *(f"{key.upper()}-DIFFERS" for key in fairness.RESOURCES)})
_WEAK_DIFFERS = frozenset({"batch_size"})
_NO_BASE = "this study has no arm of 1 rank, which every speed-up is relative to"


@dataclass(frozen=True)
class Gain:
    """What more ranks of one framework gave over one.

    speed_up: T(1) / T(ranks), strong scaling only. efficiency: speed_up / ranks, or, of weak scaling,
    the job's rate over `ranks` times that of one rank. points: every block's efficiency. refused: the
    sentence that stands for all numbers.
    """

    framework: str
    kind: str
    ranks: int
    arm: str
    reference: str
    speed_up: Ratio | None = None
    efficiency: Ratio | None = None
    points: tuple[Point, ...] = ()
    refused: str | None = None
    flags: tuple[Flag, ...] = ()
    sentence: str = ""


@dataclass(frozen=True)
class Whole:
    """Everything about whole jobs. headlines: (ranks, MLX over PyTorch there), every metric."""

    ranks: tuple[int, ...]
    frameworks: tuple[str, ...]
    batch_size: int
    threads: int
    pairs: int
    margin: float
    jobs: tuple[Job, ...]
    strong: tuple[Gain, ...]
    weak: tuple[Gain, ...]
    headlines: tuple[tuple[int, Comparison], ...]
    over_one: tuple[tuple[str, int, Comparison], ...]  # framework, ranks, every metric
    same_arm: tuple[Comparison, ...]

    @property
    def gains(self) -> tuple[Gain, ...]:
        return (*self.strong, *self.weak)


@dataclass(frozen=True)
class Scaling:
    """whole: of jobs; parts: of single ranks, shown apart. sentences: the verdict."""

    whole: Whole
    parts: tuple[Share, ...]
    without_parts: tuple[str, ...]
    sentences: tuple[str, ...]


def trace(findings: Findings, rows: Iterable[Row]) -> Scaling:
    """What a study found whose design has "scaling": numbers of ranks.

    rows: the study's own, as `analyse` had them.
    """
    study = findings.study
    design = study.design["scaling"]
    table = build(study, rows)
    arms = [Arm(**arm) for arm in study.design["scaling_arms"]]
    number = {arm.name: arm.ranks for arm in arms}
    wrong = {arm.name: _wrong(table, arm) for arm in arms}
    gains = [_gain(findings, table, arm, arms, wrong) for arm in arms if arm.kind != "single"]
    whole = Whole(
        ranks=tuple(design["ranks"]),
        frameworks=tuple(dict.fromkeys(arm.framework for arm in arms)),
        batch_size=min(arm.batch_size for arm in arms),
        threads=int(design["threads"]),
        pairs=study.pairs,
        margin=study.margin,
        jobs=tuple(
            found
            for arm in arms
            if wrong[arm.name] is None and (found := job(table, arm)) is not None
        ),
        strong=tuple(gain for gain in gains if gain.kind == "strong"),
        weak=tuple(gain for gain in gains if gain.kind == "weak"),
        headlines=tuple(
            (number[c.numerator], c) for c in findings.comparisons if c.role == "headline"
        ),
        over_one=tuple(
            (arm.framework, arm.ranks, c)
            for arm in arms
            for c in findings.comparisons
            if c.role == "scaling" and c.numerator == arm.name
        ),
        same_arm=tuple(c for c in findings.comparisons if c.role == "resolution"),
    )
    asked = [(n, c) for n, c in whole.headlines if c.metric == study.metric]
    parts = {arm.name: shares(table, arm) for arm in arms if wrong[arm.name] is None}
    return Scaling(
        whole=whole,
        parts=tuple(share for found in parts.values() for share in found),
        without_parts=tuple(
            f"{arm.name}: {wrong[arm.name] or 'nothing was recorded by rank'}"
            for arm in arms
            if arm.ranks > 1 and not parts.get(arm.name)
        ),
        sentences=(
            *(f"{ranks_text(n)}: {c.verdict}" for n, c in asked),
            *(gain.sentence for gain in gains),
        ),
    )


def _wrong(table: Table, arm: Arm) -> str | None:
    """Why no number of an arm is to be believed; None where nothing speaks against it."""
    said = (fairness.ranks_disagree(row) for row in table.arms[arm.name].values())
    return next(filter(None, said), None)


def _gain(
    findings: Findings,
    table: Table,
    arm: Arm,
    arms: Sequence[Arm],
    wrong: dict[str, str | None],
) -> Gain:
    base = next((a for a in arms if a.framework == arm.framework and a.ranks == 1), None)
    gain = Gain(arm.framework, arm.kind, arm.ranks, arm.name, base.name if base else "")
    if base is None:
        return _said(replace(gain, refused=_NO_BASE), table)
    refused = _unlike(table, arm, base) or wrong[base.name] or wrong[arm.name]
    if refused is None and arm.kind == "strong":
        gain = _strong(gain, findings)
    elif refused is None:
        gain = _weak(gain, table, base, arms)
    else:
        gain = replace(gain, refused=refused)
    return _said(gain if gain.refused else _with_cores(gain, table), table)


def _unlike(table: Table, arm: Arm, base: Arm) -> str | None:
    """Why more was changed than the number of ranks, or there is nothing to compare."""
    for one in (base, arm):
        if not table.arms.get(one.name):
            short = table.out_of_memory.get(one.name, 0)
            why = f": {short} ended for lack of memory" if short else ""
            return f"no trial of {one.name} finished{why}"
    first, second = (
        next(iter(table.arms[one.name].values())).cell.get("threads", "unknown")
        for one in (arm, base)
    )
    if first != second:
        return (
            f"threads of a rank differ: {first} for {arm.name} and {second} for {base.name}, so that "
            "more was changed than the number of ranks"
        )
    return None


def _strong(gain: Gain, findings: Findings) -> Gain:
    """Times of equal work: the comparison of the study, turned round."""
    c = next(
        (
            c
            for c in findings.comparisons
            if (c.role, c.metric) == ("scaling", findings.study.metric)
            and (c.numerator, c.denominator) == (gain.arm, gain.reference)
        ),
        None,
    )
    if c is None:
        return replace(gain, refused="the study declared no comparison with 1 rank")
    if c.ratio is None:
        return replace(gain, refused=c.refused or c.not_measured or "no ratio")
    many, one = [p.numerator for p in c.points], [p.denominator for p in c.points]
    worked = [gain.ranks * seconds for seconds in many]
    return replace(
        gain,
        speed_up=statistics.paired_ratio(one, many),
        efficiency=statistics.paired_ratio(one, worked),
        points=_points([p.pair for p in c.points], one, worked),
        flags=tuple(f for f in c.flags if f.name not in _ASKED),
    )


def _weak(gain: Gain, table: Table, base: Arm, arms: Sequence[Arm]) -> Gain:
    """Rates of unequal work, each of the whole data by its own receipt; never a ratio of times."""
    pairs = table.pairs(gain.arm, gain.reference)
    refused = _unproved(gain, table, base, arms, pairs)
    if refused:
        return replace(gain, refused=refused)
    measured = [(n, a, b) for n, a, b in pairs if RATE in a.metrics and RATE in b.metrics]
    if not measured:
        return replace(gain, refused="not measured: no trial has a rate")
    many = [a.metrics[RATE] for _, a, _ in measured]
    ideal = [gain.ranks * b.metrics[RATE] for _, _, b in measured]
    ratio = statistics.paired_ratio(many, ideal)
    lost = len(pairs) - len(measured) + table.halves(gain.arm, gain.reference)
    unplanned = (flags.unplanned(ratio.n, table.study.pairs),) * (ratio.n != table.study.pairs)
    return replace(
        gain,
        efficiency=ratio,
        points=_points([n for n, _, _ in measured], many, ideal),
        flags=(
            *(flag for flag in ratio.warnings if flag.name != "RARE"),
            *((flags.left_out(lost),) if lost else ()),
            *fairness.design_flags(measured),
            *fairness.trial_flags([row for _, a, b in measured for row in (a, b)]),
            *unplanned,
        ),
    )


def _unproved(
    gain: Gain, table: Table, base: Arm, arms: Sequence[Arm], pairs: fairness.Pairs
) -> str | None:
    """Why the rates of a weak arm and of one rank may not be compared."""
    if not pairs:
        return "no block in which both arms finished"
    for number, *both in pairs:
        for row in both:
            if not row.receipt or not row.parity:
                what = "work receipt" if not row.receipt else "evidence of its work"
                return f"block {number}: {row.arm} has no {what}"
        first, second = both
        assert first.receipt and second.receipt
        for name in COUNTED:
            counts = first.receipt.get(name), second.receipt.get(name)
            if not isinstance(counts[0], int) or counts[0] != counts[1]:
                return (
                    f"block {number}: the receipts differ in {name} ({counts[0]} against "
                    f"{counts[1]}), so a rate is not that of the whole data set"
                )
    _, first, second = pairs[0]
    batches = [row.cell.get("batch_size", "") for row in (first, second)]
    if not all(map(str.isdecimal, batches)) or int(batches[0]) != gain.ranks * int(batches[1]):
        return (
            f"the batch of a rank does not stay: {batches[0]} over {ranks_text(gain.ranks)} in "
            f"{first.arm}, {batches[1]} in {second.arm}"
        )
    allowed = fairness.FRAMEWORKS_OWN | fairness.RESOURCES | _WEAK_DIFFERS
    different = [
        key for key in fairness.different_keys(first.cell, second.cell) if key not in allowed
    ]
    if different:
        key = different[0]
        return (
            f"not like with like: {key} is '{first.cell.get(key)}' for {first.arm} and "
            f"'{second.cell.get(key)}' for {second.arm}"
        )
    for name in (gain.arm, gain.reference):
        said = fairness.untrusted(list(table.arms[name].values()))
        if said or (said := _twins_differ(table, name, arms)):
            return said
    return None


def _twins_differ(table: Table, name: str, arms: Sequence[Arm]) -> str | None:
    """The evidence of a weak arm has no like in one rank, but in the other framework's same arm."""
    own = next(arm for arm in arms if arm.name == name)
    for other in arms:
        if (other.kind, other.ranks) != (own.kind, own.ranks) or other is own:
            continue
        for number, a, b in table.pairs(name, other.name):
            said = parity_difference(a.parity, b.parity) or receipt_difference(a.receipt, b.receipt)
            if said:
                return f"not equal work with {other.name} (block {number}): {said}"
    return None


def _points(
    pairs: Sequence[int], first: Sequence[float], second: Sequence[float]
) -> tuple[Point, ...]:
    return tuple(Point(n, a, b, a / b) for n, a, b in zip(pairs, first, second, strict=True))


def _with_cores(gain: Gain, table: Table) -> Gain:
    """OVERSUBSCRIBED where the ranks of a host have more threads than it has cores."""
    row = next(iter(table.arms[gain.arm].values()))
    cores, threads = row.facts.get("machine_cores", ""), row.cell.get("threads", "")
    if "cpu" not in row.cell.get("device", "") or not (cores.isdecimal() and threads.isdecimal()):
        return gain
    have = int(cores) * int(row.cell.get("hosts", "1"))
    if gain.ranks * int(threads) <= have:
        return gain
    warning = flags.oversubscribed(gain.ranks, int(threads), have)
    return replace(gain, flags=(*gain.flags, warning))


def _said(gain: Gain, table: Table) -> Gain:
    """With the one sentence that its evidence allows."""
    head = f"{gain.kind} scaling of {gain.framework} to {ranks_text(gain.ranks)}: "
    ratio = gain.efficiency
    if gain.refused or ratio is None:
        return replace(gain, sentence=f"{head}no efficiency: {gain.refused}")
    if ratio.low is None or ratio.high is None:
        listed = ", ".join(wording.number(point.ratio) for point in gain.points)
        return replace(
            gain,
            sentence=f"{head}no verdict from {ratio.n} pair{'s' * (ratio.n != 1)}; the efficiencies "
            f"are {listed}",
        )
    between = f"between {wording.number(ratio.low)} and {wording.number(ratio.high)}"
    planned = table.study.pairs
    if ratio.n != planned:
        said = f"no verdict from {ratio.n} pairs where {planned} were planned; it is {between}"
        return replace(gain, sentence=head + said)
    if blocking := [flag.name for flag in gain.flags if flag.name in BLOCKING]:
        said = f"no verdict, {', '.join(blocking)} forbids one; the efficiency is {between}"
        return replace(gain, sentence=head + said)
    said = f"efficiency {_interval(ratio)}"
    if gain.speed_up is not None:
        said = f"{_interval(gain.speed_up)} times as fast as 1, {said}"
    return replace(gain, sentence=head + said)


def _interval(ratio: Ratio) -> str:
    """'0.800 (95 % interval 0.785 to 0.815)'."""
    assert ratio.low is not None and ratio.high is not None
    low, high = wording.number(ratio.low), wording.number(ratio.high)
    return f"{wording.number(ratio.estimate)} ({wording.percent(ratio.confidence)} interval {low} to {high})"


def ranks_text(ranks: int) -> str:
    """'1 rank', '4 ranks'."""
    return f"{ranks} rank{'s' * (ranks != 1)}"


def records(findings: Findings, whole: Whole) -> list[dict[str, Any]]:
    """One flat record a gain, for CSV; an empty cell was refused, and the sentence says why."""
    return [
        {
            "study": findings.study.name,
            "scaling": gain.kind,
            "framework": gain.framework,
            "ranks": gain.ranks,
            "arm": gain.arm,
            "reference": gain.reference,
            "pairs": gain.efficiency.n if gain.efficiency else 0,
            **_limits("speed_up", gain.speed_up),
            **_limits("efficiency", gain.efficiency),
            "flags": " ".join(flag.name for flag in gain.flags),
            "pair_numbers": " ".join(str(point.pair) for point in gain.points),
            "pair_efficiencies": " ".join(repr(point.ratio) for point in gain.points),
            "sentence": gain.sentence,
        }
        for gain in whole.gains
    ]


def _limits(name: str, ratio: Ratio | None) -> dict[str, float | None]:
    return {
        name: ratio.estimate if ratio else None,
        f"{name}_low": ratio.low if ratio else None,
        f"{name}_high": ratio.high if ratio else None,
    }


def share_records(findings: Findings, parts: Sequence[Share]) -> list[dict[str, Any]]:
    """One flat record a rank of an arm: medians of its own part; None = not measured."""
    return [
        {
            "study": findings.study.name,
            "framework": share.framework,
            "scaling": share.kind,
            "ranks": share.ranks,
            "arm": share.arm,
            "rank": share.rank,
            "trials": share.trials,
            **{
                metric: share.values[metric].median if metric in share.values else None
                for metric in (*share.values, *share.not_measured)
            },
        }
        for share in parts
    ]

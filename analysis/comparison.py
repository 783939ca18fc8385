"""A study's rows -> one comparison per pairing and metric, each with the verdict it allows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from analysis import (
    conditions,
    curves,
    equal_work,
    fairness,
    flags,
    provenance,
    recorded,
    repeats,
    roofline,
    statistics,
    stopping,
    wording,
)
from analysis.convergence import arrivals, targets
from analysis.detection import detection
from analysis.findings import ArmSummary, Comparison, Findings, Point
from analysis.flags import BLOCKING, MINIMUM_PAIRS, Flag
from analysis.statistics import Ratio
from analysis.statistics.diagnostics import autocorrelation, order_effect, resolution
from analysis.table import Table, build, records
from measurement.errors import InputError
from tracking.digest import SAMPLES
from tracking.names import CODE, COMMUNICATION, DETAILS, METRICS

if TYPE_CHECKING:
    from tracking.read import Pairing, Row, Study

COMPARED = (
    "train/total_seconds",
    "train/first_step_seconds",
    "train/step_seconds_p50",
    "train/step_seconds_p90",
    "train/items_per_second",
    "train/tokens_per_second",
    "inference/total_seconds",
    "inference/first_call_seconds",
    "inference/first_token_seconds",
    "inference/prefill_tokens_per_second",
    "inference/decode_tokens_per_second",
    "inference/token_seconds_p50",
    "inference/token_seconds_p90",
    "inference/token_seconds_p99",
    "inference/encode_seconds",
    "inference/decode_seconds",
    "inference/real_time_factor",
    "inference/seconds_per_audio",
    "inference/latency_seconds_p50",
    "inference/latency_seconds_p90",
    "inference/latency_seconds_p99",
    "inference/items_per_second",
    "stream/total_seconds",
    "stream/first_update_seconds",
    "stream/update_seconds_p50",
    "stream/update_seconds_p90",
    "stream/update_seconds_p99",
    "stream/updates_per_second",
    "switch/total_seconds",
    "switch/first_call_seconds",
    "switch/loop_seconds_p50",
    "switch/loop_seconds_p90",
    "switch/first_device_seconds",
    "switch/second_device_seconds",
    "switch/transfer_seconds",
    "target/seconds",
    "memory/process_peak_bytes",
    "memory/device_peak_bytes",
    "energy/joules",
    "energy/watts_mean",
    "cost/usd",
    "hardware/flops_per_second",
    "hardware/ceiling_fraction",
)
"""Metrics that are divided where a study has them; device memory only within one framework."""

SLOWED_UNITS = ("s", "items/s", "tokens/s", "updates/s")
"""What a slowdown on purpose changes by a known factor."""

SHOWN = (
    *COMPARED,
    "target/epochs",
    "eval/accuracy",
    "eval/perplexity",
    "inference/output_tokens",
    "eval/quality_before",
    *DETAILS,
    "switch/parts_ratio",
    *COMMUNICATION,
    "train/loss",
    "hardware/cpu_percent_mean",
    "hardware/gpu_percent_mean",
    *CODE,
)
"""Metrics shown per arm. Quality is not divided: it is evidence of equal work, not a race. The size
of the code is exact: there is nothing to test."""

PERCENTILES = (
    "inference/latency_seconds_p",
    "inference/token_seconds_p",
    "stream/update_seconds_p",
    "switch/loop_seconds_p",
)
"""Of the single calls that a receipt counts."""


@dataclass(frozen=True)
class Around:
    """What is known beside a study's own rows. samples: of each trial, by run id; others: the studies
    of the store that ask the same, with their rows, oldest first."""

    samples: recorded.Samples = field(default_factory=dict)
    others: Sequence[tuple[Study, Sequence[Row]]] = ()


def analyse(
    study: Study, rows: Iterable[Row], rng: np.random.Generator, around: Around | None = None
) -> Findings:
    """Compare every declared pairing of a study on every metric that concerns it.

    rows: every trial that the study began, those too that ended early or were deleted since. rng: for
    the permutation tests (drift, log-rank). Raises InputError as `table.build` does.
    """
    around = around or Around()
    declared = (study.metric, *study.family, *((study.quality,) if study.target else ()))
    if unknown := [name for name in declared if name not in METRICS]:
        raise InputError(f"study {study.name}: '{unknown[0]}' is no metric; see tracking/names.py")
    table = build(study, rows)
    table = replace(
        table,
        resampled=recorded.differences(table.trials(), around.samples),
        elsewhere={
            row.tags[SAMPLES]: row
            for _, known in around.others
            for row in known
            if row.tags.get(SAMPLES)
        },
    )
    origins = _Origins(table)
    drifts = _drifts(table, rng)
    order = [*wording.ROLES]
    pairings = sorted(
        study.comparisons, key=lambda p: order.index(p.role) if p.role in order else len(order)
    )
    found = [
        _compare(table, pairing, metric, drifts, origins, around)
        for pairing in pairings
        for metric in dict.fromkeys((study.metric, *study.family, *table.known(COMPARED)))
        if pairing.role != "injected" or METRICS[metric].unit in SLOWED_UNITS
    ]
    found = [_with_verdict(c, table, around) for c in _with_family(_with_resolution(found), study)]
    found = [
        replace(c, detection=detection([p.ratio for p in c.points], rng))
        if c.role in wording.KNOWN_TRUTH and c.metric == study.metric
        else c
        for c in found
    ]
    arrived = arrivals(table)
    return Findings(
        study=study,
        headline=_headline(found, study),
        arms=tuple(_summary(table, arm, drifts) for arm in study.arms if table.arms[arm]),
        comparisons=tuple(found),
        arrivals=arrived,
        targets=targets(table, arrived, rng, origins.unfair),
        notes=_notes(table, found),
        trials=tuple(records(table, table.known(SHOWN))),
        curves=curves.trace(table, around.samples),
        roofs=roofline.trace(table),
        done=equal_work.done(table),
        proofs=equal_work.proofs(table),
        machine=dict(table.trials()[0].facts),
    )


class _Origins:
    """What `provenance` and `fairness` say of a set of pairs: the same for every metric that all of
    them have."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._refusals: dict[tuple[str, ...], str | None] = {}
        self._unfair: dict[tuple[str, ...], str | None] = {}
        self._flags: dict[tuple[str, ...], tuple[Flag, ...]] = {}

    def refusal(self, pairs: fairness.Pairs) -> str | None:
        key = self._key(pairs)
        if key not in self._refusals:
            self._refusals[key] = provenance.refusal(self._table, pairs)
        return self._refusals[key]

    def unfair(self, role: str, pairs: fairness.Pairs) -> str | None:
        key = (role, *self._key(pairs))
        if key not in self._unfair:
            self._unfair[key] = fairness.refusal(role, pairs)
        return self._unfair[key]

    def flags(self, pairs: fairness.Pairs) -> tuple[Flag, ...]:
        key = self._key(pairs)
        if key not in self._flags:
            self._flags[key] = provenance.found_flags(self._table, pairs)
        return self._flags[key]

    @staticmethod
    def _key(pairs: fairness.Pairs) -> tuple[str, ...]:
        return tuple(row.run_id for _, a, b in pairs for row in (a, b))


def _compare(
    table: Table,
    pairing: Pairing,
    metric: str,
    drifts: dict[str, Flag],
    origins: _Origins,
    around: Around,
) -> Comparison:
    about, pairs = METRICS[metric], table.pairs(pairing.numerator, pairing.denominator)
    base = Comparison(
        numerator=pairing.numerator,
        denominator=pairing.denominator,
        role=pairing.role,
        metric=metric,
        unit=about.unit,
        label=about.label,
        better=about.better,
        margin=table.study.margin,
    )
    if not pairs:
        return replace(base, refused=_no_pair(table, pairing))
    measured = [
        (number, a, b) for number, a, b in pairs if metric in a.metrics and metric in b.metrics
    ]
    missed = sum(metric not in row.metrics for _, a, b in pairs for row in (a, b))
    if missed and metric.startswith("target/"):
        return replace(
            base,
            refused="a run that never arrived has no time; see the time to the target",
            flags=(flags.never(missed, 2 * len(pairs)),),
        )
    if not measured:
        return replace(base, not_measured=_reason(pairs, metric))
    refused = (
        origins.refusal(pairs)
        or origins.unfair(pairing.role, pairs)
        or _incomparable(metric, pairs)
    )
    if refused:
        return replace(base, refused=refused, flags=(*_design(table, pairs), *origins.flags(pairs)))
    if any(row.metrics[metric] <= 0 for _, a, b in measured for row in (a, b)):
        return replace(base, refused="a value of 0 or below has no ratio")
    points = tuple(
        Point(number, a.metrics[metric], b.metrics[metric], a.metrics[metric] / b.metrics[metric])
        for number, a, b in measured
    )
    first, second = [p.numerator for p in points], [p.denominator for p in points]
    if table.study.anytime:
        ratio = statistics.anytime_ratio(first, second)
    else:
        ratio = _ratio(metric, first, second, measured)
    lost = len(pairs) - len(points) + table.halves(pairing.numerator, pairing.denominator)
    return replace(
        base,
        points=points,
        ratio=ratio,
        same=stopping.sameness(ratio, table.study.margin)
        if table.study.anytime
        else statistics.equivalence(first, second, table.study.margin),
        p=ratio.p,
        wins=_wins(ratio, about.better),
        truth=_truth(pairing, metric, measured),
        flags=(
            *(flag for flag in ratio.warnings if flag.name != "RARE"),  # once a study: _notes
            *((flags.left_out(lost),) if lost else ()),
            *(
                flag
                for arm in (pairing.numerator, pairing.denominator)
                for flag in _short_flags(table, arm)
            ),
            *_design(table, measured),
            *origins.flags(measured),
            *recorded.cold_start(metric, measured, around.samples, table.study.margin),
            *_order_flags(points, measured),
            *_drift_flags(pairing, metric == table.study.metric, drifts),
            *fairness.condition_flags(pairing.role, measured),
        ),
    )


def _design(table: Table, pairs: fairness.Pairs) -> tuple[Flag, ...]:
    return fairness.design_flags(pairs, bool(table.study.design.get("order")))


def _no_pair(table: Table, pairing: Pairing) -> str:
    short = [
        f"{table.out_of_memory[arm]} trials of {arm} ended for lack of memory"
        for arm in (pairing.numerator, pairing.denominator)
        if arm in table.out_of_memory
    ]
    return "no pair in which both arms finished" + (f": {' and '.join(short)}" if short else "")


def _short_flags(table: Table, arm: str) -> tuple[Flag, ...]:
    """OUT-OF-MEMORY of the trials that are not in the table because of it."""
    ended = table.out_of_memory.get(arm, 0)
    if not ended:
        return ()
    return (flags.out_of_memory(arm, ended, ended + len(table.arms[arm])),)


def _ratio(metric: str, first: list[float], second: list[float], pairs: fairness.Pairs) -> Ratio:
    if not metric.startswith(PERCENTILES):
        return statistics.paired_ratio(first, second)
    counted = "steps" if metric.startswith("stream/") else "latency_calls"
    calls = min(int(row.receipt[counted]) for _, a, b in pairs for row in (a, b) if row.receipt)
    return statistics.percentile_ratio(first, second, calls, int(metric.rsplit("_p", 1)[1]))


def _truth(pairing: Pairing, metric: str, pairs: fairness.Pairs) -> float | None:
    """The ratio that a slowdown on purpose makes; None where nothing was slowed."""
    if pairing.role != "injected":
        return None
    _, first, second = pairs[0]
    slowed = [1 + float(row.cell["slowdown_percent"]) / 100 for row in (first, second)]
    ratio = slowed[0] / slowed[1]
    return ratio if METRICS[metric].unit == "s" else 1 / ratio


def _wins(ratio: Ratio, better: str | None) -> int | None:
    if better is None or ratio.wins is None or ratio.ties is None:
        return None
    return ratio.wins if better == "lower" else ratio.n - ratio.wins - ratio.ties


def _reason(pairs: fairness.Pairs, metric: str) -> str:
    """Why a metric is missing, in the trials' own words."""
    reasons: dict[str, list[str]] = {}
    for _, a, b in pairs:
        for row in (a, b):
            if metric not in row.metrics:
                arms = reasons.setdefault(row.not_measured.get(metric, "no reason recorded"), [])
                if row.arm not in arms:
                    arms.append(row.arm)
    if len(reasons) == 1:
        return next(iter(reasons))
    return "; ".join(f"{reason} ({', '.join(arms)})" for reason, arms in reasons.items())


def _incomparable(metric: str, pairs: fairness.Pairs) -> str | None:
    _, first, second = pairs[0]
    if metric == "memory/device_peak_bytes" and first.cell["framework"] != second.cell["framework"]:
        return (
            "each framework's allocator counts in its own way; the process's peak is what compares"
        )
    return conditions.meter_refusal(metric, [a for _, a, _ in pairs], [b for _, _, b in pairs])


def _order_flags(points: tuple[Point, ...], pairs: fairness.Pairs) -> tuple[Flag, ...]:
    effect = order_effect(
        [point.ratio for point in points], [a.start_seconds < b.start_seconds for _, a, b in pairs]
    )
    return tuple(flag for flag in effect.warnings if flag.name == "ORDER")


def _drift_flags(pairing: Pairing, primary: bool, drifts: dict[str, Flag]) -> tuple[Flag, ...]:
    arms = (pairing.numerator, pairing.denominator) if primary else ()
    return tuple(drifts[arm] for arm in arms if arm in drifts)


def _drifts(table: Table, rng: np.random.Generator) -> dict[str, Flag]:
    """DRIFT of the primary metric by arm. Only there: of 17 metrics one would fire."""
    metric, found = table.study.metric, {}
    for arm, by_pair in table.arms.items():
        rows = sorted(by_pair.values(), key=lambda row: row.start_seconds)
        values = [row.metrics[metric] for row in rows if row.metrics.get(metric, 0) > 0]
        for flag in autocorrelation(values, rng, arm).warnings if values else ():
            found[arm] = flag
    return found


def _with_resolution(found: list[Comparison]) -> list[Comparison]:
    """Every comparison with the A/A half-width of its metric beside it."""
    same_arm = {c.metric: c for c in found if c.role == "resolution" and c.ratio is not None}
    done = []
    for c in found:
        a_a = same_arm.get(c.metric)
        if a_a is None or a_a.ratio is None or c.ratio is None:
            done.append(c)
            continue
        warnings, width = c.flags, resolution(a_a.ratio)
        if a_a.ratio.low is not None and a_a.ratio.high is not None:
            low, high = a_a.ratio.low, a_a.ratio.high
            if not low <= 1 <= high:
                warnings += (flags.differs_from_itself(a_a.denominator, low, high),)
            elif width and c is not a_a and abs(np.log(c.ratio.estimate)) < np.log1p(width):
                warnings += (flags.below_resolution(width),)
        done.append(replace(c, resolution=width, flags=warnings))
    return done


def _with_family(found: list[Comparison], study: Study) -> list[Comparison]:
    """Holm over the declared family: the pairings in question in the declared metrics."""
    metrics = study.family or (study.metric,)
    asked = wording.QUESTIONS
    members = [c for c in found if c.role in asked and c.metric in metrics and c.p is not None]
    size = len(metrics) * sum(pairing.role in asked for pairing in study.comparisons)
    # Declared rows that came to nothing stay in the family, as p = 1: it was fixed beforehand.
    if not size:
        return found
    family = statistics.holm([c.p or 0.0 for c in members] + [1.0] * (size - len(members)))
    by_row = {
        (c.numerator, c.denominator, c.metric): p
        for c, p in zip(members, family.adjusted[: len(members)], strict=True)
    }
    done = []
    for c in found:
        p = by_row.get((c.numerator, c.denominator, c.metric))
        if p is None or c.role not in asked or c.ratio is None:
            done.append(c)
            continue
        needed, warnings = family.needed_pairs, c.flags
        if c.ratio.n < needed:
            warnings += (flags.holm_few(c.ratio.n, size, needed),)
        done.append(replace(c, p=p, family=size, flags=warnings))
    return done


def _with_verdict(c: Comparison, table: Table, around: Around) -> Comparison:
    study = table.study
    planned = stopping.planned(study, [point.pair for point in c.points])
    if c.ratio is not None and c.ratio.n != planned:
        c = replace(c, flags=(*c.flags, flags.unplanned(c.ratio.n, planned)))
    blocking = tuple(dict.fromkeys(flag.name for flag in c.flags if flag.name in BLOCKING))
    c = replace(c, outcome=wording.outcome(c, planned, blocking))
    if again := _repeated(c, table, around):
        c = replace(c, flags=(*c.flags, *again))
        blocking += tuple(flag.name for flag in again if flag.name in BLOCKING)
        c = replace(c, outcome=wording.outcome(c, planned, blocking))
    if c.outcome == "undecided":
        c = replace(c, flags=(*c.flags, flags.UNDECIDED))
    return replace(c, verdict=wording.verdict(c, planned, blocking))


def _repeated(c: Comparison, table: Table, around: Around) -> tuple[Flag, ...]:
    if c.ratio is None or c.metric not in (table.study.metric, *table.study.family):
        return ()
    own = [(point.numerator, point.denominator) for point in c.points]
    found = repeats.others(table, (c.numerator, c.denominator), c.role, c.metric, around.others)
    return repeats.judged(own, found, c.margin, c.outcome)


def _summary(table: Table, arm: str, drifts: dict[str, Flag]) -> ArmSummary:
    rows = list(table.arms[arm].values())
    values, reasons = {}, {}
    for metric in table.known(SHOWN):
        have = [row.metrics[metric] for row in rows if metric in row.metrics]
        if have:
            values[metric] = (float(np.median(have)), min(have), max(have))
        else:
            reasons[metric] = rows[0].not_measured.get(metric, "no reason recorded")
    return ArmSummary(
        name=arm,
        trials=len(rows),
        condition=dict(rows[0].cell),
        values=values,
        not_measured=reasons,
        flags=(
            *fairness.trial_flags(rows),
            *_short_flags(table, arm),
            *((drifts[arm],) if arm in drifts else ()),
        ),
    )


def _headline(found: list[Comparison], study: Study) -> str:
    """The verdicts on the primary metric, headline first."""
    primary = [c for c in found if c.metric == study.metric]
    return "\n".join(
        f"{wording.ROLES.get(c.role, c.role)}: {c.verdict}{conditions.marked(c.flags)}."
        for c in primary
    )


def _notes(table: Table, found: list[Comparison]) -> tuple[str, ...]:
    study, notes = table.study, list(table.left_out)
    if old := provenance.unsigned(table.trials()):
        notes.append(old)
    family = study.family or (study.metric,)
    notes.append(
        f"Declared before the first trial: {'at most ' * study.anytime}{study.pairs} pairs, margin "
        f"{wording.percent(study.margin)}, family {', '.join(family)}. "
        "p of every other metric is unadjusted: read those as hints."
    )
    sizes = sorted({c.ratio.n for c in found if c.ratio is not None})
    if sizes:
        share = wording.percent(statistics.rare_share(sizes[0]))
        notes.append(f"With {sizes[0]} runs a slow mode rarer than {share} can stay unseen (RARE).")
        if sizes[0] < 2 * MINIMUM_PAIRS:
            notes.append(
                "Whether the first run of a pair disturbs the second is checked from "
                f"{2 * MINIMUM_PAIRS} pairs on, with {MINIMUM_PAIRS} in either order."
            )
    if not any(pairing.role == "resolution" for pairing in study.comparisons):
        notes.append("No arm was compared with itself, so this machine's resolution is unknown.")
    return tuple(notes)

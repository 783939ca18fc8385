"""The report of one study as a page: the verdict and one picture first, then every question in turn,
then how it was measured and every raw pair. Shows what was found; no sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from analysis import cells, code_size, study_method, wording
from analysis.figures import ASKED, CALLS, COST, ENERGY, MEMORY, SPANS, by_metric, named
from analysis.findings import Comparison, Drawing, Findings, Grid
from analysis.page import Page, Section
from tracking.names import DETAILS, METRICS, QUALITIES

TIMES = (
    "train/total_seconds",
    "train/items_per_second",
    "train/tokens_per_second",
    "inference/total_seconds",
    "inference/items_per_second",
    "inference/first_token_seconds",
    "inference/prefill_tokens_per_second",
    "inference/encode_seconds",
    "inference/decode_seconds",
    "inference/decode_tokens_per_second",
    "inference/real_time_factor",
    "stream/total_seconds",
    "stream/updates_per_second",
    "switch/total_seconds",
    "switch/first_device_seconds",
    "switch/second_device_seconds",
    "switch/transfer_seconds",
    "eval/quality_before",
    *QUALITIES,
    *DETAILS,
)
LATENCIES = tuple(
    f"{metric.removesuffix('90')}{percent}"
    for _, _, metric in CALLS.values()
    for percent in (50, 90, 99)
)
PICTURES = (
    *("generation", "parts"),
    *(name for name, _ in SPANS.values()),
    "throughput_by_batch",
)  # fmt: skip


def page(findings: Findings, drawings: Sequence[Drawing]) -> Page:
    """The report; drawings: those of `figures.draw`, as many as there are."""
    study = findings.study
    subject = cells.subject(findings)
    target = f"; target {cells.target_text(findings)}" if findings.targets else ""
    return Page(
        title=f"Study {study.name}",
        subtitle=(
            f"{subject[0].upper()}{subject[1:]}: {'at most ' * study.anytime}{study.pairs} pairs of "
            f"fresh processes in random order; primary metric {study.metric}; margin "
            f"{wording.percent(study.margin)}{target}. All fixed before the first trial."
        ),
        verdict=verdicts(findings),
        lead=named(drawings, "ratio_by_pairing"),
        sections=(
            _time(findings, drawings),
            _latency(findings, drawings),
            _convergence(findings, drawings),
            _meter("Memory", MEMORY, findings, named(drawings, "memory")),
            _meter("Energy", ENERGY, findings, named(drawings, "energy")),
            _meter("Cost", COST, findings, named(drawings, "cost")),
            _scaling(findings),
            _code(findings, drawings),
            _roofline(findings, drawings),
            _every_metric(findings, drawings),
            *study_method.sections(findings),
        ),
    )


def verdicts(findings: Findings) -> tuple[str, ...]:
    """A sentence a pairing on the primary metric, with pairs and flags."""
    primary = [c for c in findings.comparisons if c.metric == findings.study.metric]
    said = findings.headline.splitlines()
    return tuple(
        f"{sentence} {cells.behind(c)}".rstrip() for sentence, c in zip(said, primary, strict=True)
    )


def _headline(findings: Findings, metrics: Sequence[str]) -> list[Comparison]:
    """What the study was made to ask, in some metrics."""
    return [c for c in findings.comparisons if c.role in ASKED and c.metric in metrics]


def medians(findings: Findings, metrics: Sequence[str]) -> Grid | None:
    """A row an arm; None where no arm has any of them."""
    names = [name for name in metrics if any(name in arm.values for arm in findings.arms)]
    if not names:
        return None
    return Grid(
        ("arm", "trials", *(METRICS[name].label for name in names)),
        tuple(
            (arm.name, str(arm.trials), *(cells.value_cell(arm, name) for name in names))
            for arm in findings.arms
        ),
    )


def _answers(found: Sequence[Comparison]) -> tuple[str, ...]:
    """The verdict on each metric, why there is none, equal reasons together."""
    said = [
        f"{c.verdict}."
        if c.label in c.verdict
        else f"{c.numerator} over {c.denominator}, {c.label}: {c.verdict}."
        for c in found
        if c.ratio
    ]
    return (*said, *(f"{labels}: {reason}." for reason, labels in cells.without_ratio(found)))


def _time(findings: Findings, drawings: Sequence[Drawing]) -> Section:
    return Section(
        "Time",
        text=("Medians over trials; one trial is one fresh process.",),
        grid=medians(findings, TIMES),
        drawings=named(drawings, *PICTURES),
        points=_answers(_headline(findings, [name for name in TIMES if name in METRICS])),
    )


def _latency(findings: Findings, drawings: Sequence[Drawing]) -> Section:
    known = [name for name in LATENCIES if name in METRICS]
    grid = medians(findings, known)
    if grid is None:
        return Section(
            "Latency",
            text=(_missing(findings, known) or f"{NOT_MEASURED} no single call was timed.",),
        )
    return Section(
        "Latency",
        text=(
            "Of single calls, each waited for: percentiles inside a trial, medians over trials.",
        ),
        grid=grid,
        drawings=named(drawings, *(name for name, _, _ in CALLS.values())),
        points=_answers(_headline(findings, known)),
    )


NOT_MEASURED = "Not measured:"


def _missing(findings: Findings, metrics: Sequence[str]) -> str:
    """Why an arm has none of some metrics, in the trials' own words; '' where nobody says."""
    reasons: dict[str, list[str]] = {}
    for arm in findings.arms:
        for name in metrics:
            if name in arm.not_measured:
                reasons.setdefault(arm.not_measured[name], []).append(METRICS[name].label)
    if not reasons:
        return ""
    parts = [f"{reason} ({', '.join(dict.fromkeys(labels))})" for reason, labels in reasons.items()]
    return f"{NOT_MEASURED} {'; '.join(parts)}."


def _meter(
    title: str, metrics: Sequence[str], findings: Findings, drawn: Sequence[Drawing]
) -> Section:
    grid = medians(findings, metrics)
    if grid is None:
        return Section(
            title, text=(_missing(findings, metrics) or f"{NOT_MEASURED} no trial says why.",)
        )
    missing = _missing(findings, metrics)
    return Section(
        title,
        text=(missing,) if missing else (),
        grid=None if drawn else grid,
        drawings=tuple(drawn),
        points=_answers(_headline(findings, metrics)),
    )


def _convergence(findings: Findings, drawings: Sequence[Drawing]) -> Section:
    drawn = named(drawings, "convergence", "time_to_target")
    if not findings.targets and not drawn:
        why = {
            "train": "the study has no target, and no epoch's quality is at hand",
        }.get(findings.study.mode, "nothing is learnt until a target in this study")
        return Section("Convergence", text=(f"{NOT_MEASURED} {why}.",))
    title = f"Time to {cells.target_text(findings)}" if findings.targets else "Convergence"
    return Section(
        title,
        text=(
            "A trial that never arrives counts as infinitely late, never as absent; a budget ends it.",
        ),
        grid=_targets(findings) if findings.targets else None,
        drawings=drawn,
    )


def _targets(findings: Findings) -> Grid:
    """A row a pairing and unit: both arms' times, and the test."""
    header = ("arms", "in", "median", "expected with restarts", "arrived", "log-rank p")
    rows = []
    for target in findings.targets:
        one, other, unit = target.first, target.second, target.unit
        rows.append(
            (
                f"{target.numerator} / {target.denominator}",
                unit,
                f"{wording.time_text(one.median, unit)} / {wording.time_text(other.median, unit)}",
                f"{wording.time_text(one.expected, unit)} / "
                f"{wording.time_text(other.expected, unit)}",
                f"{one.arrived} of {one.n} / {other.arrived} of {other.n}",
                f"{target.test.p:.2g}"
                if target.test.p is not None
                else f"no test: {target.test.refused}",
            )
        )
    return Grid(header, tuple(rows))


def _scaling(findings: Findings) -> Section:
    ranks = sorted({arm.condition.get("ranks", "1") for arm in findings.arms})
    return Section(
        "Scaling",
        text=(
            f"{NOT_MEASURED} every arm ran with {' or '.join(ranks)} rank{'s' * (ranks != ['1'])}; "
            "the entry point scaling asks what more of them bring.",
        ),
    )


def _code(findings: Findings, drawings: Sequence[Drawing]) -> Section:
    grid, drawn = code_size.grid(findings.arms), named(drawings, "code_size")
    if grid is None:
        return Section(code_size.TITLE, text=(f"{NOT_MEASURED} these trials did not count it.",))
    return Section(
        code_size.TITLE,
        text=(code_size.HOW_IT_IS_COUNTED,),
        grid=None if drawn else grid,
        drawings=drawn,
    )


ROOFLINE = (
    "The ceiling is the fastest square matrix product that the same framework did in the same trial, with "
    "its own library, threads and dtype. The slope of a roofline is missing on purpose: nobody measured "
    "the bandwidth of this machine's memory, nor the bytes that a call moves. FLOP per byte is therefore "
    "an upper limit: counted FLOPs over the bytes of what is stored, passed once (twice where it is "
    "changed)."
)


def _roofline(findings: Findings, drawings: Sequence[Drawing]) -> Section:
    drawn = named(drawings, "roofline")
    if not any(roof.achieved for roof in findings.roofs):
        return Section("Roofline", text=(f"{NOT_MEASURED} no trial recorded its FLOPs.",))
    missing = dict.fromkeys(
        f"{roof.arm}: {roof.missing}." for roof in findings.roofs if roof.missing
    )
    return Section(
        "Roofline",
        text=(ROOFLINE,),
        drawings=drawn,
        points=tuple(missing),
    )


def _every_metric(findings: Findings, drawings: Sequence[Drawing]) -> Section:
    return Section(
        "Every metric of every pairing",
        drawings=tuple(one for one in drawings if one.name.startswith(by_metric(1))),
        parts=tuple(_pairing(heading, found) for heading, _, found in cells.by_pairing(findings)),
    )


def _pairing(heading: str, found: Sequence[Comparison]) -> Section:
    common = cells.common_flags(found)
    divided = [c for c in found if c.ratio is not None]
    header = ("metric", "better", "ratio [95 %]", "p", "pairs won", "resolution", "outcome")
    grid = Grid(
        header,
        tuple(
            (
                c.label,
                c.better or "",
                cells.ratio_cell(c),
                cells.p_cell(c),
                cells.won_cell(c),
                cells.resolution_cell(c),
                cells.outcome_word(c),
            )
            for c in divided
        ),
    )
    return Section(
        heading,
        grid=grid if divided else None,
        points=(
            *(text for c in found if (text := wording.detection_text(c))),
            *(f"{labels}: {reason}" for reason, labels in cells.without_ratio(found)),
        ),
        flags=(
            *common,
            *(
                replace(flag, sentence=f"({c.label}) {flag.sentence}")
                for c in found
                for flag in cells.own_flags(c, common)
            ),
        ),
    )

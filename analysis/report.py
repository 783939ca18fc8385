"""Findings for people and for machines: terminal, CSV, Markdown, one HTML file. No sums here."""

from __future__ import annotations

import base64
import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jinja2

from analysis import code_size, wording
from analysis.findings import ArmSummary, Comparison, Drawing, Findings, Target
from analysis.flags import Flag
from analysis.statistics import Ratio
from analysis.units import quantity
from tracking.names import DETAILS, METRICS, QUALITIES

ARM_COLUMNS = (
    "train/total_seconds",
    "train/items_per_second",
    "train/tokens_per_second",
    "inference/total_seconds",
    "inference/first_token_seconds",
    "inference/prefill_tokens_per_second",
    "inference/encode_seconds",
    "inference/decode_seconds",
    "inference/decode_tokens_per_second",
    "inference/token_seconds_p50",
    "inference/token_seconds_p90",
    "inference/real_time_factor",
    "inference/latency_seconds_p50",
    "inference/latency_seconds_p90",
    "stream/total_seconds",
    "stream/update_seconds_p50",
    "stream/update_seconds_p90",
    "stream/update_seconds_p99",
    "stream/updates_per_second",
    "switch/total_seconds",
    "switch/loop_seconds_p50",
    "switch/loop_seconds_p90",
    "switch/first_device_seconds",
    "switch/second_device_seconds",
    "switch/transfer_seconds",
    "memory/process_peak_bytes",
    "energy/joules",
    "eval/quality_before",
    *QUALITIES,
    *DETAILS,
)
"""Those that an arm has are shown for each arm."""

ARM_LINE = (
    "train/total_seconds",
    "inference/total_seconds",
    "inference/prefill_tokens_per_second",
    "inference/encode_seconds",
    "inference/decode_tokens_per_second",
    "inference/latency_seconds_p50",
    "stream/total_seconds",
    "switch/total_seconds",
    "switch/transfer_seconds",
    *QUALITIES,
)

FIRST = ("ratio_by_pairing", "generation", "parts")
"""Figures that stand above the tables."""


def by_pairing(findings: Findings) -> list[tuple[str, str, list[Comparison]]]:
    """(heading, role, comparisons) of each pairing; the primary metric comes first."""
    groups: dict[tuple[str, str, str], list[Comparison]] = {}
    for c in findings.comparisons:
        groups.setdefault((c.role, c.numerator, c.denominator), []).append(c)
    primary = findings.study.metric
    return [
        (
            f"{wording.ROLES.get(role, role)}: {numerator} / {denominator}",
            role,
            sorted(found, key=lambda c: c.metric != primary),
        )
        for (role, numerator, denominator), found in groups.items()
    ]


def common_flags(found: Sequence[Comparison]) -> list[Flag]:
    """Flags that every comparison with a ratio carries: said once for the pairing."""
    divided = [c for c in found if c.ratio is not None]
    if not divided:
        return []
    return [flag for flag in divided[0].flags if all(flag in c.flags for c in divided)]


def own_flags(c: Comparison, common: Iterable[Flag]) -> list[Flag]:
    """The flags of one comparison that its pairing has not said already."""
    return [flag for flag in c.flags if flag not in common]


def arm_flags(findings: Findings) -> list[tuple[Flag, str]]:
    """(flag, the arms that carry it in the same words), each flag once."""
    arms: dict[Flag, list[str]] = {}
    for arm in findings.arms:
        for flag in arm.flags:
            arms.setdefault(flag, []).append(arm.name)
    return [(flag, ", ".join(arms[flag])) for flag in sorted(arms, key=lambda flag: flag.name)]


def without_ratio(found: Sequence[Comparison]) -> list[tuple[str, str]]:
    """(reason, labels) of the metrics that got no ratio, equal reasons together."""
    reasons: dict[str, list[str]] = {}
    for c in found:
        if c.ratio is None:
            reasons.setdefault(c.verdict, []).append(c.label)
    return [(reason, ", ".join(labels)) for reason, labels in reasons.items()]


def terminal(findings: Findings, every_metric: bool = False) -> str:
    """The table for a terminal: two lines a comparison, then warnings with their remedy.

    Pairings other than the headline show the primary metric only, unless `every_metric`.
    """
    study = findings.study
    most = "at most " * study.anytime
    lines = [
        f"Study {study.name}, {subject(findings)}: {most}{study.pairs} pairs, primary metric "
        f"{study.metric}",
        "",
    ]
    for arm in findings.arms:
        lines += [f"  {arm.name} ({arm.trials} trials)", f"      {_arm_line(arm)}"]
    for heading, role, found in by_pairing(findings):
        lines += ["", heading]
        common = common_flags(found)
        full = every_metric or role in ("headline", "version")
        shown = [c for c in found if full or c.metric == study.metric]
        for c in shown:
            if c.ratio is not None:
                lines += _comparison_lines(c, own_flags(c, common))
        for reason, labels in without_ratio(shown):
            lines += [f"  {labels}", f"      {reason}"]
        lines += [f"  ! {flag}" for flag in common]
    for target in findings.targets:
        if target.role == "headline" and target.unit == "epochs":
            lines += ["", f"Target {_target(findings)}: " + target_line(findings, target)]
    if counted := code_size.line(findings.arms):
        lines += ["", counted]
    lines += ["", *(f"Note: {note}" for note in findings.notes), "", "Verdict", findings.headline]
    return "\n".join(lines) + "\n"


def subject(findings: Findings) -> str:
    """'training of mnist', as the trials ran."""
    workload = next((arm.condition.get("workload", "") for arm in findings.arms), "")
    return wording.subject(findings.study.mode, workload)


def _target(findings: Findings) -> str:
    return wording.target(findings.study.quality, findings.study.target)


def _comparison_lines(c: Comparison, flags: Sequence[Flag]) -> list[str]:
    facts = [wording.interval_text(c), wording.wins_text(c), wording.resolution_text(c)]
    known = wording.detection_text(c)
    word = {"none": "", "undecided": "undecided"}.get(c.outcome, f"{c.outcome}")
    return [
        f"  {c.label}"
        + (f" ({c.better} is better)" if c.better else "")
        + (f": {word}" * bool(word)),
        "      ratio " + "; ".join(fact for fact in facts if fact) + p_text(c),
        *([f"      {known}"] if known else []),
        *(f"      ! {flag}" for flag in flags),
    ]


def p_text(c: Comparison) -> str:
    """'; p 0.031', with the family when it was adjusted."""
    if c.p is None:
        return ""
    holm = f" (Holm, family of {c.family})" if c.family > 1 else ""
    return f"; p {c.p:.2g}{holm}"


def _arm_line(arm: ArmSummary) -> str:
    parts = [
        f"{METRICS[name].label} {quantity(arm.values[name][0], METRICS[name].unit)}"
        for name in ARM_LINE
        if name in arm.values
    ]
    return "medians: " + "; ".join(parts)


def target_line(findings: Findings, target: Target) -> str:
    """Median and expected time to the target of both arms, the share that arrived, the test."""
    parts = []
    for name, a in ((target.numerator, target.first), (target.denominator, target.second)):
        parts.append(
            f"{name} median {wording.time_text(a.median, target.unit)}, expected with restarts "
            f"{wording.time_text(a.expected, target.unit)}, {a.arrived} of {a.n} arrived "
            f"({100 * a.share_low:.0f} to {100 * a.share_high:.0f} %)"
        )
    test = target.test
    said = f"log-rank p {test.p:.2g}" if test.p is not None else f"no test: {test.refused}"
    return "; ".join(parts) + f"; {said}"


def comparison_records(findings: Findings) -> list[dict[str, Any]]:
    """One flat record a pairing and metric, for CSV."""
    return [
        {
            "study": findings.study.name,
            "role": c.role,
            "numerator": c.numerator,
            "denominator": c.denominator,
            "metric": c.metric,
            "unit": c.unit,
            "better": c.better,
            "pairs": c.ratio.n if c.ratio else 0,
            "ratio": c.ratio.estimate if c.ratio else None,
            "low": c.ratio.low if c.ratio else None,
            "high": c.ratio.high if c.ratio else None,
            "p": c.p,
            "family": c.family,
            "wins": c.wins,
            "ties": c.ratio.ties if c.ratio else None,
            "ratio_geometric_mean": c.ratio.geometric_mean if c.ratio else None,
            "margin": c.margin,
            "same_low": c.same.low if c.same else None,
            "same_high": c.same.high if c.same else None,
            "same": c.same.same if c.same else None,
            "resolution": c.resolution,
            "outcome": c.outcome,
            "verdict": c.verdict,
            "flags": " ".join(flag.name for flag in c.flags),
            "pair_numbers": " ".join(str(point.pair) for point in c.points),
            "pair_ratios": " ".join(repr(point.ratio) for point in c.points),
        }
        for c in findings.comparisons
    ]


def write_csv(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """Records as CSV, full precision; an empty cell is 'not measured' or 'refused'."""
    columns = list(dict.fromkeys(key for record in records for key in record))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(records)


def markdown(findings: Findings) -> str:
    """The report as Markdown: verdict, arms, one table a pairing, warnings."""
    study = findings.study
    lines = [f"# Study {study.name}", ""]
    lines += [f"- {line}" for line in findings.headline.splitlines()]
    lines += ["", "## Arms", "", "Medians over trials.", ""]
    names = [name for name in ARM_COLUMNS if any(name in arm.values for arm in findings.arms)]
    lines.append("| arm | trials | " + " | ".join(METRICS[name].label for name in names) + " |")
    lines.append("|---" * (len(names) + 2) + "|")
    for arm in findings.arms:
        cells = [_value(arm, name) for name in names]
        lines.append(f"| {arm.name} | {arm.trials} | " + " | ".join(cells) + " |")
    for heading, _, found in by_pairing(findings):
        lines += ["", f"## {heading}", ""]
        lines.append("| metric | better | ratio [95 %] | p | pairs won | resolution | outcome |")
        lines.append("|---|---|---|---|---|---|---|")
        for c in found:
            if c.ratio is not None:
                won = f"{c.wins} of {c.ratio.n}" if c.wins is not None else ""
                p = f"{c.p:.2g}" if c.p is not None else ""
                shown = ratio_cell(c)
                resolution = resolution_cell(c)
                lines.append(
                    f"| {c.label} | {c.better or ''} | {shown} | {p} | {won} | {resolution} | "
                    f"{outcome_word(c)} |"
                )
        lines.append("")
        lines += [f"- {text}" for c in found if (text := wording.detection_text(c))]
        lines += [f"- {labels}: {reason}" for reason, labels in without_ratio(found)]
        common = common_flags(found)
        lines += [f"- **{flag.name}** {flag.sentence} {flag.remedy}".rstrip() for flag in common]
        for c in found:
            lines += [
                f"- **{flag.name}** ({c.label}) {flag.sentence} {flag.remedy}".rstrip()
                for flag in own_flags(c, common)
            ]
    if findings.targets:
        lines += ["", f"## Time to {_target(findings)}", ""]
        lines += [f"- {target_line(findings, target)}" for target in findings.targets]
    if counted := code_size.grid(findings.arms):
        lines += ["", f"## {code_size.TITLE}", "", code_size.HOW_IT_IS_COUNTED, ""]
        lines += [f"| {' | '.join(counted.header)} |", "|---" * len(counted.header) + "|"]
        lines += [f"| {' | '.join(row)} |" for row in counted.rows]
    lines += ["", "## Notes", "", *(f"- {note}" for note in findings.notes)]
    return "\n".join(lines) + "\n"


def ratio_cell(c: Comparison) -> str:
    """'0.794 [0.775, 0.847]'."""
    return limits_cell(c.ratio)


def limits_cell(ratio: Ratio | None) -> str:
    """The same of a ratio alone."""
    if ratio is None:
        return ""
    if ratio.low is None or ratio.high is None:
        return f"{wording.number(ratio.estimate)} (no interval)"
    low, high = wording.number(ratio.low), wording.number(ratio.high)
    return f"{wording.number(ratio.estimate)} [{low}, {high}]"


def resolution_cell(c: Comparison) -> str:
    """'±3.2 %', or that it is unknown."""
    return "unknown" if c.resolution is None else f"±{wording.percent(c.resolution)}"


def outcome_word(c: Comparison) -> str:
    """The verdict in a word or two."""
    if c.role in wording.KNOWN_TRUTH:
        return "A/A" if c.truth is None else f"made: {wording.number(c.truth)}"
    return {"none": "no verdict", "same": f"same within {wording.percent(c.margin)}"}.get(
        c.outcome, c.outcome
    )


def conditions(findings: Findings) -> tuple[str, ...]:
    """In what the arms differ, and what is equal in all of them."""
    arms = findings.arms
    keys = sorted({key for arm in arms for key in arm.condition})
    equal, differing = [], []
    for key in keys:
        values = list(dict.fromkeys(arm.condition.get(key, "") for arm in arms))
        if len(values) == 1:
            equal.append(f"{key} {values[0]}")
        else:
            differing.append(f"{key} ({', '.join(value or 'none' for value in values)})")
    return (f"Differing: {'; '.join(differing)}.", f"Equal in all arms: {', '.join(equal)}.")


def _value(arm: ArmSummary, name: str) -> str:
    if name not in arm.values:
        return "not measured"
    return quantity(arm.values[name][0], METRICS[name].unit)


def html(findings: Findings, drawings: Sequence[Drawing]) -> str:
    """One self-contained page: no script, no network, readable on light and dark screens."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    keys = sorted({key for arm in findings.arms for key in arm.condition})
    return environment.get_template("report.html.jinja").render(
        findings=findings,
        study=findings.study,
        pairings=by_pairing(findings),
        subject=subject(findings),
        target=_target(findings) if findings.targets else "",
        first=[drawing for drawing in drawings if drawing.name in FIRST],
        others=[drawing for drawing in drawings if drawing.name not in FIRST],
        differing=[k for k in keys if len({a.condition.get(k) for a in findings.arms}) > 1],
        equal=[
            (k, findings.arms[0].condition.get(k, ""))
            for k in keys
            if len({a.condition.get(k) for a in findings.arms}) == 1
        ],
        arm_columns=[n for n in ARM_COLUMNS if any(n in a.values for a in findings.arms)],
        metrics=METRICS,
        code=code_size,
        value=_value,
        ratio_cell=ratio_cell,
        resolution_cell=resolution_cell,
        outcome_word=outcome_word,
        arm_flags=arm_flags(findings),
        common_flags=common_flags,
        own_flags=own_flags,
        without_ratio=without_ratio,
        target_line=target_line,
        detection_text=wording.detection_text,
        uri=lambda png: "data:image/png;base64," + base64.b64encode(png).decode("ascii"),
    )

"""Findings for people and for machines: terminal, CSV, Markdown, one HTML file. No sums here."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis import code_size, page, study_page, wording
from analysis.cells import (
    by_pairing,
    common_flags,
    own_flags,
    subject,
    target_line,
    target_text,
    without_ratio,
)
from analysis.findings import ArmSummary, Comparison, Drawing, Findings
from analysis.flags import Flag
from analysis.units import quantity
from tracking.names import METRICS, QUALITIES

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
            lines += ["", f"Target {target_text(findings)}: " + target_line(findings, target)]
    if counted := code_size.line(findings.arms):
        lines += ["", counted]
    lines += ["", *(f"Note: {note}" for note in findings.notes), "", "Verdict", findings.headline]
    return "\n".join(lines) + "\n"


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


def markdown(findings: Findings, drawings: Sequence[Drawing] = ()) -> str:
    """The report as Markdown; its figures are files beside it."""
    return page.markdown(study_page.page(findings, drawings))


def html(findings: Findings, drawings: Sequence[Drawing]) -> str:
    """The same as one self-contained page."""
    return page.html(study_page.page(findings, drawings))

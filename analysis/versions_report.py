"""Changes between versions, for people and for machines: page, terminal text, CSV. No sums here."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from analysis import versions_figures, wording
from analysis.flags import Flag
from analysis.page import Grid, Page, Section
from analysis.units import quantity
from analysis.versions import Change, History, Level, Track


def page(history: History) -> Page:
    """The report with its figures."""
    drawn = versions_figures.changes(history)
    sections = [
        Section(
            "Changes, the newest version first",
            grid=Grid(
                (
                    "step",
                    "machine",
                    "condition",
                    "ratio new/old [95 %]",
                    "p",
                    "evidence",
                    "outcome",
                ),
                tuple(_cells(c) for c in history.changes),
            ),
            drawings=(drawn,) if drawn else (),
            points=tuple(f"{where(c)}: {c.verdict}." for c in history.changes),
            flags=(*history.warnings, *_flags(history)),
        ),
        *(_levels(history, number, track) for number, track in enumerate(history.tracks, 1)),
    ]
    if history.refused or history.left_out:
        sections.append(Section("Not compared", points=(*history.refused, *history.left_out)))
    sections.append(
        Section(
            "How to read this",
            text=(
                "Interleaved: both versions ran as arms of one study, in pairs and random order. "
                "Control: the versions ran in two sessions with another framework at one version "
                "in both; the ratio is (new / control) over (old / control), which takes out what "
                "the machine did to both frameworks, and nothing that changed for one alone. "
                "Unpaired: two sessions without a control; a ratio, and no verdict. Regression and "
                "improvement need p of at most 0.05, adjusted by Holm over all steps tested; the "
                "same needs the 90 % interval inside the margin.",
            ),
        )
    )
    return Page(
        f"{history.framework} from version to version: {history.workload}",
        f"{history.label}, {history.better} is better; every step between consecutive versions "
        "under one condition on one machine.",
        tuple(f"{where(c)}: {c.verdict}." for c in history.changes[:3]),
        tuple(sections),
    )


def where(c: Change) -> str:
    """'0.31.2 to 0.32.4 on m1'."""
    return f"{c.old} to {c.new} on {c.machine}"


def ratio(c: Change) -> str:
    """'1.096 [1.071, 1.127]', or that there is none."""
    if c.ratio is None:
        return "none"
    if c.ratio.low is None or c.ratio.high is None:
        return f"{wording.number(c.ratio.estimate)} (no interval)"
    limits = f"[{wording.number(c.ratio.low)}, {wording.number(c.ratio.high)}]"
    return f"{wording.number(c.ratio.estimate)} {limits}"


def _cells(c: Change) -> tuple[str, ...]:
    return (
        f"{c.old} to {c.new}",
        c.machine,
        c.track,
        ratio(c),
        "" if c.p is None else f"{c.p:.2g}",
        c.measured.basis,
        {"none": "no verdict", "same": f"same within {wording.percent(c.measured.margin)}"}.get(
            c.outcome, c.outcome
        ),
    )


def _flags(history: History) -> tuple[Flag, ...]:
    """Each flag of any change once."""
    return tuple(dict.fromkeys(flag for c in history.changes for flag in c.flags))


def _levels(history: History, number: int, track: Track) -> Section:
    drawn = versions_figures.levels(history, number, track)
    condition = ", ".join(f"{key} {value}" for key, value in track.condition.items() if value)
    return Section(
        f"{track.name} on {track.machine}",
        grid=Grid(
            ("version", "study", "day", "runs", f"median of {history.label} [95 %]"),
            tuple(
                (
                    level.version,
                    level.study,
                    _day(level),
                    str(len(level.values)),
                    _median(history, level),
                )
                for level in track.levels
            ),
        ),
        drawings=(drawn,) if drawn else (),
        points=(f"Condition of all versions: {condition}.",),
    )


def _day(level: Level) -> str:
    return datetime.fromtimestamp(level.start_seconds, UTC).strftime("%Y-%m-%d")


def _median(history: History, level: Level) -> str:
    if not level.values:
        return "not measured"
    text = quantity(level.median, history.unit)
    if level.low is None or level.high is None:
        return f"{text} (no interval)"
    return f"{text} [{quantity(level.low, history.unit)}, {quantity(level.high, history.unit)}]"


def terminal(history: History) -> str:
    """Two lines a change, then its warnings."""
    lines = [f"{history.framework}, {history.workload}, {history.label}", ""]
    for c in history.changes:
        lines += [
            f"  {where(c)} ({c.track}; {' and '.join(c.studies)})",
            f"      {c.verdict}" + (f"; p {c.p:.2g}" if c.p is not None else ""),
            *(f"      ! {flag}" for flag in c.flags),
        ]
    lines += [f"! {flag}" for flag in history.warnings]
    lines += [f"not compared: {text}" for text in (*history.refused, *history.left_out)]
    return "\n".join(lines) + "\n"


def change_records(history: History) -> list[dict[str, Any]]:
    """One flat record a change."""
    return [
        {
            "framework": history.framework,
            "metric": history.metric,
            "machine": c.machine,
            "condition": c.track,
            "old": c.old,
            "new": c.new,
            "studies": " ".join(c.studies),
            "evidence": c.measured.evidence,
            "control": c.measured.control,
            "pairs": c.measured.n,
            "ratio": c.ratio.estimate if c.ratio else None,
            "low": c.ratio.low if c.ratio else None,
            "high": c.ratio.high if c.ratio else None,
            "p": c.measured.p,
            "p_holm": c.p,
            "family": c.family,
            "margin": c.measured.margin,
            "same": c.measured.same,
            "outcome": c.outcome,
            "verdict": c.verdict,
            "flags": " ".join(flag.name for flag in c.flags),
        }
        for c in history.changes
    ]


def level_records(history: History) -> list[dict[str, Any]]:
    """One flat record a machine, condition and version."""
    return [
        {
            "framework": history.framework,
            "metric": history.metric,
            "unit": history.unit,
            "machine": track.machine,
            "condition": track.name,
            "version": level.version,
            "study": level.study,
            "runs": len(level.values),
            "median": level.median if level.values else None,
            "low": level.low,
            "high": level.high,
            **{f"condition/{key}": value for key, value in track.condition.items()},
        }
        for track in history.tracks
        for level in track.levels
    ]

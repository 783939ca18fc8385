"""Machines compared, for people and for machines: page, terminal text, CSV. No sums here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analysis import wording
from analysis.cells import ratio_cell, resolution_cell
from analysis.machines import Across, Group, Member, Question
from analysis.machines_figures import forest
from analysis.page import Grid, Page, Section

_TITLE_KEYS = ("device", "dtype", "threads")


def page(across: Across, links: Mapping[str, str] | None = None) -> Page:
    """The report with its figures. links: machine -> address of its own report."""
    sections = []
    for number, group in enumerate(across.groups, 1):
        sections += [_section(number, index, group, q) for index, q in enumerate(group.questions)]
    if links:
        shown = tuple((f"The report of {machine}", where) for machine, where in links.items())
        sections.append(Section("Each machine by itself", links=shown))
    if across.left_out:
        sections.append(Section("Studies left out", points=across.left_out))
    sections.append(
        Section(
            "How to read this",
            text=(
                "Each machine was measured and analysed alone; its ratio is the median over pairs. "
                "The interval over machines is a t interval of their log ratios, one for each "
                "machine and unweighted; it speaks of machines like these only as far as they are "
                "a sample of them. The dashed interval is where the ratio of one more machine would "
                "lie. Studies whose arms ran under different conditions are never put together: "
                "each condition has a section of its own.",
            ),
        )
    )
    return Page(
        f"{across.workload} across machines",
        f"{machines(across)} in {len(across.groups)} "
        f"condition{'s' * (len(across.groups) > 1)}; every condition is compared on its own.",
        tuple(f"{title(group)}: {group.questions[0].verdict}." for group in across.groups),
        tuple(sections),
    )


def machines(across: Across) -> str:
    """'4 machines', over all groups."""
    count = len({m.machine for g in across.groups for q in g.questions for m in q.members})
    return f"{count} machine{'s' * (count != 1)}"


def title(group: Group) -> str:
    """A condition in a few words: 'mlx 0.32.4 / pytorch 2.13.0, cpu, float32, 2 threads'."""
    first, second = group.keys["numerator"], group.keys["denominator"]
    arms = " / ".join(
        f"{side.get('framework', '')} {side.get('version_framework', '')}".strip()
        for side in (first, second)
    )
    said = [first.get(key, "") for key in _TITLE_KEYS]
    return f"{arms}, {said[0]}, {said[1]}, {said[2]} thread{'s' * (said[2] != '1')}"


def _section(number: int, index: int, group: Group, q: Question) -> Section:
    drawn = forest(f"condition_{number}_{q.metric.replace('/', '_')}_{index}", q)
    lines = [q.verdict + "."]
    if index == 0 and group.differs:
        lines.append(f"Not pooled with the first condition: {group.differs}.")
    return Section(
        f"{number}. {title(group)}" if index == 0 else f"{number}. {q.label}",
        text=tuple(lines),
        grid=Grid(
            ("machine", "chip", "cores", "system", "study", "ratio [95 %]", "resolution", "pooled"),
            tuple(_cells(m) for m in q.members),
        ),
        drawings=(drawn,) if drawn else (),
        points=(*_p_line(q), *(group.left_out if index == 0 else ()), *_member_flags(q)),
        flags=q.flags,
    )


def _cells(m: Member) -> tuple[str, ...]:
    return (
        m.machine,
        m.facts.get("machine_cpu", "unknown"),
        m.facts.get("machine_cores", "unknown"),
        m.facts.get("machine_os", "unknown"),
        m.study,
        ratio_cell(m.comparison) or "none",
        resolution_cell(m.comparison),
        f"no: {m.excluded}" if m.excluded else "yes",
    )


def _p_line(q: Question) -> tuple[str, ...]:
    if q.p is None:
        return ()
    if q.family:
        return (f"p {q.p:.2g} over machines (Holm, declared family of {q.family}).",)
    return (f"p {q.p:.2g} over machines, unadjusted: not declared beforehand, a hint.",)


def _member_flags(q: Question) -> list[str]:
    """The machines' own warnings, equal ones together."""
    carriers: dict[str, list[str]] = {}
    for m in q.members:
        for flag in m.comparison.flags:
            carriers.setdefault(str(flag), []).append(m.machine)
    return [f"{', '.join(names)}: {flag}" for flag, names in carriers.items()]


def terminal(across: Across) -> str:
    """Two lines a machine, then the verdict over machines."""
    lines = [f"{across.workload}: {machines(across)}"]
    for number, group in enumerate(across.groups, 1):
        lines += ["", f"{number}. {title(group)}"]
        if group.differs:
            lines.append(f"   not pooled with 1: {group.differs}")
        for q in group.questions:
            lines.append(f"  {q.label}: {q.numerator} / {q.denominator}")
            for m in q.members:
                chip = m.facts.get("machine_cpu", "unknown chip")
                lines.append(f"    {m.machine} ({chip}), study {m.study}")
                lines.append(
                    f"        {wording.interval_text(m.comparison)}; "
                    f"{wording.resolution_text(m.comparison)}"
                    + (f"; not pooled: {m.excluded}" if m.excluded else "")
                )
            lines += [f"    ! {flag}" for flag in q.flags]
            lines += [f"    {text}" for text in _p_line(q)]
            lines.append(f"    {q.verdict}")
        lines += [f"  left out: {reason}" for reason in group.left_out]
    lines += [f"left out: {reason}" for reason in across.left_out]
    return "\n".join(lines) + "\n"


def machine_records(across: Across) -> list[dict[str, Any]]:
    """One flat record a condition, pairing, metric and machine."""
    return [
        {
            **_question_cells(number, q),
            "machine": m.machine,
            **m.facts,
            "study": m.study,
            "pairs": m.comparison.ratio.n if m.comparison.ratio else 0,
            "ratio": m.comparison.ratio.estimate if m.comparison.ratio else None,
            "low": m.comparison.ratio.low if m.comparison.ratio else None,
            "high": m.comparison.ratio.high if m.comparison.ratio else None,
            "resolution": m.comparison.resolution,
            "pooled": not m.excluded,
            "excluded": m.excluded,
            "flags": " ".join(flag.name for flag in m.comparison.flags),
        }
        for number, group in enumerate(across.groups, 1)
        for q in group.questions
        for m in q.members
    ]


def pooled_records(across: Across) -> list[dict[str, Any]]:
    """One flat record a condition, pairing and metric, with the whole condition."""
    return [
        {
            **_question_cells(number, q),
            "machines": q.pooled.k if q.pooled else 0,
            "ratio": q.pooled.estimate if q.pooled else None,
            "low": q.pooled.low if q.pooled else None,
            "high": q.pooled.high if q.pooled else None,
            "prediction_low": q.pooled.prediction_low if q.pooled else None,
            "prediction_high": q.pooled.prediction_high if q.pooled else None,
            "these_low": q.pooled.these_low if q.pooled else None,
            "these_high": q.pooled.these_high if q.pooled else None,
            "spread": q.pooled.spread if q.pooled else None,
            "p": q.p,
            "family": q.family,
            "outcome": q.outcome,
            "verdict": q.verdict,
            "flags": " ".join(flag.name for flag in q.flags),
            **{
                f"{place}/{key}": value
                for place, cell in group.keys.items()
                for key, value in cell.items()
            },
        }
        for number, group in enumerate(across.groups, 1)
        for q in group.questions
    ]


def _question_cells(number: int, q: Question) -> dict[str, Any]:
    return {
        "condition": number,
        "numerator": q.numerator,
        "denominator": q.denominator,
        "metric": q.metric,
    }

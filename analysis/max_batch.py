"""The largest batch that fits, for people: one page with a figure and two tables. No probing here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from analysis.findings import Drawing
from analysis.page import Grid, Page, Section
from analysis.style import MARKERS, Theme, drawing, log_if_wide
from measurement.bisection import Found, slope

GIB = 2**30
HOW_TO_READ = (
    "Every batch size is tried in a fresh process that makes two training steps (or answers two "
    "batches) and may die of it. On a CPU the peak is that of the whole process, libraries and compiler "
    "included (VmHWM; on a Mac the footprint); on a GPU that of the framework's allocator, and each "
    "framework's allocator counts in its own way. A process is ended as soon as it holds more than the "
    "limit, so what is 'seen' of one that does not fit is where it was stopped.",
    "The training set that is resident is made up, and as large as the batch (at most that of the "
    "workload's largest preset, then rows repeat), so that a batch is held once there and once gathered. An epoch's evaluation and the audit of a trial are not part of a probe.",
)


@dataclass(frozen=True)
class Searched:
    """One framework's search. limit_bytes: None where only the device itself sets one; condition: as
    it ran, by the names of a trial's tags."""

    framework: str
    found: Found
    limit_bytes: int | None
    condition: dict[str, str]


def gib(value: float | None) -> str:
    """'7.91 GiB'."""
    return "not seen" if value is None else f"{value / GIB:.2f} GiB"


def mib(value: float) -> str:
    """'64.3 MiB'."""
    return f"{value / 2**20:.3g} MiB"


def sentence(searched: Searched) -> str:
    """The answer of one framework."""
    found, limit = searched.found, searched.limit_bytes
    where = f"in {gib(limit)}" if limit else "on the device"
    best, over, line = found.at(found.largest), found.at(found.first), slope(found)
    if not found.largest:
        said = f"not even a batch of 1 fits {where}" if found.first == 1 else "nothing is known"
    else:
        least = "at least " if found.censored else ""
        said = f"the largest batch that fits {where} is {least}{found.largest}"
        said += f" ({gib(best.peak_bytes if best else None)} at its peak)"
    if over:
        said += f"; {over.items} does not: {over.reason}"
    if found.censored:
        said += f"; censored: {found.censored}"
    if line:
        said += f"; {mib(line[0])} an item on top of {gib(line[1])}"
    get = searched.condition.get
    place = ", ".join(
        filter(None, (get("device"), get("dtype"), f"compiled {get('compile', 'unknown')}"))
    )
    return f"{searched.framework} ({place}): {said}."


def page(title: str, searched: Sequence[Searched], drawings: Sequence[Drawing]) -> Page:
    """The report over all frameworks."""
    return Page(
        title=title,
        subtitle="The largest batch whose training step fits into memory, by bisection.",
        verdict=tuple(sentence(one) for one in searched),
        sections=(
            Section(
                title="Memory by batch size", drawings=tuple(drawings), grid=_results(searched)
            ),
            Section(
                title="Every probe",
                grid=_probes(searched),
                points=tuple(
                    f"{one.framework}: {conflict}."
                    for one in searched
                    for conflict in one.found.conflicts
                ),
            ),
            Section(title="How to read this", text=HOW_TO_READ),
        ),
    )


def _results(searched: Sequence[Searched]) -> Grid:
    header = (
        "framework", "device", "compiled", "limit", "largest that fits", "its peak",
        "smallest that does not", "memory of one more item", "probes",
    )  # fmt: skip
    rows = []
    for one in searched:
        best, line = one.found.at(one.found.largest), slope(one.found)
        rows.append(
            (
                one.framework,
                one.condition.get("device", ""),
                one.condition.get("compile", ""),
                gib(one.limit_bytes) if one.limit_bytes else "the device's",
                ("at least " if one.found.censored else "") + str(one.found.largest),
                gib(best.peak_bytes if best else None),
                str(one.found.first or "none seen"),
                mib(line[0]) if line else "unknown",
                str(len(one.found.probes)),
            )
        )
    return Grid(header, tuple(rows))


def _probes(searched: Sequence[Searched]) -> Grid:
    return Grid(
        ("framework", "batch", "outcome", "peak seen", "reason", "seconds"),
        tuple(
            (
                one.framework,
                str(p.items),
                p.outcome,
                gib(p.peak_bytes),
                p.reason,
                f"{p.seconds:.1f}",
            )
            for one in searched
            for p in one.found.probes
        ),
    )


def records(searched: Sequence[Searched]) -> list[dict[str, Any]]:
    """One flat record a probe, for CSV."""
    return [
        {
            "framework": one.framework,
            "items": p.items,
            "outcome": p.outcome,
            "reason": p.reason,
            "peak_bytes": p.peak_bytes,
            "limit_bytes": one.limit_bytes,
            "seconds": p.seconds,
            **{f"condition/{key}": value for key, value in sorted(one.condition.items())},
        }
        for one in searched
        for p in one.found.probes
    ]


def draw(searched: Sequence[Searched]) -> list[Drawing]:
    """Peak memory by batch size with the limit; [] where nothing fitted."""
    if not any(p.outcome == "fits" for one in searched for p in one.found.probes):
        return []
    alt = " ".join(sentence(one) for one in searched)
    return [
        drawing("memory_by_batch", "Peak memory by batch size", alt, lambda t: _plot(searched, t))
    ]


def _plot(searched: Sequence[Searched], theme: Theme) -> Figure:
    figure, axes = plt.subplots(figsize=(7.6, 4.2))
    counts: list[int] = []
    for index, one in enumerate(searched):
        colour, marker = theme.arms[index % 7], MARKERS[index % 7]
        for outcome, face in (("fits", colour), ("too large", "none")):
            points = sorted(
                (p.items, p.peak_bytes / GIB)
                for p in one.found.probes
                if p.outcome == outcome and p.peak_bytes
            )
            if not points:
                continue
            at, height = zip(*points, strict=True)
            label = one.framework if outcome == "fits" else f"{one.framework}, stopped or failed"
            axes.plot(at, height, marker, color=colour, markerfacecolor=face, label=label)
            if outcome == "fits":
                axes.plot(at, height, color=colour, linewidth=1)
            counts += at
    for limit in sorted({one.limit_bytes for one in searched if one.limit_bytes}):
        axes.axhline(limit / GIB, color=theme.ink, linewidth=1, linestyle="--", label="limit")
    log_if_wide(axes, "x", min(counts), max(counts))
    axes.set_ylim(0, None)
    axes.set_xlabel("items in a batch")
    axes.set_ylabel("peak memory (GiB)")
    axes.grid(axis="y", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    return figure

"""The table, the sentences and the figure of `read_speed`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt

from analysis.style import DARK, LIGHT, MARKERS, Theme, plain_log, style

TIMES_FASTER = 20
PEAK_BYTES = 2**30
LINEAR = 0.1  # distance of the exponent from 1 that is called linear
_NAMES = {"sqlite": "SQLite file", "http": "HTTP server"}


@dataclass(frozen=True)
class Reading:
    """One side, once. histories_of: runs whose histories were read, from the first on."""

    runs: int
    histories_of: int
    points: int
    search_seconds: float
    history_seconds: float
    peak_bytes: int

    @property
    def seconds(self) -> float:
        """For all runs; histories that were not read are counted at the mean of those that were."""
        return self.search_seconds + self.history_seconds * self.runs / self.histories_of

    @property
    def extrapolated(self) -> bool:
        return self.histories_of < self.runs


@dataclass(frozen=True)
class Compared:
    """One store at one size. seconds: median of ours. baseline: None where it was not taken."""

    store: str
    runs: int
    seconds: float
    ours: list[Reading]
    baseline: Reading | None

    @property
    def peak_bytes(self) -> int:
        return max(reading.peak_bytes for reading in self.ours)

    @property
    def times_faster(self) -> float:
        if self.baseline is None:
            return math.nan
        return self.baseline.seconds / self.seconds


def exponent(results: Sequence[Compared]) -> float:
    """k of seconds ~ runs^k: least squares on logarithms; NaN below two sizes.

    >>> same = dict(ours=[], baseline=None, store="sqlite")
    >>> round(exponent([Compared(runs=10, seconds=1.0, **same),
    ...                 Compared(runs=1000, seconds=100.0, **same)]), 3)
    1.0
    """
    if len({result.runs for result in results}) < 2:
        return math.nan
    logs = np.log([[result.runs, result.seconds] for result in results])
    return float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0])


def markdown(results: Sequence[Compared], workers: int) -> str:
    """Table and sentences."""
    lines = [
        "# Runs read in bulk",
        "",
        "Runs with parameters, tags, last metrics and all metric histories, from the store into",
        "memory; content equal on both sides. Ours: median of "
        f"{len(results[0].ours)}. HTTP: `mlflow server --workers {workers}` on the same machine.",
        "",
        "| store | runs | points | ours, s | MLflow's calls, s | times faster | ours, peak MiB "
        "| MLflow's, peak MiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for found in results:
        base, first = found.baseline, found.ours[0]
        mark = "\\*" if base and base.extrapolated else ""
        theirs = f"{base.seconds:.1f}{mark}" if base else ""
        faster = f"{found.times_faster:.1f}{mark}" if base else ""
        lines.append(
            f"| {_NAMES[found.store]} | {found.runs:,} | {first.points:,} | {found.seconds:.2f} | "
            f"{theirs} | {faster} | {found.peak_bytes / 2**20:.0f} | "
            f"{f'{base.peak_bytes / 2**20:.0f}' if base else ''} |"
        )
    if partial := [found.baseline for found in results if found.baseline]:
        read = sorted({base.histories_of for base in partial if base.extrapolated})
        if read:
            listed = ", ".join(f"{count:,}" for count in read)
            lines += [
                "",
                f"\\* extrapolated from the histories of the first {listed} runs; its search is of "
                "all runs, its peak memory of what was read.",
            ]
    return "\n".join([*lines, "", *_sentences(results)])


def _sentences(results: Sequence[Compared]) -> list[str]:
    said = []
    for store in dict.fromkeys(found.store for found in results):
        sizes = [found for found in results if found.store == store]
        largest = max(sizes, key=lambda found: found.runs)
        line = f"- {_NAMES[store]}: "
        if largest.baseline:
            word = "at least" if largest.times_faster >= TIMES_FASTER else "NOT"
            line += f"{largest.times_faster:.1f} times faster at {largest.runs:,} runs "
            line += f"({word} {TIMES_FASTER} times)"
            line += ", extrapolated; " if largest.baseline.extrapolated else "; "
        grows = exponent(sizes)
        if not math.isnan(grows):
            verdict = "linear" if abs(grows - 1) <= LINEAR else "less than linear"
            verdict = verdict if grows <= 1 + LINEAR else "MORE THAN LINEAR"
            line += f"time grows as runs^{grows:.2f}, {verdict}; "
        peak = max(found.peak_bytes for found in sizes)
        word = "below" if peak < PEAK_BYTES else "NOT below"
        said.append(f"{line}peak memory {peak / 2**20:.0f} MiB ({word} 1 GiB).")
    return said


def write(results: Sequence[Compared], workers: int, folder: Path) -> None:
    """read_speed.md, and the figure on both backgrounds."""
    alt = "Seconds to read all runs against the number of runs, ours and MLflow's calls"
    text = markdown(results, workers) + f"\n\n![{alt}](read_speed.png)\n"
    (folder / "read_speed.md").write_text(text, encoding="utf-8")
    for theme, name in ((LIGHT, "read_speed.png"), (DARK, "read_speed_dark.png")):
        _draw(results, theme, folder / name)


def _draw(results: Sequence[Compared], theme: Theme, path: Path) -> None:
    with style(theme):
        figure, axes = plt.subplots(figsize=(6.4, 4.0))
        times = []
        for place, store in enumerate(dict.fromkeys(found.store for found in results)):
            sizes = sorted((r for r in results if r.store == store), key=lambda r: r.runs)
            colour, marker = theme.arms[place], MARKERS[place]
            ours = [(found.runs, found.seconds) for found in sizes]
            theirs = [(f.runs, f.baseline.seconds) for f in sizes if f.baseline]
            axes.plot(*zip(*ours, strict=True), marker, ls="-", color=colour)
            axes.plot(*zip(*theirs, strict=True), marker, ls="--", color=colour, mfc=theme.back)
            partial = any(found.baseline and found.baseline.extrapolated for found in sizes)
            label = "MLflow's calls" + (" (extrapolated)" if partial else "")
            for points, side in ((ours, "ours"), (theirs, label)):
                runs, seconds = points[-1]
                axes.annotate(
                    f"{_NAMES[store]}, {side}", (runs, seconds), (7, 0), color=colour,
                    textcoords="offset points", va="center",
                )  # fmt: skip
            times += [seconds for _, seconds in (*ours, *theirs)]
        axes.set(
            xscale="log", yscale="log", xlabel="runs in the store", ylabel="seconds to read all"
        )
        plain_log(axes.yaxis, max(times) / min(times))
        sizes_shown = sorted({found.runs for found in results})
        axes.set_xticks(sizes_shown, [f"{size:,}" for size in sizes_shown])
        axes.minorticks_off()
        axes.grid(True, axis="y", lw=0.6)
        axes.set_title("Runs, parameters, tags and metric histories, read into memory", loc="left")
        figure.savefig(path, dpi=150, bbox_inches="tight")
        plt.close(figure)

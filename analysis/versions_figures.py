"""Versions over time: the level of each version on one machine, and every change with its interval."""

from __future__ import annotations

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from analysis import wording
from analysis.findings import Drawing
from analysis.style import MARKERS, Theme, drawing, log_if_wide
from analysis.units import scale
from analysis.versions import Change, History, Track

COLOURS = {"improvement": 0, "regression": 1, "same": 5}  # of the theme's arms; else grey


def changes(history: History) -> Drawing | None:
    """Every step that has a ratio."""
    shown = [c for c in history.changes if c.ratio is not None]
    if not shown:
        return None
    return drawing(
        "changes",
        f"{history.framework}: ratio of {history.label}, new version over old",
        "Ratio and 95 % interval of every step between versions. "
        + " ".join(f"{c.machine}: {c.verdict}." for c in shown),
        lambda theme: _changes(shown, history, theme),
    )


def levels(history: History, number: int, track: Track) -> Drawing | None:
    """Median of each version on one track; None where fewer than two were measured."""
    measured = [level for level in track.levels if level.values]
    if len(measured) < 2:
        return None
    return drawing(
        f"versions_{number}",
        f"{history.label} by version of {history.framework}: {track.name} on {track.machine}",
        "Every run, the median and its 95 % interval of each version: "
        + ", ".join(f"{level.version} {level.median:.4g} {history.unit}" for level in measured),
        lambda theme: _levels(track, history, theme),
    )


def _changes(shown: list[Change], history: History, theme: Theme) -> Figure:
    figure, axes = plt.subplots(figsize=(9, 1.5 + 0.6 * len(shown)))
    axes.axvline(1, color=theme.ink, linewidth=1)
    margin = shown[0].measured.margin
    axes.axvspan(1 / (1 + margin), 1 + margin, color=theme.faint, alpha=0.45, linewidth=0)
    seen = [1.0]
    for row, c in enumerate(shown):
        assert c.ratio is not None
        colour = theme.arms[COLOURS.get(c.outcome, 6)]
        text = wording.number(c.ratio.estimate)
        seen.append(c.ratio.estimate)
        if c.ratio.low is not None and c.ratio.high is not None:
            seen += [c.ratio.low, c.ratio.high]
            axes.plot([c.ratio.low, c.ratio.high], [row, row], color=colour, linewidth=2.6)
            text += f"  [{wording.number(c.ratio.low)}, {wording.number(c.ratio.high)}]"
        hollow = c.measured.evidence == "unpaired"
        axes.plot(
            c.ratio.estimate,
            row,
            marker="D",
            markersize=7,
            color=colour,
            markerfacecolor=theme.back if hollow else colour,
        )
        word = {"none": "no verdict"}.get(c.outcome, c.outcome)
        axes.annotate(
            f"{text}\n{word}, {c.measured.evidence}",
            (1.01, row),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=8.5,
            linespacing=1.4,
        )
    log_if_wide(axes, "x", min(seen), max(seen))
    axes.set_yticks(range(len(shown)), [f"{c.old} to {c.new}\n{c.machine}" for c in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(
        f"ratio of {history.label}, new over old ({history.better} is better);\n"
        "hollow: sessions without a control; band: the same within the margin"
    )
    return figure


def _levels(track: Track, history: History, theme: Theme) -> Figure:
    figure, axes = plt.subplots(figsize=(9, 4.2))
    shown = [level for level in track.levels if level.values]
    divisor, unit = scale(float(np.median([level.median for level in shown])), history.unit)
    values = [value / divisor for level in shown for value in level.values]
    axes.plot(
        range(len(shown)),
        [level.median / divisor for level in shown],
        color=theme.faint,
        linewidth=1.2,
        zorder=1,
    )
    for x, level in enumerate(shown):
        spread = x + np.linspace(0.08, 0.3, len(level.values))
        runs = np.asarray(level.values) / divisor
        axes.plot(spread, runs, MARKERS[0], color=theme.arms[0], markersize=4, alpha=0.55)
        if level.low is not None and level.high is not None:
            ends = [level.low / divisor, level.high / divisor]
            axes.plot([x, x], ends, color=theme.arms[1], linewidth=2.6)
        axes.plot(x, level.median / divisor, marker="D", markersize=7, color=theme.arms[1])
    log_if_wide(axes, "y", min(values), max(values))
    axes.set_xticks(range(len(shown)), [f"{s.version}\n{s.study}" for s in shown])
    axes.set_xlim(-0.4, len(shown) - 0.4)
    axes.set_ylabel(f"{history.label}{f' ({unit})' if unit else ''}")
    axes.set_xlabel(
        "version and its study; diamond: median with its 95 % interval; small dots: runs.\n"
        "Sessions differ in speed too: only the table of changes says what the version did"
    )
    axes.grid(axis="y", linewidth=0.6)
    return figure

"""Figures of published results: drift over the runs of an arm, distributions, ratios with faults."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from analysis.findings import Drawing
from analysis.published.ratios import TableRatio
from analysis.published.reanalysis import Arm, Reading, Reanalysis
from analysis.style import MARKERS, Theme, drawing, log_if_wide, plain_log
from analysis.units import quantity, scale

_LINES = ("-", "--", "-.", ":")


def recordings(found: Reanalysis) -> list[Drawing]:
    """Runs in file order and their distribution, training then inference; ratios by batch size."""
    drawings = []
    for phase, word in (("train", "Training"), ("test", "Inference")):
        arms = [
            arm
            for arm in found.arms
            if arm.file.recording.phase == phase and not arm.file.recording.sweep
        ]
        longest = max((arm.file.recording.runs for arm in arms), default=0)
        arms = [arm for arm in arms if arm.file.recording.runs == longest]
        if arms:
            said = "; ".join(
                f"{arm.file.recording.arm} median {quantity(arm.median, 's')}, first half over "
                f"second half {arm.halves:.3f}"
                for arm in arms
            )
            drawings += [
                drawing(
                    f"{phase}_runs_in_order",
                    f"{word}: time of every run, in the order of the file",
                    f"Seconds of each run in file order, one marker an arm. {said}.",
                    lambda theme, arms=arms: _in_order(arms, theme),  # type: ignore[misc]
                ),
                drawing(
                    f"{phase}_distribution",
                    f"{word}: share of runs that ended within a time",
                    f"Empirical distribution of run times, one line an arm. {said}.",
                    lambda theme, arms=arms: _distribution(arms, theme),  # type: ignore[misc]
                ),
            ]
    sweeps = [reading for reading in found.readings if reading.sweep]
    if sweeps:
        said = "; ".join(
            f"{_pair(r)}: {r.sweep[0][1]:.3g} at {r.sweep[0][0]} to {r.sweep[-1][1]:.3g} at "
            f"{r.sweep[-1][0]}"
            for r in sweeps
        )
        drawings.append(
            drawing(
                "ratio_by_batch_size",
                "Ratio of training time by batch size: one run a cell",
                f"Ratio of totals by batch size, one line a pair of arms. {said}.",
                lambda theme: _by_batch_size(sweeps, theme),
            )
        )
    return drawings


def tables(source: str, ratios: Sequence[TableRatio]) -> Drawing:
    """Ratios of one source's tables with the ids of their known faults beside them."""
    said = "; ".join(f"{_label(r)}: {_span(r)} ({', '.join(r.faults)})" for r in ratios)
    return drawing(
        f"ratios_{source}",
        f"{source}: MLX over PyTorch as published, with the known faults",
        f"Published ratios, below 1 MLX is lower. {said}.",
        lambda theme: _ratios(ratios, theme),
    )


def _in_order(arms: Sequence[Arm], theme: Theme) -> Figure:
    figure, axes = plt.subplots(figsize=(9, 4.4))
    divisor, unit = _scale(arms)
    for index, arm in enumerate(arms):
        totals = np.asarray(arm.file.recording.total_seconds) / divisor
        axes.plot(
            np.arange(1, len(totals) + 1),
            totals,
            MARKERS[index % len(MARKERS)],
            color=theme.arms[index % len(theme.arms)],
            markersize=4,
            alpha=0.8,
            markeredgewidth=0,
            label=arm.file.recording.arm,
        )
    log_if_wide(axes, "y", *_range(arms, divisor))
    axes.set_xlabel("run, in the order of the file")
    axes.set_ylabel(f"time of the run ({unit})")
    axes.grid(axis="y", linewidth=0.6)
    figure.legend(loc="outside upper left", ncols=4)
    return figure


def _distribution(arms: Sequence[Arm], theme: Theme) -> Figure:
    figure, axes = plt.subplots(figsize=(9, 4.0))
    divisor, unit = _scale(arms)
    for index, arm in enumerate(arms):
        axes.ecdf(
            np.asarray(arm.file.recording.total_seconds) / divisor,
            color=theme.arms[index % len(theme.arms)],
            linestyle=_LINES[index % len(_LINES)],
            linewidth=1.7,
            label=arm.file.recording.arm,
        )
    log_if_wide(axes, "x", *_range(arms, divisor))
    axes.set_xlabel(f"time of the run ({unit})")
    axes.set_ylabel("share of runs within that time")
    axes.grid(linewidth=0.6)
    figure.legend(loc="outside upper left", ncols=4)
    return figure


def _scale(arms: Sequence[Arm]) -> tuple[float, str]:
    return scale(max(arm.median for arm in arms), "s")


def _range(arms: Sequence[Arm], divisor: float) -> tuple[float, float]:
    totals = [total for arm in arms for total in arm.file.recording.total_seconds]
    return min(totals) / divisor, max(totals) / divisor


def _by_batch_size(sweeps: Sequence[Reading], theme: Theme) -> Figure:
    figure, axes = plt.subplots(figsize=(9, 4.0))
    axes.axhline(1, color=theme.ink, linewidth=1)
    for index, reading in enumerate(sweeps):
        axes.plot(
            [size for size, _ in reading.sweep],
            [ratio for _, ratio in reading.sweep],
            color=theme.arms[index % len(theme.arms)],
            marker=MARKERS[index % len(MARKERS)],
            linestyle=_LINES[index % len(_LINES)],
            label=_pair(reading),
        )
    sizes = sorted({size for reading in sweeps for size, _ in reading.sweep})
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_yscale("log")
    plain_log(axes.yaxis, 10)
    axes.set_xlabel("batch size")
    axes.set_ylabel("ratio of totals")
    axes.grid(linewidth=0.6)
    figure.legend(loc="outside upper left", ncols=2)
    return figure


def _pair(reading: Reading) -> str:
    return f"{reading.first.file.recording.arm} / {reading.second.file.recording.arm}"


def _ratios(ratios: Sequence[TableRatio], theme: Theme) -> Figure:
    figure, axes = plt.subplots(figsize=(10, 1.2 + 0.34 * len(ratios)))
    axes.axvline(1, color=theme.ink, linewidth=1)
    machines = list(dict.fromkeys(ratio.machine for ratio in ratios))
    for row, ratio in enumerate(ratios):
        place = machines.index(ratio.machine)
        colour = theme.arms[place % len(theme.arms)]
        axes.plot([ratio.low, ratio.high], [row, row], color=colour, linewidth=2.4)
        axes.plot(
            np.sqrt(ratio.low * ratio.high),
            row,
            MARKERS[place % len(MARKERS)],
            color=colour,
            label=ratio.machine,
        )
        axes.annotate(
            f"{_span(ratio)}   {' '.join(ratio.faults)}",
            (1.01, row),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=8.5,
        )
    lows, highs = [ratio.low for ratio in ratios], [ratio.high for ratio in ratios]
    log_if_wide(axes, "x", min(1, *lows), max(1, *highs))
    axes.set_yticks(range(len(ratios)), [_label(ratio) for ratio in ratios])
    axes.set_ylim(len(ratios) - 0.5, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", linewidth=0.6)
    axes.set_xlabel("MLX / PyTorch as published; right: ratio and ids of known faults")
    labels = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(labels.values(), labels.keys(), loc="outside upper left", ncols=2)
    return figure


def _label(ratio: TableRatio) -> str:
    metric = ratio.metric.split("/")[-1].replace("_", " ")
    return f"{re.sub(r' *[(].*?[)]', '', ratio.workload)}: {metric}"


def _span(ratio: TableRatio) -> str:
    if ratio.low == ratio.high:
        return f"{ratio.low:.3g}"
    return f"{ratio.low:.3g} to {ratio.high:.3g}"

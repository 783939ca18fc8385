"""Figures of a sweep: for each metric the ratio over the parameter, above what both arms measured.

Shows what was found; no sums.
"""

from __future__ import annotations

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from analysis.findings import Drawing
from analysis.style import MARKERS, Theme, drawing, log_if_wide
from analysis.sweep import Curve, Sweep, medians, number
from analysis.units import scale


def draw(sweep: Sweep) -> list[Drawing]:
    """One figure a metric that has a ratio, as PNG bytes; the primary metric first."""
    return [
        drawing(
            f"sweep_{curve.metric.replace('/', '_')}",
            f"{curve.label[0].upper()}{curve.label[1:]} over {sweep.parameter}",
            f"Ratio of every pair, median and 95 % interval at every {sweep.parameter}, and the "
            "values of both arms below. " + "; ".join(curve.sentences),
            lambda theme, curve=curve: _figure(sweep, curve, theme),  # type: ignore[misc]
        )
        for curve in sweep.curves
        if curve.points
    ]


def _figure(sweep: Sweep, curve: Curve, theme: Theme) -> Figure:
    figure, (above, below) = plt.subplots(
        2, 1, sharex=True, figsize=(9, 6.6), height_ratios=(3, 2), layout="constrained"
    )
    _ratios(above, sweep, curve, theme)
    _values(below, sweep, curve, theme)
    below.set_xscale("log", base=2)
    step = -(-len(sweep.values) // 14)
    below.xaxis.set_major_locator(FixedLocator(sweep.values[::step]))
    below.xaxis.set_minor_locator(NullLocator())
    below.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    room = (sweep.values[-1] / sweep.values[0]) ** (0.35 / len(sweep.values))
    below.set_xlim(sweep.values[0] / room, sweep.values[-1] * room)
    below.set_xlabel(f"{sweep.parameter} (logarithmic)")
    figure.align_ylabels()
    return figure


def _ratios(axes: Axes, sweep: Sweep, curve: Curve, theme: Theme) -> None:
    colour, place = theme.arms[0], theme.arms[4]
    axes.axhspan(
        1 / (1 + sweep.margin),
        1 + sweep.margin,
        color=theme.faint,
        alpha=0.45,
        linewidth=0,
        label="the same within the margin",
    )
    axes.axhline(1, color=theme.ink, linewidth=1)
    at = [value for value, _ in curve.points]
    ratios = [c.ratio for _, c in curve.points if c.ratio is not None]
    spread = (sweep.values[-1] / sweep.values[0]) ** (0.1 / len(sweep.values))
    for value, c in curve.points:
        pairs = value * np.geomspace(1 / spread, spread, max(len(c.points), 2))[: len(c.points)]
        axes.plot(
            pairs,
            [point.ratio for point in c.points],
            "o",
            color=colour,
            markersize=3.2,
            alpha=0.5,
            markeredgewidth=0,
            label="single pairs" if value == at[0] else None,
        )
    axes.plot(at, [ratio.estimate for ratio in ratios], color=colour, linewidth=1, alpha=0.7)
    for value, ratio in zip(at, ratios, strict=True):
        if ratio.low is not None and ratio.high is not None:
            axes.plot([value, value], [ratio.low, ratio.high], color=colour, linewidth=2.6)
    axes.plot(
        at,
        [ratio.estimate for ratio in ratios],
        "D",
        color=colour,
        markersize=6,
        label="median of the pairs, 95 % interval",
    )
    for one in curve.crossings.found if curve.crossings else ():
        said = f"{number(one.low)} to {number(one.high)}"
        if one.value is not None:
            said = f"{number(one.value)} [{number(one.low)}, {number(one.high)}]"
            axes.axvline(one.value, color=place, linewidth=1.6, linestyle="--")
        axes.axvspan(
            one.low, one.high, color=place, alpha=0.16, linewidth=0, label=f"passes 1 at {said}"
        )
    values = [point.ratio for _, c in curve.points for point in c.points]
    log_if_wide(axes, "y", min(values), max(values))
    side = {"lower": "below", "higher": "above"}.get(curve.better or "")
    good = f"\n({side} 1: better for {sweep.numerator})" if side else ""
    axes.set_ylabel(f"ratio, {sweep.numerator}\nover {sweep.denominator}{good}")
    axes.grid(axis="y", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)


def _values(axes: Axes, sweep: Sweep, curve: Curve, theme: Theme) -> None:
    arms = (
        (sweep.numerator, theme.arms[0], MARKERS[0], 1 / 1.02),
        (sweep.denominator, theme.arms[1], MARKERS[1], 1.02),
    )
    measured = [
        [[point.numerator for point in c.points], [point.denominator for point in c.points]]
        for _, c in curve.points
    ]
    everything = [v for pair in measured for arm in pair for v in arm]
    divisor, unit = scale(float(np.median(everything)), curve.unit)
    at = np.array([value for value, _ in curve.points])
    for index, (name, colour, marker, shift) in enumerate(arms):
        runs = [np.array(pair[index]) / divisor for pair in measured]
        middle = [medians(c)[index] / divisor for _, c in curve.points]
        axes.vlines(
            at * shift, [v.min() for v in runs], [v.max() for v in runs], color=colour, linewidth=2
        )
        axes.plot(
            at * shift,
            middle,
            color=colour,
            marker=marker,
            markersize=5,
            linewidth=1,
            linestyle=("-", "--")[index],
            label=name,
        )
    log_if_wide(axes, "y", min(everything), max(everything))
    axes.set_title(f"{curve.label}: median of the runs, least to most", loc="left", fontsize=9.5)
    axes.set_ylabel(unit)
    axes.grid(axis="y", linewidth=0.6)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 0.97), ncols=2, borderpad=0)

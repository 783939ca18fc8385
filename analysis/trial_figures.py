"""Figures of single trials and arms, wide or for a phone. They show what was found and sum nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import wording
from analysis.findings import Distribution, Findings, Learning, Rates, Roof, Spans
from analysis.style import MANY, MARKERS, Theme, log_if_wide
from analysis.units import quantity, scale
from analysis.vector import Rows, legend, legend_height, number_axis, panels, sheet
from tracking.names import METRICS

LINES = ("-", "--", "-.", ":")
Look = dict[str, tuple[str, str, Any]]  # arm -> (colour, marker, line)


def look(arms: Sequence[str], theme: Theme) -> Look:
    """How each arm is drawn, in every figure of a study: told apart without colours too."""
    return {
        arm: (
            theme.arms[i % len(theme.arms)],
            MARKERS[i % len(MARKERS)],
            LINES[i % len(LINES)],
        )
        for i, arm in enumerate(arms)
    }


def dots(findings: Findings, names: Sequence[str], theme: Theme) -> Figure:
    """A panel a metric: a dot a trial, the median of each arm with its value beside its name."""
    most = max(sum(name in arm.values for arm in findings.arms) for name in names)
    rows = Rows(most, 1, marks=0.18)
    figure, grid = panels(theme, len(names), rows.height)
    for axes, name in zip(grid, names, strict=True):
        _dots(axes, rows, findings, name, theme)
    return figure


def _dots(axes: Axes, rows: Rows, findings: Findings, name: str, theme: Theme) -> None:
    about, looks = METRICS[name], look([arm.name for arm in findings.arms], theme)
    shown = [arm for arm in findings.arms if name in arm.values]
    divisor, unit = scale(shown[0].values[name][0], about.unit)
    for row, arm in enumerate(shown):
        colour, marker, _ = looks[arm.name]
        found = [t[name] / divisor for t in findings.trials if t["arm"] == arm.name and t.get(name)]
        axes.plot(
            found, np.full(len(found), rows.at(row, 0.11)), "o", color=colour, markersize=3, alpha=0.6,
            markeredgewidth=0, rasterized=len(found) > MANY,
        )  # fmt: skip
        axes.plot(arm.values[name][0] / divisor, rows.at(row), marker, color=colour, markersize=6.5)
        text = f"{arm.name}: {quantity(arm.values[name][0], about.unit)}"
        rows.words(axes, row, text, theme)
    axes.locator_params(axis="x", nbins=5)
    axes.ticklabel_format(axis="x", useOffset=False)
    axes.margins(x=0.04)
    low, high = (pick(arm.values[name][i] for arm in shown) for pick, i in ((min, 1), (max, 2)))
    log_if_wide(axes, "x", low / divisor, high / divisor)
    rows.frame(axes)
    axes.set_title(about.label[0].upper() + about.label[1:], loc="left", fontsize=9.5, pad=3)
    better = f"{about.better} is better" if about.better else ""
    axes.set_xlabel("; ".join(filter(None, (unit, better))), fontsize=8.5)


def by_trial(spans: Sequence[Spans], arms: Sequence[str], what: str, theme: Theme) -> Figure:
    """Every span of every trial beside its pair."""
    looks, labels = look(arms, theme), [one.arm for one in spans]
    figure, axes = sheet(theme, 2.9, left=0.62, top=legend_height(labels, theme), bottom=0.5)
    divisor, unit = scale(spans[0].every.median, "s")
    offsets = np.linspace(-0.32, 0.32, len(spans)) if len(spans) > 1 else np.zeros(1)
    for one, offset in zip(spans, offsets, strict=True):
        colour, marker, _ = looks[one.arm]
        x = [pair + offset for pair, seconds in one.trials for _ in seconds]
        y = [value / divisor for _, seconds in one.trials for value in seconds]
        axes.plot(
            x, y, marker, color=colour, markersize=4, alpha=0.75, label=one.arm,
            markeredgewidth=0, linestyle="none", rasterized=len(x) > MANY,
        )  # fmt: skip
    low, high = min(one.every.low for one in spans), max(one.every.high for one in spans)
    log_if_wide(axes, "y", low / divisor, high / divisor)
    pairs = sorted({pair for one in spans for pair, _ in one.trials})
    axes.set_xticks(pairs[:: max(1, len(pairs) // (8 if theme.narrow else 20))])
    if len(pairs) <= 60:
        for pair in pairs[1:]:
            axes.axvline(pair - 0.5, color=theme.faint, linewidth=0.5)
    axes.set_xlabel("pair (each arm once, in random order)")
    axes.set_ylabel(f"{what} ({unit})")
    axes.grid(axis="y", linewidth=0.6)
    legend(figure, axes, theme)
    return figure


def latency(
    found: Sequence[Distribution],
    p90: dict[str, float],
    arms: Sequence[str],
    what: str,
    theme: Theme,
) -> Figure:
    """Share of calls that took no longer: the median trial of each arm, from the quickest to the
    slowest trial as a band, and its p90 (arm -> seconds)."""
    looks, labels = look(arms, theme), [one.arm for one in found]
    figure, axes = sheet(theme, 2.9, left=0.62, top=legend_height(labels, theme), bottom=0.55)
    divisor, unit = scale(float(found[0].seconds[len(found[0].seconds) // 2]), "s")
    for one in found:
        colour, marker, line = looks[one.arm]
        low, high, middle = (np.array(v) / divisor for v in (one.low, one.high, one.seconds))
        axes.fill_betweenx(one.shares, low, high, color=colour, alpha=0.16, linewidth=0)
        axes.plot(middle, one.shares, color=colour, linewidth=1.7, linestyle=line, label=one.arm)
        if one.arm in p90:
            axes.plot(p90[one.arm] / divisor, 0.9, marker, color=colour, markersize=6.5)
    axes.axhline(0.9, color=theme.faint, linewidth=1)
    axes.set_xscale("log")
    seen = [value / divisor for one in found for value in (*one.low, *one.high) if value > 0]
    number_axis(axes.xaxis, max(seen) / min(seen))
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel(
        f"latency of {what} ({unit}, logarithmic)" + ("" if theme.narrow else "; marks: p90")
    )
    axes.set_ylabel("share within that time")
    axes.grid(linewidth=0.6)
    legend(figure, axes, theme)
    return figure


def learning(
    found: Sequence[Learning], metric: str, target: float, arms: Sequence[str], theme: Theme
) -> Figure:
    """Quality after each epoch over training time: medians over the trials, and their ranges."""
    about, looks, labels = METRICS[metric], look(arms, theme), [one.arm for one in found]
    figure, axes = sheet(theme, 2.9, left=0.68, top=legend_height(labels, theme), bottom=0.5)
    for one in found:
        colour, marker, line = looks[one.arm]
        x = [middle.median for middle in one.seconds]
        y = [middle.median for middle in one.quality]
        axes.errorbar(
            x, y,
            xerr=[[m.median - m.low for m in one.seconds], [m.high - m.median for m in one.seconds]],
            yerr=[[m.median - m.low for m in one.quality], [m.high - m.median for m in one.quality]],
            color=colour, marker=marker, linestyle=line, markersize=5, linewidth=1.5,
            elinewidth=0.9, label=one.arm,
        )  # fmt: skip
    if target > 0:
        axes.axhline(target, color=theme.ink, linewidth=1, linestyle=(0, (2, 2)))
        axes.annotate(
            "target", (1, target), xycoords=("axes fraction", "data"), ha="right", va="bottom",
            fontsize=8.5, color=theme.ink,
        )  # fmt: skip
    times = [m for one in found for m in one.seconds]
    log_if_wide(axes, "x", min(m.low for m in times), max(m.high for m in times))
    axes.set_xlabel("training time (s)")
    axes.set_ylabel(about.label)
    axes.grid(linewidth=0.6)
    legend(figure, axes, theme)
    return figure


def waiting(findings: Findings, theme: Theme) -> Figure:
    """Kaplan-Meier curves: the share of trials that have not reached the target."""
    arms = [arm.name for arm in findings.arms]
    looks = look(arms, theme)
    found = [(arm, findings.arrivals[arm, "s"]) for arm in arms if (arm, "s") in findings.arrivals]
    labels = [
        f"{arm}: {a.arrived} of {a.n}, median {wording.time_text(a.median, 's')}"
        for arm, a in found
    ]
    figure, axes = sheet(theme, 2.7, left=0.62, top=legend_height(labels, theme), bottom=0.5)
    for (arm, a), label in zip(found, labels, strict=True):
        colour, _, line = looks[arm]
        axes.step(
            [0.0, *a.times], [1.0, *a.waiting], where="post", color=colour, linewidth=1.8,
            linestyle=line, label=label,
        )  # fmt: skip
        if a.budgets:
            axes.plot(
                a.budgets, [a.waiting[-1]] * len(a.budgets), "|", color=colour, markersize=12,
                markeredgewidth=2,
            )  # fmt: skip
    axes.set_ylim(-0.03, 1.05)
    axes.set_xlim(left=0)
    axes.set_xlabel(
        "training time (s)"
        + ("" if theme.narrow else "; upright strokes: stopped without arriving")
    )
    axes.set_ylabel("share not yet there")
    axes.grid(linewidth=0.6)
    legend(figure, axes, theme)
    return figure


def by_batch(found: Sequence[Rates], arms: Sequence[str], theme: Theme) -> Figure:
    """A line an arm through its medians, a dot a trial."""
    looks, labels = look(arms, theme), [one.arm for one in found]
    figure, axes = sheet(theme, 2.9, left=0.78, top=legend_height(labels, theme), bottom=0.5)
    for one in found:
        colour, marker, line = looks[one.arm]
        for size, trials in zip(one.sizes, one.trials, strict=True):
            axes.plot(
                [size] * len(trials), trials, "o", color=colour, markersize=3, alpha=0.5,
                markeredgewidth=0, rasterized=len(trials) > MANY,
            )  # fmt: skip
        axes.plot(
            one.sizes, [rate.median for rate in one.rates], marker=marker, color=colour,
            linestyle=line, label=one.arm,
        )  # fmt: skip
    sizes = sorted({size for one in found for size in one.sizes})
    axes.set_xscale("log")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    rates = [rate for one in found for rate in one.rates]
    log_if_wide(axes, "y", min(rate.low for rate in rates), max(rate.high for rate in rates))
    axes.set_xlabel("batch size (logarithmic)")
    axes.set_ylabel("items/s (higher is better)")
    axes.grid(linewidth=0.6)
    legend(figure, axes, theme)
    return figure


def roofline(roofs: Sequence[Roof], arms: Sequence[str], theme: Theme) -> Figure:
    """A row an arm: what it achieved, up to the fastest product that its framework did here."""
    shown = [roof for roof in roofs if roof.achieved]
    looks = look(arms, theme)
    rows = Rows(len(shown), 2 if theme.narrow else 1, marks=0.12)
    figure, axes = sheet(theme, rows.height)
    top = max(m.median for roof in shown for m in (roof.achieved, roof.ceiling) if m)
    divisor, unit = scale(top, "FLOP/s")
    seen = []
    for row, roof in enumerate(shown):
        assert roof.achieved is not None
        colour, marker, _ = looks[roof.arm]
        low, middle, high = (
            v / divisor for v in (roof.achieved.low, roof.achieved.median, roof.achieved.high)
        )
        seen += [low, high]
        if roof.ceiling:
            edge = roof.ceiling.median / divisor
            axes.plot([middle, edge], [row] * 2, color=theme.faint, linewidth=2)
            axes.plot(
                [edge] * 2, [rows.at(row, -0.07), rows.at(row, 0.07)], color=colour, linewidth=3
            )
            seen.append(edge)
        axes.plot([low, high], [row] * 2, color=colour, linewidth=2.6)
        axes.plot(middle, row, marker, color=colour, markersize=6.5)
        rows.words(axes, row, roof_words(roof, "\n" if theme.narrow else " "), theme)
    axes.set_xscale("log")
    axes.set_xlim(min(seen) / 1.3, max(seen) * 1.3)
    number_axis(axes.xaxis, max(seen) / min(seen))
    rows.frame(axes)
    axes.set_xlabel(f"{unit} (logarithmic); upright bar: ceiling", fontsize=8.5)
    return figure


def roof_words(roof: Roof, between: str = " ") -> str:
    """'mlx: 2.3 GFLOP/s of 119 GFLOP/s (1.9 %)'."""
    assert roof.achieved is not None
    text = quantity(roof.achieved.median, "FLOP/s")
    if roof.ceiling and roof.fraction:
        text += f" of {quantity(roof.ceiling.median, 'FLOP/s')}"
        text += f" ({wording.percent(roof.fraction.median)})"
    else:
        text += ", no ceiling measured"
    return f"{roof.arm}:{between}{text}"


def bars(twins: Sequence[tuple[str, float, float]], theme: Theme) -> Figure:
    """(name, own, shared) as stacked bars, their numbers beside the name."""
    rows = Rows(len(twins), 1, marks=0.18)
    figure, axes = sheet(theme, rows.height)
    high = rows.at(0, 0.2)
    for row, (name, own, shared) in enumerate(twins):
        y = rows.at(row, 0.05)
        axes.barh(y, own, high, color=theme.arms[0])
        axes.barh(
            y, shared, high, left=own, color=theme.arms[6], hatch="///", edgecolor=theme.back,
            linewidth=0,
        )  # fmt: skip
        text = f"{name}: {own:.0f}" + (f" and {shared:.0f} of models/layers" if shared else "")
        rows.words(axes, row, text, theme)
    rows.frame(axes)
    axes.set_xlim(left=0)
    axes.set_xlabel("source lines; hatched: used of models/layers", fontsize=8.5)
    return figure

"""Figures of single trials: phases of a generation, times by trial, latency. Shows, sums nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from analysis.findings import Findings
from analysis.style import MARKERS, Theme, log_if_wide, plain_log
from analysis.units import quantity, scale
from tracking.names import METRICS

Samples = Mapping[str, Mapping[str, np.ndarray]]  # run id -> series -> values

PHASES = (
    "inference/first_token_seconds",
    "inference/prefill_tokens_per_second",
    "inference/encode_seconds",
    "inference/decode_seconds",
    "inference/decode_tokens_per_second",
    "inference/token_seconds_p50",
    "inference/real_time_factor",
)
"""What a generation is made of; decoding is never mixed with what goes before it."""

PARTS = (
    "switch/first_device_seconds",
    "switch/second_device_seconds",
    "switch/transfer_seconds",
    "switch/loop_seconds_p50",
)
"""What a loop over two devices is made of, and the loop."""


def arms(findings: Findings, theme: Theme) -> list[tuple[str, str, str]]:
    """(arm, colour, marker) in the order of the study."""
    return [
        (arm.name, theme.arms[i % len(theme.arms)], MARKERS[i % len(MARKERS)])
        for i, arm in enumerate(findings.arms)
    ]


def has(samples: Samples, name: str) -> bool:
    """Did any trial keep samples of that name?"""
    return any(len(series.get(name, ())) for series in samples.values())


def phases(findings: Findings, names: Sequence[str], theme: Theme) -> Figure:
    """One panel a phase: a dot a trial, the median of each arm with its value beside it."""
    rows = -(-len(names) // 2)
    height = 0.9 + 0.34 * len(findings.arms)
    figure, grid = plt.subplots(
        rows, 2, figsize=(10, 0.3 + height * rows), sharey=True, squeeze=False
    )
    shown = arms(findings, theme)
    for axes, name in zip(grid.flat, names, strict=False):
        about = METRICS[name]
        values = [t[name] for t in findings.trials if t[name] is not None]
        divisor, unit = scale(float(np.median(values)), about.unit)
        for row, (arm, colour, marker) in enumerate(shown):
            found = [t[name] / divisor for t in findings.trials if t["arm"] == arm and t[name]]
            if not found:
                continue
            axes.plot(
                found, [row + 0.16] * len(found), "o", color=colour, markersize=3.2, alpha=0.5
            )
            middle = findings.arms[row].values[name][0]
            axes.plot(middle / divisor, row - 0.06, marker, color=colour, markersize=7)
            axes.annotate(
                quantity(middle, about.unit),
                (1.02, row),
                xycoords=("axes fraction", "data"),
                va="center",
                fontsize=8.5,
            )
        axes.locator_params(axis="x", nbins=6)
        log_if_wide(axes, "x", min(values), max(values))
        axes.set_title(about.label, loc="left", fontsize=9.5)
        axes.set_xlabel(f"{unit} ({about.better} is better)".strip())
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", linewidth=0.6)
        axes.set_axisbelow(True)
    for axes in grid[:, 0]:
        axes.set_yticks(range(len(shown)), [arm for arm, _, _ in shown])
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    return figure


def by_trial(
    findings: Findings, samples: Mapping[str, Iterable[float]], what: str, theme: Theme
) -> Figure:
    """Every span of every trial beside its pair; samples: run id -> seconds."""
    figure, axes = plt.subplots(figsize=(9, 4.2))
    shown = arms(findings, theme)
    values = [v for series in samples.values() for v in series]
    divisor, unit = scale(float(np.median(values)), "s")
    offsets = np.linspace(-0.32, 0.32, len(shown)) if len(shown) > 1 else np.zeros(1)
    for (arm, colour, marker), offset in zip(shown, offsets, strict=True):
        trials = [t for t in findings.trials if t["arm"] == arm and t["run_id"] in samples]
        series = [(t["pair"], samples[t["run_id"]]) for t in trials]
        x = [pair + offset for pair, times in series for _ in times]
        y = [seconds / divisor for _, times in series for seconds in times]
        axes.plot(
            x, y, marker, color=colour, markersize=5, alpha=0.75, label=arm, markeredgewidth=0
        )
    log_if_wide(axes, "y", min(values), max(values))
    pairs = sorted({t["pair"] for t in findings.trials})
    step = max(1, len(pairs) // 20)
    axes.set_xticks(pairs[::step])
    for pair in pairs[1:]:
        axes.axvline(pair - 0.5, color=theme.faint, linewidth=0.5)
    axes.set_xlabel("pair (each arm once, in random order)")
    axes.set_ylabel(f"{what} ({unit})")
    axes.grid(axis="y", linewidth=0.6)
    figure.legend(loc="outside upper left", ncols=3)
    return figure


def latency(findings: Findings, samples: Samples, name: str, what: str, theme: Theme) -> Figure:
    """Share of the calls of each trial that took no longer; name: of the samples."""
    figure, axes = plt.subplots(figsize=(9, 4.2))
    values = np.concatenate(
        [series[name] for series in samples.values() if len(series.get(name, ()))]
    )
    divisor, unit = scale(float(np.median(values)), "s")
    for index, (arm, colour, _) in enumerate(arms(findings, theme)):
        label: str | None = arm
        for trial in findings.trials:
            calls = samples.get(trial["run_id"], {}).get(name, ())
            if trial["arm"] == arm and len(calls):
                axes.ecdf(
                    np.asarray(calls) / divisor,
                    color=colour,
                    linewidth=1.2,
                    alpha=0.8,
                    linestyle=("-", "--", "-.", ":")[index % 4],
                    label=label,
                )
                label = None
    axes.set_xscale("log")
    plain_log(axes.xaxis, values.max() / values.min())
    axes.set_xlabel(f"latency of {what} ({unit}, logarithmic)")
    axes.set_ylabel("share within that time")
    axes.grid(linewidth=0.6)
    figure.legend(loc="outside upper left", ncols=3)
    return figure


Rates = Mapping[str, Mapping[int, float]]  # run id -> batch size -> items a second


def _medians(findings: Findings, rates: Rates, arm: str) -> dict[int, float]:
    """Batch size -> median over the trials of an arm."""
    found: dict[int, list[float]] = {}
    for trial in findings.trials:
        if trial["arm"] == arm:
            for size, rate in rates.get(trial["run_id"], {}).items():
                found.setdefault(size, []).append(rate)
    return {size: float(np.median(values)) for size, values in sorted(found.items())}


def batches_in_words(findings: Findings, rates: Rates) -> str:
    """What the picture shows, for those who do not see it."""
    return "; ".join(
        f"{arm.name} "
        + ", ".join(f"{rate:,.4g} in batches of {size}" for size, rate in medians.items())
        for arm in findings.arms
        if (medians := _medians(findings, rates, arm.name))
    )


def by_batch(findings: Findings, rates: Rates, theme: Theme) -> Figure:
    """A line an arm through its medians, a dot a trial."""
    figure, axes = plt.subplots(figsize=(9, 4.2))
    for arm, colour, marker in arms(findings, theme):
        for trial in findings.trials:
            if trial["arm"] == arm and (found := rates.get(trial["run_id"])):
                axes.plot(list(found), list(found.values()), "o", color=colour, ms=3, alpha=0.5)
        medians = _medians(findings, rates, arm)
        axes.plot(list(medians), list(medians.values()), marker=marker, color=colour, label=arm)
    sizes = sorted({size for found in rates.values() for size in found})
    axes.set_xscale("log")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    values = [rate for found in rates.values() for rate in found.values()]
    log_if_wide(axes, "y", min(values), max(values))
    axes.set_xlabel("batch size (logarithmic)")
    axes.set_ylabel("items/s (higher is better)")
    axes.grid(linewidth=0.6)
    figure.legend(loc="outside upper left", ncols=3)
    return figure

"""Figures of a study, drawn twice: on white and for dark screens. Shows what was found; no sums.

Colours are Okabe & Ito's, told apart by colour-blind readers; every arm has a marker of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from analysis import wording
from analysis.findings import Comparison, Drawing, Findings
from analysis.style import MARKERS, Theme, drawing, log_if_wide, plain_log
from analysis.units import scale

Samples = Mapping[str, Mapping[str, np.ndarray]]  # run id -> series -> values


def draw(findings: Findings, samples: Samples) -> list[Drawing]:
    """Every figure that the data allow, as PNG bytes."""
    study = findings.study
    headline = [c for c in findings.comparisons if c.role in ("headline", "version")]
    primary = [c for c in findings.comparisons if c.metric == study.metric]
    plans: list[tuple[str, str, str, bool, Callable[[Theme], Figure]]] = [
        (
            "ratio_by_pairing",
            f"Ratio of {_label(primary, study.metric)} by pairing",
            "Ratio of every pair, their median and its 95 % interval for each pairing of arms. "
            + findings.headline.replace("\n", " "),
            _drawable(primary),
            lambda theme: _forest(primary, theme, by_pairing=True),
        ),
        (
            "ratio_by_metric",
            "Ratio by metric, like with like",
            "Ratio of every pair, their median and its 95 % interval for each metric: "
            + "; ".join(c.verdict for c in headline if c.ratio),
            _drawable(headline),
            lambda theme: _forest(headline, theme, by_pairing=False),
        ),
        (
            "epoch_times",
            "Time of every epoch, by trial",
            "Seconds of each timed epoch of each trial, one group of marks for each pair.",
            any("epoch_seconds" in series for series in samples.values()),
            lambda theme: _epochs(findings, samples, theme),
        ),
        (
            "latency",
            "Latency of one item: share of calls answered within a time",
            "Empirical distribution of single-item latencies, one line a trial, coloured by arm.",
            any("latency_seconds" in series for series in samples.values()),
            lambda theme: _latency(findings, samples, theme),
        ),
        (
            "time_to_target",
            f"Training time until {100 * study.target:g} % test accuracy",
            "Kaplan-Meier curves: share of trials that have not yet reached the target accuracy.",
            any(unit == "s" for _, unit in findings.arrivals),
            lambda theme: _target(findings, theme),
        ),
    ]
    return [
        drawing(name, title, alt, plan) for name, title, alt, possible, plan in plans if possible
    ]


def _label(comparisons: Sequence[Comparison], metric: str) -> str:
    return comparisons[0].label if comparisons else metric


def _drawable(comparisons: Sequence[Comparison]) -> bool:
    return any(c.ratio is not None for c in comparisons)


def _forest(comparisons: Sequence[Comparison], theme: Theme, by_pairing: bool) -> Figure:
    shown = [c for c in comparisons if c.ratio is not None]
    figure, axes = plt.subplots(figsize=(9, 1.3 + 0.52 * len(shown)))
    values = [point.ratio for c in shown for point in c.points]
    axes.axvline(1, color=theme.ink, linewidth=1)
    if shown[0].margin:
        margin = shown[0].margin
        axes.axvspan(1 / (1 + margin), 1 + margin, color=theme.faint, alpha=0.45, linewidth=0)
    for row, c in enumerate(shown):
        assert c.ratio is not None
        colour = {
            "better": theme.arms[0],
            "worse": theme.arms[1],
            "same": theme.arms[5],
        }.get(c.outcome, theme.arms[6])
        spread = np.linspace(0.12, 0.30, len(c.points))
        axes.plot(
            [point.ratio for point in c.points],
            row + spread,
            linestyle="none",
            marker="o",
            markersize=3.2,
            color=colour,
            alpha=0.55,
        )
        if c.ratio.low is not None and c.ratio.high is not None:
            axes.plot([c.ratio.low, c.ratio.high], [row, row], color=colour, linewidth=2.6)
        axes.plot(c.ratio.estimate, row, marker="D", markersize=6, color=colour)
        axes.annotate(
            _numbers(c),
            (1.01, row),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=8.5,
            linespacing=1.4,
        )
    log_if_wide(axes, "x", min(values), max(values))
    axes.set_yticks(range(len(shown)), [_row_label(c, by_pairing) for c in shown])
    axes.set_ylim(len(shown) - 0.5, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", linewidth=0.6)
    axes.set_axisbelow(True)
    what = shown[0].label if by_pairing else f"{shown[0].numerator} over {shown[0].denominator}"
    axes.set_xlabel(f"ratio of {what}; small dots: single pairs; band: the same within the margin")
    return figure


def _numbers(c: Comparison) -> str:
    assert c.ratio is not None
    if c.ratio.low is None or c.ratio.high is None:
        return f"{wording.number(c.ratio.estimate)}  (no interval)"
    low, high = wording.number(c.ratio.low), wording.number(c.ratio.high)
    word = {"none": "no verdict"}.get(c.outcome, c.outcome)
    if c.role in wording.KNOWN_TRUTH:
        word = "A/A" if c.truth is None else f"made: {wording.number(c.truth)}"
    return f"{wording.number(c.ratio.estimate)}  [{low}, {high}]\n{word}"


def _row_label(c: Comparison, by_pairing: bool) -> str:
    if by_pairing:
        return f"{c.numerator}\nover {c.denominator}"
    return f"{c.label}\n({c.better} is better)" if c.better else c.label


def _arms(findings: Findings, theme: Theme) -> list[tuple[str, str, str]]:
    """(arm, colour, marker) in the order of the study."""
    return [
        (arm.name, theme.arms[i % len(theme.arms)], MARKERS[i % len(MARKERS)])
        for i, arm in enumerate(findings.arms)
    ]


def _epochs(findings: Findings, samples: Samples, theme: Theme) -> Figure:
    figure, axes = plt.subplots(figsize=(9, 4.2))
    arms = _arms(findings, theme)
    values = [v for series in samples.values() for v in series.get("epoch_seconds", ())]
    divisor, unit = scale(float(np.median(values)), "s")
    offsets = np.linspace(-0.32, 0.32, len(arms)) if len(arms) > 1 else np.zeros(1)
    for (arm, colour, marker), offset in zip(arms, offsets, strict=True):
        trials = [t for t in findings.trials if t["arm"] == arm and t["run_id"] in samples]
        series = [(t["pair"], samples[t["run_id"]].get("epoch_seconds", ())) for t in trials]
        x = [pair + offset for pair, epochs in series for _ in epochs]
        y = [seconds / divisor for _, epochs in series for seconds in epochs]
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
    axes.set_ylabel(f"time of an epoch ({unit})")
    axes.grid(axis="y", linewidth=0.6)
    figure.legend(loc="outside upper left", ncols=3)
    return figure


def _latency(findings: Findings, samples: Samples, theme: Theme) -> Figure:
    figure, axes = plt.subplots(figsize=(9, 4.2))
    values = np.concatenate(
        [s["latency_seconds"] for s in samples.values() if len(s.get("latency_seconds", ()))]
    )
    divisor, unit = scale(float(np.median(values)), "s")
    for index, (arm, colour, _) in enumerate(_arms(findings, theme)):
        label: str | None = arm
        for trial in findings.trials:
            calls = samples.get(trial["run_id"], {}).get("latency_seconds", ())
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
    axes.set_xlabel(f"latency of one item ({unit}, logarithmic)")
    axes.set_ylabel("share of calls within that time")
    axes.grid(linewidth=0.6)
    figure.legend(loc="outside upper left", ncols=3)
    return figure


def _target(findings: Findings, theme: Theme) -> Figure:
    figure, axes = plt.subplots(figsize=(9, 4.0))
    for index, (arm, colour, _) in enumerate(_arms(findings, theme)):
        found = findings.arrivals.get((arm, "s"))
        if found is None:
            continue
        axes.step(
            [0.0, *found.times],
            [1.0, *found.waiting],
            where="post",
            color=colour,
            linewidth=1.8,
            linestyle=("-", "--", "-.", ":")[index % 4],
            label=f"{arm} ({found.arrived} of {found.n} arrived, median {wording.time_text(found.median, 's')})",
        )
        if found.budgets:
            axes.plot(
                found.budgets,
                [found.waiting[-1]] * len(found.budgets),
                "|",
                color=colour,
                markersize=12,
                markeredgewidth=2,
            )
    axes.set_ylim(-0.03, 1.05)
    axes.set_xlim(left=0)
    axes.set_xlabel("training time (s); upright strokes: trials stopped without arriving")
    axes.set_ylabel("share of trials not yet there")
    axes.grid(linewidth=0.6)
    figure.legend(loc="outside upper left", ncols=2)
    return figure

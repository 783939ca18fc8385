"""Figures of a study, drawn twice: on white and for dark screens. Shows what was found; no sums.

Colours are Okabe & Ito's, told apart by colour-blind readers; every arm has a marker of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from analysis import throughput, trial_figures, wording
from analysis.findings import Comparison, Drawing, Findings
from analysis.style import Theme, drawing, log_if_wide
from analysis.trial_figures import Samples
from analysis.units import quantity
from tracking.names import METRICS


def draw(findings: Findings, samples: Samples) -> list[Drawing]:
    """Every figure that the data allow, as PNG bytes."""
    study = findings.study
    headline = [c for c in findings.comparisons if c.role in ("headline", "version")]
    primary = [c for c in findings.comparisons if c.metric == study.metric]
    phases = [
        name for name in trial_figures.PHASES if any(name in arm.values for arm in findings.arms)
    ]
    parts = [
        name for name in trial_figures.PARTS if any(name in arm.values for arm in findings.arms)
    ]
    target = wording.target(study.quality, study.target) if findings.arrivals else ""
    epochs = {run: series.get("epoch_seconds", ()) for run, series in samples.items()}
    generations = {
        run: series["begin_seconds"] + series["decode_seconds"]
        for run, series in samples.items()
        if "begin_seconds" in series
    }
    passes = {run: series.get("pass_seconds", ()) for run, series in samples.items()}
    rates = {run: throughput.of_samples(series) for run, series in samples.items()}
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
            "generation",
            "The phases of a generation: large marks are medians of an arm, dots single trials",
            "Every trial's value and the median of each arm: " + _medians(findings, phases),
            bool(phases),
            lambda theme: trial_figures.phases(findings, phases, theme),
        ),
        (
            "parts",
            "The parts of a loop: large marks are medians of an arm, dots single trials",
            "Every trial's value and the median of each arm: " + _medians(findings, parts),
            bool(parts),
            lambda theme: trial_figures.phases(findings, parts, theme),
        ),
        (
            "epoch_times",
            "Time of every epoch, by trial",
            "Seconds of each timed epoch of each trial, one group of marks for each pair.",
            trial_figures.has(samples, "epoch_seconds"),
            lambda theme: trial_figures.by_trial(findings, epochs, "time of an epoch", theme),
        ),
        (
            "generation_times",
            "Time of every generation, by trial",
            "Seconds of each timed generation of each trial, one group of marks for each pair.",
            trial_figures.has(samples, "begin_seconds"),
            lambda theme: trial_figures.by_trial(
                findings, generations, "time of a generation", theme
            ),
        ),
        (
            "token_latency",
            "Latency of a decoded token: share of tokens put out within a time",
            "Empirical distribution of the time of single tokens, one line a trial, coloured by arm.",
            trial_figures.has(samples, "token_seconds"),
            lambda theme: trial_figures.latency(
                findings, samples, "token_seconds", "a token", theme
            ),
        ),
        (
            "pass_times",
            "Time of all loops, by trial",
            "Seconds of each timed pass of each trial, one group of marks for each pair.",
            trial_figures.has(samples, "pass_seconds"),
            lambda theme: trial_figures.by_trial(findings, passes, "time of all loops", theme),
        ),
        (
            "loop_latency",
            "Time of a loop: share of loops done within a time",
            "Empirical distribution of the time of single loops, one line a trial, coloured by arm.",
            trial_figures.has(samples, "loop_seconds"),
            lambda theme: trial_figures.latency(findings, samples, "loop_seconds", "a loop", theme),
        ),
        (
            "update_latency",
            "Latency of an update: share of updates done within a time",
            "Empirical distribution of the time of single updates, one line a trial, coloured by arm.",
            trial_figures.has(samples, "update_seconds"),
            lambda theme: trial_figures.latency(
                findings, samples, "update_seconds", "an update", theme
            ),
        ),
        (
            "latency",
            "Latency of one item: share of calls answered within a time",
            "Empirical distribution of single-item latencies, one line a trial, coloured by arm.",
            trial_figures.has(samples, "latency_seconds"),
            lambda theme: trial_figures.latency(
                findings, samples, "latency_seconds", "one item", theme
            ),
        ),
        (
            "throughput_by_batch",
            "Batched inference by batch size",
            "Items a second of every trial at each batch size, and the median of each arm: "
            + trial_figures.batches_in_words(findings, rates),
            any(rates.values()),
            lambda theme: trial_figures.by_batch(findings, rates, theme),
        ),
        (
            "time_to_target",
            f"Training time until {target}",
            "Kaplan-Meier curves: share of trials that have not yet reached the target.",
            any(unit == "s" for _, unit in findings.arrivals),
            lambda theme: _target(findings, theme),
        ),
    ]
    return [
        drawing(name, title, alt, plan) for name, title, alt, possible, plan in plans if possible
    ]


def _medians(findings: Findings, names: Sequence[str]) -> str:
    """The median of each arm in each metric, in words."""
    return "; ".join(
        f"{METRICS[name].label} "
        + ", ".join(
            f"{quantity(arm.values[name][0], METRICS[name].unit)} for {arm.name}"
            for arm in findings.arms
            if name in arm.values
        )
        for name in names
    )


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


def _target(findings: Findings, theme: Theme) -> Figure:
    figure, axes = plt.subplots(figsize=(9, 4.0))
    for index, (arm, colour, _) in enumerate(trial_figures.arms(findings, theme)):
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

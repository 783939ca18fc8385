"""Every figure of a study, each with words for who does not see it and the table behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from analysis import cells, code_size, figure_tables, forest, trial_figures, wording
from analysis.findings import Drawing, Findings, Grid
from analysis.style import Theme
from analysis.units import quantity
from analysis.vector import drawing
from tracking.names import METRICS

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
MEMORY = ("memory/process_peak_bytes", "memory/device_peak_bytes")
ENERGY = ("energy/joules", "energy/watts_mean")
COST = ("cost/usd",)
ASKED = ("headline", "version")
"""Roles of the pairings that a study was made for."""
SPANS = {
    "epoch": ("epoch_times", "an epoch"),
    "generation": ("generation_times", "a generation"),
    "pass": ("pass_times", "all loops"),
}
CALLS = {
    "latency_seconds": ("latency", "one item", "inference/latency_seconds_p90"),
    "token_seconds": ("token_latency", "a decoded token", "inference/token_seconds_p90"),
    "update_seconds": ("update_latency", "an update", "stream/update_seconds_p90"),
    "loop_seconds": ("loop_latency", "a loop", "switch/loop_seconds_p90"),
}
"""Series of single calls -> file name, what a call is, the metric that is its p90."""


class _Plan(NamedTuple):
    name: str
    title: str
    alt: str
    plan: Callable[[Theme], Figure]
    grid: Grid


def draw(findings: Findings) -> list[Drawing]:
    """Every figure that the data allow."""
    return [drawing(*plan) for plan in _plans(findings)]


def of_every_pairing(findings: Findings) -> list[forest.Line]:
    """The primary metric of each pairing, the study's own question first."""
    metric = findings.study.metric
    return [forest.of_pairing(c) for c in findings.comparisons if c.metric == metric]


def _plans(findings: Findings) -> Iterator[_Plan]:
    yield from _ratios(findings)
    yield from _panels(findings, "generation", "The phases of a generation", PHASES)
    yield from _panels(findings, "parts", "The parts of a loop", PARTS)
    yield from _spans(findings)
    yield from _batches(findings)
    yield from _calls(findings)
    yield from _learning(findings)
    yield from _panels(findings, "memory", "Peak memory", MEMORY)
    yield from _panels(findings, "energy", "Energy and power of the timed work", ENERGY)
    yield from _panels(findings, "cost", "Cost of the timed work", COST)
    yield from _code(findings)
    yield from _roofs(findings)


def _ratios(findings: Findings) -> Iterator[_Plan]:
    primary = of_every_pairing(findings)
    label = METRICS[findings.study.metric].label
    if forest.drawable(primary):
        yield _Plan(
            "ratio_by_pairing",
            f"Ratio of {label}, by pairing",
            "Forest plot: ratio of every pair, their median and its 95 % interval for each pairing "
            "of arms. " + findings.headline.replace("\n", " "),
            lambda theme: forest.draw(primary, theme),
            forest.grid(primary, "pairing"),
        )
    number = 0
    for _, role, found in cells.by_pairing(findings):
        lines = [forest.of_metric(c) for c in found if c.ratio]
        if role not in ASKED or not lines:
            continue
        number += 1
        yield _Plan(
            by_metric(number),
            f"Ratio by metric: {found[0].numerator} over {found[0].denominator}",
            "Forest plot: ratio of every pair, their median and its 95 % interval for each metric: "
            + "; ".join(c.verdict for c in found if c.ratio),
            lambda theme, lines=lines: forest.draw(lines, theme),  # type: ignore[misc]
            forest.grid(lines, "metric"),
        )


def by_metric(number: int) -> str:
    """File name of the picture of the first, second ... pairing that was asked about.

    >>> by_metric(1), by_metric(2)
    ('ratio_by_metric', 'ratio_by_metric_2')
    """
    return "ratio_by_metric" + (f"_{number}" if number > 1 else "")


def _panels(findings: Findings, name: str, title: str, metrics: Sequence[str]) -> Iterator[_Plan]:
    names = [metric for metric in metrics if any(metric in arm.values for arm in findings.arms)]
    if names:
        yield _Plan(
            name,
            f"{title}: large marks are medians of an arm, dots single trials",
            "Every trial's value and the median of each arm: " + _medians(findings, names),
            lambda theme: trial_figures.dots(findings, names, theme),
            figure_tables.of_metrics(findings, names),
        )


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


def _arms(findings: Findings) -> list[str]:
    return [arm.name for arm in findings.arms]


def _spans(findings: Findings) -> Iterator[_Plan]:
    for kind, (name, what) in SPANS.items():
        if found := findings.curves.spans.get(kind):
            yield _Plan(
                name,
                f"Time of {what}, by trial",
                f"Seconds of {what}, every one of each trial, a group of marks for each pair; medians: "
                + ", ".join(f"{quantity(one.every.median, 's')} for {one.arm}" for one in found),
                lambda theme, found=found, what=what: trial_figures.by_trial(  # type: ignore[misc]
                    found, _arms(findings), f"time of {what}", theme
                ),
                figure_tables.spans(found),
            )


def _batches(findings: Findings) -> Iterator[_Plan]:
    if found := findings.curves.batches:
        yield _Plan(
            "throughput_by_batch",
            "Batched inference by batch size",
            "Items a second of every trial at each batch size, and the median of each arm: "
            + "; ".join(
                f"{one.arm} "
                + ", ".join(
                    f"{rate.median:,.4g} in batches of {size}"
                    for size, rate in zip(one.sizes, one.rates, strict=True)
                )
                for one in found
            ),
            lambda theme: trial_figures.by_batch(found, _arms(findings), theme),
            figure_tables.batches(found),
        )


def _calls(findings: Findings) -> Iterator[_Plan]:
    for series, (name, what, metric) in CALLS.items():
        found = findings.curves.latencies.get(series)
        if not found:
            continue
        p90 = {arm.name: arm.values[metric][0] for arm in findings.arms if metric in arm.values}
        yield _Plan(
            name,
            f"Latency of {what}: share of calls that end within a time",
            f"Empirical distribution of the time of {what}, a line an arm: the median trial, and as a "
            "band the quickest to the slowest. p90, median over trials: "
            + ", ".join(f"{quantity(value, 's')} for {arm}" for arm, value in p90.items()),
            lambda theme, found=found, p90=p90, what=what: trial_figures.latency(  # type: ignore[misc]
                found, p90, _arms(findings), what, theme
            ),
            figure_tables.latencies(found),
        )


def _learning(findings: Findings) -> Iterator[_Plan]:
    study, found = findings.study, findings.curves.learning
    if found:
        metric = study.quality
        yield _Plan(
            "convergence",
            f"{METRICS[metric].label[0].upper()}{METRICS[metric].label[1:]} over training time",
            "After each epoch the median over the trials, with their range: "
            + "; ".join(
                f"{one.arm} ends at {one.quality[-1].median:.4g} after "
                f"{quantity(one.seconds[-1].median, 's')}"
                for one in found
            ),
            lambda theme: trial_figures.learning(
                found, metric, study.target, _arms(findings), theme
            ),
            figure_tables.learning(found, metric),
        )
    if any(unit == "s" for _, unit in findings.arrivals):
        yield _Plan(
            "time_to_target",
            f"Training time until {cells.target_text(findings)}",
            "Kaplan-Meier curves: share of trials that have not yet reached the target. "
            + "; ".join(
                f"{arm} median {wording.time_text(a.median, unit)}, {a.arrived} of {a.n} arrived"
                for (arm, unit), a in findings.arrivals.items()
                if unit == "s"
            ),
            lambda theme: trial_figures.waiting(findings, theme),
            figure_tables.arrivals(findings),
        )


def _code(findings: Findings) -> Iterator[_Plan]:
    rows, grid = code_size.lines_of_code(findings.arms), code_size.grid(findings.arms)
    if rows and grid:
        yield _Plan(
            "code_size",
            "Source lines of each twin",
            "Bars: "
            + "; ".join(
                f"{name} {own:.0f} lines of its own and {shared:.0f} of models/layers"
                for name, own, shared in rows
            ),
            lambda theme: trial_figures.bars(rows, theme),
            grid,
        )


def _roofs(findings: Findings) -> Iterator[_Plan]:
    shown = [roof for roof in findings.roofs if roof.achieved]
    if shown:
        yield _Plan(
            "roofline",
            "Arithmetic achieved, and the ceiling of each framework on this machine",
            "A row an arm: " + "; ".join(trial_figures.roof_words(roof) for roof in shown),
            lambda theme: trial_figures.roofline(shown, _arms(findings), theme),
            figure_tables.roofs(findings.roofs),
        )


def named(drawings: Sequence[Drawing], *names: str) -> tuple[Drawing, ...]:
    """Those of some names, in the order asked for."""
    by_name = {one.name: one for one in drawings}
    return tuple(by_name[name] for name in names if name in by_name)

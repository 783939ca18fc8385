"""Figures of a scaling study: whole jobs only, a rank's own part is in none. No sums here."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from analysis.findings import Drawing
from analysis.scaling import RATE, Gain, Whole, ranks_text
from analysis.scaling_jobs import Job
from analysis.style import MARKERS, Theme, drawing, plain_log
from analysis.units import scale

THROUGHPUT, EFFICIENCY, STEP = "scaling_throughput", "scaling_efficiency", "scaling_step"
TITLES = {
    "strong": "strong: the same global batch",
    "weak": "weak: the batch grows with the ranks",
}


def draw(whole: Whole) -> list[Drawing]:
    """Throughput, efficiency and the parts of a step, each where there is something to draw."""
    found = []
    said = " ".join(f"{gain.sentence}." for gain in whole.gains)
    if any(RATE in job.values for job in whole.jobs):
        found.append(
            drawing(
                THROUGHPUT,
                "Throughput of the whole job over its ranks",
                "Median of the trials, least to most, and for each framework the line of as many times "
                "its single process. " + said,
                lambda theme: _panels(whole, theme, _throughput),
            )
        )
    if any(gain.efficiency for gain in whole.gains):
        found.append(
            drawing(
                EFFICIENCY,
                "Efficiency over the number of ranks",
                "Median of the blocks with its 95 % interval, single blocks as dots. " + said,
                lambda theme: _panels(whole, theme, _efficiency),
            )
        )
    if any(job.parts for job in whole.jobs if job.ranks > 1):
        shares = "; ".join(
            f"{job.arm}: {job.parts[0]:.3g} s of {sum(job.parts):.3g} s"
            for job in whole.jobs
            if job.parts and job.ranks > 1
        )
        found.append(
            drawing(
                STEP,
                "The median step: as much of it as an all-reduce of its bytes takes, and the rest",
                f"All-reduce of the same bytes, measured apart, of the median step. {shares}.",
                lambda theme: _steps(whole.jobs, theme),
            )
        )
    return found


def _panels(whole: Whole, theme: Theme, plot: Callable[[Axes, Whole, str, Theme], None]) -> Figure:
    """A panel for each kind of scaling that the study has."""
    kinds = [kind for kind in TITLES if any(gain.kind == kind for gain in whole.gains)]
    figure, grid = plt.subplots(
        1, len(kinds), figsize=(1.5 + 4.5 * len(kinds), 4.6), sharey=True, squeeze=False
    )
    for axes, kind in zip(grid[0], kinds, strict=True):
        plot(axes, whole, kind, theme)
        axes.set_title(TITLES[kind], loc="left", fontsize=9.5)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(FixedLocator(whole.ranks))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_xlim(whole.ranks[0] / 1.25, whole.ranks[-1] * 1.25)
        axes.set_xlabel("ranks")
        axes.grid(axis="y", linewidth=0.6)
        axes.set_axisbelow(True)
    grid[0][0].legend(loc="best", fontsize=8.5)
    return figure


def _throughput(axes: Axes, whole: Whole, kind: str, theme: Theme) -> None:
    rates = [job.values[RATE].median for job in whole.jobs if RATE in job.values]
    divisor, unit = scale(max(rates), "items/s")
    for index, framework in enumerate(whole.frameworks):
        jobs = sorted(
            (
                job
                for job in whole.jobs
                if job.framework == framework
                and job.kind in ("single", kind)
                and RATE in job.values
            ),
            key=lambda job: job.ranks,
        )
        colour = theme.arms[index]
        shift = 1.02 if index else 1 / 1.02
        at = [job.ranks * shift for job in jobs]
        found = [job.values[RATE] for job in jobs]
        axes.vlines(
            at,
            [spread.least / divisor for spread in found],
            [spread.most / divisor for spread in found],
            color=colour,
            linewidth=2.4,
        )
        axes.plot(
            at,
            [spread.median / divisor for spread in found],
            color=colour,
            marker=MARKERS[index],
            markersize=6,
            linewidth=1.2,
            label=framework,
        )
        if jobs and jobs[0].ranks == 1:
            one = found[0].median / divisor
            axes.plot(
                whole.ranks,
                [ranks * one for ranks in whole.ranks],
                color=colour,
                linewidth=1,
                linestyle=":",
                label=f"{framework}, ideal",
            )
    axes.set_yscale("log")
    plain_log(axes.yaxis, max(rates) / min(rates))
    _label(axes, f"whole job, {unit}")


def _efficiency(axes: Axes, whole: Whole, kind: str, theme: Theme) -> None:
    axes.axhline(1, color=theme.ink, linewidth=1)
    for index, framework in enumerate(whole.frameworks):
        gains: Sequence[Gain] = [
            gain
            for gain in whole.gains
            if (gain.framework, gain.kind) == (framework, kind) and gain.efficiency
        ]
        colour = theme.arms[index]
        shift = 1.03 if index else 1 / 1.03
        at = [gain.ranks * shift for gain in gains]
        for place, gain in zip(at, gains, strict=True):
            ratio = gain.efficiency
            assert ratio is not None
            axes.plot(
                [place * 1.04] * len(gain.points),
                [point.ratio for point in gain.points],
                "o",
                color=colour,
                markersize=3,
                alpha=0.5,
                markeredgewidth=0,
            )
            if ratio.low is not None and ratio.high is not None:
                axes.plot([place, place], [ratio.low, ratio.high], color=colour, linewidth=2.6)
        axes.plot(
            at,
            [gain.efficiency.estimate for gain in gains if gain.efficiency],
            color=colour,
            marker=MARKERS[index],
            markersize=6,
            linewidth=1,
            label=framework,
        )
    top = max(1.0, *(p.ratio for gain in whole.gains for p in gain.points))
    axes.set_ylim(0, 1.08 * top)
    _label(axes, "efficiency (1 = as many times one process)")


def _label(axes: Axes, text: str) -> None:
    """Of the axis that the panels share: once."""
    place = axes.get_subplotspec()
    if place is not None and place.is_first_col():
        axes.set_ylabel(text)


def _steps(jobs: Sequence[Job], theme: Theme) -> Figure:
    shown = [(job, job.parts) for job in jobs if job.parts]
    figure, axes = plt.subplots(figsize=(9, 1.4 + 0.5 * len(shown)))
    divisor, unit = scale(max(sum(parts) for _, parts in shown), "s")
    for row, (job, (communication, rest)) in enumerate(shown):
        first = row == 0
        axes.barh(
            row,
            communication / divisor,
            color=theme.arms[1],
            label="all-reduce of the same bytes" if first else None,
        )
        axes.barh(
            row,
            rest / divisor,
            left=communication / divisor,
            color=theme.arms[3],
            label="the rest of the median step" if first else None,
        )
        share = job.values.get("communication/step_share")
        if share is not None:
            axes.annotate(
                f" {100 * share.median:.2g} %",
                ((communication + rest) / divisor, row),
                va="center",
                fontsize=8.5,
            )
    axes.set_yticks(range(len(shown)), [_bar(job) for job, _ in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(
        f"median step, {unit}. The all-reduce is timed by itself;\ninside a step it may overlap with "
        "compute"
    )
    axes.margins(x=0.1)
    axes.grid(axis="x", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return figure


def _bar(job: Job) -> str:
    """What a bar is of."""
    return f"{job.framework}, {ranks_text(job.ranks)}\n({job.kind}, batch {job.batch_size})"

"""Figures of a calibration: false positives, coverage, power, order of the runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from analysis.calibration.cell import Kind, Rate  # noqa: E402
from analysis.findings import Drawing  # noqa: E402
from analysis.style import MARKERS, Theme, drawing  # noqa: E402


@dataclass(frozen=True)
class Panel:
    """Rates of some functions, one line a variant. setting: "" = any."""

    title: str
    kind: Kind
    functions: tuple[str, ...]
    setting: str = ""

    def lines(self, rates: Sequence[Rate]) -> dict[str, list[Rate]]:
        found: dict[str, list[Rate]] = {}
        for rate in sorted(rates, key=lambda rate: rate.cell.n):
            c = rate.cell
            chosen = c.kind == self.kind and c.function in self.functions
            if chosen and c.role != "counter-example" and self.setting in c.setting:
                own = (c.function,) if len(self.functions) > 1 else ()
                setting = () if self.setting and c.variant else (c.setting,)
                label = ", ".join(text for text in (*own, *setting, c.variant) if text)
                found.setdefault(label, []).append(rate)
        return found


FALSE_POSITIVES = (
    Panel("paired_ratio: equal arms", "false positives", ("paired_ratio",), "equal arms"),
    Panel("paired_ratio: drift, random pairs", "false positives", ("paired_ratio",), "drift"),
    Panel("unpaired_ratio: equal arms", "false positives", ("unpaired_ratio",), "equal arms"),
    Panel("equivalence: arms 5 % apart", "false positives", ("equivalence",), "margin"),
    Panel("percentile_ratio: 100 calls a run", "false positives", ("percentile_ratio",), "p90"),
    Panel("log_rank: equal arms", "false positives", ("log_rank",), "equal arms"),
)
COVERAGE = (
    Panel("paired_ratio: unlike arms", "coverage", ("paired_ratio",), "unlike arms"),
    Panel("unpaired_ratio: unlike arms", "coverage", ("unpaired_ratio",), "unlike arms"),
    Panel("average_ratio: unlike arms (a limit)", "coverage", ("average_ratio",), "unlike arms"),
    Panel("tail_ratio: p90 over runs", "coverage", ("tail_ratio",), "p90"),
    Panel("across_machines: n machines", "coverage", ("across_machines",)),
    Panel("arrival, models_ratio", "coverage", ("arrival", "models_ratio")),
)
POWER = (
    Panel("paired_ratio: ratio 1.05", "power", ("paired_ratio",), "ratio 1.05"),
    Panel("equivalence: ratio 1, margin 5 %", "power", ("equivalence",), "margin"),
    Panel("anytime_ratio: ratio 1.05 seen by then", "power", ("anytime_ratio",), ""),
    Panel("autocorrelation: drift AR(1) of 0.8", "power", ("autocorrelation",), ""),
)


def draw(rates: Sequence[Rate]) -> list[Drawing]:
    """Every figure, as PNG bytes."""
    bars = "Bars are two Monte-Carlo standard errors; shaded: the band in which the rate must lie."
    return [
        drawing(
            "false_positives",
            "False positives by function, shape and number of pairs (nominal 5 %)",
            "Percent of simulated studies of arms without a difference that are called different, "
            f"by number of pairs or runs. {bars}",
            lambda theme: _grid(FALSE_POSITIVES, rates, theme, 5, (0, 9)),
        ),
        drawing(
            "coverage",
            "Coverage of the 95 % intervals",
            f"Percent of simulated studies whose interval holds the true ratio. {bars}",
            lambda theme: _grid(COVERAGE, rates, theme, 95, (50, 101)),
        ),
        drawing(
            "power",
            "Power against the number of pairs",
            "Percent of simulated studies that find a ratio of 1.05, or call equal arms the same "
            "within 5 %, or find a drift.",
            lambda theme: _grid(POWER, rates, theme, None, (0, 103)),
        ),
        drawing(
            "order_of_runs",
            "One program against itself on a drifting machine: sequential runs and random pairs",
            "False positives of one arm run after the other rise with n up to 100 percent; pairs in "
            "random order stay at 5 percent.",
            lambda theme: _order(rates, theme),
        ),
    ]


def _grid(
    panels: Sequence[Panel],
    rates: Sequence[Rate],
    theme: Theme,
    nominal: float | None,
    limits: tuple[float, float],
) -> Figure:
    columns = 3 if len(panels) > 4 else 2
    figure, axes = plt.subplots(len(panels) // columns, columns, figsize=(10.5, 7), sharey=True)
    for panel, place in zip(panels, axes.flat, strict=True):
        lines = panel.lines(rates)
        bands = {rate.cell.band for line in lines.values() for rate in line}
        if nominal is not None:
            place.axhline(nominal, color=theme.ink, linewidth=0.8, linestyle="--")
        if len({(band.low, band.high) for band in bands}) == 1 and nominal is not None:
            band = bands.pop()
            place.axhspan(band.low, band.high, color=theme.faint, alpha=0.5, linewidth=0)
        _lines(place, lines, theme)
        place.set_title(panel.title, fontsize=10, loc="left")
        place.set_ylim(*limits)
        place.legend(fontsize=7.5, loc="best")
    figure.supylabel("% of simulated studies", fontsize=9.5)
    figure.supxlabel("pairs, runs of an arm, or machines", fontsize=9.5)
    return figure


def _lines(axes: Axes, lines: dict[str, list[Rate]], theme: Theme) -> None:
    """One marked line a variant over the sizes, evenly spaced and a little apart."""
    sizes = sorted({rate.cell.n for line in lines.values() for rate in line})
    for index, (label, line) in enumerate(lines.items()):
        shift = 0.07 * (index - (len(lines) - 1) / 2)
        axes.errorbar(
            [sizes.index(rate.cell.n) + shift for rate in line],
            [rate.percent for rate in line],
            yerr=[2 * rate.standard_error for rate in line],
            label=label,
            color=theme.arms[index % len(theme.arms)],
            marker=MARKERS[index % len(MARKERS)],
            markersize=5,
            linewidth=1.2,
            elinewidth=1,
        )
    axes.set_xticks(range(len(sizes)), [str(n) for n in sizes])
    axes.set_xlim(-0.6, len(sizes) - 0.4)
    axes.grid(axis="y", linewidth=0.6)
    axes.set_axisbelow(True)


def _order(rates: Sequence[Rate], theme: Theme) -> Figure:
    drifting = [rate for rate in rates if rate.cell.setting.startswith("drift")]
    drifts = list(dict.fromkeys(rate.cell.variant for rate in drifting))
    figure, axes = plt.subplots(1, len(drifts), figsize=(10.5, 3.9), sharey=True)
    for drift, place in zip(drifts, axes, strict=True):
        lines: dict[str, list[Rate]] = {}
        for rate in sorted(drifting, key=lambda rate: rate.cell.n):
            if rate.cell.variant == drift:
                sequential = rate.cell.role == "counter-example"
                label = "all of A, then all of B" if sequential else "pairs in random order"
                lines.setdefault(label, []).append(rate)
        place.axhline(5, color=theme.ink, linewidth=0.8, linestyle="--")
        _lines(place, dict(sorted(lines.items())), theme)
        place.set_title(drift, fontsize=10, loc="left")
        place.set_ylim(0, 103)
    axes[0].set_ylabel("false positives, %")
    figure.supxlabel("runs of an arm", fontsize=9.5)
    axes[0].legend(fontsize=8.5)
    return figure

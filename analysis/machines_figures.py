"""Forest plots over machines: each machine's ratio, their mean, and where the next would lie."""

from __future__ import annotations

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import wording
from analysis.findings import Drawing
from analysis.machines import Member, Question
from analysis.style import Theme, drawing, log_if_wide


def forest(name: str, q: Question) -> Drawing | None:
    """One question's figure; None where no machine has a ratio."""
    if not any(m.comparison.ratio for m in q.members):
        return None
    return drawing(
        name,
        f"Ratio of {q.label} on each machine: {q.numerator} over {q.denominator}",
        "Ratio and 95 % interval of each machine, the mean over machines with its t interval, and "
        f"the interval for the next machine. {q.verdict}.",
        lambda theme: _forest(q, theme),
    )


def _forest(q: Question, theme: Theme) -> Figure:
    shown = sorted(
        (m for m in q.members if m.comparison.ratio), key=lambda m: (bool(m.excluded), m.machine)
    )
    last = len(shown)
    figure, axes = plt.subplots(figsize=(9, 1.9 + 0.5 * (last + 1)))
    axes.axvline(1, color=theme.ink, linewidth=1)
    axes.axvspan(1 / (1 + q.margin), 1 + q.margin, color=theme.faint, alpha=0.45, linewidth=0)
    seen = [1.0]
    for row, member in enumerate(shown):
        seen += _machine(axes, row, member, theme)
    seen += _pooled(axes, last, q, theme)
    labels = [f"{m.machine}\n{m.facts.get('machine_cpu', '')[:34]}" for m in shown]
    log_if_wide(axes, "x", min(seen), max(seen))
    axes.set_yticks(range(last + 1), [*labels, "over machines"])
    axes.set_ylim(last + 0.6, -0.6)
    axes.axhline(last - 0.5, color=theme.faint, linewidth=0.8)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(
        f"ratio of {q.label}; thick: 95 % interval; dashed: the next machine;\n"
        "hollow: not pooled; band: the same within the margin"
    )
    return figure


def _machine(axes: Axes, row: int, member: Member, theme: Theme) -> list[float]:
    ratio = member.comparison.ratio
    assert ratio is not None
    colour = theme.arms[6] if member.excluded else theme.arms[0]
    seen = [ratio.estimate]
    text = wording.number(ratio.estimate)
    if ratio.low is not None and ratio.high is not None:
        seen += [ratio.low, ratio.high]
        axes.plot([ratio.low, ratio.high], [row, row], color=colour, linewidth=2.4)
        text += f"  [{wording.number(ratio.low)}, {wording.number(ratio.high)}]"
    axes.plot(
        ratio.estimate,
        row,
        marker="s",
        markersize=6,
        color=colour,
        markerfacecolor=theme.back if member.excluded else colour,
    )
    if member.excluded:
        text += "\nnot pooled: " + member.excluded.split(":")[0][:40]
    _beside(axes, row, text)
    return seen


def _pooled(axes: Axes, row: int, q: Question, theme: Theme) -> list[float]:
    """The mean over machines, or that there are too few for it."""
    m = q.pooled
    if m is None or m.low is None or m.high is None:
        _beside(axes, row, "no claim beyond\nthese machines")
        return []
    assert m.prediction_low is not None and m.prediction_high is not None
    colour, ends = theme.arms[1], [m.prediction_low, m.prediction_high]
    axes.plot(ends, [row, row], color=colour, linewidth=1.2, linestyle="--", marker="|")
    axes.plot([m.low, m.high], [row, row], color=colour, linewidth=3.2)
    axes.plot(m.estimate, row, marker="D", markersize=8, color=colour)
    limits = f"[{wording.number(m.low)}, {wording.number(m.high)}]"
    _beside(axes, row, f"{wording.number(m.estimate)}  {limits}\n{q.outcome}")
    return [m.low, m.high, *ends]


def _beside(axes: Axes, row: int, text: str) -> None:
    axes.annotate(
        text,
        (1.01, row),
        xycoords=("axes fraction", "data"),
        va="center",
        fontsize=8.5,
        linespacing=1.4,
    )

"""Forest plots over workloads: one row a study, with its verdict or why there is none."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from analysis import wording
from analysis.findings import Comparison, Drawing
from analysis.report import ratio_cell
from analysis.style import Theme, drawing, log_if_wide
from analysis.workloads import Headline, Workloads

# outcome -> (marker, number of the colour): told apart without colours too
_MARKS = {"better": ("D", 0), "worse": ("s", 1), "same": ("o", 5)}
_OTHER = ("P", 6)


def draw(found: Workloads) -> list[Drawing]:
    """The first question of every study in one figure, and the same studies' peak memory."""
    asked = [(headline, headline.comparison) for headline in found.headlines]
    memory = [
        (headline, next((c for c in headline.numbers if c.metric == MEMORY), None))
        for headline in found.headlines
    ]
    plans = (
        (
            "workloads",
            "What each study was made to ask: ratio of its primary metric",
            f"Ratio and 95 % interval of each workload, p adjusted over {len(asked)} studies. ",
            asked,
        ),
        (
            "workloads_memory",
            "Peak memory of the process, same studies (not declared beforehand: a hint)",
            "Ratio and 95 % interval of the peak memory of each workload. ",
            memory,
        ),
    )
    return [
        drawing(
            name,
            title,
            alt + " ".join(f"{h.workload}: {c.verdict if c else h.verdict}." for h, c in rows),
            lambda theme, rows=rows: _forest(rows, theme),  # type: ignore[misc]
        )
        for name, title, alt, rows in plans
        if any(c is not None and c.ratio is not None for _, c in rows)
    ]


MEMORY = "memory/process_peak_bytes"


def _forest(rows: Sequence[tuple[Headline, Comparison | None]], theme: Theme) -> Figure:
    figure, axes = plt.subplots(figsize=(10, 1.2 + 0.75 * len(rows)))
    axes.axvline(1, color=theme.ink, linewidth=1)
    seen, labels = [1.0], []
    for row, (headline, c) in enumerate(rows):
        labels.append(_label(headline, c))
        axes.annotate(
            _beside(headline, c),
            (1.02, row),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=8.5,
            linespacing=1.35,
        )
        if c is None or c.ratio is None:
            continue
        marker, number = _MARKS.get(c.outcome, _OTHER)
        colour = theme.arms[number]
        within = (1 / (1 + c.margin), 1 + c.margin)
        axes.fill_betweenx(
            [row - 0.38, row + 0.38], *within, color=theme.faint, alpha=0.45, linewidth=0
        )
        pairs = [point.ratio for point in c.points]
        axes.plot(pairs, [row + 0.22] * len(pairs), "o", color=colour, markersize=3, alpha=0.5)
        seen += [c.ratio.estimate, *pairs, *within]
        if c.ratio.low is not None and c.ratio.high is not None:
            axes.plot([c.ratio.low, c.ratio.high], [row, row], color=colour, linewidth=2.6)
            seen += [c.ratio.low, c.ratio.high]
        axes.plot(c.ratio.estimate, row, marker=marker, markersize=7, color=colour)
    log_if_wide(axes, "x", min(seen), max(seen))
    axes.set_yticks(range(len(rows)), labels)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(
        "ratio; small dots: single pairs; bar: 95 % interval; band: the same within the margin"
    )
    return figure


def _label(headline: Headline, c: Comparison | None) -> str:
    """Workload, what is compared, and under which condition."""
    if c is None:
        return f"{headline.workload}\n{headline.place}"
    better = f" ({c.better} is better)" if c.better else ""
    return (
        f"{headline.workload}, {headline.place}\n{c.numerator} / {c.denominator}\n{c.label}{better}"
    )


def _beside(headline: Headline, c: Comparison | None) -> str:
    if c is None or c.ratio is None:
        why = f"no ratio: {headline.refused if c is None else c.refused or c.not_measured}"
        return textwrap.fill(textwrap.shorten(why, 130, placeholder=" ..."), 44)
    word = {"none": "no verdict"}.get(c.outcome, c.outcome)
    if c.outcome == "same":
        word = f"the same within {wording.percent(c.margin)}"
    elif c.outcome in ("better", "worse"):
        arms = c.numerator, c.denominator
        verb = wording.verb(c.metric, c.outcome == "better")
        word = textwrap.fill(f"{arms[0]} {verb} {arms[1]}", 44)
    p = f", p {c.p:.2g}" if c.p is not None else ""
    return f"{ratio_cell(c)}{p}\n{word}"

"""Forest plots: a row a comparison, its words above its interval, on a logarithmic axis."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import cells, wording
from analysis.findings import Comparison, Grid
from analysis.style import MANY, OTHER_OUTCOME, OUTCOMES, Theme
from analysis.vector import Rows, ratio_axis, sheet

_MARGIN = "grey band: the same within the margin"


@dataclass(frozen=True)
class Line:
    """One row. title: whose ratio it is; comparison: None where there is none, and `why` says so."""

    title: str
    comparison: Comparison | None
    why: str = ""


def of_pairing(c: Comparison) -> Line:
    """A row named after its arms."""
    against = " against itself" if c.role == "resolution" else ""
    role = wording.ROLES.get(c.role, c.role)
    title = c.denominator + against if against else f"{c.numerator} over {c.denominator}"
    return Line(f"{role}: {title}", c, why(c))


def of_metric(c: Comparison) -> Line:
    """A row named after its metric."""
    return Line(cells.label_cell(c), c, why(c))


def why(c: Comparison) -> str:
    """Why there is no ratio; '' where there is one."""
    return "" if c.ratio else c.verdict


def drawable(lines: Sequence[Line]) -> bool:
    """Is there a ratio to draw?"""
    return any(line.comparison and line.comparison.ratio for line in lines)


def draw(lines: Sequence[Line], theme: Theme) -> Figure:
    """Every row's pairs, median and interval; rows without a ratio say why."""
    letters = 50 if theme.narrow else 118
    titles = [_words(line, letters, theme.narrow) for line in lines]
    rows = Rows(len(lines), 1 + max(title.count("\n") for title in titles))
    figure, axes = sheet(theme, rows.height, bottom=_foot(theme))
    axes.axvline(1, color=theme.ink, linewidth=1)
    seen = [1.0]
    for row, (line, title) in enumerate(zip(lines, titles, strict=True)):
        rows.words(axes, row, title, theme)
        if not theme.narrow and line.comparison and line.comparison.ratio:
            rows.words(axes, row, _numbers(line.comparison), theme, right=True)
        if line.comparison and line.comparison.ratio:
            seen += _mark(axes, rows, row, line.comparison, theme)
    ratio_axis(axes, min(seen), max(seen))
    rows.frame(axes)
    axes.set_xlabel(_legend(lines, theme), fontsize=8.5)
    return figure


def _foot(theme: Theme) -> float:
    return 0.95 if theme.narrow else 0.55


def _legend(lines: Sequence[Line], theme: Theme) -> str:
    parts = ["ratio (logarithmic); small dots: single pairs; bar: 95 % interval"]
    if any(line.comparison and line.comparison.margin for line in lines):
        parts.append(_MARGIN)
    return textwrap.fill("; ".join(parts), 46 if theme.narrow else 140)


def _words(line: Line, letters: int, narrow: bool) -> str:
    title = line.title
    if line.comparison is None or line.comparison.ratio is None:
        said = f"{title}: {textwrap.shorten(line.why, 150, placeholder=' ...')}"
        return textwrap.fill(said, letters)
    if narrow:
        return f"{textwrap.fill(title, letters)}\n{_numbers(line.comparison)}"
    return textwrap.fill(title, letters - 40)


def _numbers(c: Comparison) -> str:
    return f"{cells.ratio_cell(c)}  {cells.outcome_word(c)}"


def _mark(axes: Axes, rows: Rows, row: int, c: Comparison, theme: Theme) -> list[float]:
    """Draws one row; returns the values that must be in sight."""
    assert c.ratio is not None
    marker, number = OUTCOMES.get(c.outcome, OTHER_OUTCOME)
    colour = theme.arms[number]
    seen = [c.ratio.estimate]
    if c.margin:
        within = (1 / (1 + c.margin), 1 + c.margin)
        height = [rows.at(row, -0.07), rows.at(row, rows.marks)]
        axes.fill_betweenx(height, *within, color=theme.faint, linewidth=0)
        seen += within
    pairs = [point.ratio for point in c.points]
    spread = np.linspace(rows.at(row, 0.1), rows.at(row, 0.2), len(pairs))
    axes.plot(
        pairs, spread, "o", color=colour, markersize=2.6, alpha=0.6, markeredgewidth=0,
        rasterized=len(pairs) > MANY,
    )  # fmt: skip
    if c.ratio.low is not None and c.ratio.high is not None:
        axes.plot([c.ratio.low, c.ratio.high], [rows.at(row)] * 2, color=colour, linewidth=2.6)
        seen += [c.ratio.low, c.ratio.high]
    axes.plot(c.ratio.estimate, rows.at(row), marker=marker, markersize=6.5, color=colour)
    return seen + pairs


def grid(lines: Sequence[Line], first: str) -> Grid:
    """The table behind the picture; first: what the rows are."""
    header = (
        first,
        "ratio [95 %]",
        "pairs",
        "p",
        "pairs won",
        "resolution (A/A)",
        "outcome",
        "flags",
    )
    rows = []
    for line in lines:
        c = line.comparison
        if c is None or c.ratio is None:
            rows.append((line.title, line.why or "no ratio", *[""] * (len(header) - 2)))
            continue
        rows.append(
            (
                line.title,
                cells.ratio_cell(c),
                str(c.ratio.n),
                cells.p_cell(c),
                cells.won_cell(c),
                cells.resolution_cell(c),
                cells.outcome_word(c),
                ", ".join(dict.fromkeys(flag.name for flag in c.flags)) or "none",
            )
        )
    return Grid(header, tuple(rows))

"""Figures as SVG inside a page: text stays text, and every colour is one of the page's own, so that a
figure follows the light, the dark and the printed page. Drawn twice, wide and for a phone."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from analysis.findings import Drawing, Grid
from analysis.style import LIGHT, PHONE, Theme, plain_log, style

VARIABLES = {
    LIGHT.back: "--back",
    LIGHT.ink: "--ink",
    LIGHT.faint: "--line",
    **{colour: f"--arm-{number}" for number, colour in enumerate(LIGHT.arms)},
}
"""Colour as drawn -> the page's name for it."""
_LETTER = 0.075  # inches, of a label's average one
_DOTS = 160  # an inch of what is drawn as pixels, and of the PNG


def drawing(
    name: str, title: str, alt: str, plan: Callable[[Theme], Figure], grid: Grid
) -> Drawing:
    """A figure as the page shows it, and as PNG on white for a file; grid: the table behind it."""
    with style(LIGHT), matplotlib.rc_context({"figure.constrained_layout.use": False}):
        figure, phone = plan(LIGHT), plan(PHONE)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=_DOTS, facecolor=LIGHT.back)
        return Drawing(
            name=name,
            title=title,
            alt=alt,
            light=buffer.getvalue(),
            svg=_svg(figure, f"{name}-wide", alt, "wide"),
            narrow=_svg(phone, f"{name}-phone", alt, "narrow"),
            grid=grid,
        )


def _svg(figure: Figure, salt: str, alt: str, place: str) -> str:
    """One element that stands in HTML: nothing of a file of its own, no name used twice."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": salt}):
        figure.savefig(buffer, format="svg", dpi=_DOTS, transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<(metadata|style)\b.*?</\1>", "", text, flags=re.S)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.S)
    text = text.replace("xlink:href", "href")
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', text))
    text = re.sub(r' id="([^"]*)"', lambda m: m[0] if m[1] in used else "", text)
    text = re.sub(r"font(-family)?: *[^;\"]*'DejaVu Sans'[^;\"]*", _font, text)
    for colour, variable in VARIABLES.items():
        text = re.sub(re.escape(colour), f"var({variable})", text, flags=re.I)
    box = re.search(r'viewBox="([^"]*)"', text)
    assert box is not None
    label = html.escape(alt, quote=True)
    head = f'<svg class="{place}" role="img" aria-label="{label}" viewBox="{box[1]}">'
    text = head + text[text.index(">") + 1 :]
    return re.sub(r"\s*\n\s*", "\n", text).strip()


def _font(found: re.Match[str]) -> str:
    """The page's own font, in the size that was drawn."""
    size = re.search(r"[\d.]+px", found[0])
    return f"font-size: {size[0]}" if size else "font-style: normal"


def sheet(
    theme: Theme,
    height: float,
    left: float = 0.12,
    right: float = 0.12,
    top: float = 0.1,
    bottom: float = 0.5,
) -> tuple[Figure, Axes]:
    """A figure with one panel, whose height it is (inches), and margins around it."""
    figure = Figure(figsize=(theme.width, height + top + bottom))
    width, whole = figure.get_size_inches()
    axes = figure.add_axes(
        (left / width, bottom / whole, (width - left - right) / width, height / whole)
    )
    axes.set_axisbelow(True)
    return figure, axes


def panels(theme: Theme, count: int, height: float) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels of one height, two beside each other where there is room."""
    columns = 1 if theme.narrow or count == 1 else 2
    rows = -(-count // columns)
    title, foot, side = 0.3, 0.5, 0.12
    whole = rows * (height + title + foot)
    figure = Figure(figsize=(theme.width, whole))
    width = (theme.width - side * (columns + 1)) / columns
    found = []
    for number in range(count):
        row, column = divmod(number, columns)
        below = whole - (row + 1) * (height + title + foot) + foot
        left = side + column * (width + side)
        box = (left / theme.width, below / whole, width / theme.width, height / whole)
        found.append(figure.add_axes(box))
        found[-1].set_axisbelow(True)
    return figure, found


def legend_height(labels: Sequence[str], theme: Theme) -> float:
    """Inches that `legend` takes."""
    return 0.08 + 0.21 * -(-len(labels) // _columns(labels, theme))


def legend(figure: Figure, axes: Axes, theme: Theme) -> None:
    """Above the panel, in as many columns as there is room for."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="upper left", bbox_to_anchor=(0, 1), borderaxespad=0.2,
        ncols=_columns(labels, theme), columnspacing=1.4, handlelength=2.2, borderpad=0.2,
    )  # fmt: skip


def _columns(labels: Sequence[str], theme: Theme) -> int:
    widest = 0.7 + _LETTER * max(map(len, labels), default=1)
    return max(1, min(len(labels), int(theme.width / widest)))


def ratio_axis(axes: Axes, low: float, high: float) -> None:
    """A logarithmic axis along x from `low` to `high`, labelled in plain numbers."""
    axes.set_xscale("log")
    edge = (high / low) ** 0.04
    axes.set_xlim(low / edge, high * edge)
    number_axis(axes.xaxis, high / low)


def number_axis(along: Axis, span: float) -> None:
    """Plain numbers on a logarithmic axis; span: greatest over least."""
    along.set_tick_params(which="both", length=3, pad=4)
    if span > 12:
        plain_log(along, span)
        return
    along.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    along.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    along.set_minor_locator(NullLocator())
    along.set_minor_formatter(NullFormatter())


@dataclass(frozen=True)
class Rows:
    """Rows from the top, each with `lines` of words above its marks; lengths in inches."""

    count: int
    lines: int
    marks: float = 0.24

    @property
    def pitch(self) -> float:
        return self.marks + 0.16 + 0.155 * self.lines

    @property
    def height(self) -> float:
        """Of the panel."""
        return self.count * self.pitch + 0.06

    def at(self, row: int, inches: float = 0.0) -> float:
        """Where in the panel that is: so far below a row's line, on which its marks stand."""
        return row + inches / self.pitch

    def frame(self, axes: Axes) -> None:
        """No axis along y: rows have their names inside."""
        axes.set_ylim(self.at(self.count - 1, self.marks + 0.04), self.at(0, 0.1 - self.pitch))
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x", linewidth=0.6)

    def words(self, axes: Axes, row: int, text: str, theme: Theme, right: bool = False) -> None:
        """The name of a row, at the left or the right edge; lines do not cross it."""
        axes.text(
            1 if right else 0, self.at(row, -0.09), text, transform=axes.get_yaxis_transform(),
            va="bottom", ha="right" if right else "left", fontsize=8.8, linespacing=1.25,
            color=theme.ink, bbox={"facecolor": theme.back, "edgecolor": "none", "pad": 0.6},
        )  # fmt: skip

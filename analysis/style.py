"""How figures look: two backgrounds, colours for colour-blind readers (Okabe & Ito), plain axes."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.axis import Axis  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import FuncFormatter, NullFormatter  # noqa: E402

from analysis.findings import Drawing  # noqa: E402

MARKERS = ("o", "s", "^", "D", "v", "P", "X")


@dataclass(frozen=True)
class Theme:
    """Colours of one background; width: of the figure (inches)."""

    back: str
    ink: str
    faint: str
    arms: tuple[str, ...]
    width: float = 9.0

    @property
    def narrow(self) -> bool:
        """For a phone held upright."""
        return self.width < 6


# Every colour of an arm stands out from its background by 3 to 1 (WCAG 1.4.11); page.css has the same.
LIGHT = Theme(
    "#ffffff",
    "#1f2328",
    "#d4d8dd",
    ("#0072b2", "#cf5a00", "#8f6b00", "#5e3c99", "#c0608f", "#007f5c", "#6b6b6b"),
)
DARK = Theme(
    "#15181c",
    "#e6e8eb",
    "#3a4048",
    ("#4fa8e8", "#ff8a4c", "#f2c14e", "#b79cf0", "#e8a5c9", "#4cc9a0", "#a8adb3"),
)
PHONE = replace(LIGHT, width=3.75)
OUTCOMES = {"better": ("D", 0), "worse": ("s", 1), "same": ("o", 5)}
"""Outcome -> (marker, number of the colour): told apart without colours too."""
OTHER_OUTCOME = ("P", 6)
MANY = 1000
"""Marks of one kind, beyond which they are drawn as pixels."""


@contextmanager
def style(theme: Theme) -> Iterator[None]:
    """Settings of matplotlib for one background, undone afterwards."""
    settings: dict[Any, Any] = {
        "figure.facecolor": theme.back,
        "axes.facecolor": theme.back,
        "savefig.facecolor": theme.back,
        "text.color": theme.ink,
        "axes.labelcolor": theme.ink,
        "axes.edgecolor": theme.faint,
        "xtick.color": theme.ink,
        "ytick.color": theme.ink,
        "grid.color": theme.faint,
        "font.family": "DejaVu Sans",
        "font.size": 9.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "figure.constrained_layout.use": True,
        "svg.fonttype": "none",
        "text.parse_math": False,
    }
    with plt.rc_context(settings):
        yield


def drawing(name: str, title: str, alt: str, plan: Callable[[Theme], Figure]) -> Drawing:
    """A figure drawn twice, on white and for dark screens, as PNG bytes."""
    return Drawing(name, title, alt, png(plan, LIGHT), png(plan, DARK))


def png(plan: Callable[[Theme], Figure], theme: Theme) -> bytes:
    """A figure in one theme."""
    with style(theme):
        figure = plan(theme)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=150, facecolor=theme.back)
        plt.close(figure)
    return buffer.getvalue()


def log_if_wide(axes: Axes, axis: str, low: float, high: float) -> None:
    """A logarithmic axis when values span a factor above four; plain numbers as labels."""
    along = axes.xaxis if axis == "x" else axes.yaxis
    along.set_tick_params(which="both", length=3, pad=4)
    if low > 0 and high / low > 4:
        (axes.set_xscale if axis == "x" else axes.set_yscale)("log")
        plain_log(along, high / low)


def plain_log(along: Axis, span: float) -> None:
    """Plain numbers on a logarithmic axis, fewer labels the wider it is. span: greatest / least."""
    shown = "2357" if span < 20 else "25" if span < 200 else ""
    along.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    along.set_minor_formatter(
        FuncFormatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in shown else "")
        if shown
        else NullFormatter()
    )

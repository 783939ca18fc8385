"""A report as data, written twice: one self-contained HTML page and the same in Markdown."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from analysis.findings import Drawing
from analysis.flags import Flag


@dataclass(frozen=True)
class Grid:
    """A table for people: every row has as many cells as the header. A cell may be ''."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Section:
    """Under one heading, in this order: text, links (words, address), table, figures, then points
    and flags as a list."""

    title: str
    text: tuple[str, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    grid: Grid | None = None
    drawings: tuple[Drawing, ...] = ()
    points: tuple[str, ...] = ()
    flags: tuple[Flag, ...] = ()


@dataclass(frozen=True)
class Page:
    """verdict: the sentences that answer the question, the most important first."""

    title: str
    subtitle: str
    verdict: tuple[str, ...]
    sections: tuple[Section, ...]

    @property
    def drawings(self) -> tuple[Drawing, ...]:
        return tuple(drawing for section in self.sections for drawing in section.drawings)


def markdown(page: Page) -> str:
    """The page as Markdown; figures are files beside it, in figures/."""
    lines = [f"# {page.title}", "", page.subtitle, "", *(f"- {line}" for line in page.verdict)]
    for section in page.sections:
        lines += ["", f"## {section.title}"]
        for text in section.text:
            lines += ["", text]
        for words, address in section.links:
            lines += ["", f"[{words}]({address})"]
        if section.grid is not None:
            lines += ["", _line(section.grid.header), "|---" * len(section.grid.header) + "|"]
            lines += [_line(row) for row in section.grid.rows]
        for drawing in section.drawings:
            lines += ["", f"![{drawing.alt}](figures/{drawing.name}.png)"]
        if section.points or section.flags:
            lines.append("")
        lines += [f"- {point}" for point in section.points]
        lines += [
            f"- **{flag.name}** {flag.sentence} {flag.remedy}".rstrip() for flag in section.flags
        ]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def html(page: Page) -> str:
    """One page without script or network, readable on light and dark screens."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.jinja").render(
        page=page,
        uri=lambda png: "data:image/png;base64," + base64.b64encode(png).decode("ascii"),
    )

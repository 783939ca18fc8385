"""A report as data, written twice: one self-contained HTML page and the same in Markdown."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from analysis.findings import Drawing
from analysis.findings import Grid as Grid
from analysis.flags import Flag

OUTCOMES = ("better", "worse", "same")
_AMOUNT = re.compile(r"[-−±]?[\d.]")
_SHORT = 26  # letters of a cell that is not broken
_CONTENTS = 5  # sections, from which on a page has a list of them


@dataclass(frozen=True)
class Section:
    """Under one heading, in this order: text, links (words, address), table, figures, points and flags
    as a list, tables to unfold (summary, table), and sections under headings of the next level."""

    title: str
    text: tuple[str, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    grid: Grid | None = None
    drawings: tuple[Drawing, ...] = ()
    points: tuple[str, ...] = ()
    flags: tuple[Flag, ...] = ()
    folded: tuple[tuple[str, Grid], ...] = ()
    parts: tuple[Section, ...] = ()

    @property
    def every_drawing(self) -> tuple[Drawing, ...]:
        return (*self.drawings, *(d for part in self.parts for d in part.every_drawing))


@dataclass(frozen=True)
class Page:
    """verdict: the sentences that answer the question, the most important first; lead: the figures that
    stand beside them."""

    title: str
    subtitle: str
    verdict: tuple[str, ...]
    sections: tuple[Section, ...]
    lead: tuple[Drawing, ...] = ()

    @property
    def drawings(self) -> tuple[Drawing, ...]:
        return (*self.lead, *(d for section in self.sections for d in section.every_drawing))

    @property
    def contents(self) -> tuple[Section, ...]:
        """What a list of contents names; none on a short page."""
        return self.sections if len(self.sections) >= _CONTENTS else ()


def markdown(page: Page) -> str:
    """The page as Markdown; figures are files beside it, in figures/."""
    lines = [f"# {page.title}", "", page.subtitle, "", *(f"- {line}" for line in page.verdict)]
    for drawing in page.lead:
        lines += _picture(drawing)
    for section in page.sections:
        lines += _section(section, 2)
    return "\n".join(lines) + "\n"


def _section(section: Section, level: int) -> list[str]:
    lines = ["", f"{'#' * level} {section.title}"]
    for text in section.text:
        lines += ["", text]
    for words, address in section.links:
        lines += ["", f"[{words}]({address})"]
    if section.grid is not None:
        lines += ["", *_table(section.grid)]
    for drawing in section.drawings:
        lines += _picture(drawing)
    if section.points or section.flags:
        lines.append("")
    lines += [f"- {point}" for point in section.points]
    lines += [f"- **{flag.name}** {flag.sentence} {flag.remedy}".rstrip() for flag in section.flags]
    for summary, grid in section.folded:
        lines += _folded(summary, grid)
    for part in section.parts:
        lines += _section(part, level + 1)
    return lines


def _picture(drawing: Drawing) -> list[str]:
    lines = ["", f"![{drawing.alt}](figures/{drawing.name}.png)"]
    if drawing.grid is not None:
        lines += _folded(f"Table: {drawing.title}", drawing.grid)
    return lines


def _folded(summary: str, grid: Grid) -> list[str]:
    summary = summary.replace("&", "&amp;").replace("<", "&lt;")
    return ["", f"<details><summary>{summary}</summary>", "", *_table(grid), "", "</details>"]


def _table(grid: Grid) -> list[str]:
    return [_line(grid.header), "|---" * len(grid.header) + "|", *map(_line, grid.rows)]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def html(page: Page) -> str:
    """One page without script or network, readable on light and dark screens, a phone and paper."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.jinja").render(
        page=page,
        anchor=_anchors(page),
        classes=classes,
        tone=tone,
        uri=lambda png: "data:image/png;base64," + base64.b64encode(png).decode("ascii"),
    )


def _anchors(page: Page) -> Callable[[Section], str]:
    """Names inside the page, each once, whatever the titles."""
    names: dict[int, str] = {}
    taken: set[str] = set()

    def name(section: Section) -> None:
        plain = re.sub(r"[^a-z0-9]+", "-", section.title.lower()).strip("-") or "section"
        free = (plain, *(f"{plain}-{number}" for number in range(2, len(taken) + 3)))
        names[id(section)] = next(one for one in free if one not in taken)
        taken.add(names[id(section)])
        for part in section.parts:
            name(part)

    for section in page.sections:
        name(section)
    return lambda section: names[id(section)]


def classes(grid: Grid) -> tuple[str, ...]:
    """Of each column: 'n' where every cell that is not empty begins with a number and is short, else ''.

    >>> classes(Grid(("arm", "time", "n"), (("mlx", "1.2 s", ""), ("pytorch", "not measured", "3"))))
    ('', '', 'n')
    """
    found = []
    for column, _ in enumerate(grid.header):
        filled = [row[column] for row in grid.rows if row[column]]
        short = filled and max(map(len, filled)) <= _SHORT
        found.append("n" if short and all(map(_AMOUNT.match, filled)) else "")
    return tuple(found)


def tone(cell: str) -> str:
    """How a cell stands out: that of an outcome by its first word.

    >>> tone("better"), tone("same within 5 %"), tone("undecided")
    ('better', 'same', '')
    """
    first = cell.split(" ")[0]
    return first if first in OUTCOMES else ""

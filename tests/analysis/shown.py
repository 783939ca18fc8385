"""What a report is made of in the tests: a whole study with samples, ceilings, code and counted work, and
a reader of pages."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import language
import numpy as np
import rows as made

from analysis import workloads
from analysis.comparison import Around, analyse
from analysis.findings import Findings
from analysis.sessions import session
from analysis.workloads import Workloads
from tracking.names import CODE
from tracking.read import Row

STEP_FLOPS, STORED, CEILING = 35_000_000, 26_506, 1.2e11
COUNTED = {
    "products": {"step": {"float32": STEP_FLOPS}, "answer": {"float32": 54_000}},
    "recorded": 0,
    "stored": {"float32": STORED},
}


def full(row: Row) -> Row:
    """A trial that lacks nothing but a meter and a device."""
    code = {name: float(10 + i) for i, name in enumerate(CODE)}
    code["code/source_lines"] = {"mlx": 58.0, "pytorch": 49.0}[row.cell["framework"]]
    ceiling = CEILING * (0.1 if row.arm == "mlx" else 1.0)
    return replace(
        row,
        metrics={**row.metrics, **code, "hardware/ceiling_flops_per_second": ceiling},
        parity={**(row.parity or {}), "counted": COUNTED},
        facts={"machine_cpu": "a chip", "machine_cores": "2", "machine_os": "Linux 6.1"},
    )


def trials(pairs: int = 6) -> list[Row]:
    return [full(row) for row in made.rows(pairs)]


def findings(pairs: int = 6) -> Findings:
    """The study of `rows`, from samples and all."""
    found = trials(pairs)
    around = Around({row.run_id: made.samples(row) for row in found})
    return analyse(made.study(pairs), found, np.random.default_rng(0), around)


def several() -> Workloads:
    """Three studies and one that was refused."""
    studies = (
        language.tinyllama(),
        language.whisper(),
        language.transformer(),
        language.bert_of_other_work(),
    )
    return workloads.collect([session(*one) for one in studies])


class Reader(HTMLParser):
    """A page as a reader without eyes meets it: headings, figures, tables, names and addresses."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.headings: list[int] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.figures: list[dict[str, int]] = []
        self._inside = False
        self.alts: list[str] = []
        self.heads: list[dict[str, str | None]] = []
        self.tags: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if name := found.get("id"):
            self.ids.append(name)
        self.addresses += [found[key] or "" for key in ("href", "src", "srcset") if key in found]
        if tag == "figure":
            self.figures.append({"img": 0, "table": 0, "figcaption": 0})
            self._inside = True
        elif self._inside and tag in ("table", "figcaption"):
            self.figures[-1][tag] += 1
        if tag == "svg" and found.get("role") == "img" or tag == "img":
            self.alts.append(found.get("aria-label") or found.get("alt") or "")
            if self._inside:
                self.figures[-1]["img"] += 1
        if tag == "th":
            self.heads.append(found)

    def handle_endtag(self, tag: str) -> None:
        if tag == "figure":
            self._inside = False

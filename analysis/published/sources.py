"""What others published, as data: known faults, sources, tables cell by cell, what is not stated.

A cell keeps the author's words (`stated`) beside the number in a base unit; a range has no value,
only low and high: a middle that nobody stated is not made up.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from analysis.published import recordings
from analysis.published.recordings import Recording
from measurement.errors import InputError

DATA = Path(__file__).parent / "data"
FAULTS = Path(__file__).parent / "faults.json"

# What a reader needs to repeat a comparison. What a source does not give of it is missing.
CHECKLIST = (
    "runs",
    "order",
    "statistic",
    "dispersion",
    "seeds",
    "framework_versions",
    "batch_size",
    "dtype",
    "warm_up",
    "synchronisation",
    "machine_state",
    "code",
)


@dataclass(frozen=True)
class Fault:
    """A fault found in a published comparison. classes: letters of `fault_classes`."""

    id: str
    classes: tuple[str, ...]
    project: str
    commit: str
    fault: str
    evidence: str
    reproduced: bool


@dataclass(frozen=True)
class Cell:
    """One number of a table, in `unit`. value is None for a range (low, high); both where stated."""

    metric: str
    unit: str
    value: float | None
    low: float | None
    high: float | None
    approximate: bool
    statistic: str
    derived: bool
    stated: str
    faults: tuple[str, ...]

    @property
    def bounds(self) -> tuple[float, float]:
        """(least, greatest) value that was stated; equal without a range."""
        if self.low is not None and self.high is not None:
            return self.low, self.high
        assert self.value is not None
        return self.value, self.value


@dataclass(frozen=True)
class Line:
    """One arm of a table: what ran where, and its cells."""

    machine: str
    workload: str
    framework: str
    device: str
    configuration: dict[str, Any]
    faults: tuple[str, ...]
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """A results table. location: where in the document; given: what it states of CHECKLIST."""

    id: str
    title: str
    location: str
    given: dict[str, str]
    faults: tuple[str, ...]
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class File:
    """A bundled recording: items = images of one epoch or pass, None = not known."""

    recording: Recording
    workload: str
    items: int | None
    work: str
    faults: tuple[str, ...]


@dataclass(frozen=True)
class Contrast:
    """Two files to compare. role: frameworks or devices; family: in the family declared for Holm."""

    numerator: str
    denominator: str
    role: str
    family: bool


@dataclass(frozen=True)
class Source:
    """One document or data set with its provenance. kind: tables, recordings, averages or plan."""

    name: str
    kind: str
    title: str
    summary: str
    author: str
    url: str
    commit: str
    date: str
    licence: str
    licence_text: str
    machine: str
    given: dict[str, str]
    faults: tuple[str, ...]
    files: tuple[File, ...]
    contrasts: tuple[Contrast, ...]
    tables: tuple[Table, ...]
    repeated: tuple[str, ...]

    def missing(self, table: Table | None = None) -> tuple[str, ...]:
        """What of CHECKLIST neither the source nor the table states."""
        given = self.given | (table.given if table else {})
        return tuple(item for item in CHECKLIST if item not in given)


def faults() -> dict[str, Fault]:
    """Every known fault by its id.

    >>> faults()["R1"].classes
    ('W',)
    """
    rows = json.loads(FAULTS.read_text(encoding="utf-8"))["faults"]
    return {row["id"]: Fault(**(row | {"classes": tuple(row["classes"])})) for row in rows}


def fault_classes() -> dict[str, str]:
    """Letter of a class -> what it means.

    >>> fault_classes()["W"]
    'unequal work'
    """
    found: dict[str, str] = json.loads(FAULTS.read_text(encoding="utf-8"))["classes"]
    return found


def names() -> list[str]:
    """The bundled sources.

    >>> "vit_plan" in names()
    True
    """
    return sorted(path.stem for path in DATA.glob("*.json"))


def load(name: str) -> Source:
    """A bundled source by name. Raises InputError for a name that is not bundled.

    >>> load("vit_plan").tables
    ()
    """
    if name not in names():
        raise InputError(f"unknown source '{name}'; choose one of: all, {', '.join(names())}")
    raw = json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))
    folder = DATA / raw["folder"] if raw["folder"] else DATA
    averages = raw["kind"] == "averages"
    licence = (DATA / raw["licence_file"]).read_text("utf-8") if raw["licence_file"] else ""
    return Source(
        name=raw["name"],
        kind=raw["kind"],
        title=raw["title"],
        summary=raw["summary"],
        author=raw["author"],
        url=raw["url"],
        commit=raw["commit"],
        date=raw["date"],
        licence=raw["licence"],
        licence_text=licence,
        machine=raw["machine"],
        given=raw["given"],
        faults=tuple(raw["faults"]),
        files=() if averages else tuple(_file(folder, row) for row in raw["files"]),
        contrasts=tuple(Contrast(**row) for row in raw["contrasts"]),
        tables=_averages(folder / raw["files"][0]["file"], raw["workload_faults"])
        if averages
        else tuple(_table(row) for row in raw["tables"]),
        repeated=tuple(raw["repeated"]),
    )


def from_folder(folder: Path, workload: str, machine: str, licence: str, url: str) -> Source:
    """A folder of CSVs in seed format as a source: what a CSV cannot say is given by the user.

    A file that is bundled too, byte for byte, keeps what is known about its work and its faults.
    Contrasts: MLX over PyTorch where phase, device, label and epochs agree. Raises InputError as
    `recordings.read_folder` does.
    """
    found = recordings.read_folder(folder)
    bundled = {file.recording.sha256: file for name in names() for file in load(name).files}
    name = folder.resolve().name
    return Source(
        name=name,
        kind="recordings",
        title=f"CSV files of the folder {name}",
        summary=f"{len(found)} CSV files in seed format.",
        author="not stated",
        url=url,
        commit="not stated",
        date="not stated",
        licence=licence,
        licence_text="",
        machine=machine,
        given={"statistic": "every run is given", "dispersion": "every run is given"},
        faults=(),
        files=tuple(
            replace(bundled[r.sha256], recording=r)
            if r.sha256 in bundled
            else File(r, workload, None, "not stated", ())
            for r in found
        ),
        contrasts=tuple(_contrasts(found)),
        tables=(),
        repeated=(),
    )


def _contrasts(found: list[Recording]) -> list[Contrast]:
    """MLX over PyTorch, file by file: the one of as many runs, or the only one there is."""

    def key(r: Recording) -> tuple[str, str, str, int, bool]:
        return r.phase, r.device, r.label, r.epochs, r.sweep

    pairs = []
    for first in (r for r in found if r.framework == "mlx"):
        others = [r for r in found if r.framework == "pytorch" and key(r) == key(first)]
        rivals = [r for r in found if r.framework == "mlx" and key(r) == key(first)]
        equal = [r for r in others if r.runs == first.runs]
        if not equal and len(others) == len(rivals) == 1:
            equal = others
        if equal:
            family = first.phase == "train" and not first.sweep
            pairs.append(Contrast(first.file, equal[0].file, "frameworks", family))
    return pairs


def _file(folder: Path, row: dict[str, Any]) -> File:
    recording = recordings.read(folder / row["file"])
    return File(recording, row["workload"], row["items"], row["work"], tuple(row["faults"]))


def _table(row: dict[str, Any]) -> Table:
    return Table(
        id=row["id"],
        title=row["title"],
        location=row["location"],
        given=row["given"],
        faults=tuple(row["faults"]),
        lines=tuple(_line(line) for line in row["rows"]),
    )


def _line(row: dict[str, Any]) -> Line:
    cells = tuple(Cell(**(cell | {"faults": tuple(cell["faults"])})) for cell in row["cells"])
    return Line(**(row | {"faults": tuple(row["faults"]), "cells": cells}))


_MACHINE = re.compile(r"=+ (.+?) =+")
_WORKLOAD = re.compile(r"-+ (.+?) -+")
_RUNS = re.compile(r"=> Values from (\w+) executions")
_FRAMEWORK = re.compile(r"Framework: (\w+)")
_AVERAGE = re.compile(r"Average: ([\d.]+)s - Median: ([\d.]+)s")


def _averages(path: Path, known: dict[str, list[str]]) -> tuple[Table, ...]:
    """Tables of LucasSte/MLX-vs-Pytorch's raw_results.txt, read from the file itself, one a machine."""
    tables: dict[str, list[Line]] = {}
    machine = workload = runs = framework = ""
    for text in path.read_text(encoding="utf-8").splitlines():
        if found := _MACHINE.fullmatch(text.strip()):
            machine = found[1]
        elif found := _WORKLOAD.fullmatch(text.strip()):
            workload = found[1]
        elif found := _RUNS.fullmatch(text.strip()):
            runs = found[1]
        elif found := _FRAMEWORK.fullmatch(text.strip()):
            framework = found[1]
        elif found := _AVERAGE.fullmatch(text.strip()):
            cells = tuple(
                Cell(
                    metric=f"published/wall_seconds_{statistic}",
                    unit="s",
                    value=float(value),
                    low=None,
                    high=None,
                    approximate=False,
                    statistic=statistic,
                    derived=False,
                    stated=f"{value}s",
                    faults=(),
                )
                for statistic, value in (("mean", found[1]), ("median", found[2]))
            )
            line = Line(machine, workload, framework, "not stated", {"runs": runs},
                        tuple(known[workload]), cells)  # fmt: skip
            tables.setdefault(machine, []).append(line)
    return tuple(
        Table(name, name, f"{path.name}, section '{name}'", {}, (), tuple(lines))
        for name, lines in tables.items()
    )

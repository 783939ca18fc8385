"""What `tracking.published` writes, as plain values; knows no MLflow, so that analysis can make it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One run to write. metrics: (name, value, step). Tags that are '' are left out."""

    name: str
    tags: Mapping[str, str]
    metrics: Sequence[tuple[str, float, int]]


@dataclass(frozen=True)
class Group:
    """A file or a table with its runs. kind, entry_kind: the tag `kind` of the run and of those
    below it; sha256: of the contents, which are imported once; files: name -> text, kept with the
    run (the original and its licence)."""

    name: str
    kind: str
    entry_kind: str
    tags: Mapping[str, str]
    note: str
    sha256: str
    entries: Sequence[Entry]
    files: Mapping[str, str]

"""From a measurement to its local record: room for it first, the whole of it at the end, and what to do
where there is no room after all. Sending it is entrypoints.deliver's."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import click

from entrypoints.deliver import Courier
from entrypoints.processes import TrialFailed
from measurement import disk
from measurement.errors import InputError
from tracking import outbox
from tracking.outbox import Kept
from tracking.write import Record

T = TypeVar("T")
SPARE_BYTES = 16 * 2**20
"""Of a record without weights: samples, events, what the worker said; many times over."""


def begin(
    folder: Path, record: Record, parent: str = "", run_id: str = "", more_bytes: int = 0
) -> Kept:
    """The record of what is about to be measured, with the space that it will need. Raises InputError
    where there is too little."""
    wanted = SPARE_BYTES + more_bytes
    try:
        with outbox.locked(folder):  # or another process might take it for what a kill has left
            disk.reserve(folder, wanted)
            return outbox.begin(folder, record, parent=parent, run_id=run_id)
    except KeyboardInterrupt:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise InputError(
            f"there is no room for a record in {folder.parent} ({error.strerror}); expected "
            f"{wanted / 2**20:.0f} MiB: make room, or run from a folder on another disk"
        ) from None


def measured(
    opened: Kept,
    measure: Callable[[], T],
    build: Callable[[T, Path | None], Record],
    courier: Courier,
    parent_run: str = "",
) -> tuple[T, Kept, str]:
    """Measures, keeps, then sends: (what `measure` gave, the whole record, its run, "" where it must
    wait).

    build: makes the record and writes its files into the folder that it is given, None: into none.
    Where the record's folder has no room any more it is kept in another one; with no room anywhere
    the store takes it from memory, and if that is away too, standard error. What `measure` raises
    leaves a record too, FAILED or KILLED, with the events that there were, and is raised.
    """
    with outbox.locked(opened.folder):
        try:
            found = measure()
            disk.give_back(opened.folder)
            kept, on_disk = _kept(opened, lambda folder: build(found, folder))
        except BaseException as error:
            courier.send(_failed(opened, error), parent_run)
            raise
        # From here on it is measured, whatever becomes of the sending.
        run_id = courier.send(kept, parent_run)
    if not (on_disk or run_id):
        click.echo(outbox.as_text(kept), err=True)
        click.echo(
            "Neither a disk nor the store took what was measured: keep the line above", err=True
        )
    return found, kept, run_id


def _kept(opened: Kept, build: Callable[[Path | None], Record]) -> tuple[Kept, bool]:
    try:
        return outbox.close(opened, build(opened.folder)), True
    except OSError as error:
        problem = f"{opened.folder} cannot be written ({error.strerror})"
    try:
        other = Path(tempfile.mkdtemp(prefix=f"{opened.folder.name}-"))
        kept = outbox.close(opened, build(other), other)
    except OSError:
        click.echo(f"{problem}, nor can {tempfile.gettempdir()}", err=True)
        return outbox.in_memory(opened, build(None)), False
    click.echo(
        f"{problem}: the record is in {other}; should it be left there, `mlflow run . -e deliver -P "
        f"records={other.parent}` sends it",
        err=True,
    )
    return kept, True


def _failed(opened: Kept, error: BaseException) -> Kept:
    """The record of what did not end well: why, and what had been said by then."""
    tags = {**opened.record.tags, "crash": str(error)[:500] or type(error).__name__}
    if opened.record.kind == "trial":
        tags["flags"] = error.flags if isinstance(error, TrialFailed) else "CRASHED"
    status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
    record = replace(opened.record, tags=tags, status=status)
    disk.give_back(opened.folder)
    try:
        return outbox.close(opened, replace(record, files=outbox.attach_events(opened.folder)))
    except OSError as problem:  # the error that ended it is the one to be raised
        click.echo(f"{opened.folder} cannot be written ({problem.strerror})", err=True)
        return outbox.in_memory(opened, record)

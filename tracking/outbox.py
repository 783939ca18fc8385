"""Local records: what was measured is on this machine's disk before it goes to any store.

A record is a folder of mlruns/records. While it is measured `record.json` says RUNNING and
`events.jsonl` grows event by event. At the end come `artifacts/` and `points.json`, and last the whole
`record.json`, in one step. `receipts.json` says which stores have it, as which run. Whoever measures or
sends a record holds its lock, which ends with the process.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from measurement import disk, untrusted
from measurement.errors import InputError
from tracking import store
from tracking.write import Point, Record

RECORDS = Path("mlruns/records")
HEADER, POINTS, RECEIPTS, EVENTS, LOCK = (
    "record.json", "points.json", "receipts.json", "events.jsonl", "lock",
)  # fmt: skip
ARTIFACTS = "artifacts"


@dataclass(frozen=True)
class Kept:
    """A record with where it is, and where its run belongs. id: names it in every store. parent: the
    id of the record whose run is above its own. run_id: a run that there is already and that shall
    be its own. address: of the store that it was made for, without credentials."""

    folder: Path
    id: str
    record: Record
    parent: str = ""
    run_id: str = ""
    address: str = ""
    experiment_id: str = ""
    experiment_name: str = ""
    started_seconds: float = 0.0
    ended_seconds: float = 0.0
    points_sha256: str = ""

    @property
    def running(self) -> bool:
        return self.record.status == "RUNNING"

    def points(self) -> list[Point]:
        """Those of a record that was read are read now. Raises InputError where they are broken."""
        if self.record.points or not self.points_sha256:
            return list(self.record.points)
        path = self.folder / POINTS
        try:
            text = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror})") from None
        if hashlib.sha256(text).hexdigest() != self.points_sha256:
            raise InputError(f"{path} is not what was written; its digest differs")
        return [Point(*row) for row in untrusted.parse_json(text, str(path))]


def given_run() -> str:
    """The run that `mlflow run` has opened for this command, "" outside it. It is given once."""
    return os.environ.pop("MLFLOW_RUN_ID", "")


def begin(folder: Path, record: Record, parent: str = "", run_id: str = "", id: str = "") -> Kept:
    """Opens the record of what is about to be measured, status RUNNING. Raises OSError."""
    kept = Kept(
        folder=folder,
        id=id or secrets.token_hex(16),
        record=replace(record, status="RUNNING"),
        parent=parent,
        run_id=run_id,
        address=store.address(),
        experiment_id=os.environ.get("MLFLOW_EXPERIMENT_ID", ""),
        experiment_name=os.environ.get("MLFLOW_EXPERIMENT_NAME", ""),
        started_seconds=time.time(),
    )
    _write(kept)
    return kept


def close(kept: Kept, record: Record, folder: Path | None = None) -> Kept:
    """The record with all that was measured, on disk when this returns. folder: another place than
    the one that it was begun in. Raises OSError."""
    rows = json.dumps([[p.name, p.value, p.step, p.seconds] for p in record.points])
    done = replace(
        kept,
        folder=folder or kept.folder,
        record=record,
        ended_seconds=time.time(),
        points_sha256=hashlib.sha256(rows.encode()).hexdigest() if record.points else "",
    )
    if record.points:
        disk.write(done.folder / POINTS, rows)
    _write(done)
    return done


def in_memory(kept: Kept, record: Record) -> Kept:
    """The record where no disk has room for it."""
    return replace(kept, record=record, ended_seconds=time.time())


def as_text(kept: Kept) -> str:
    """All of a record in one line, for where nothing else takes it."""
    return json.dumps({**asdict(kept), "folder": kept.folder.name})


def with_status(kept: Kept, status: str, tags: dict[str, str] | None = None) -> Kept:
    """The same record, rewritten with another status and more tags. Raises OSError."""
    record = replace(kept.record, status=status, tags={**kept.record.tags, **(tags or {})})
    done = replace(kept, record=record, ended_seconds=0.0 if status == "RUNNING" else time.time())
    _write(done)
    return done


def cut_off(kept: Kept) -> Kept:
    """A record that says RUNNING and whose process is gone becomes KILLED, with the events that it
    has. Call with its lock. Raises OSError."""
    said = sum(len(path.read_bytes().splitlines()) for path in kept.folder.glob("events*.jsonl"))
    tags = {"crash": f"cut off while it was measured; {said} events are kept"}
    disk.give_back(kept.folder)
    if kept.record.kind == "trial":
        tags["flags"] = "CRASHED"
    record = replace(kept.record, files=attach_events(kept.folder))
    return with_status(replace(kept, record=record), "KILLED", tags)


def attach_events(folder: Path) -> bool:
    """What a worker, or each rank, said before it ended becomes an artifact of the run; whether there
    is any. Raises OSError."""
    found = [path for path in sorted(folder.glob("events*.jsonl")) if path.stat().st_size]
    for path in found:
        (folder / ARTIFACTS).mkdir(exist_ok=True)
        disk.write(folder / ARTIFACTS / path.name, path.read_bytes())
    return bool(found)


def _write(kept: Kept) -> None:
    values = asdict(replace(kept, record=replace(kept.record, points=())))
    values["folder"] = kept.folder.name
    disk.write(kept.folder / HEADER, json.dumps(values, indent=1))


def read(folder: Path) -> Kept:
    """A record from disk, its points still there. Raises InputError where it cannot be read."""
    path = folder / HEADER
    try:
        values: dict[str, Any] = untrusted.parse_json(path.read_text(), "it")
        record = Record(**{**values.pop("record"), "points": ()})
        return Kept(**{**values, "folder": folder, "record": record})
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{path} cannot be read ({type(error).__name__}: {str(error)[:200]}); expected what a trial "
            f"writes: what was measured is in {folder / EVENTS}"
        ) from None


def folders(base: Path | None = None) -> list[Path]:
    """Of every record, oldest first. Other folders there are probes and the like."""
    base = base or RECORDS
    if not base.is_dir():
        return []
    return sorted(path.parent for path in base.glob(f"*/{HEADER}"))


def forget_unborn(base: Path | None = None) -> None:
    """Removes what was begun and never became a record, because its process was killed while room was
    made for it or its first line was written: nothing had been measured."""
    found = [(base or RECORDS).glob(f"*/{name}") for name in (f"{HEADER}.new", disk.RESERVE)]
    for folder in {path.parent for paths in found for path in paths}:
        with locked(folder) as got:
            if got and not any((folder / name).exists() for name in (HEADER, EVENTS)):
                shutil.rmtree(folder)


def folder_of(id: str, base: Path) -> Path | None:
    """The folder of a record by its id."""
    for folder in folders(base):
        # Most are other ones, and need not be parsed.
        if f'"{id}"' in (folder / HEADER).read_text(errors="replace") and read(folder).id == id:
            return folder
    return None


def receipts(folder: Path) -> dict[str, dict[str, str]]:
    """address of a store -> {"run_id", "status"} of the run that it has. One that cannot be read is
    none: the store is asked again."""
    try:
        found = untrusted.parse_json((folder / RECEIPTS).read_text(), RECEIPTS)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def receipt(kept: Kept, run_id: str) -> None:
    """Writes down that the store has this record as it is now. Raises OSError."""
    found = receipts(kept.folder)
    found[store.address()] = {"run_id": run_id, "status": kept.record.status}
    disk.write(kept.folder / RECEIPTS, json.dumps(found, indent=1))


def elsewhere(folder: Path) -> bool:
    """Whether another store than the one in use has the record, and this one has not."""
    found = receipts(folder)
    return bool(found) and store.address() not in found


def of_study(name: str, machine: str, base: Path | None = None) -> list[Kept]:
    """The records of one machine's part of a study, oldest first: its own and its trials, but for
    those that another store has."""
    found = []
    for folder in folders(base):
        # Most are other ones, and need not be parsed.
        if f'"study": {json.dumps(name)}' not in (folder / HEADER).read_text(errors="replace"):
            continue
        kept = read(folder)
        tags = kept.record.tags
        if (tags.get("study"), tags.get("machine")) == (name, machine) and not elsewhere(folder):
            found.append(kept)
    return found


def delivered(folder: Path, status: str) -> str:
    """The run that the store in use has of a record with this status; "" where it has none."""
    found = receipts(folder).get(store.address(), {})
    return str(found.get("run_id", "")) if found.get("status") == status else ""


@contextmanager
def locked(folder: Path, wait_seconds: float = 0.0) -> Iterator[bool]:
    """Whether this process alone works on a record while the block runs."""
    with disk.locked(folder / LOCK, wait_seconds) as got:
        yield got

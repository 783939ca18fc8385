"""A study's own record: one command at a time works on it, it goes on where it was cut off, and it says
which slots are finished, by the store and by the records on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from entrypoints import agreement
from entrypoints.deliver import Courier
from entrypoints.supervisor import new_folder
from measurement import disk, identity, machine
from measurement.errors import InputError
from measurement.schedule import ALL
from tracking import names, outbox, read, store, views, write
from tracking.outbox import Kept
from tracking.store import StoreAway

Slot = tuple[int, str]
"""Number of the block, arm."""

_LONGEST_DESIGN = 8000  # characters of a tag that MLflow keeps
_CUT = (
    "the machine was started anew, or exchanged, before its block was whole: measured again with it"
)


@contextmanager
def alone(name: str) -> Iterator[None]:
    """Nobody else on this machine works on the study of that name in this store while the block runs.
    The lock ends with the process, however that ends. Raises InputError."""
    folder = Path(tempfile.gettempdir()) / f"framework-study-{os.getuid()}"
    whose = f"{store.address()} {machine.fingerprint()} {name}"
    path = folder / hashlib.sha256(whose.encode()).hexdigest()[:32]
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode):
            raise PermissionError(f"{folder} is another user's")
        with disk.locked(path) as got:
            if not got:
                raise InputError(
                    f"study '{name}' is being run on this machine by another command; wait for its end, "
                    "or use another name"
                )
            yield
    except OSError as error:
        raise InputError(f"the lock of study '{name}' cannot be had ({error})") from None


@dataclass(frozen=True)
class Opened:
    """A study that may go on: its own record, its run ("" while the store is away), and the slots
    that are finished."""

    kept: Kept
    run_id: str
    done: set[Slot]


@contextmanager
def open_study(
    name: str, plan: dict[str, Any], courier: Courier, only: str = ALL
) -> Iterator[Opened]:
    """This machine's part of a study, held while the block runs. One of that name goes on, if its
    design is the same, by what the store and the local records have of it; what was left open here
    when it was cut off is closed as KILLED. What other machines run under the name is never touched,
    but must be the same study. only: the blocks that are to be run, as `schedule.part` reads them.

    With the store away the local records alone speak, and the store is asked on delivery. Call with
    the lock of the study's name.
    """
    outbox.forget_unborn()
    mine = outbox.of_study(name, plan["machine"])
    known = next((kept for kept in mine if kept.record.kind == "study"), None)
    given = outbox.given_run()
    folder = new_folder(f"study-{name}") if known is None else known.folder
    with courier.holding(folder):
        kept = (
            _begin(folder, name, plan, given, only) if known is None else _go_on(known, plan, only)
        )
        try:
            run_id = courier.announce(kept)
        except InputError:
            if known is None:  # nothing hangs on it
                shutil.rmtree(folder)
            raise
        trials = [one for one in mine if one.record.kind == "trial"]
        courier.waiting += [
            one.folder for one in trials if not outbox.delivered(one.folder, one.record.status)
        ]
        here = {_slot(one): one for one in trials if one.record.status == "FINISHED"}
        stored: dict[Slot, read.Row] = {}
        done = set(here)
        if run_id:
            try:
                courier.retry()
                stored = _stored(name, plan, run_id, given, {one.id for one in trials})
                done = {*stored, *(s for s, one in here.items() if one.folder in courier.waiting)}
            except StoreAway as error:
                courier.lost(error)
        tags = {s: stored[s].tags if s in stored else here[s].record.tags for s in done}
        cut = _cut({s: tags[s].get(names.BOOT, "") for s in done}, plan["arms"])
        for slot in sorted(cut):
            _set_aside(here.get(slot), stored[slot].run_id if slot in stored else "", courier)
            click.echo(f"{slot[1]}, block {slot[0]}, is set aside: {_CUT}", err=True)
        yield Opened(kept, run_id, done - cut)


def _cut(done: Mapping[Slot, str], arms: list[str]) -> set[Slot]:
    """The finished slots of a block that is not whole, from before this start of the machine: what is
    paired is measured in one, or a restart, and on rented machines another machine, would be taken
    for a difference between the arms. done: slot -> hash of the start, "" of trials that say none."""
    unfinished = {block for block, _ in done if any((block, arm) not in done for arm in arms)}
    return {
        s for s, boot in done.items() if s[0] in unfinished and boot not in ("", identity.boot())
    }


def _set_aside(kept: Kept | None, run_id: str, courier: Courier) -> None:
    """Takes a trial out of its slot; everything that it measured stays, in its record and its run
    ("": it has none yet). Raises InputError."""
    tags = {names.SUPERSEDED: _CUT}
    try:
        if run_id:
            write.set_tags(run_id, {**tags, names.DELIVERED: "KILLED"})
            write.finish(run_id, "KILLED")
        if kept:
            with courier.holding(kept.folder):
                changed = outbox.with_status(kept, "KILLED", tags)
                if run_id:
                    outbox.receipt(changed, run_id)
    except OSError as error:
        raise InputError(f"the record of a trial cannot be written ({error.strerror})") from None


def _stored(
    name: str, plan: dict[str, Any], run_id: str, given: str, local: set[str]
) -> dict[Slot, read.Row]:
    """The finished trials that the store has. Its open runs that no local record will close are closed.
    given: the run that `mlflow run` opened. Raises StoreAway."""
    if given not in ("", run_id):
        write.name_run(
            given, "study part", f"study {name}, resumed", {"study": name, "resumes": run_id}
        )
    done = {}
    for row in read.trials_of(read.study(name, plan["machine"])):
        if row.deleted:
            continue
        if row.status == "FINISHED" and row.pair is not None:
            done[row.pair, row.arm] = row
        elif row.status == "RUNNING" and row.tags.get(names.RECORD) not in local:
            write.finish(row.run_id, "KILLED")
    return done


def _slot(trial: Kept) -> Slot:
    return int(trial.record.tags["pair"]), trial.record.tags["arm"]


def _begin(folder: Path, name: str, plan: dict[str, Any], run_id: str, only: str) -> Kept:
    """The new record of this machine's part. Raises InputError."""
    text = json.dumps(plan)
    if len(text) > _LONGEST_DESIGN:
        raise InputError(
            f"the design of study '{name}' has {len(text)} characters, of which a store keeps "
            f"{_LONGEST_DESIGN}; expected fewer arms or pairs: make two studies of it"
        )
    tags = {"study": name, "design": text, "machine": plan["machine"]}
    tags[views.VERDICT] = "not analysed yet"
    if only != ALL:
        tags[names.BLOCKS] = only
    shown = {
        k: plan[k] for k in ("workload", "preset", "pairs", "epochs", "dataset", "metric", "margin")
    }
    params = {**{k: str(v) for k, v in shown.items()}, "arms": ", ".join(plan["arms"])}
    note = views.study_note(name, plan)
    record = write.Record(f"study {name}", note, params, tags, [], {}, kind="study")
    try:
        return outbox.begin(folder, record, run_id=run_id)
    except OSError as error:
        raise InputError(
            f"cannot write the study's record ({error}); expected room for it and its trials"
        ) from None


def _go_on(kept: Kept, plan: dict[str, Any], only: str) -> Kept:
    """A study's own record, open again. Raises InputError where its design is another one, or its blocks."""
    known = json.loads(kept.record.tags["design"])
    if changed := agreement.changed(known, plan):
        raise InputError(
            f"study '{kept.record.tags['study']}' exists with another {changed[0]} "
            f"({known.get(changed[0])} against {plan[changed[0]]}); use the same options to go on, or "
            "another name"
        )
    part = kept.record.tags.get(names.BLOCKS, ALL)
    if only not in (part, ALL):
        raise InputError(
            f"study '{kept.record.tags['study']}' has blocks {part} here, not {only}; expected the same, or "
            "all: another part needs a clone and a store of its own"
        )
    return outbox.with_status(kept, "RUNNING", {} if only == part else {names.BLOCKS: ALL})

"""`deliver`: send every local record that the tracking store does not have yet; nothing twice.

    python -m entrypoints.deliver

Commands that measure send their own records by the same code, right after they are on disk. Exit code
0 only where nothing is left.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import click

from entrypoints import agreement, terminal
from entrypoints.options import Command
from entrypoints.terminal import UNDELIVERED
from measurement import disk
from measurement.errors import InputError
from measurement.schedule import part
from serving.log import log_model
from tracking import delivery, names, outbox, read, write
from tracking.outbox import Kept
from tracking.store import StoreAway, address, patient

AGAIN = "trial again"
"""Kind of the run of a trial whose slot the store had filled when it came: the first one counts."""
LATER = "`mlflow run . -e deliver` will send it"
MOST_SECONDS = 120.0
"""After so long between its calls a delivery that follows a measurement is put off: the store answers,
but too slowly to wait for. `deliver` itself waits."""
_WAIT_SECONDS = 600.0  # for another process that sends the same record


class Courier:
    """Sends records, and remembers that the store is away, so that nobody waits for it each time."""

    def __init__(self, most: float = MOST_SECONDS) -> None:
        self.away = ""
        """Why the store could not be used last time; "" when it could."""
        self.waiting: list[Path] = []
        """Records that are kept for later, parents first."""
        self._most = most
        self._held: set[Path] = set()

    @contextmanager
    def holding(self, folder: Path, locked: bool = False) -> Iterator[None]:
        """This process alone works on a record for as long as the block runs. locked: by a lock that
        it has already. Raises Busy."""
        with nullcontext(True) if locked else outbox.locked(folder, _WAIT_SECONDS) as got:
            if not got:
                raise Busy(f"{folder.name} is in use by another process")
            self._held.add(folder)
            try:
                yield
            finally:
                self._held.remove(folder)

    def announce(self, kept: Kept) -> str:
        """`send` of something that is about to begin, or to go on; the store is asked, whatever it was
        sent before. Raises InputError where the store refuses it."""
        try:
            return send(kept, most=self._most, again=True)
        except StoreAway as error:
            self._later(kept.folder, error)
            return ""

    def send(self, kept: Kept, parent_run: str = "") -> str:
        """The run of a record that this process holds the lock of; "" where it must wait, which is
        said."""
        if self.away:
            self._wait(kept.folder)
            return ""
        try:
            return send(kept, parent_run, self._most)
        except InputError as error:
            self._later(kept.folder, error)
            return ""

    def lost(self, error: StoreAway) -> None:
        """Somebody else found the store away."""
        self.away = str(error)
        _say(f"{error}. The measuring goes on; {LATER}")

    def retry(self) -> None:
        """Everything that waits once more, in order, up to the first that finds the store away."""
        waiting, self.waiting, self.away = self.waiting, [], ""
        said = set()
        for folder in waiting:
            try:
                if self.away:
                    self._wait(folder)
                elif folder in self._held:
                    send(outbox.read(folder), most=self._most)
                else:
                    send_folder(folder, self._most)
            except InputError as error:
                self._wait(folder)
                if isinstance(error, StoreAway):
                    self.away = str(error)
                said.add(str(error))
        for line in sorted(said):
            _say(f"Not delivered: {line}")
        if sent := len(waiting) - len(self.waiting):
            _say(f"{sent} of {len(waiting)} records that waited are delivered")

    def _later(self, folder: Path, error: InputError) -> None:
        if isinstance(error, StoreAway):
            self.away = str(error)
        self._wait(folder)
        _say(f"Not delivered: {error}. The record is kept in {folder}; {LATER}")

    def _wait(self, folder: Path) -> None:
        if folder not in self.waiting:
            self.waiting.append(folder)


def _say(line: str) -> None:
    click.echo(line, err=True)


class Busy(InputError):
    """Another process works on the record."""


class Refused(InputError):
    """The store answers, and does not take this record."""


def send(kept: Kept, parent_run: str = "", most: float = float("inf"), again: bool = False) -> str:
    """One record to its run, from wherever an earlier attempt was cut off; returns the run's id.

    again: ask the store even where it is known to have it all. Call with the record's lock. Raises
    StoreAway where the store may take it later, another InputError where it will not take this record
    as it is; never anything else, because what follows must not hang on it.
    """
    try:
        return _send(kept, parent_run, time.monotonic() + most, again)
    except InputError:
        raise
    except Exception as error:
        # MLflow's own errors are the store's answers; another one is a mistake of ours, to be seen.
        if not type(error).__module__.startswith("mlflow"):
            click.echo(traceback.format_exc(), err=True)
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise Refused(f"{address()} does not take {kept.folder.name}: {first[:300]}") from error


def _send(kept: Kept, parent_run: str, until: float, again: bool) -> str:
    if not again and (run_id := outbox.delivered(kept.folder, kept.record.status)):
        return run_id

    def in_time() -> None:
        if time.monotonic() > until:
            raise StoreAway(f"the tracking store {address()} answers too slowly to wait for it now")

    if kept.record.kind == "study":
        kept = _agreed(kept)
    if kept.parent and not parent_run:
        parent_run = _parent(kept, until - time.monotonic())
        if delivery.taken(kept):
            kept = replace(kept, record=replace(kept.record, kind=AGAIN))
    in_time()
    run_id, done = delivery.open_run(kept, parent_run)
    if kept.record.kind == "study":
        _still_agreed(kept, run_id)
    if not done:
        in_time()
        delivery.fill(run_id, kept)
        in_time()
        if kept.record.model:
            _send_model(kept, run_id)
        in_time()
        delivery.close(run_id, kept)
    try:
        outbox.receipt(kept, run_id)
    except OSError as error:  # the next delivery finds the run, and adds nothing to it
        _say(f"Run {run_id} is whole; {kept.folder} cannot say so ({error})")
    return run_id


def _send_model(kept: Kept, run_id: str) -> None:
    """A model that is broken on disk must not hold the numbers back: the run says so instead."""
    tags = kept.record.tags
    try:
        log_model(run_id, tags["framework"], tags["workload"], kept.folder)
    except StoreAway:
        raise
    except InputError as error:
        write.set_tags(run_id, {"unsaved": str(error)[:500]})
        _say(f"The model of run {run_id} is missing: {error}")


def _parent(kept: Kept, most: float) -> str:
    """The run above a record's own, sent first where the store has none."""
    folder = outbox.folder_of(kept.parent, kept.folder.parent)
    if folder and (run_id := outbox.receipts(folder).get(address(), {}).get("run_id")):
        return run_id
    if run_id := delivery.find(kept.parent):
        return run_id
    if folder:
        return send_folder(folder, most)
    tags = kept.record.tags
    for study in read.studies():
        if (study.name, study.machine) == (tags.get("study"), tags.get("machine")):
            return study.run_id
    raise InputError(
        f"the record {kept.parent}, whose run is above its own, is neither in the store nor in "
        f"{kept.folder.parent}; put its folder back there"
    )


def send_folder(folder: Path, most: float = float("inf")) -> str:
    """`send` of a record on disk, once nobody else works on it. One that was cut off while it was
    measured is sent as KILLED, with the events that it has. Raises InputError as `send` does."""
    with outbox.locked(folder) as free:
        if not free and outbox.read(folder).running:
            raise Busy(f"{folder.name} is being measured; the command that does will send it")
    with outbox.locked(folder, _WAIT_SECONDS) as got:
        if not got:
            raise Busy(f"{folder.name} is in use by another process")
        disk.sweep(folder)
        kept = outbox.read(folder)  # now: the other one may have changed it
        if kept.running:
            kept = _ended(kept)
        return send(kept, most=most)


def _ended(kept: Kept) -> Kept:
    """A record that says RUNNING, of a process that is gone. Raises InputError."""
    # A trial may be whole in the store, from memory, where the disk was full. A study that was whole
    # may have gone on since.
    whole = delivery.status(kept.id) if kept.record.kind != "study" else ""
    try:
        return outbox.with_status(kept, whole) if whole else outbox.cut_off(kept)
    except OSError as error:
        raise InputError(f"{kept.folder} cannot be written ({error.strerror})") from None


def _agreed(kept: Kept) -> Kept:
    """A study's record, which goes on with the run that the store has of this machine's part, if
    there is one. Raises InputError where the store has another study of that name."""
    name, plan = kept.record.tags["study"], json.loads(kept.record.tags["design"])
    known = [study for study in read.studies() if study.name == name]
    own = next((study for study in known if study.machine in ("", plan["machine"])), None)
    agreement.check(plan, [study for study in known if study is not own])
    if own is None:
        return kept
    if changed := agreement.changed(own.design, plan):
        raise InputError(
            f"study '{name}' exists with another {changed[0]} ({own.design.get(changed[0])} against "
            f"{plan[changed[0]]}); use the same options to go on, or another name"
        )
    if not own.blocks and names.BLOCKS not in kept.record.tags:
        return replace(kept, run_id=own.run_id)
    # Each part is a run, which goes on from its own record or with its own blocks.
    run_id = delivery.find(kept.id)
    if not run_id and _blocks(kept, own.pairs) == own.blocks[:1]:
        run_id = own.run_id
    if run_id not in own.runs:
        raise InputError(
            f"study '{name}' has a part in this store already; expected a store of its own for every part: "
            "use another one here, and `publish` it afterwards"
        )
    return replace(kept, run_id=run_id)


def _blocks(kept: Kept, pairs: int) -> tuple[range, ...]:
    text = kept.record.tags.get(names.BLOCKS)
    return (part(text, pairs),) if text else ()


def _still_agreed(kept: Kept, run_id: str) -> None:
    """Each of two that start writes before it reads, so at least one sees the other: then its run is
    taken back. Raises InputError."""
    name, plan = kept.record.tags["study"], json.loads(kept.record.tags["design"])
    known = [study for study in read.studies() if study.name == name]
    known = [study for study in known if run_id not in study.runs]
    try:
        agreement.check(plan, known)
    except InputError:
        delivery.take_back(run_id)
        raise


# --- the command


class Line(NamedTuple):
    """What became of a record. outcome: delivered, left, measuring."""

    name: str
    outcome: str
    text: str


def deliver(base: Path, copies: bool = False) -> tuple[list[Line], int]:
    """(what became of every record that no store has, how many it had already). copies: also of those
    that another store has."""
    outbox.forget_unborn(base)
    wanted, lines, there = [], [], 0
    for folder in outbox.folders(base):
        try:
            kept = outbox.read(folder)
        except InputError as error:
            lines.append(Line(folder.name, "left", str(error)))
            continue
        known = (
            outbox.delivered(folder, kept.record.status) and not kept.running
        )  # or it was killed
        if known or (outbox.elsewhere(folder) and not copies):
            there += 1
        else:
            wanted.append(kept)
    wanted.sort(key=lambda kept: (bool(kept.parent), kept.started_seconds))  # parents first
    away = ""
    for kept in terminal.each(wanted, f"delivering to {address()}"):
        if away:
            lines.append(Line(kept.record.name, "left", away))
            continue
        try:
            run_id = send_folder(kept.folder)
        except Busy as error:
            lines.append(
                Line(kept.record.name, "measuring" if kept.running else "left", str(error))
            )
        except StoreAway as error:
            away = str(error)
            lines.append(Line(kept.record.name, "left", away))
        except InputError as error:
            lines.append(Line(kept.record.name, "left", f"{error} ({kept.folder})"))
        else:
            killed = kept.running and outbox.read(kept.folder).record.status == "KILLED"
            cut = " (cut off while it was measured: KILLED)" if killed else ""
            lines.append(Line(kept.record.name, "delivered", f"run {run_id}{cut}"))
    return lines, there


def table(lines: Sequence[Line], there: int) -> str:
    """A line for each record, then the counts."""
    width = max((len(line.name) for line in lines), default=0)
    shown = [f"{line.outcome:<10} {line.name:<{width}}  {line.text}" for line in lines]
    count = {word: sum(line.outcome == word for line in lines) for word in ("delivered", "left")}
    shown.append(
        f"{count['delivered']} delivered, {count['left']} left, {there} that were there already"
    )
    return "\n".join(shown)


@click.command(
    cls=Command, help=__doc__, example="mlflow run . -e deliver -P records=mlruns/records"
)
@click.option("--records", default=str(outbox.RECORDS), show_default=True, help="their folder")
@click.option("--copies", type=bool, default=False, show_default=True,
              help="also what another store has: it is copied to this one")  # fmt: skip
def main(records: str, copies: bool) -> None:
    base = Path(records).expanduser()
    if records != str(outbox.RECORDS) and not base.is_dir():
        raise InputError(f"records={records} is no folder; expected one of records")
    with patient():
        lines, there = deliver(base, copies)
        text = table(lines, there)
        click.echo(text)
        terminal.result(records=[line._asdict() for line in lines], there_already=there)
        left = any(line.outcome == "left" for line in lines)
        if not left:
            write.attach_text(write.adopt("deliver", "deliver"), text + "\n", "deliver.txt")
    sys.exit(UNDELIVERED if left else 0)


if __name__ == "__main__":
    main()

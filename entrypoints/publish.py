"""`publish`: move a history, as a laptop's SQLite store, to the tracking store in use: each run once, whole,
with where it came from.

    MLFLOW_TRACKING_URI=https://lab.example.org mlflow run . -e publish -P source=sqlite:///mlflow.db

Run again after an interruption it completes what was begun; run again later it adds what is new. Nothing
is taken from the source.
"""

from __future__ import annotations

import csv
import io
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path

import click

from entrypoints import terminal
from entrypoints.options import Command
from measurement.errors import InputError
from tracking import transfer, transfer_models, write
from tracking.contents import Store, readable
from tracking.store import StoreAway, address, patient
from tracking.transfer import Moved, Totals, Transfer

_SHOWN = 20
_WORDS = (transfer.NEW, transfer.COMPLETED, transfer.UPDATED, transfer.THERE, transfer.DELIVERED,
          transfer.GONE, transfer.REFUSED)  # fmt: skip


def summary(totals: Totals, dry: bool, seconds: float) -> str:
    """Two lines: the runs by what became of them, and what of them was read back."""
    count = sum(totals.states.values())
    states = ", ".join(f"{totals.states[word]:,} {word}" for word in _WORDS if totals.states[word])
    first = f"{count:,} runs of {len(totals.experiments)} experiments to {address()}: {states or 'none'}"
    what = (
        f"{totals.points:,} points of metrics, {totals.params:,} parameters, {totals.tags:,} tags, "
        f"{totals.datasets:,} data sets, {totals.models:,} models, {totals.files:,} files of "
        f"{totals.file_bytes / 1e6:,.1f} MB"
    )
    if dry:
        return f"{first}\nTo be written: {what}; nothing was written"
    return f"{first}\nWritten, read back and found equal: {what}, in {seconds:.1f} s"


def table(moved: Iterable[Moved]) -> str:
    """What became of each run, as CSV."""
    text = io.StringIO()
    out = csv.DictWriter(text, [field.name for field in fields(Moved)], lineterminator="\n")
    out.writeheader()
    out.writerows(asdict(one) for one in moved)
    return text.getvalue()


def _opened(source: str, artifacts: str) -> Store:
    if "://" not in source and ":/" not in source and Path(source).is_file():
        source = f"sqlite:///{source}"
    if _same(source, address()):
        raise InputError(
            f"source and tracking store are the same, {address()}; expected two: set "
            "MLFLOW_TRACKING_URI to the server"
        )
    folder = None if artifacts in ("auto", "none") else Path(artifacts).expanduser()
    if folder is not None and not folder.is_dir():
        raise InputError(
            f"artifacts: there is no folder '{artifacts}'; expected auto, none, or the folder that "
            "holds the source's files (its mlruns, or the artifacts of its server)"
        )
    with readable(source):
        return Store(source, folder, files=artifacts != "none")


def _same(first: str, second: str) -> bool:
    def plain(uri: str) -> str:
        if not uri.startswith("sqlite:///"):
            return uri.rstrip("/")
        return os.path.realpath(uri.removeprefix("sqlite:///").partition("?")[0])

    return plain(first) == plain(second)


@click.command(
    cls=Command, help=__doc__, example="mlflow run . -e publish -P source=sqlite:///mlflow.db"
)
@click.option(
    "--source", default="sqlite:///mlflow.db", show_default=True,
    help="The store to copy from: sqlite:///FILE, the file itself, or the address of a server.",
)  # fmt: skip
@click.option(
    "--artifacts", default="auto", show_default=True,
    help="auto: where the source says, or mlruns beside it; a folder; none: no files, no models.",
)  # fmt: skip
@click.option(
    "--experiment", default="same", show_default=True,
    help="same: each run to the experiment of its own name; else the name of one for all.",
)  # fmt: skip
@click.option(
    "--studies", default="all", show_default=True, help="Names of studies with commas, or all runs."
)
@click.option(
    "--registered_models", type=bool, default=False, show_default=True,
    help="Registered versions too; an alias that the server has given stays where it is.",
)  # fmt: skip
@click.option(
    "--dry_run", type=bool, default=False, show_default=True, help="Say what would be written."
)
def main(
    source: str, artifacts: str, experiment: str, studies: str, registered_models: bool, dry_run: bool
) -> None:  # fmt: skip
    opened = _opened(source, artifacts)
    named = () if studies == "all" else tuple(name.strip() for name in studies.split(","))
    began, found, lines = time.monotonic(), list[Moved](), list[str]()
    with patient():
        run_id = write.adopt("publish", "publish a history")
        click.echo("reading both stores", err=True)
        moving = Transfer(opened, "" if experiment == "same" else experiment, dry_run, named)
        away = _all(moving, found)
        if not away and registered_models and not dry_run:
            with readable(source):
                lines = transfer_models.registered(opened, moving.target, moving.ids)
        if run_id and not away:
            write.attach_text(run_id, table(found), "published.csv")
    totals = moving.totals
    click.echo(summary(totals, dry_run, time.monotonic() - began))
    for line in lines:
        click.echo(line)
    wrong = [one for one in found if one.problem]
    for one in wrong[:_SHOWN]:
        click.echo(f"! run {one.origin} ({one.name}): {one.problem}", err=True)
    if len(wrong) > _SHOWN:
        click.echo(f"! and {len(wrong) - _SHOWN} more", err=True)
    terminal.result(runs=found, totals=totals, store=address(), dry_run=dry_run)
    if away:
        left = len(moving.heads) - len(found)
        terminal.error(f"{away}; {left} of {len(moving.heads)} runs are left: start again to go on")
        sys.exit(terminal.UNDELIVERED)
    if totals.states[transfer.REFUSED]:
        sys.exit(terminal.FOUND)


def _all(moving: Transfer, found: list[Moved]) -> str:
    """Moves every run, with the time that is left; returns why it could not go on, or ""."""
    steps = 2 * len(moving.heads)  # a run is written, and read back
    with terminal.progress(steps, "runs written and read back") as step:
        try:
            for one in moving.move(lambda count: step("", count)):
                found.append(one)
        except StoreAway as error:
            return _hint(str(error))
    return ""


def _hint(text: str) -> str:
    if "403" not in text:
        return text
    return f"{text}, or name by experiment=NAME one that you may write to"


if __name__ == "__main__":
    main()

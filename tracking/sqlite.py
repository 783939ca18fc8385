"""A new SQLite store is there whole or not at all, and whoever reads or writes one waits for its turn."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import sqlalchemy
from mlflow.store.db import utils

BUSY_MILLISECONDS = 60_000
"""That a read or write waits for those of other processes; Python's default is 5 seconds, and MLflow
sets 20 where it opens a session of its own."""


@sqlalchemy.event.listens_for(sqlalchemy.Engine, "connect")
def _patient(connection: Any, _record: Any) -> None:
    if isinstance(connection, sqlite3.Connection):
        connection.execute(f"PRAGMA busy_timeout = {BUSY_MILLISECONDS}")


def make(uri: str) -> None:
    """Makes the database that `uri` names, if it is one of SQLite and missing.

    MLflow makes it where it lies, by some hundred changes of its tables that are no transaction and
    that no lock guards (3.17): killed between two of them, or met there by another process, the store
    is refused for ever. So it is made beside, by one process at a time, and then renamed.
    """
    if not uri.startswith("sqlite"):
        return
    database = sqlalchemy.make_url(uri).database
    if not database or database.startswith((":memory:", "file:")) or Path(database).exists():
        return
    path = Path(database).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path.parent):
        if path.exists():
            return
        new = path.with_name(path.name + ".new")
        for left in (new, new.with_name(new.name + "-journal")):
            left.unlink(missing_ok=True)  # of a process that was killed
        engine = utils.create_sqlalchemy_engine_with_retry(f"sqlite:///{new}")
        try:
            utils._initialize_tables(engine)
        finally:
            engine.dispose()
        new.replace(path)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time. The lock is the folder's own and ends with the process: no file stays."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)

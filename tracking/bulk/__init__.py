"""Many runs at once: parameters, tags and last metrics as `Found`, metric histories as columns.

MLflow's own client makes one object per value and one request per run and metric. Here a store is
read in the few large reads that it allows, by one of three ways, chosen by the tracking URI:

    a server (http, https)  pages of `runs/search` and of `metrics/get-history-bulk`, in parallel
    a database              SELECTs on the tables of a schema version that is known here
    anything else           MLflow's client, run by run; a log line says so

All three give the same values as MLflow does: NaN is NaN, and an infinite value of a database is
the largest double, because that is what MLflow stores.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol
from urllib.request import url2pathname

import mlflow
from mlflow.exceptions import MlflowException

from measurement.errors import InputError
from measurement.untrusted import shown
from tracking.bulk import client, database, server
from tracking.bulk.columns import Found, Histories, Points, Wanted
from tracking.store import address, reachable

__all__ = ["Found", "Histories", "folders", "histories", "runs"]

_log = logging.getLogger(__name__)
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")


class Source(Protocol):
    """What each of the three modules offers."""

    def runs(self, uri: str, wanted: Wanted) -> list[Found]: ...

    def points(self, uri: str, run_ids: Sequence[str], metrics: Sequence[str]) -> Points: ...


def runs(
    tags: Mapping[str, str] | None = None,
    status: str | None = None,
    run_ids: Sequence[str] | None = None,
    deleted: bool = False,
) -> list[Found]:
    """Active runs of all active experiments that carry these tags, oldest first; with `deleted` those
    too that were deleted, alone or with their experiment, and not yet removed for good.

    tags: all of them, compared exactly. status: FINISHED, RUNNING, ...; None = any. run_ids: only
    these; one that does not exist is left out. Raises InputError when the store cannot be reached,
    or when a tag or an id holds a quote, which MLflow's filters cannot carry.
    """
    for text in (*(tags or {}).keys(), *(tags or {}).values(), *(run_ids or ())):
        if "'" in text or "`" in text:
            raise InputError(f"{text!r} holds a quote; use letters, digits, '.', '_' and '-'")
    wanted = Wanted(dict(tags or {}), status, None if run_ids is None else tuple(run_ids), deleted)
    with reachable(), _as_mlflow_writes():
        uri = mlflow.get_tracking_uri()
        found = source(uri).runs(uri, wanted)
    return sorted(found, key=lambda run: (run.start_milliseconds, run.run_id))


def histories(run_ids: Sequence[str], metrics: Sequence[str]) -> Histories:
    """Every logged point of these metrics of these runs; what was never logged has no point.

    Raises InputError when the store cannot be reached.
    """
    run_ids, metrics = tuple(dict.fromkeys(run_ids)), tuple(dict.fromkeys(metrics))
    with reachable(), _as_mlflow_writes():
        uri = mlflow.get_tracking_uri()
        points = source(uri).points(uri, run_ids, metrics) if run_ids and metrics else []
        return Histories.of(run_ids, metrics, points)


def folders(run_ids: Sequence[str]) -> dict[str, Path]:
    """run id -> the folder of its artifacts, of those that lie on a disk of this machine. MLflow's client
    asks the store run by run. Raises InputError when the store cannot be reached."""
    with reachable(), _as_mlflow_writes():
        uri = mlflow.get_tracking_uri()
        if not run_ids or source(uri) is not database:
            return {}
        found = database.artifact_uris(uri, tuple(dict.fromkeys(run_ids)))
    return {
        run_id: Path(url2pathname(place.removeprefix("file://")))
        for run_id, place in found.items()
        if place.startswith(("/", "file:///"))
    }


@contextmanager
def _as_mlflow_writes() -> Iterator[None]:
    """Turns an answer of another form than MLflow's into an InputError: a database takes text for a
    number, and what answers as a server need not be one."""
    try:
        yield
    except (InputError, MlflowException):
        raise
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(
            f"the tracking store {address()} holds or answers what MLflow does not write "
            f"({type(error).__name__}: {shown(str(error))}); expected an MLflow store: set "
            "MLFLOW_TRACKING_URI, or repair it"
        ) from error


def source(uri: str) -> Source:
    """The way in which a store is read."""
    scheme = uri.partition(":")[0].lower()
    if scheme in ("http", "https"):
        return server
    if scheme.partition("+")[0] not in _DATABASES:
        _log.warning("a store of kind '%s' is read run by run through MLflow: slower", scheme)
        return client
    if (revision := database.revision(uri)) not in database.REVISIONS:
        _log.warning(
            "the database schema %s is not known here: reading run by run through MLflow, slower",
            revision,
        )
        return client
    return database

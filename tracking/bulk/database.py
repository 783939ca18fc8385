"""A tracking database read with SELECTs, for the schema versions that are known here.

The tables are MLflow's own definitions; the version is Alembic's, as the database states it. Which
experiments there are is asked through MLflow's client, so that its rules of access stay in force.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy
from mlflow.store.db.utils import create_sqlalchemy_engine_with_retry
from mlflow.store.tracking.dbmodels.models import (
    SqlLatestMetric,
    SqlMetric,
    SqlParam,
    SqlRun,
    SqlTag,
)
from sqlalchemy import Connection, func, select

from tracking.bulk.client import experiment_ids
from tracking.bulk.columns import Found, Part, Points, Wanted, chunks, places

# Heads of MLflow's migrations whose tables were compared with the statements below.
REVISIONS = frozenset({"dc11669786a5"})  # MLflow 3.17

# Core tables: rows come as tuples, without an object of MLflow's for each.
_RUN, _PARAM, _TAG, _POINT, _LAST = (
    model.__table__.c for model in (SqlRun, SqlParam, SqlTag, SqlMetric, SqlLatestMetric)
)

_RUNS = 250  # runs in one statement: SQLite before 3.32 takes 999 parameters
_ROWS = 1000  # points held as Python objects at a time: with 50,000 garbage collection takes half the time


def revision(uri: str) -> str | None:
    """The version of the database's schema; a new database is made first, as MLflow does."""
    experiment_ids(uri)
    with connected(uri) as connection:
        return connection.scalar(sqlalchemy.text("SELECT version_num FROM alembic_version"))


def runs(uri: str, wanted: Wanted) -> list[Found]:
    """Four statements per 250 runs."""
    experiments = [int(experiment) for experiment in experiment_ids(uri, wanted.deleted)]
    with connected(uri) as connection:
        heads = _heads(connection, experiments, wanted)
        shared: dict[str, str] = {}  # most values are the same in many runs: kept once
        found: list[Found] = []
        for ids in chunks([*heads], _RUNS):
            params, tags = (_texts(connection, table, ids, shared) for table in (_PARAM, _TAG))
            metrics = _last_metrics(connection, ids)
            for run_id in ids:
                name, status, start, stage = heads[run_id]
                found.append(
                    Found(
                        run_id=run_id,
                        name=name or tags[run_id].get("mlflow.runName", ""),
                        status=status,
                        start_milliseconds=start,
                        params=params[run_id],
                        tags=tags[run_id],
                        metrics=metrics[run_id],
                        deleted=stage == "deleted",
                    )
                )
    # Again, because a database may compare text without regard to case.
    return [run for run in found if wanted.tags.items() <= run.tags.items()]


def points(uri: str, run_ids: Sequence[str], metrics: Sequence[str]) -> Points:
    """One statement per 250 runs."""
    run_places, metric_places = places(run_ids), places(metrics)
    # A bare `key IN` makes SQLite walk its index of keys: every point of the store, per statement.
    named = func.coalesce(_POINT.key, "").in_(metrics)
    with connected(uri) as connection:
        for ids in chunks(run_ids, _RUNS):
            statement = select(
                _POINT.run_uuid,
                _POINT.key,
                _POINT.step,
                _POINT.value,
                _POINT.is_nan,
                _POINT.timestamp,
            ).where(_POINT.run_uuid.in_(ids), named)
            for rows in connection.execute(statement).partitions(_ROWS):
                yield Part.of(
                    [run_places[row[0]] for row in rows],
                    [metric_places[row[1]] for row in rows],
                    [row[2] for row in rows],
                    [math.nan if row[4] else row[3] for row in rows],
                    [row[5] for row in rows],
                )


def artifact_uris(uri: str, run_ids: Sequence[str]) -> dict[str, str]:
    """run id -> where its artifacts are, of those that exist. One statement per 250 runs."""
    found: dict[str, str] = {}
    with connected(uri) as connection:
        for ids in chunks(run_ids, _RUNS):
            statement = select(_RUN.run_uuid, _RUN.artifact_uri).where(_RUN.run_uuid.in_(ids))
            found |= {run_id: place or "" for run_id, place in connection.execute(statement)}
    return found


@contextmanager
def connected(uri: str) -> Iterator[Connection]:
    """With MLflow's own settings of the pool and of TLS."""
    engine = create_sqlalchemy_engine_with_retry(uri)
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def _heads(
    connection: Connection, experiments: list[int], wanted: Wanted
) -> dict[str, tuple[str, str, int, str]]:
    """run id -> name, status, start, whether active or deleted."""
    statement = select(
        _RUN.run_uuid, _RUN.name, _RUN.status, _RUN.start_time, _RUN.lifecycle_stage
    ).where(_RUN.experiment_id.in_(experiments))
    if not wanted.deleted:
        statement = statement.where(_RUN.lifecycle_stage == "active")
    if wanted.status:
        statement = statement.where(_RUN.status == wanted.status)
    for key, value in wanted.tags.items():
        tagged = select(_TAG.run_uuid).where(_TAG.key == key, _TAG.value == value)
        statement = statement.where(_RUN.run_uuid.in_(tagged))
    some = [None] if wanted.run_ids is None else chunks(wanted.run_ids, _RUNS)
    rows: list[Any] = []
    for ids in some:
        limited = statement if ids is None else statement.where(_RUN.run_uuid.in_(ids))
        rows += connection.execute(limited)
    return {run_id: tuple(rest) for run_id, *rest in rows}


def _texts(
    connection: Connection, table: Any, ids: Sequence[str], shared: dict[str, str]
) -> dict[str, dict[str, str]]:
    """Parameters or tags: run id -> key -> value."""
    found: dict[str, dict[str, str]] = {run_id: {} for run_id in ids}
    statement = select(table.run_uuid, table.key, table.value).where(table.run_uuid.in_(ids))
    for run_id, key, value in connection.execute(statement):
        found[run_id][sys.intern(key)] = shared.setdefault(value, value)
    return found


def _last_metrics(connection: Connection, ids: Sequence[str]) -> dict[str, dict[str, float]]:
    """run id -> metric -> last value."""
    found: dict[str, dict[str, float]] = {run_id: {} for run_id in ids}
    statement = select(_LAST.run_uuid, _LAST.key, _LAST.value, _LAST.is_nan)
    for run_id, key, value, is_nan in connection.execute(statement.where(_LAST.run_uuid.in_(ids))):
        found[run_id][sys.intern(key)] = math.nan if is_nan else value
    return found

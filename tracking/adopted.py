"""The run that `mlflow run` opens before this project's code starts. MLflow writes the user's name, the
project's folder or git remote (with whatever credentials are in it) and every parameter as it was typed:
what is private of that is taken out first of all, before anything of ours is written.

Tags can be changed through MLflow. The column `user_id` and parameters cannot: of a database, whose
schema is known here, they are changed by SQL; of a server a line says what stays, and how to avoid it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import mlflow
import sqlalchemy
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from sqlalchemy import Connection

from tracking import bulk, private
from tracking.bulk import database
from tracking.store import reachable

_USER, _SOURCE = "mlflow.user", "mlflow.source.name"
UNKNOWN = "unknown"  # what MLflow itself writes of a run that no `mlflow run` opened
_STATEMENTS = {
    "user": "UPDATE runs SET user_id = :value WHERE run_uuid = :run",
    "tag": "UPDATE tags SET value = :value WHERE run_uuid = :run AND key = :key",
    "param": "UPDATE params SET value = :value WHERE run_uuid = :run AND key = :key",
}


def tidy() -> None:
    """Takes out what is private of the run of this command, if `mlflow run` has opened one. Raises
    InputError where the store cannot be reached."""
    run_id = os.environ.get("MLFLOW_RUN_ID")
    if not run_id:
        return
    with reachable():
        client = MlflowClient()
        run = client.get_run(run_id)
        tags, params = _tags(run), _params(run)
        user = run.info.user_id if _names(run.info.user_id) else ""
        if not (tags or params or user):
            return
        uri = mlflow.get_tracking_uri()
        if bulk.source(uri) is database:
            with database.connected(uri) as connection:
                _write(connection, run_id, tags, params)
            return
        for key, value in tags.items():
            client.set_tag(run_id, key, value)
    if user:
        _say(
            f"the tracking server keeps your user name '{user}' as the user of run {run_id}, which no "
            f"client can change; start with LOGNAME={UNKNOWN} to leave it out"
        )
    for key in params:
        _say(
            f"the parameter {key} of run {run_id} is kept by the tracking server as it was typed, with "
            "a private name in it; write ~ for your home folder"
        )


def _tags(run: Run) -> dict[str, str]:
    """The tags to change."""
    changed = {key: private.clean(value) for key, value in run.data.tags.items()}
    if private.kept():  # names and folders; credentials are gone by now
        return {key: value for key, value in changed.items() if value != run.data.tags[key]}
    if _USER in changed:
        changed[_USER] = UNKNOWN
    source = changed.get(_SOURCE, "")
    if source.startswith(("/", "~", "file:")) or "\\" in source:  # a folder here: its name will do
        changed[_SOURCE] = Path(source.replace("\\", "/")).name
    return {key: value for key, value in changed.items() if value != run.data.tags[key]}


def _params(run: Run) -> dict[str, str]:
    changed = {key: private.clean(value) for key, value in run.data.params.items()}
    return {key: value for key, value in changed.items() if value != run.data.params[key]}


def _names(user: str | None) -> bool:
    """Whether it is anybody's name: root and the like are on every machine."""
    if private.kept():
        return False
    return bool(user) and user != UNKNOWN and not private.ordinary(str(user))


def _write(
    connection: Connection, run_id: str, tags: dict[str, str], params: dict[str, str]
) -> None:
    if connection.dialect.name == "sqlite":  # or the old bytes would stay in the file
        connection.exec_driver_sql("PRAGMA secure_delete = ON")
    changes = [] if private.kept() else [("user", "", UNKNOWN)]
    changes += [("tag", key, value) for key, value in tags.items()]
    changes += [("param", key, value) for key, value in params.items()]
    for kind, key, value in changes:
        values = {"run": run_id, "value": value} | ({"key": key} if key else {})
        connection.execute(sqlalchemy.text(_STATEMENTS[kind]), values)
    connection.commit()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)

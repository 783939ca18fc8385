"""The store is reached here, or the user reads one line about why it is not."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import mlflow
import sqlalchemy
from mlflow.exceptions import MlflowException
from mlflow.store.db import utils
from mlflow.tracking import MlflowClient
from requests.exceptions import RequestException
from sqlalchemy.exc import SQLAlchemyError

from measurement.errors import InputError
from tracking import OURS, private, sqlite

# A database that is away: MLflow asks ten times, for 100 s. What is measured waits on disk meanwhile.
utils.MAX_RETRY_COUNT = 4
_CONNECT_SECONDS = 5.0
_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


class StoreAway(InputError):
    """The store cannot be reached, or not written, now; later it may."""


# What MLflow's own errors say of a store that may work later, or with other credentials.
_AWAY = frozenset({
    "INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "PERMISSION_DENIED",
    "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED",
})  # fmt: skip
_TECHNICAL = (
    "Max retries", "API request", "unable to open database", "readonly database",
    "OperationalError", "No space left", "disk is full",
)  # fmt: skip


# What libraries say in many words.
_PLAIN = {
    "error code 401": "401, not authenticated",
    "error code 403": "403, not allowed",
    "Connection refused": "connection refused",
    "timed out": "no answer in time",
    "Name or service not known": "no such host",
    "Connection aborted": "it broke the connection",
    "RemoteDisconnected": "it broke the connection",
    "too many 500": "it answers with an internal error, 500",
    "too many 503": "it answers that it is not available, 503",
}


@contextmanager
def reachable() -> Iterator[None]:
    """Turns a store that cannot be reached or written into a StoreAway; other errors pass."""
    try:
        uri = mlflow.get_tracking_uri()
        _knock(uri)
        sqlite.make(uri)
        yield
    except (RequestException, SQLAlchemyError, OSError) as error:
        raise _unreachable(error) from None
    except MlflowException as error:
        if not away(error):
            raise
        raise _unreachable(error) from None


def away(error: MlflowException) -> bool:
    """Whether the store may do later, or with other credentials, what it refused."""
    return error.error_code in _AWAY or any(words in str(error) for words in _TECHNICAL)


def _unreachable(error: Exception) -> StoreAway:
    text = private.clean(str(error).strip())  # MLflow's own words hold the whole address
    reason = next(
        (plain for words, plain in _PLAIN.items() if words in text),
        text.splitlines()[0][:200] if text else type(error).__name__,
    )
    if re.search(r"error code 40[13]\b|PERMISSION_DENIED|UNAUTHENTICATED", str(error)):
        return StoreAway(
            f"the tracking store {address()} refuses the credentials ({reason}); expected valid ones: set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )
    return StoreAway(
        f"the tracking store {address()} cannot be used ({reason}); expected a running server or a "
        "writable folder: start it, or set MLFLOW_TRACKING_URI"
    )


def _knock(uri: str) -> None:
    """Raises OSError where the server of a database does not take a connection; a driver waits for
    minutes for one that drops what it is sent. MLflow has a time limit for its own servers."""
    kind = uri.partition(":")[0].partition("+")[0]
    if kind in _PORTS:
        found = sqlalchemy.make_url(uri)
        if found.host and not found.host.startswith("/"):  # a folder: the socket of this machine
            place = found.host, found.port or _PORTS[kind]
            socket.create_connection(place, _CONNECT_SECONDS).close()


def address() -> str:
    """The store's URI without credentials."""
    return private.address(mlflow.get_tracking_uri())


def prepare(experiment: str = "") -> str:
    """Opens the store once, so that a new database is made by one process, and returns the id of
    the experiment to log to: the one of that name, else the one that MLflow names in the environment,
    or its default.

    By id, because `mlflow.set_experiment` loses runs into "Default" when two clients race.
    """
    with reachable():
        client = MlflowClient()
        if not experiment and (given := os.environ.get("MLFLOW_EXPERIMENT_ID")):
            return given
        name = experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME")
        if not name:
            client.get_experiment("0")
            return "0"
        for _ in range(2):
            if found := client.get_experiment_by_name(name):
                return str(found.experiment_id)
            try:
                return str(client.create_experiment(name))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
        raise InputError(f"the experiment '{name}' was deleted; restore it or name another one")


@contextmanager
def once() -> Iterator[None]:
    """No retries by MLflow: one whose answer was lost would make a second run, or a second model."""
    with _set("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0"):
        yield


@contextmanager
def patient() -> Iterator[None]:
    """Waits a minute for each answer, where the user has not said how long: for a command that has
    nothing else to do."""
    if "MLFLOW_HTTP_REQUEST_TIMEOUT" not in OURS:
        yield
        return
    with _set("MLFLOW_HTTP_REQUEST_TIMEOUT", "60"):
        yield


@contextmanager
def _set(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before

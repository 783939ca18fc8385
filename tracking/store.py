"""The store is reached here, or the user reads one line about why it is not."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from requests.exceptions import RequestException
from sqlalchemy.exc import SQLAlchemyError

from measurement.errors import InputError
from tracking import sqlite


@contextmanager
def reachable() -> Iterator[None]:
    """Turns a store that cannot be reached or written into an InputError; other errors pass."""
    try:
        sqlite.make(mlflow.get_tracking_uri())
        yield
    except (RequestException, SQLAlchemyError, OSError) as error:
        raise _unreachable(error) from None
    except MlflowException as error:
        text = str(error)
        technical = ("Max retries", "API request", "unable to open database", "readonly database")
        if not any(words in text for words in technical):
            raise
        raise _unreachable(error) from None


def _unreachable(error: Exception) -> InputError:
    reason = (
        str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
    )
    return InputError(
        f"the tracking store {address()} cannot be used ({reason}); expected a running server or a "
        "writable folder: start it, or set MLFLOW_TRACKING_URI"
    )


def address() -> str:
    """The store's URI without credentials."""
    return re.sub(r"//[^/@]*@", "//", mlflow.get_tracking_uri())


def prepare() -> str:
    """Opens the store once, so that a new database is made by one process, and returns the id of
    the experiment to log to: the one MLflow names in the environment, or its default.

    By id, because `mlflow.set_experiment` loses runs into "Default" when two clients race.
    """
    with reachable():
        client = MlflowClient()
        if given := os.environ.get("MLFLOW_EXPERIMENT_ID"):
            return given
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME")
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

"""Files of one run: by name, or those of its model."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from measurement.errors import InputError
from tracking import bulk
from tracking.bulk import Found
from tracking.store import reachable

MOST_TEXT_BYTES = 10 << 20


def found(run_id: str) -> Found | None:
    """A run as the store holds it; None where there is none of that id."""
    runs = bulk.runs(run_ids=[run_id])
    return runs[0] if runs else None


def text(run_id: str, name: str) -> str | None:
    """A text file of a run; None where the run has none of that name. Raises InputError for one of
    more than 10 MB, which this project writes none of."""
    with tempfile.TemporaryDirectory() as folder, reachable():
        client = MlflowClient()
        sizes = {file.path: file.file_size or 0 for file in client.list_artifacts(run_id)}
        if name not in sizes:
            return None
        if sizes[name] > MOST_TEXT_BYTES:
            raise InputError(
                f"run {run_id}: its {name} has {sizes[name]:,} bytes; expected one that a trial wrote"
            )
        return Path(client.download_artifacts(run_id, name, folder)).read_text(encoding="utf-8")


@contextmanager
def model(run_id: str, name: str) -> Iterator[Path | None]:
    """A folder, while it is open, with the files of a run's newest model, or of its artifact folder
    `name` where it has no MLflow model; None where it has neither."""
    with tempfile.TemporaryDirectory() as folder:
        with reachable():
            client = MlflowClient()
            outputs = client.get_run(run_id).outputs
            place = _download(
                [f"models:/{output.model_id}" for output in outputs.model_outputs][-1:]
                if outputs and outputs.model_outputs
                else [f"runs:/{run_id}/{file.path}" for file in client.list_artifacts(run_id)
                      if file.path == name],
                folder,
            )  # fmt: skip
        yield place


def _download(uris: list[str], folder: str) -> Path | None:
    try:
        return Path(mlflow.artifacts.download_artifacts(uris[0], dst_path=folder)) if uris else None
    except (MlflowException, OSError):  # its files are gone: there is nothing to compare with
        return None

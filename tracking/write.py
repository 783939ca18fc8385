"""What a run is made of, and single writes to one. Records go to their runs by tracking.delivery."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow
import pyarrow.parquet
from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient

from tracking import names, private
from tracking.store import prepare, reachable


@dataclass(frozen=True)
class Point:
    """One value of a metric: epoch (or sample) number and wall-clock time in seconds."""

    name: str
    value: float
    step: int
    seconds: float


@dataclass(frozen=True)
class Record:
    """What something that was measured says to its run. files: whether its folder holds artifacts.
    model: whether it holds a trained model, of the tags' framework and workload."""

    name: str
    note: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    points: Sequence[Point]
    dataset: Mapping[str, str]
    kind: str = "trial"
    status: str = "FINISHED"
    files: bool = False
    model: bool = False

    def __post_init__(self) -> None:
        """Nothing private gets into a record, so none of it to a disk or a store. Signed values are
        cleaned before they are signed, and cleaning again changes nothing."""
        for name in ("name", "note"):
            object.__setattr__(self, name, private.clean(getattr(self, name)))
        for name in ("params", "tags", "dataset"):
            object.__setattr__(self, name, private.cleaned(getattr(self, name)))


def begin(kind: str, name: str, tags: Mapping[str, str], parent: str | None = None) -> str:
    """Opens a run, status RUNNING, and returns its id. The run that `mlflow run` has opened
    already is used where there is one and the caller is not a child of another."""
    experiment = prepare()
    name, all_tags = private.clean(name), private.cleaned({names.KIND: kind, **tags})
    given = os.environ.pop("MLFLOW_RUN_ID", None) if parent is None else None
    if given:
        name_run(given, kind, name, tags)
        return given
    with reachable():
        client = MlflowClient()
        if parent:
            all_tags["mlflow.parentRunId"] = parent
        return str(client.create_run(experiment, tags=all_tags, run_name=name).info.run_id)


def name_run(run_id: str, kind: str, name: str, tags: Mapping[str, str]) -> None:
    """Says what a run that is there already is of."""
    all_tags = private.cleaned({names.KIND: kind, **tags})
    with reachable():
        client = MlflowClient()
        client.log_batch(run_id, tags=[RunTag(k, v) for k, v in all_tags.items()])
        client.update_run(run_id, name=private.clean(name))


def adopt(kind: str, name: str, tags: Mapping[str, str] | None = None) -> str | None:
    """Names the run that `mlflow run` opened for a command that makes no run of its own, and
    returns its id; None outside `mlflow run`. MLflow closes it when the command ends."""
    return begin(kind, name, tags or {}) if os.environ.get("MLFLOW_RUN_ID") else None


def attach_text(run_id: str | None, text: str, name: str) -> None:
    """Adds one text file to a run; nothing where there is no run."""
    if run_id:
        with reachable():
            MlflowClient().log_text(run_id, private.clean(text), name)


def finish(run_id: str, status: str = "FINISHED") -> None:
    """Closes a run: FINISHED, FAILED or KILLED."""
    with reachable():
        MlflowClient().set_terminated(run_id, status)


def attach(run_id: str, folder: Path, name: str) -> None:
    """Adds a folder's files to a run under `name`."""
    with reachable(), private.publishable(folder) as clean:
        MlflowClient().log_artifacts(run_id, str(clean), name)


def set_tags(run_id: str, tags: Mapping[str, str]) -> None:
    """Sets several tags in one call."""
    with reachable():
        clean = private.cleaned(tags)
        MlflowClient().log_batch(run_id, tags=[RunTag(k, v) for k, v in clean.items()])


def log_params(run_id: str, params: Mapping[str, str]) -> None:
    """Adds parameters that the run does not have yet."""
    with reachable():
        client = MlflowClient()
        present = client.get_run(run_id).data.params
        client.log_batch(
            run_id,
            params=[Param(k, v) for k, v in private.cleaned(params).items() if k not in present],
        )


def log_metrics(run_id: str, metrics: Mapping[str, float]) -> None:
    """Adds run-level values, at most 1000 of them."""
    now = int(time.time() * 1000)
    with reachable():
        MlflowClient().log_batch(
            run_id, metrics=[Metric(name, value, now, 0) for name, value in metrics.items()]
        )


def write_samples(path: Path, series: Mapping[str, Sequence[float]]) -> None:
    """One Parquet table (series, index, value) with every sample of a trial."""
    rows = [(name, i, float(v)) for name, values in series.items() for i, v in enumerate(values)]
    table = pyarrow.table(
        {
            "series": [row[0] for row in rows],
            "index": [row[1] for row in rows],
            "value": [row[2] for row in rows],
        }
    )
    pyarrow.parquet.write_table(table, path)

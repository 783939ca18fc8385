"""A tracking store of any size in minutes: trials like ours, written straight into the tables.

Logging 10,000 runs through MLflow takes hours, and what is measured is reading. The tables are
MLflow's own; only the inserts are made here. Everything a run holds follows from its number.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from socket import socket
from typing import Any

import numpy as np
import psutil
import sqlalchemy
from mlflow.store.tracking.dbmodels.models import (
    SqlLatestMetric,
    SqlMetric,
    SqlParam,
    SqlRun,
    SqlTag,
)
from mlflow.tracking import MlflowClient

from entrypoints.processes import ends_with_parent
from measurement.errors import InputError
from tracking import names, stated

STUDY = "bulk"
EPOCHS = 20
METRICS = (
    "train/epoch_seconds",
    "train/epoch_items_per_second",
    "train/loss",
    "eval/accuracy",
    "train/total_seconds",
    "train/first_step_seconds",
    "inference/latency_seconds_p50",
    "memory/process_peak_bytes",
    "energy/joules",
    "hardware/flops_per_second",
)
PARAMS, TAGS = 30, 60  # of one run, as many as a trial of ours carries, rounded up
START_MILLISECONDS = 1_790_000_000_000
INFINITE = 1.7976931348623157e308  # how MLflow's database holds an infinite value
READY_SECONDS = 120


def fill(path: Path, runs: int, epochs: int = EPOCHS) -> str:
    """Makes a new SQLite store of `runs` finished trials of ten metrics; returns its URI."""
    uri = f"sqlite:///{path.absolute()}"
    MlflowClient(uri).search_experiments()  # MLflow makes its own tables
    engine = sqlalchemy.create_engine(uri)
    with engine.begin() as connection:
        for first in range(0, runs, 500):
            _insert(connection, range(first, min(runs, first + 500)), epochs)
    engine.dispose()
    return uri


def _insert(connection: sqlalchemy.Connection, numbers: range, epochs: int) -> None:
    rows: dict[Any, list[dict[str, Any]]] = {
        model: [] for model in (SqlRun, SqlParam, SqlTag, SqlMetric, SqlLatestMetric)
    }
    for number in numbers:
        run_id = f"{number:032x}"
        start = START_MILLISECONDS + 60_000 * number
        rows[SqlRun].append(
            {
                "run_uuid": run_id,
                "name": f"trial {number}",
                "status": "FINISHED",
                "start_time": start,
                "end_time": start + 50_000,
                "lifecycle_stage": "active",
                "experiment_id": 0,
                "artifact_uri": f"mlflow-artifacts:/0/{run_id}/artifacts",
                "user_id": "benchmark",
            }
        )
        for model, texts in ((SqlParam, _params(number)), (SqlTag, _tags(number))):
            rows[model] += [
                {"run_uuid": run_id, "key": key, "value": text} for key, text in texts.items()
            ]
        for name, values in _histories(number, epochs).items():
            points = [
                {
                    "run_uuid": run_id,
                    "key": name,
                    "step": step,
                    "timestamp": start + 2000 * step,
                    "value": 0.0 if math.isnan(value) else value,
                    "is_nan": math.isnan(value),
                }
                for step, value in enumerate(values)
            ]
            rows[SqlMetric] += points
            rows[SqlLatestMetric].append(points[-1])
    for model, found in rows.items():
        connection.execute(sqlalchemy.insert(model.__table__), found)


def _histories(number: int, epochs: int) -> dict[str, list[float]]:
    rng = np.random.default_rng(number)
    series = {name: rng.lognormal(size=epochs).tolist() for name in METRICS}
    if number % 100 == 0:  # what a run that diverged leaves behind
        series["train/loss"][-1] = math.nan
        series["train/epoch_seconds"][0] = math.nan
        series["energy/joules"][epochs // 2] = INFINITE
    return series


def _value(key: str, number: int) -> str:
    return f"{number + 1}" if key in stated.NUMBERS else f"{key} of {number}"


def _params(number: int) -> dict[str, str]:
    found = {key: _value(key, number % 7) for key in names.CELL}
    found |= {"seed": str(number % 100), "hidden_size": "32", "layers": "2"}
    return _padded(found, PARAMS, number)


def _tags(number: int) -> dict[str, str]:
    found = {key: _value(key, number % 7) for key in names.CELL}
    found |= {
        names.KIND: "trial",
        "study": STUDY,
        "arm": f"arm {number % 5}",
        "pair": str(number // 5),
        "order": str(number % 5),
        "machine": "linux-x86_64-2c-000000",
        "flags": "SYNTHETIC",
        "seed": str(number % 100),
        "parity": json.dumps({"work": f"{number % 7:016x}", "loss": [0.1] * 40}),
        "receipt": json.dumps({"items": 60000 * EPOCHS, "check": f"{number % 7:064x}"}),
        "not_measured": json.dumps({"memory/device_peak_bytes": "the device is the CPU" * 10}),
        "mlflow.runName": f"trial {number}",
        "mlflow.user": "benchmark",
        "mlflow.note.content": f"**pytorch** trains `mnist`, number {number}. " * 20,
    }
    return _padded(found, TAGS, number)


def _padded(found: Mapping[str, str], count: int, number: int) -> dict[str, str]:
    more = {f"version_library_{i}": f"{i}.{number % 7}.0" for i in range(count - len(found))}
    return {**found, **more}


@contextmanager
def server(
    uri: str,
    folder: Path,
    workers: int = 1,
    more: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """`mlflow server` on a free port of this machine while the block runs; yields its address. more:
    words of its command line; variables: of its environment."""
    port = free_port()
    words = ["--serve-artifacts", "--artifacts-destination", str(folder / "artifacts")]
    words += ["--host", "127.0.0.1", "--port", str(port), "--workers", str(workers), *more]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    # It may hold a password, and everybody sees a command.
    environment["MLFLOW_BACKEND_STORE_URI"] = uri
    # No job queue: it is for traces, and its processes would share the cores with what is timed.
    environment |= {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    with open(folder / "server.log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *words],
            cwd=folder,
            env=environment | dict(variables or {}),
            stdout=log,
            stderr=log,
            preexec_fn=ends_with_parent(),
        )
    try:
        address = f"http://127.0.0.1:{port}"
        wait_until_ready(address, process, folder / "server.log")
        yield address
    finally:
        end(process)


def free_port() -> int:
    """A port of this machine that nobody listens at now."""
    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_ready(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until the server answers. Raises InputError with its last words."""
    until = time.monotonic() + READY_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise InputError(
        f"mlflow server did not answer at {address} within {READY_SECONDS} s; its last words: "
        + log.read_text()[-300:]
    )


def end(process: subprocess.Popen[bytes]) -> None:
    """The server and the workers it started."""
    if process.poll() is not None:
        return
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for member in family:
        member.terminate()
    for member in psutil.wait_procs(family, timeout=10)[1]:
        member.kill()
    process.wait()

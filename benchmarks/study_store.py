"""A whole study of any size in a store, straight into MLflow's tables: the arms of a default study,
signed records, and a file of samples a trial. Everything follows from a seed; nothing was measured."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy
from mlflow.store.tracking.dbmodels.models import (
    SqlLatestMetric,
    SqlMetric,
    SqlParam,
    SqlRun,
    SqlTag,
)
from mlflow.tracking import MlflowClient

from tracking import digest, names, write

STUDY, MACHINE = "bulk", "linux-x86_64-2c-000000"
ARMS = {
    "mlx blas=mkl": 0.8,
    "pytorch blas=mkl": 1.0,
    "pytorch blas=mkl (again)": 1.0,
    "mlx blas=shipped": 4.0,
    "pytorch blas=shipped": 1.0,
}
"""Arm -> its time over that of the second."""
COMPARISONS = (
    ("mlx blas=mkl", "pytorch blas=mkl", "headline"),
    ("pytorch blas=mkl (again)", "pytorch blas=mkl", "resolution"),
    ("mlx blas=shipped", "mlx blas=mkl", "wheel"),
    ("mlx blas=shipped", "pytorch blas=shipped", "as shipped"),
)
EPOCHS, CALLS, STEPS, ITEMS = 3, 300, 200, 60_000
START_SECONDS = 1_790_000_000


def fill(folder: Path, pairs: int, seed: int = 0) -> str:
    """Makes a store in `folder` with one study of `pairs` trials an arm; returns its URI."""
    uri = f"sqlite:///{(folder / 'mlflow.db').absolute()}"
    MlflowClient(uri).search_experiments()  # MLflow makes its own tables
    with sqlite3.connect(folder / "mlflow.db") as fast:
        fast.execute("PRAGMA journal_mode=WAL")
    engine = sqlalchemy.create_engine(uri)
    rows: dict[Any, list[dict[str, Any]]] = {}
    with engine.begin() as connection:
        for number, run in enumerate(_runs(folder, pairs, np.random.default_rng(seed)), 1):
            for model, found in run.items():
                rows.setdefault(model, []).extend(found)
            if number % 500 == 0:
                _insert(connection, rows)
        _insert(connection, rows)
    engine.dispose()
    return uri


def _insert(connection: sqlalchemy.Connection, rows: dict[Any, list[dict[str, Any]]]) -> None:
    for model in (SqlRun, SqlParam, SqlTag, SqlMetric, SqlLatestMetric):
        if rows.get(model):
            connection.execute(sqlalchemy.insert(model.__table__), rows[model])
    rows.clear()


def _runs(
    folder: Path, pairs: int, rng: np.random.Generator
) -> Iterator[dict[Any, list[dict[str, Any]]]]:
    design = {
        "pairs": pairs, "margin": 0.05, "metric": "train/total_seconds", "target": 0.94,
        "family": ["train/total_seconds"], "arms": list(ARMS), "machine": MACHINE,
        "comparisons": [dict(zip(("numerator", "denominator", "role"), c, strict=True)) for c in COMPARISONS],
    }  # fmt: skip
    tags = {names.KIND: "study", "study": STUDY, "design": json.dumps(design)}
    yield _tables(folder, f"{1 << 64:032x}", STUDY, START_SECONDS - 60, tags, [])
    number = 0
    for pair in range(pairs):
        block = float(np.exp(rng.normal(0, 0.05)))
        for order, index in enumerate(rng.permutation(len(ARMS))):
            arm = list(ARMS)[index]
            yield _trial(folder, number, pair, order, arm, block * ARMS[arm], rng)
            number += 1


def _trial(
    folder: Path,
    number: int,
    pair: int,
    order: int,
    arm: str,
    seconds: float,
    rng: np.random.Generator,
) -> dict[Any, list[dict[str, Any]]]:
    run_id, start = f"{number:032x}", START_SECONDS + 60 * number
    epochs = seconds / EPOCHS * np.exp(rng.normal(0, 0.02, EPOCHS))
    series = {
        "epoch_seconds": epochs,
        "epoch_quality": np.array([0.91, 0.945, 0.95]) + rng.normal(0, 0.001, EPOCHS),
        "epoch_loss": np.array([0.5, 0.3, 0.2]) * np.exp(rng.normal(0, 0.01, EPOCHS)),
        "step_seconds": seconds / 700 * np.exp(rng.normal(0, 0.1, STEPS)),
        "latency_seconds": 5e-5 * seconds * np.exp(rng.normal(0, 0.2, CALLS)),
        "inference_seconds": 0.1 * seconds * np.exp(rng.normal(0, 0.05, 10)),
    }
    kept = {name: values.tolist() for name, values in series.items()}
    total = float(epochs.sum())
    metrics = {
        "train/total_seconds": total,
        "train/first_step_seconds": total / 20 * float(np.exp(rng.normal(0, 0.1))),
        **{f"train/step_seconds_p{p}": _quantile(series["step_seconds"], p) for p in (50, 90)},
        "train/items_per_second": EPOCHS * ITEMS / total,
        "train/loss": kept["epoch_loss"][-1],
        "eval/accuracy": kept["epoch_quality"][-1],
        **{f"inference/latency_seconds_p{p}": _quantile(series["latency_seconds"], p) for p in (50, 90, 99)},
        "inference/items_per_second": 10_000 / float(np.median(series["inference_seconds"])),
        "memory/process_peak_bytes": 5e8 * float(np.exp(rng.normal(0, 0.001))),
        "target/seconds": float(epochs[:2].sum()),
        "target/epochs": 2.0,
        "hardware/flops_per_second": 1e10 / total,
        "hardware/ceiling_flops_per_second": 1e11 * float(np.exp(rng.normal(0, 0.02))),
        "hardware/cpu_percent_mean": 180.0,
        "code/source_lines": 58.0,
        "code/complexity": 12.0,
    }  # fmt: skip
    metrics["hardware/ceiling_fraction"] = (
        metrics["hardware/flops_per_second"] / metrics["hardware/ceiling_flops_per_second"]
    )
    tags = _tags(number, pair, order, arm, start, rng) | {names.SAMPLES: digest.of_samples(series)}
    points = [write.Point(name, value, 0, start) for name, value in metrics.items()]
    place = folder / "artifacts" / run_id / "artifacts"
    place.mkdir(parents=True)
    write.write_samples(place / names.SAMPLES, kept)
    return _tables(
        folder, run_id, f"{arm} block {pair}", start, tags | digest.sign(tags, points), points
    )


def _quantile(values: np.ndarray, percent: int) -> float:
    return float(np.quantile(values, percent / 100))


def _tags(
    number: int, pair: int, order: int, arm: str, start: int, rng: np.random.Generator
) -> dict[str, str]:
    framework, shipped = arm.split()[0], "shipped" in arm
    noise = (1 + rng.normal(0, 1e-7, 8)).tolist()
    parity = {
        "work": "a1b2c3d4e5f60718", "dtype": "float32", "optimiser": "sgd", "parameters": 26506,
        "output": [noise[0], 0.5], "gradient": [2 * noise[1], 0.1], "update": [noise[2] / 3, 0.01],
        "losses": [2.3 * value for value in noise],
        "counted": {
            "products": {"step": {"float32": 33_554_432}, "answer": {"float32": 54_000}},
            "recorded": 0,
            "stored": {"float32": 26506},
        },
    }  # fmt: skip
    receipt = {
        "items": EPOCHS * ITEMS, "steps": 705, "flops": 10**10, "eval_items": 30_000,
        "inference_items": 10_000, "latency_calls": CALLS, "weight_change_norm": 3.5 * noise[3],
        "check_value": 0.21 * noise[4], "warmup_calls": 20, "order": f"{pair:064x}",
        "initial": [1.0, 0.5], "answers": [1.0, 0.5], "single_answers": [1.0, 0.5], "kind": "train",
    }  # fmt: skip
    cell = {
        "workload": "mnist", "mode": "train", "framework": framework, "device": "cpu",
        "dtype": "float32", "compile": "on", "compile_inference": "on",
        "blas": "shipped" if shipped else "mkl", "blas_loaded": "mkl 2026.2", "blas_threads": "2",
        "threads": "2", "tf32": "off", "preset": "study", "dataset": "mnist",
        "checkpoint": "random", "epochs": str(EPOCHS), "batch_size": "256", "target": "0.94",
        "slowdown_percent": "0", "ranks": "1", "hosts": "1", "backend": "none",
        "version_framework": {"mlx": "0.32.4", "pytorch": "2.13.0"}[framework],
        "version_python": "3.11.15",
    }  # fmt: skip
    return {
        names.KIND: "trial", "study": STUDY, "arm": arm, "pair": str(pair), "order": str(order),
        "machine": MACHINE, "seed": str(pair), "parity": json.dumps(parity),
        "receipt": json.dumps(receipt), "flags": "SYNTHETIC", "process": f"{number}.{start}",
        "code_sha256": "c" * 64, "started": f"{start}.000", "ended": f"{start + 50}.000",
        "mlflow.parentRunId": f"{1 << 64:032x}", "machine_cpu": "made up", "machine_cores": "2",
        "mlflow.note.content": f"**{framework}** trains `mnist`, number {number}. " * 20,
        "not_measured": json.dumps({
            "energy/joules": "no meter", "energy/watts_mean": "no meter",
            "cost/usd": "no price given (parameter price_per_hour)",
            "memory/device_peak_bytes": "the device is the CPU",
        }),
        **cell,
    }  # fmt: skip


def _tables(
    folder: Path,
    run_id: str,
    name: str,
    start: int,
    tags: dict[str, str],
    points: list[write.Point],
) -> dict[Any, list[dict[str, Any]]]:
    at = 1000 * start
    run = {
        "run_uuid": run_id, "name": name, "status": "FINISHED", "start_time": at,
        "end_time": at + 50_000, "lifecycle_stage": "active", "experiment_id": 0,
        "artifact_uri": str((folder / "artifacts" / run_id / "artifacts").absolute()),
        "user_id": "benchmark",
    }  # fmt: skip
    found = [
        {
            "run_uuid": run_id, "key": point.name, "step": 0, "timestamp": at,
            "value": point.value, "is_nan": False,
        }
        for point in points
    ]  # fmt: skip
    return {
        SqlRun: [run],
        SqlTag: [{"run_uuid": run_id, "key": k, "value": v} for k, v in tags.items()],
        SqlMetric: found,
        SqlLatestMetric: found,
    }

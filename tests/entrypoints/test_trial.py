"""A trial through the real worker: what its run holds, and what is left when it is killed."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

import frameworks
import models
from measurement.errors import InputError
from serving import integrity
from tests.entrypoints.conftest import invoke
from tracking import names, read

SMOKE = ("--preset", "smoke", "--dataset", "synthetic", "--epochs", "2", "--compile", "off")
ALWAYS = [
    "train/epoch_seconds", "train/epoch_items_per_second", "train/loss", "eval/accuracy",
    "train/total_seconds", "train/first_step_seconds", "train/step_seconds_p50",
    "train/step_seconds_p90", "train/items_per_second", "inference/latency_seconds_p50",
    "inference/latency_seconds_p90", "inference/latency_seconds_p99",
    "inference/items_per_second", "memory/process_peak_bytes", "hardware/flops_per_second",
    "hardware/ceiling_fraction", "hardware/cpu_percent_mean", *names.CODE,
]  # fmt: skip
SOMETIMES = [
    "memory/device_peak_bytes", "energy/joules", "energy/watts_mean", "target/seconds",
    "target/epochs", "cost/usd", "hardware/gpu_percent_mean",
]  # fmt: skip
PARAMS = [
    "workload", "framework", "device", "dtype", "compile", "blas", "seed", "epochs", "batch_size",
    "dataset", "threads", "preset",
]  # fmt: skip
TAGS = ["machine", "parity", "receipt", "tf32", "flags", "arm"]


@pytest.fixture(
    scope="module",
    params=[f for f in models.frameworks("mnist") if f not in frameworks.OWN_ENVIRONMENT],
)
def trial(request: pytest.FixtureRequest, module_store: Path) -> Run:
    """The run of one smoke trial of each framework."""
    if not frameworks.available(request.param):
        pytest.skip(f"{request.param} is not installed")
    assert invoke("trial", "mnist", request.param, *SMOKE) == 0
    found = MlflowClient().search_runs(["0"], f"tags.framework = '{request.param}'")
    assert len(found) == 1
    return found[0]


def test_the_run_holds_every_fixed_name(trial: Run) -> None:
    missing = json.loads(trial.data.tags["not_measured"])
    assert not [name for name in ALWAYS if name not in trial.data.metrics]
    assert not [name for name in SOMETIMES if (name in trial.data.metrics) == (name in missing)]
    assert all(missing.values())
    assert not [name for name in PARAMS if name not in trial.data.params]
    assert not [name for name in (*TAGS, *PARAMS) if name not in trial.data.tags]
    assert trial.info.status == "FINISHED"


def test_epochs_are_steps(trial: Run) -> None:
    for name in set(names.STEPPED) - {"eval/perplexity"}:
        history = MlflowClient().get_metric_history(trial.info.run_id, name)
        assert sorted(point.step for point in history) == [0, 1]
        assert all(point.timestamp > 1e12 for point in history)
    seconds = [
        m.value for m in MlflowClient().get_metric_history(trial.info.run_id, "train/epoch_seconds")
    ]
    assert sum(seconds) == pytest.approx(trial.data.metrics["train/total_seconds"])


def test_the_worker_imported_one_framework_and_no_mlflow(trial: Run) -> None:
    imported = {"pytorch": "torch"}.get(trial.data.tags["framework"], trial.data.tags["framework"])
    assert trial.data.tags["imported"] == imported


def test_samples_and_row_come_back(trial: Run) -> None:
    (row,) = read.trials(run_ids=[trial.info.run_id])
    samples = read.samples(trial.info.run_id)
    assert len(samples["latency_seconds"]) >= 200
    assert len(samples["epoch_seconds"]) == 2
    assert row.receipt is not None and row.receipt["items"] == 2 * 2048
    assert row.parity is not None and len(row.parity["losses"]) == 10
    assert row.cell["device"] == "cpu" and row.cell["hidden_size"] == "32"
    assert "SYNTHETIC" in row.flags


def test_the_model_and_the_data_are_there_without_pickle(trial: Run) -> None:
    assert trial.outputs.model_outputs
    (data,) = trial.inputs.dataset_inputs
    assert data.dataset.name == "synthetic"
    folder = Path(trial.info.artifact_uri).parent.parent
    files = [path.name for path in folder.rglob("*") if path.is_file()]
    assert not [name for name in files if name.endswith((".pkl", ".pickle", ".pth", ".pt", ".bin"))]


def test_what_the_trained_model_answers_is_in_the_run(trial: Run) -> None:
    (row,) = read.trials(run_ids=[trial.info.run_id])
    recorded = integrity.recorded_of(row)
    assert recorded is not None and recorded.inputs.shape == (32, 784)
    assert recorded.inputs.min() >= 0 and recorded.inputs.max() <= 1
    if not trial.outputs.model_outputs:  # of a framework that nothing serves
        return
    model = mlflow.pyfunc.load_model(f"models:/{trial.outputs.model_outputs[-1].model_id}")
    assert model.predict(recorded.inputs).tolist() == recorded.answers.tolist()


def test_no_path_of_this_machine_is_in_the_run(trial: Run) -> None:
    text = json.dumps([trial.data.tags, trial.data.params])
    assert str(Path.home()) not in text.replace(str(Path.cwd()), "")
    assert os.uname().nodename not in text


def test_a_killed_worker_leaves_a_failed_run_and_its_record(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from entrypoints import trial as module

    def progress(epochs: int) -> Any:
        return lambda event: (
            os.kill(event["pid"], signal.SIGKILL) if event["event"] == "epoch" else None
        )

    monkeypatch.setattr(module, "progress", progress)
    assert invoke("trial", "mnist", "mlx", *SMOKE) == 1
    assert "SIGKILL" in capsys.readouterr().err
    (run,) = MlflowClient().search_runs(["0"])
    assert run.info.status == "FAILED" and run.data.tags["flags"] == "CRASHED"
    assert read.trials() == []
    (record,) = Path("mlruns/records").glob("*/events.jsonl")
    assert '"event": "epoch"' in record.read_text()


def test_a_run_that_is_no_trial_is_refused(store: Path) -> None:
    run = MlflowClient().create_run("0")
    with pytest.raises(InputError, match="is no trial"):
        read.trials(run_ids=[run.info.run_id])
    with pytest.raises(InputError, match="no run"):
        read.trials(run_ids=["f" * 32])

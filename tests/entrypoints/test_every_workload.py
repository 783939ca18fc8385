"""Every workload through the real worker at its smoke size: what its run holds, in every mode."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

import frameworks
import models
from entrypoints import processes
from measurement import disk
from measurement.audit import parity_difference, receipt_difference
from serving import integrity
from tests.entrypoints.conftest import invoke
from tracking import names, read

SMOKE = ("--preset", "smoke", "--dataset", "synthetic", "--compile", "off")
NEW = [name for name in models.names() if name != "mnist"]  # which has tests of its own
SPEEDS = {
    "transformer_lm": ("train/tokens_per_second", "eval/perplexity"),
    "eis_predictor": (
        "train/items_per_second",
        "eval/accuracy",
        "eval/top5_accuracy",
        "eval/calibration_error",
        "eval/resnorm_rmse",
    ),
    "bert_tiny": ("train/items_per_second", "eval/accuracy"),
    "deit_small": (  # an epoch of 64 images teaches no accuracy above 0
        "train/items_per_second",
        "inference/latency_seconds_p90",
        "inference/batch_items_per_second",
    ),
    "tinyllama": (
        "inference/prefill_tokens_per_second",
        "inference/decode_tokens_per_second",
        "inference/first_token_seconds",
        "inference/token_seconds_p90",
    ),
    "device_switch": (
        "switch/loop_seconds_p50",
        "switch/loop_seconds_p90",
        "switch/first_device_seconds",
        "switch/second_device_seconds",
        "switch/parts_ratio",
    ),
    "whisper_tiny": (
        "inference/encode_seconds",
        "inference/decode_seconds",
        "inference/decode_tokens_per_second",
        "inference/real_time_factor",
        "inference/seconds_per_audio",
    ),
}


def on_cpu(workload: str) -> tuple[str, str]:
    """The option of a device that every machine has."""
    two = models.load(workload, "config").KIND == "switch"
    return ("--device", "cpu-cpu" if two else "cpu")


def trial(workload: str, framework: str, *words: str) -> Run:
    """The run of one smoke trial."""
    if not frameworks.available(framework):
        pytest.skip(f"{framework} is not installed")
    assert invoke("trial", workload, framework, *SMOKE, *on_cpu(workload), *words) == 0
    return MlflowClient().search_runs(["0"], order_by=["attributes.start_time DESC"])[0]


def here(workload: str) -> list[str]:
    """Frameworks without an environment of their own; the others: test_tensorflow_trial.py."""
    return [f for f in models.frameworks(workload) if f not in frameworks.OWN_ENVIRONMENT]


@pytest.fixture(scope="module", params=NEW)
def runs(request: pytest.FixtureRequest, module_store: Path) -> list[Run]:
    """A trial of each framework."""
    epochs = models.load(request.param, "config").KIND == "train"
    words = ("--epochs", "1") if epochs else ()
    return [trial(request.param, name, *words) for name in here(request.param)]


def test_speeds_are_stated(runs: list[Run]) -> None:
    for run in runs:
        workload = run.data.tags["workload"]
        mode = models.load(workload, "config").KIND
        for name in (*SPEEDS[workload], names.PRIMARY[mode]):
            assert run.data.metrics[name] > 0, name
        assert run.data.tags["mode"] == mode
        known = {name for name in run.data.metrics if not name.startswith("system/")}
        assert known <= set(names.METRICS)
        assert run.info.status == "FINISHED"


def test_the_work_was_equal(runs: list[Run]) -> None:
    first, *others = runs
    for other in others:
        for tag, difference in (("parity", parity_difference), ("receipt", receipt_difference)):
            a, b = (json.loads(run.data.tags[tag]) for run in (first, other))
            assert difference(a, b) is None


def test_only_a_training_saves_a_model(runs: list[Run]) -> None:
    for run in runs:
        trained = run.data.tags["mode"] == "train"
        assert bool(run.outputs.model_outputs) == trained


def test_a_model_answers_as_the_process_that_trained_it_did(runs: list[Run]) -> None:
    for run in runs:
        (row,) = read.trials(run_ids=[run.info.run_id])
        recorded = integrity.recorded_of(row)
        assert (recorded is not None) == (row.cell["mode"] == "train")
        if recorded is None or not run.outputs.model_outputs:
            continue
        model = mlflow.pyfunc.load_model(f"models:/{run.outputs.model_outputs[-1].model_id}")
        for count in (1, len(recorded.inputs)):  # an exported graph must hold no batch fast
            answers = model.predict(recorded.inputs[:count])
            assert answers.tolist() == recorded.answers[:count].tolist()
        shape = model.metadata.get_output_schema().inputs[0].shape
        assert shape == (-1, *recorded.answers.shape[1:])


def test_a_trained_model_is_evaluated_without_training(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the seeds' --eval: the quality that the training ended with, from its saved weights."""
    trained = trial("transformer_lm", "mlx", "--epochs", "1")
    (folder,) = (path.parent for path in Path("mlruns/records").glob("*/weights.safetensors"))
    for framework in here("transformer_lm"):
        run = trial("transformer_lm", framework, "--mode", "infer", "--checkpoint", str(folder))
        assert run.data.metrics["eval/perplexity"] == pytest.approx(
            trained.data.metrics["eval/perplexity"], rel=1e-4
        )
        assert run.data.metrics["inference/items_per_second"] > 0
        assert "train/total_seconds" not in run.data.metrics
        assert run.data.tags["checkpoint"] == folder.name
        assert not run.outputs.model_outputs


@pytest.mark.parametrize("framework", here("mnist"))
def test_a_trial_without_enough_memory_is_a_flagged_run(
    store: Path,
    framework: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ("--epochs", "1", "--hidden_size", "1000000000")
    monkeypatch.setattr(disk, "reserve", lambda folder, size_bytes: None)  # no disk has that room
    assert invoke("trial", "mnist", framework, *SMOKE, *on_cpu("mnist"), *words) == 1
    said = capsys.readouterr().err
    assert "out of memory on device=cpu with batch_size=256 of mnist" in said
    assert "Traceback" not in said
    (run,) = MlflowClient().search_runs(["0"])
    assert run.info.status == "FAILED"
    assert run.data.tags["flags"] == "CRASHED,OUT-OF-MEMORY"


def test_an_allocation_that_fails_is_told_from_other_errors() -> None:
    """Of MLX on a CPU it is the signal that tells: it writes where nothing was allocated."""
    adapter = frameworks.load("pytorch", "cpu")
    with pytest.raises((RuntimeError, MemoryError)) as raised:
        adapter.put(np.zeros(1)).new_zeros((10**9, 10**6))
    assert frameworks.out_of_memory(raised.value)
    for other in (RuntimeError("shapes do not match"), ValueError("out of memory")):
        assert not frameworks.out_of_memory(other)


@pytest.mark.parametrize(
    "said",
    [
        "[malloc] Unable to allocate 17179869184 bytes.",
        "[metal::malloc] Attempting to allocate 8e10 bytes which is greater than the maximum",
        "cudaMallocAsync(&data, size, stream) failed: out of memory",
        "[METAL] Command buffer execution failed: Insufficient Memory (0000000e:kIOGPU...)",
    ],
)
def test_what_mlx_says_without_memory(said: str) -> None:
    frameworks.load("mlx", "cpu")
    assert frameworks.out_of_memory(RuntimeError(said))


def test_a_worker_that_dies_names_batch_and_device(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    log.write_text("")
    spec = {"device": "cpu", "sizes": {"batch_size": 64}, "workload": "mnist", "framework": "mlx"}
    said = processes.how_it_died(-signal.SIGSEGV, log, spec)
    assert "SIGSEGV" in said and "batch_size=64" in said and "device=cpu" in said
    assert "memory" in said
    assert "memory" not in processes.how_it_died(1, log, spec)

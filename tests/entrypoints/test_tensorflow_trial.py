"""Trials of TensorFlow through the real worker, in its own environment: the run, its model, mistakes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

import frameworks
from measurement import disk
from measurement.audit import (
    COMPLETION_BOUNDS,
    RESIDUE_BOUND,
    parity_difference,
    receipt_difference,
)
from serving import trained
from tests.entrypoints.conftest import invoke

Command = Callable[..., tuple[int, str, str]]
SMOKE = ("--preset", "smoke", "--dataset", "synthetic", "--device", "cpu")
pytestmark = [
    pytest.mark.usefixtures("in_tensorflow"),  # makes the environment, or skips
    pytest.mark.skipif(not frameworks.available("pytorch"), reason="PyTorch is not installed"),
]


def newest() -> Run:
    return MlflowClient().search_runs(["0"], order_by=["attributes.start_time DESC"])[0]


def trial(framework: str, *words: str) -> Run:
    assert invoke("trial", "deit_small", framework, *SMOKE, *words) == 0
    return newest()


@pytest.fixture(scope="module")
def runs(module_store: Path, in_tensorflow: object) -> dict[str, Run]:
    """A training in each framework, TensorFlow's compiled too."""
    return {
        "compiled": trial("tensorflow", "--compile", "on"),
        "eager": trial("tensorflow", "--compile", "off"),
        "pytorch": trial("pytorch", "--compile", "off"),
    }


def test_the_work_was_equal_and_was_done(runs: dict[str, Run]) -> None:
    for name in ("compiled", "eager"):
        run = runs[name]
        for tag, difference in (("parity", parity_difference), ("receipt", receipt_difference)):
            a, b = (json.loads(r.data.tags[tag]) for r in (runs["pytorch"], run))
            assert difference(a, b) is None
        assert run.info.status == "FINISHED"
        assert run.data.params["compile"] == {"compiled": "on", "eager": "off"}[name]
        assert run.data.metrics["train/items_per_second"] > 0
        assert run.data.metrics["inference/batch_items_per_second"] > 0


def test_the_condition_is_recorded_as_it_is(runs: dict[str, Run]) -> None:
    tags = runs["eager"].data.tags
    assert tags["imported"] == "tensorflow"  # and nothing else that is large
    assert tags["blas"] == "own" and "eigen" in tags["blas_loaded"] and tags["tf32"] == "off"
    assert tags["blas_threads"] == tags["threads"]
    assert runs["pytorch"].data.tags["blas"] == "shipped"
    assert "REFERENCE-BLAS" not in tags["flags"]


def test_twice_the_work_takes_twice_the_time(runs: dict[str, Run]) -> None:
    """What shows that the barrier waits; a busy machine may spoil one of the two."""
    found = []
    for name in ("compiled", "eager"):
        path = MlflowClient().download_artifacts(runs[name].info.run_id, "trial.json")
        sample = json.loads(Path(path).read_text())["trial"]
        low, high = COMPLETION_BOUNDS
        found.append(
            low < sample["completion_ratio"] < high and sample["completion_residue"] < RESIDUE_BOUND
        )
    assert any(found)


def test_the_weights_stay_in_the_run_and_run_in_another_framework(
    runs: dict[str, Run], tmp_path: Path, run: Command
) -> None:
    client, found = MlflowClient(), runs["compiled"]
    assert not found.outputs.model_outputs and runs["pytorch"].outputs.model_outputs
    folder = Path(client.download_artifacts(found.info.run_id, trained.ARTIFACT, str(tmp_path)))
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "weights.safetensors"]
    assert "`model/`" in found.data.tags["mlflow.note.content"]
    assert "`model/`" not in runs["pytorch"].data.tags["mlflow.note.content"]
    quality = MlflowClient().get_metric_history(found.info.run_id, "eval/accuracy")[-1].value
    for framework in ("pytorch", "tensorflow"):
        tried = trial(framework, "--mode", "infer", "--checkpoint", str(folder))
        assert tried.data.metrics["eval/accuracy"] == pytest.approx(quality)
    code, _, error = run("register", "--workload", "deit_small", "--run_id", found.info.run_id)
    assert code == 2 and "tensorflow runs hold no MLflow model" in error


def test_verify_compares_it_when_asked_for(store: Path, run: Command) -> None:
    words = ("--workload", "deit_small", "--dataset", "synthetic", "--frameworks", "tensorflow")
    code, out, _ = run("verify", *words)
    assert code == 0, out
    lines = out.splitlines()
    assert len(lines) == 6
    assert all(line.startswith("equal   deit_small: tensorflow against pytorch") for line in lines)


def test_doctor_probes_what_is_there(store: Path, run: Command) -> None:
    code, out, _ = run("doctor")
    assert code == 0
    assert "tensorflow cpu: 2." in out and "compile yes" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--blas", "mkl"), "blas=mkl: tensorflow multiplies with oneDNN and Eigen of its own"),
        (("--dtype", "int8"), "unknown dtype 'int8'"),
        (("--heads", "5"), "heads"),
        (("--batch_size", "0"), "batch_size=0"),
        (("--mode", "infer", "--checkpoint", "/nowhere"), "checkpoint '/nowhere' is no folder"),
        (("--device", "gpu"), "TensorFlow sees no GPU here; use device=cpu, or install"),
    ],
)
def test_a_mistake_is_one_line(
    store: Path, run: Command, words: tuple[str, ...], said: str
) -> None:
    code, _, error = run("trial", "deit_small", "tensorflow", *SMOKE, *words)
    if code == 0 and "gpu" in words:
        pytest.skip("this machine has a GPU that TensorFlow sees")
    lines = [line for line in error.splitlines() if line.startswith("Error: ")]
    assert code == 2 and len(lines) == 1 and said in lines[0]
    assert "Traceback" not in error


def test_a_trial_without_enough_memory_is_a_flagged_run(
    store: Path, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "reserve", lambda folder, size_bytes: None)  # no disk has that room
    code, _, error = run(
        "trial", "deit_small", "tensorflow", *SMOKE, "--dimension", "300000000", "--heads", "1"
    )
    assert code == 1
    assert "out of memory on device=cpu" in error and "deit_small in tensorflow" in error
    assert "Traceback" not in error
    assert newest().data.tags["flags"] == "CRASHED,OUT-OF-MEMORY"

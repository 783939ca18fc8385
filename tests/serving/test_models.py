"""A trial's model, saved and loaded elsewhere, answers what the trial's own model answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import LoggedModelStatus
from safetensors.numpy import load_file, save_file
from served import CONFIG, digits, images, weights, write_trial

from measurement.errors import InputError
from serving import log, mlx_flavor, trained

# Run where the project is not: loads, predicts batches of 1 and 7, a table, and in other threads.
ELSEWHERE = """
import sys
from concurrent.futures import ThreadPoolExecutor
import mlflow, numpy as np, pandas
model = mlflow.pyfunc.load_model(sys.argv[1])
x = np.load("images.npy")
answers = [model.predict(x[:1]), model.predict(x[:7]), model.predict(pandas.DataFrame(x))]
assert all(a.dtype == np.int64 for a in answers), [a.dtype for a in answers]
with ThreadPoolExecutor(4) as threads:
    answers += list(threads.map(model.predict, np.split(x, 8)))
np.save("answers.npy", np.concatenate(answers))
"""


def _elsewhere(uri: str, folder: Path, x: np.ndarray) -> np.ndarray:
    """What the model answers in a new process with another working folder, pickle forbidden."""
    folder.mkdir()
    np.save(folder / "images.npy", x)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, uri],
        cwd=folder,
        env=environment | {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return np.load(folder / "answers.npy")


def test_a_saved_model_answers_elsewhere_as_the_trial_does(trial: Path, tmp_path: Path) -> None:
    x = images(64)
    expected = digits(x)
    assert len(set(expected.tolist())) >= 8  # a model that always says 1 would show
    log.save_model(trial, tmp_path / "model")
    answers = _elsewhere(str(tmp_path / "model"), tmp_path / "elsewhere", x)
    parts = [expected[:1], expected[:7], expected, expected]
    assert answers.tolist() == np.concatenate(parts).tolist()


def test_a_saved_model_holds_no_pickle_and_says_what_it_needs(
    trial: Path, framework: str, tmp_path: Path
) -> None:
    log.save_model(trial, tmp_path / "model")
    names = {path.name for path in (tmp_path / "model").rglob("*") if path.is_file()}
    assert not {name for name in names if name.endswith((".pkl", ".pth", ".pickle", ".pyc"))}
    wanted = (tmp_path / "model/requirements.txt").read_text().split()
    packages = {"mlx": "mlx[cpu]", "pytorch": "torch"}
    assert any(line.startswith(packages[framework] + "==") for line in wanted)
    assert not any("+" in line for line in wanted)  # "+cpu" is on no package index
    other = packages["pytorch" if framework == "mlx" else "mlx"]
    assert not any(line.startswith(other + "==") for line in wanted)

    described = yaml.safe_load((tmp_path / "model/MLmodel").read_text())
    assert set(described["flavors"]) == {framework, "python_function"}
    signature = mlflow.models.get_model_info(str(tmp_path / "model")).signature
    assert signature.inputs.inputs[0].shape == (-1, 784)
    assert signature.outputs.inputs[0].type == np.int64


def test_the_native_mlx_model_has_the_trials_weights(tmp_path: Path) -> None:
    folder = write_trial(tmp_path / "trial", "mlx")
    mlx_flavor.save_model(folder, tmp_path / "model")
    model = mlx_flavor.load_model(str(tmp_path / "model"))
    adapter, twin, _ = trained.build(trained.read(folder), "cpu")
    found = adapter.read_parameters(model)
    assert {name: value.tobytes() for name, value in found.items()} == {
        name: value.tobytes() for name, value in weights().items()
    }
    x = images(8)
    assert adapter.read(twin.answer(model, adapter.put(x))).tolist() == digits(x).tolist()


def test_a_model_of_another_flavour_is_refused_by_name(tmp_path: Path) -> None:
    log.save_model(write_trial(tmp_path / "trial", "pytorch"), tmp_path / "model")
    with pytest.raises(mlflow.MlflowException, match="no 'mlx' flavour"):
        mlx_flavor.load_model(str(tmp_path / "model"))


def test_the_flavours_own_log_model_files_under_the_active_run(
    experiment: str, tmp_path: Path
) -> None:
    folder = write_trial(tmp_path / "trial", "mlx")
    with mlflow.start_run(experiment_id=experiment) as run:
        info = mlx_flavor.log_model(folder, "digits")
    logged = MlflowClient().get_logged_model(info.model_id)
    assert (logged.source_run_id, logged.experiment_id) == (run.info.run_id, experiment)
    assert mlx_flavor.load_model(info.model_uri) is not None


def test_a_trials_model_belongs_to_its_run_and_carries_its_metrics(
    experiment: str, trial: Path, framework: str
) -> None:
    client = MlflowClient()
    run_id = client.create_run(experiment).info.run_id
    client.log_param(run_id, "seed", 3)
    for step, value in enumerate((0.5, 0.9)):
        client.log_metric(run_id, "eval/accuracy", value, step=step)
    uri = log.log_model(run_id, framework, "mnist", trial)

    logged = client.get_logged_model(uri.removeprefix("models:/"))
    assert (logged.status, logged.source_run_id) == (LoggedModelStatus.READY, run_id)
    assert logged.experiment_id == experiment  # not "Default"
    assert logged.params["seed"] == "3"
    assert [(m.key, m.value) for m in logged.metrics] == [("eval/accuracy", 0.9)]
    assert [o.model_id for o in client.get_run(run_id).outputs.model_outputs] == [logged.model_id]
    assert len(client.get_metric_history(run_id, "eval/accuracy")) == 2
    x = images(5)
    assert mlflow.pyfunc.load_model(uri).predict(x).tolist() == digits(x).tolist()


def test_a_model_that_cannot_be_written_is_marked_failed(
    experiment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise RuntimeError("disk full")

    monkeypatch.setattr(log, "save_model", full)
    client = MlflowClient()
    run_id = client.create_run(experiment).info.run_id
    with pytest.raises(RuntimeError, match="disk full"):
        log.log_model(run_id, "mlx", "mnist", write_trial(tmp_path / "trial", "mlx"))
    models = client.search_logged_models([experiment])
    failed = [m for m in models if m.source_run_id == run_id]
    assert [m.status for m in failed] == [LoggedModelStatus.FAILED]
    assert client.get_run(run_id).outputs.model_outputs == []


def _without_weights(folder: Path) -> None:
    (folder / "weights.safetensors").unlink()


def _truncated(folder: Path) -> None:
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _reshaped(folder: Path) -> None:
    values = load_file(folder / "weights.safetensors")
    values["head.bias"] = np.zeros(9, np.float32)
    save_file(values, folder / "weights.safetensors")


def _one_more(folder: Path) -> None:
    save_file(weights() | {"tail": np.zeros(1, np.float32)}, folder / "weights.safetensors")


def _no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def _no_size(folder: Path) -> None:
    spec = {"workload": "mnist", "framework": "mlx", **vars(CONFIG)}
    del spec["hidden_size"]
    (folder / "config.json").write_text(json.dumps(spec))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_without_weights, "holds no weights.safetensors"),
        (_truncated, "cannot be read"),
        (_reshaped, r"head.bias is \(9,\)"),
        (_one_more, "tail is .* no such parameter"),
        (_no_json, "no trial's configuration"),
        (_no_size, "hidden_size"),
    ],
)
def test_a_spoilt_folder_is_refused_in_one_line(tmp_path: Path, spoil, says: str) -> None:  # type: ignore[no-untyped-def]
    folder = write_trial(tmp_path / "trial", "mlx")
    spoil(folder)
    with pytest.raises(InputError, match=says) as refused:
        log.log_model("any", "mlx", "mnist", folder)
    assert "\n" not in str(refused.value)


def test_a_folder_of_the_other_framework_is_refused(tmp_path: Path) -> None:
    folder = write_trial(tmp_path / "trial", "pytorch")
    with pytest.raises(InputError, match="holds a pytorch model"):
        log.log_model("any", "mlx", "mnist", folder)


def test_a_model_names_no_library_to_load(tmp_path: Path) -> None:
    """What a model's file says of a BLAS would be loaded into the server."""
    folder = write_trial(tmp_path / "trial", "mlx")
    mlx_flavor.save_model(folder, tmp_path / "model")
    with pytest.raises(InputError, match="blas='/tmp/lib.so' of a served model; expected auto"):
        mlflow.pyfunc.load_model(str(tmp_path / "model"), model_config={"blas": "/tmp/lib.so"})
    x = images(3)
    plain = mlflow.pyfunc.load_model(str(tmp_path / "model"), model_config={"blas": "shipped"})
    assert plain.predict(x).tolist() == digits(x).tolist()

"""The champion is the best run whose evidence is complete, and it leads back to its origin."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec

from measurement.errors import InputError
from tracking.registry import register_best

SIGNATURE = ModelSignature(Schema([TensorSpec(np.dtype(np.float32), (-1, 784))]))
Trial = Callable[..., str]


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        yield MlflowClient().create_experiment("trials", (folder / "artifacts").as_uri())


@pytest.fixture
def workload(request: pytest.FixtureRequest) -> str:
    """Every test has a workload, and so a registered model, of its own."""
    return request.node.name.removeprefix("test_").replace("/", " ")


@pytest.fixture
def trial(experiment: str, workload: str, tmp_path: Path) -> Trial:
    """Makes a run as a trial leaves it, with any tag changed or (None) left out, and returns it."""
    client = MlflowClient()

    def make(
        accuracy: float | None = 0.9,
        model: ModelSignature | None = SIGNATURE,
        status: str = "FINISHED",
        logged: bool = True,
        seconds: float = 1.0,
        **changes: str | None,
    ) -> str:
        tags: dict[str, Any] = {
            "kind": "trial",
            "workload": workload,
            "framework": "mlx",
            "dataset": "mnist",
            "parity": json.dumps({"losses": [2.3]}),
            "receipt": json.dumps({"items": 1}),
            "flags": "",
            "data_sha256": "d" * 64,
            "mlflow.source.git.commit": "c" * 40,
        }
        tags = {k: v for k, v in (tags | changes).items() if v is not None}
        run_id = client.create_run(experiment, tags=tags).info.run_id
        if accuracy is not None:
            client.log_metric(run_id, "eval/accuracy", accuracy)
        client.log_metric(run_id, "train/total_seconds", seconds)
        if logged:
            _log(client, experiment, run_id, model, tmp_path / run_id)
        if status != "RUNNING":
            client.set_terminated(run_id, status)
        return run_id

    return make


def _log(
    client: MlflowClient,
    experiment: str,
    run_id: str,
    signature: ModelSignature | None,
    folder: Path,
) -> None:
    entity = client.create_logged_model(experiment, name="m", source_run_id=run_id)
    folder.mkdir()
    description = Model(artifact_path=entity.artifact_location, model_id=entity.model_id)
    description.signature = signature
    description.save(folder / "MLmodel")
    client.log_model_artifacts(entity.model_id, str(folder))
    client.log_outputs(run_id, [LoggedModelOutput(entity.model_id, step=0)])
    client.finalize_logged_model(entity.model_id, "READY")


def test_the_most_accurate_becomes_champion_with_tags_that_lead_back(
    trial: Trial, workload: str
) -> None:
    trial(0.90)
    best = trial(0.97, framework="pytorch")
    trial(0.95)
    done = register_best("eval/accuracy", workload)
    assert (done.run_id, done.framework, done.value) == (best, "pytorch", 0.97)
    assert (done.version, done.new, done.considered) == ("1", True, 3)

    version = MlflowClient().get_model_version_by_alias(workload, "champion")
    assert version.run_id == best
    wanted = {
        "run_id": best,
        "framework": "pytorch",
        "data_sha256": "d" * 64,
        "git_commit": "c" * 40,
        "metric": "eval/accuracy",
        "metric_value": "0.97",
    }
    assert wanted.items() <= version.tags.items()
    assert mlflow.models.get_model_info(done.uri).signature == SIGNATURE


def test_lower_is_better_where_the_metric_says_so(trial: Trial, workload: str) -> None:
    trial(seconds=2.0)
    best = trial(seconds=1.5)
    assert register_best("train/total_seconds", workload).run_id == best


def test_a_tie_goes_to_the_earliest(trial: Trial, workload: str) -> None:
    first, _ = trial(0.9), trial(0.9)
    assert register_best("eval/accuracy", workload).run_id == first


def test_asking_twice_adds_no_version(trial: Trial, workload: str) -> None:
    trial()
    assert register_best("eval/accuracy", workload).new
    again = register_best("eval/accuracy", workload)
    assert (again.version, again.new) == ("1", False)
    assert len(MlflowClient().search_model_versions(f"name = '{workload}'")) == 1


def test_a_better_run_moves_the_alias_and_the_worse_keeps_its_version(
    trial: Trial, workload: str
) -> None:
    worse = trial(0.8)
    register_best("eval/accuracy", workload)
    better = trial(0.9)
    done = register_best("eval/accuracy", workload)
    assert (done.version, done.run_id) == ("2", better)
    assert MlflowClient().get_model_version(workload, "1").run_id == worse


def test_framework_and_run_can_be_chosen(trial: Trial, workload: str) -> None:
    slow = trial(0.8, framework="mlx")
    trial(0.9, framework="pytorch")
    assert register_best("eval/accuracy", workload, framework="mlx").run_id == slow
    assert register_best("eval/accuracy", workload, run_id=slow).run_id == slow


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"parity": None}, "no evidence of equal work"),
        ({"parity": "{cut"}, "no evidence of equal work"),
        ({"receipt": None}, "no work receipt"),
        ({"status": "RUNNING"}, "not finished"),
        ({"status": "FAILED"}, "not finished"),
        ({"flags": "SYNTHETIC"}, "flag SYNTHETIC"),
        ({"flags": "LOAD,CRASHED"}, "flag CRASHED"),
        ({"accuracy": None}, "eval/accuracy not measured"),
        ({"accuracy": float("nan")}, "eval/accuracy not measured"),
        ({"accuracy": float("inf")}, "eval/accuracy not measured"),
        ({"logged": False}, "no loadable model with a signature"),
        ({"model": None}, "no loadable model with a signature"),
    ],
)
def test_left_out(trial: Trial, workload: str, change: dict[str, Any], reason: str) -> None:
    """Better by its number, but no champion; alone it is refused with the reason and the count."""
    trial(**({"accuracy": 0.99} | change))
    with pytest.raises(InputError, match=f"looked at 1 runs, left out: 1 {reason}"):
        register_best("eval/accuracy", workload)
    sound = trial(0.7)
    done = register_best("eval/accuracy", workload)
    assert done.run_id == sound
    assert done.left_out == {reason: 1}


@pytest.mark.parametrize("flag", ["LOAD", "AUDIT", "BATTERY"])
def test_a_disturbed_machine_spoils_times_and_not_accuracy(
    trial: Trial, workload: str, flag: str
) -> None:
    disturbed = trial(0.9, seconds=1.0, flags=f"{flag},REFERENCE-BLAS")
    quiet = trial(0.8, seconds=2.0, flags="REFERENCE-BLAS")
    assert register_best("train/total_seconds", workload).run_id == quiet
    assert register_best("eval/accuracy", workload).run_id == disturbed


def test_a_run_whose_files_are_gone_is_left_out(trial: Trial, workload: str) -> None:
    run_id = trial()
    model_id = MlflowClient().get_run(run_id).outputs.model_outputs[0].model_id
    location = MlflowClient().get_logged_model(model_id).artifact_location
    (Path(location.removeprefix("file://")) / "MLmodel").unlink()
    with pytest.raises(InputError, match="no loadable model"):
        register_best("eval/accuracy", workload)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            {"metric": "eval/acuracy"},
            "unknown metric 'eval/acuracy'; choose one of: .*eval/accuracy",
        ),
        ({"metric": "hardware/cpu_percent_mean"}, "has no better direction"),
        (
            {"workload": "nothing"},
            "no trial of 'nothing' qualifies .*: the store holds no such run",
        ),
        ({"run_id": "0" * 32}, "no run '0+' in this store"),
        ({"study": "never"}, "no study named 'never'"),
    ],
)
def test_what_cannot_be_found_is_said_in_one_line(
    trial: Trial, workload: str, arguments: dict[str, str], says: str
) -> None:
    trial()
    with pytest.raises(InputError, match=says) as refused:
        register_best(**({"metric": "eval/accuracy", "workload": workload} | arguments))
    assert "\n" not in str(refused.value)


def test_a_trial_of_another_workload_is_refused(trial: Trial, workload: str) -> None:
    run_id = trial(workload="other")
    with pytest.raises(InputError, match="left out .its workload is 'other'"):
        register_best("eval/accuracy", workload, run_id=run_id)


def test_a_run_that_is_no_trial_is_refused(experiment: str, workload: str) -> None:
    run_id = MlflowClient().create_run(experiment, tags={"kind": "study"}).info.run_id
    with pytest.raises(InputError, match="is no trial"):
        register_best("eval/accuracy", workload, run_id=run_id)

"""The champion is the first run whose evidence is complete; later ones challenge it, one at a time."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
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
from tracking import registry
from tracking.registry import Version, register_best

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


def test_a_later_model_is_a_challenger_however_good(trial: Trial, workload: str) -> None:
    worse = trial(0.8)
    assert register_best("eval/accuracy", workload).alias == "champion"
    better = trial(0.9)
    done = register_best("eval/accuracy", workload)
    assert (done.version, done.run_id, done.alias) == ("2", better, "challenger")
    assert done.uri == f"models:/{workload}@challenger"
    assert MlflowClient().get_model_version(workload, "1").run_id == worse
    assert aliases(workload) == {"champion": "1", "challenger": "2"}
    assert register_best("eval/accuracy", workload, run_id=worse).alias == "champion"
    third = trial(0.95)
    assert register_best("eval/accuracy", workload).run_id == third
    assert aliases(workload) == {"champion": "1", "challenger": "3"}


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


# --- aliases


def aliases(name: str) -> dict[str, str]:
    found = MlflowClient().get_registered_model(name).aliases
    return {alias: str(version) for alias, version in found.items()}


@pytest.fixture
def versions(trial: Trial, workload: str) -> list[Version]:
    """Three versions of a model: the champion, one that was registered after it, the challenger."""
    runs = [trial(accuracy) for accuracy in (0.7, 0.8, 0.9)]
    done = [register_best("eval/accuracy", workload, run_id=run_id) for run_id in runs]
    return [
        Version(workload, one.version, one.run_id, f"models:/{workload}/{one.version}", one.tags)
        for one in done
    ]


def test_a_promotion_keeps_the_champion_before(versions: list[Version]) -> None:
    first, _, third = versions
    registry.promote(third, first, {"promoted_because": "it is better"})
    assert aliases(first.name) == {"champion": "3", "previous": "1"}
    assert (
        MlflowClient().get_model_version(first.name, "3").tags["promoted_because"] == "it is better"
    )
    registry.promote(third, first, {})  # twice is once
    assert aliases(first.name) == {"champion": "3", "previous": "1"}
    assert [found.version for found in registry.roll_back(first.name)] == ["1", "3"]
    assert aliases(first.name) == {"champion": "1"}
    with pytest.raises(InputError, match="no previous champion"):
        registry.roll_back(first.name)


def test_of_two_promotions_at_once_one_is_told_to_compare_again(versions: list[Version]) -> None:
    first, second, third = versions
    barrier = threading.Barrier(2)

    def promote(challenger: Version) -> str:
        barrier.wait()
        try:
            registry.promote(challenger, first, {})
        except InputError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(promote, (second, third)))
    assert sorted(map(bool, said)) == [False, True]
    refused = next(text for text in said if text)
    won = (third, second)[said.index("") == 0]
    assert f"the champion is now version {won.version}; compare it again" in refused
    found = aliases(first.name)
    assert (found["champion"], found["previous"]) == (won.version, "1")
    assert not _locks()


def test_first_models_registered_at_once_make_one_champion(trial: Trial, workload: str) -> None:
    runs = [trial(0.9) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        done = list(
            pool.map(lambda run_id: register_best("eval/accuracy", workload, run_id=run_id), runs)
        )
    assert sorted(one.alias for one in done) == ["challenger", "challenger", "champion"]
    assert sorted(one.version for one in done) == ["1", "2", "3"]
    assert aliases(workload)["champion"] == next(o.version for o in done if o.alias == "champion")


def test_a_promotion_that_was_cut_off_is_completed(
    versions: list[Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between any two of its calls there is one champion, and the next attempt ends it."""
    first, _, third = versions
    real, left = MlflowClient.set_registered_model_alias, [1]

    def cut(self: MlflowClient, *words: str) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        real(self, *words)

    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", cut)
    with pytest.raises(KeyboardInterrupt):
        registry.promote(third, first, {})
    monkeypatch.undo()
    assert aliases(first.name) == {"champion": "1", "previous": "1", "challenger": "3"}
    with pytest.raises(InputError, match="no previous champion"):
        registry.roll_back(first.name)
    registry.promote(third, first, {})
    assert aliases(first.name) == {"champion": "3", "previous": "1"}


def test_the_lock_of_a_command_that_was_killed_is_taken_over(
    versions: list[Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _, third = versions
    MlflowClient().create_registered_model(registry._LOCK.format(first.name), {"owner": "killed"})
    monkeypatch.setattr(registry, "_STALE_SECONDS", 0.3)
    registry.promote(third, first, {})
    assert aliases(first.name)["champion"] == "3" and not _locks()


def test_a_lock_that_others_keep_taking_is_waited_for_and_then_named(
    versions: list[Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _, third = versions
    lock = registry._LOCK.format(first.name)
    MlflowClient().create_registered_model(lock, {"owner": "busy"})
    monkeypatch.setattr(registry, "_LOCK_SECONDS", 0.3)
    with pytest.raises(InputError, match="another command has been changing the aliases"):
        registry.promote(third, first, {})
    assert _locks() == [lock] and aliases(first.name)["champion"] == "1"
    MlflowClient().delete_registered_model(lock)


def test_a_long_card_is_cut_to_what_a_store_keeps(versions: list[Version]) -> None:
    registry.describe(versions[0].name, "1", "x" * 6000)
    text = MlflowClient().get_model_version(versions[0].name, "1").description
    assert len(text) <= 5000 and text.endswith("artifact of its run)")


def _locks() -> list[str]:
    return [m.name for m in MlflowClient().search_registered_models() if "being changed" in m.name]

"""What MLflow's pages are told: views, colours, notes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from tracking import names, views

DESIGN: dict[str, Any] = {
    "workload": "mnist", "arms": ["mlx", "pytorch"], "pairs": 6, "margin": 0.05,
    "metric": "train/total_seconds", "quality": "eval/accuracy",
}  # fmt: skip
VIEW = "mlflow.sharedViewState."


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('views') / 'mlflow.db'}"


@pytest.fixture
def client(store, monkeypatch) -> MlflowClient:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    return MlflowClient()


@pytest.fixture
def experiment(client, request) -> str:
    """One of this test's own."""
    return str(client.create_experiment(request.node.name))


def state(value: str) -> dict[str, Any]:
    return dict(json.loads(json.loads(value)["state"]))


def test_every_column_and_chart_is_of_a_name_that_runs_carry() -> None:
    every = [*views.general(), views.of_study("one", DESIGN)]
    for view in every:
        found = state(view.value(1))
        for column in found["selectedColumns"]:
            kind, key = column[:-1].split(".`")
            known = {
                "metrics": names.METRICS,
                "params": (*names.CELL, "seed"),
                "tags": (views.VERDICT, *names.TAGS),
            }
            assert key in known[kind]
        assert all(card["metricKey"] in names.METRICS for card in found.get("compareRunCharts", ()))
        assert len(view.value(1)) < 5000  # which servers before MLflow 3 keep
    assert state(every[-1].value(1))["searchFilter"].startswith("tags.study = 'one'")


def test_what_does_not_train_has_no_charts_by_epoch() -> None:
    design = DESIGN | {"metric": "inference/total_seconds", "quality": "none"}
    found = state(views.of_study("one", design).value(1))
    assert "compareRunCharts" not in found
    assert found["selectedColumns"][0] == "metrics.`inference/total_seconds`"


def test_an_experiment_gets_views_once_and_keeps_what_users_did(
    client: MlflowClient, experiment: str
) -> None:
    client.set_experiment_tag(experiment, views.NOTE, "mine")
    views.publish(client, experiment, "", {})
    tags = client.get_experiment(experiment).tags
    assert {VIEW + "studies", VIEW + "frameworks"} <= set(tags)
    assert tags[views.NOTE] == "mine"
    client.delete_experiment_tag(experiment, VIEW + "frameworks")
    views.publish(client, experiment, "one", DESIGN)
    tags = client.get_experiment(experiment).tags
    assert VIEW + "frameworks" not in tags and VIEW + "study-one" in tags
    client.set_experiment_tag(experiment, VIEW + "study-one", "changed")
    views.publish(client, experiment, "one", DESIGN)
    assert client.get_experiment(experiment).tags[VIEW + "study-one"] == "changed"


def test_only_the_newest_studies_keep_a_view(
    client: MlflowClient, experiment: str, monkeypatch
) -> None:
    monkeypatch.setattr(views, "_KEPT", 3)
    clock = iter(range(1, 100))
    monkeypatch.setattr(views.time, "time", lambda: float(next(clock)))
    client.set_experiment_tag(experiment, VIEW + "a-users-own", "{}")
    for name in "abcde":
        views.publish(client, experiment, name, DESIGN)
    left = {key.removeprefix(VIEW) for key in client.get_experiment(experiment).tags if VIEW in key}
    assert left == {"a-users-own", "studies", "frameworks", "study-c", "study-d", "study-e"}


def test_a_run_has_its_frameworks_colour_and_its_source() -> None:
    tags = {"framework": "mlx", "workload": "mnist"}
    found = views.of_run(tags, {}, "trial")
    assert found[views.COLOUR] == views.COLOURS["mlx"]
    assert found["mlflow.source.name"] == "mnist_mlx"
    given = views.of_run(tags, {"mlflow.source.name": "study"}, "trial")
    assert given == {views.COLOUR: views.COLOURS["mlx"]}  # `mlflow run` has said it
    assert views.of_run({}, {}, "probe") == {}


def test_a_study_says_what_it_found(client: MlflowClient, experiment: str) -> None:
    run = client.create_run(experiment).info.run_id
    views.conclude(run, "one", DESIGN, "mlx is faster.\nNothing else is known.")
    tags = client.get_run(run).data.tags
    assert tags[views.VERDICT] == "mlx is faster."
    assert f"runs/{run}/artifacts/report/report.html" in tags[views.NOTE]
    assert "mlx is faster." in tags[views.NOTE] and "6 blocks" in tags[views.NOTE]
    assert views.link(run, "one").startswith(
        f"http://127.0.0.1:5000/#/experiments/{experiment}/runs?view"
    )


def test_without_a_verdict_a_study_says_so() -> None:
    assert "Not analysed yet" in views.study_note("one", DESIGN)

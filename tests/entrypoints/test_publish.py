"""A laptop's history goes to another store: whole, once, with where it came from; SQLite to SQLite."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import shutil
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModelOutput,
    Metric,
    Param,
)  # fmt: skip
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.tracking import MlflowClient

from tests.entrypoints.conftest import use_store
from tracking import contents, digest, names, read, transfer, write
from tracking.contents import ORIGIN, Store

sys.path.append(str(Path(__file__).resolve().parents[1] / "analysis"))
from fleet import MLX, TORCH, measured  # noqa: E402
from stored import store as keep  # noqa: E402

Run = Callable[..., tuple[int, str, str]]
START = 1_790_000_000_000
BIGGEST = sys.float_info.max
COUNTED = ("runs", "tags", "params", "metrics", "inputs", "input_tags", "datasets", "logged_models",
           "logged_model_metrics", "logged_model_tags", "experiments", "model_versions")  # fmt: skip


class Laptop:
    """A store of its own with runs as this project and others write them."""

    def __init__(self, folder: Path, empty: Path) -> None:
        folder.mkdir()
        shutil.copy(empty, folder / "mlflow.db")
        self.folder, self.uri = folder, f"sqlite:///{folder / 'mlflow.db'}"
        self.client = MlflowClient(self.uri, registry_uri=self.uri)
        place = str(folder / "mlruns" / "1")
        self.experiment = self.client.create_experiment("night", artifact_location=place)
        self.count = 0

    def run(self, kind: str, parent: str = "", status: str = "FINISHED", **tags: str) -> str:
        self.count += 1
        start = START + 1000 * self.count
        given = {"mlflow.user": "student", names.KIND: kind, **tags}
        given = {key: value for key, value in given.items() if value}
        if parent:
            given["mlflow.parentRunId"] = parent
        made = self.client.create_run(
            self.experiment, start, given, f"{kind or 'plain'} {self.count}"
        )
        run_id = str(made.info.run_id)
        self.client.log_batch(
            run_id,
            metrics=[
                *(Metric("train/loss", 1 / (1 + s), start + s, s) for s in range(4)),
                Metric("train/loss", math.nan, start + 9, 9),
                Metric("eval/accuracy", 0.1 + 0.2, start, 0),
                Metric("energy/joules", BIGGEST, start, -1),
            ],
            params=[Param("workload", "mnist"), Param("note", "a 'quoted' \u00e4")],
        )
        if status != "RUNNING":
            self.client.set_terminated(run_id, status, start + 500)
        return run_id

    def files(self, run_id: str, **texts: str) -> None:
        folder = self.folder / "scratch"
        (folder / "report").mkdir(parents=True, exist_ok=True)
        write.write_samples(folder / names.SAMPLES, {"epoch_seconds": [1.0, 2.0]})
        (folder / "report" / "weights.bin").write_bytes(bytes(range(256)))
        for name, text in texts.items():
            (folder / "report" / f"{name}.html").write_text(text)
        self.client.log_artifacts(run_id, str(folder))
        shutil.rmtree(folder)
        self.client.set_tag(run_id, digest.SAMPLES, "0" * 64)

    def dataset(self, run_id: str) -> None:
        found = Dataset("mnist", "12345678", "code", "{}", profile='{"items": 3}')
        inputs = [DatasetInput(found, [InputTag("mlflow.data.context", "train")])]
        self.client.log_inputs(run_id, inputs)

    def model(self, run_id: str) -> str:
        made = self.client.create_logged_model(
            self.experiment, "mnist_mlx", run_id, {"size": "small"}, {"a": "1"}, "classifier"
        )
        folder = self.folder / "model"
        folder.mkdir()
        (folder / "MLmodel").write_text(
            f"artifact_path: {made.artifact_location}\nflavors: {{}}\nmodel_id: {made.model_id}\n"
            f"model_uuid: {made.model_id}\nrun_id: {run_id}\nutc_time_created: '2026-01-01'\n"
        )
        (folder / "weights.safetensors").write_bytes(b"weights")
        self.client.log_model_artifacts(made.model_id, str(folder))
        shutil.rmtree(folder)
        self.client.log_outputs(run_id, [LoggedModelOutput(made.model_id, step=3)])
        metric = Metric("eval/accuracy", 0.1 + 0.2, START, 0, model_id=made.model_id)
        self.client.log_batch(run_id, metrics=[metric])
        self.client.finalize_logged_model(made.model_id, "READY")
        return str(made.model_id)


@pytest.fixture(scope="module")
def made(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Laptop:
    laptop = Laptop(tmp_path_factory.mktemp("made") / "laptop", empty_store)
    study = laptop.run("study", study="s", design=json.dumps({"pairs": 1}), machine="m0")
    first = laptop.run("trial", study, study="s", arm="mlx", machine="m0", **{names.RECORD: "r1"})
    laptop.client.set_tag(first, names.DELIVERED, "FINISHED")
    laptop.files(first, page="<p>one</p>")
    laptop.dataset(first)
    laptop.model(first)
    laptop.client.delete_run(laptop.run("trial", study, study="s", arm="mlx", machine="m0"))
    other = laptop.run("study", study="other")
    laptop.run("trial", other, "FAILED", study="other", arm="pytorch", machine="m0")
    laptop.run("trial", other, "RUNNING", study="other", arm="pytorch", machine="m0")
    laptop.run("sweep", other, study="other")
    laptop.run("")
    return laptop


@pytest.fixture
def laptop(made: Laptop, tmp_path: Path, store: Path) -> Laptop:
    """A copy of the history, brought from where it was made, and the store that it goes to."""
    shutil.copytree(made.folder, tmp_path / "laptop")
    copy = Laptop.__new__(Laptop)
    copy.folder, copy.uri = tmp_path / "laptop", f"sqlite:///{tmp_path / 'laptop' / 'mlflow.db'}"
    copy.client = MlflowClient(copy.uri, registry_uri=copy.uri)
    copy.experiment, copy.count = made.experiment, made.count
    return copy


def rows(path: Path) -> dict[str, int]:
    with sqlite3.connect(path) as connection:
        return {
            table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608
            for table in COUNTED
        }


def all_of(uri: str) -> dict[str, contents.Content]:
    found = Store(uri)
    return {one.run_id: one for one in found.contents([h.run_id for h in found.heads([])])}


def check(laptop: Laptop, path: Path) -> dict[str, str]:
    """Everything of the source is in the store in use, once; returns run there by run here."""
    there = {one.tags[ORIGIN]: one for one in all_of(f"sqlite:///{path}").values()}
    here = all_of(laptop.uri)
    assert there.keys() == here.keys()
    ids = {origin: one.run_id for origin, one in there.items()}
    for origin, one in here.items():
        found = there[origin]
        assert found.parent == ids.get(one.parent, "")
        assert found.deleted == one.deleted
        wrong = contents.differences(one, found)
        assert set(wrong) <= {"parent"}, (origin, wrong)
    return ids


def test_a_history_arrives_whole_and_a_second_time_adds_nothing(
    laptop: Laptop, store: Path, run: Run
) -> None:
    code, out, err = run("publish", "--source", laptop.uri)
    assert code == 0, err
    assert "8 runs of 1 experiments" in out and ": 8 new" in out
    assert "found equal: 57 points of metrics, 16 parameters" in out
    assert "1 data sets, 1 models, 5 files" in out
    ids = check(laptop, store)
    before = rows(store)
    here = rows(laptop.folder / "mlflow.db")
    for table in ("runs", "params", "metrics", "inputs", "datasets", "logged_models"):
        assert before[table] == here[table], table
    code, out, err = run("publish", "--source", str(laptop.folder / "mlflow.db"))
    assert code == 0, err
    assert ": 8 there already" in out and rows(store) == before
    client = MlflowClient()
    trial = next(
        client.get_run(i) for o, i in ids.items() if "r1" in client.get_run(i).data.tags.values()
    )
    assert trial.info.user_id == "student" and trial.info.start_time == START + 2000
    assert trial.info.end_time == START + 2500
    (output,) = trial.outputs.model_outputs
    place = client.get_logged_model(output.model_id).artifact_location
    described = (Path(place) / "MLmodel").read_text()
    assert (
        f"model_id: {output.model_id}" in described and f"run_id: {trial.info.run_id}" in described
    )


def test_killed_after_every_single_call_it_ends_whole(
    laptop: Laptop, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    calls: list[str] = []

    def deadly(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def call(self: Any, *given: Any, **named: Any) -> Any:
            answer = real(self, *given, **named)
            if name != "log_batch" or any(named.values()):
                calls.append(name)
                raise Killed
            return answer

        monkeypatch.setattr(owner, name, call)

    for name in ("create_run", "log_batch", "log_inputs", "create_logged_model", "log_outputs",
                 "finalize_logged_model", "set_terminated", "delete_tag", "delete_run"):  # fmt: skip
        deadly(MlflowClient, name)
    deadly(LocalArtifactRepository, "log_artifact")
    studies = ("s",)
    for _ in range(100):
        try:
            moved = [*transfer.Transfer(Store(laptop.uri), studies=studies).move(lambda step: None)]
        except Killed:
            continue
        break
    assert {one.state for one in moved} == {transfer.THERE}
    assert set(calls) == {
        "create_run", "log_batch", "log_inputs", "create_logged_model", "log_outputs", "log_artifact",
        "finalize_logged_model", "set_terminated", "delete_run",
    }  # fmt: skip
    there = {one.tags[ORIGIN]: one for one in all_of(f"sqlite:///{store}").values()}
    here = {k: one for k, one in all_of(laptop.uri).items() if one.tags.get("study") == "s"}
    assert there.keys() == here.keys() and len(here) == 3
    for origin, one in here.items():
        assert set(contents.differences(one, there[origin])) <= {"parent"}
        assert one.deleted == there[origin].deleted
    assert rows(store)["logged_models"] == 1


def test_what_is_not_whole_is_no_trial(
    laptop: Laptop, store: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    """A byte that changes on the way is seen when it is read back, and repaired by the next attempt."""
    real = LocalArtifactRepository.log_artifact

    def broken(self: Any, local: str, above: str | None = None) -> None:
        if local.endswith(".bin"):
            Path(local).unlink()  # a link to the source's own
            Path(local).write_bytes(bytes(256))
        real(self, local, above)

    with monkeypatch.context() as patch:
        patch.setattr(LocalArtifactRepository, "log_artifact", broken)
        code, out, err = run("publish", "--source", laptop.uri)
    assert code == 1 and "1 not whole" in out
    assert "read back it differs in file report/weights.bin; start again" in err
    assert "r1" not in {row.tags.get(names.RECORD) for row in read.trials("s", finished=False)}
    code, out, err = run("publish", "--source", laptop.uri)
    assert code == 0 and "1 completed, 7 there already" in out, err
    check(laptop, store)


def test_what_changed_since_is_brought_up_to_date(laptop: Laptop, store: Path, run: Run) -> None:
    assert run("publish", "--source", laptop.uri)[0] == 0
    open_one = next(k for k, one in all_of(laptop.uri).items() if one.status == "RUNNING")
    laptop.client.log_metric(open_one, "train/loss", 7.0, START, 10)
    laptop.client.set_terminated(open_one, "FINISHED", START + 99_000)
    done = next(k for k, one in all_of(laptop.uri).items() if names.RECORD in one.tags)
    laptop.client.log_text(done, "<p>two</p>", "report/page.html")  # of the same size
    laptop.run("trial", study="new")
    code, out, err = run("publish", "--source", laptop.uri)
    assert code == 0, err
    assert "1 new, 2 brought up to date, 6 there already" in out
    check(laptop, store)


def test_what_was_deleted_there_stays_deleted(laptop: Laptop, store: Path, run: Run) -> None:
    words = ("--source", laptop.uri, "--studies", "other")
    assert run("publish", *words)[0] == 0
    client = MlflowClient()
    (sweep,) = [one for one in client.search_runs(["1"]) if one.data.tags[names.KIND] == "sweep"]
    client.delete_run(sweep.info.run_id)
    code, out, _ = run("publish", *words)
    assert code == 0 and "3 there already, 1 deleted there" in out
    assert client.get_run(sweep.info.run_id).info.lifecycle_stage == "deleted"


def test_a_run_that_its_record_was_delivered_to_is_the_same_run(
    laptop: Laptop, store: Path, run: Run
) -> None:
    tags = {names.KIND: "trial", names.RECORD: "r1", names.DELIVERED: "FINISHED"}
    there = MlflowClient().create_run("0", START, tags).info.run_id
    code, out, err = run("publish", "--source", laptop.uri, "--studies", "s")
    assert code == 0 and "2 new, 1 delivered before" in out, err
    found = [h.run_id for h in Store(f"sqlite:///{store}").heads([names.RECORD]) if h.tags]
    assert found == [there]


def test_two_publishers_at_once_make_one_run(
    laptop: Laptop, store: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = MlflowClient.create_run

    def twice(self: Any, *given: Any) -> Any:
        real(self, *given)
        return real(self, *given)

    monkeypatch.setattr(MlflowClient, "create_run", twice)
    code, out, err = run("publish", "--source", laptop.uri, "--studies", "other")
    assert code == 0 and "4 new" in out, err
    kinds = [run.data.tags[names.KIND] for run in MlflowClient().search_runs(["1"])]
    assert sorted(kinds) == ["study", "sweep", "trial", "trial"]


def test_a_dry_run_writes_nothing(laptop: Laptop, store: Path, run: Run) -> None:
    before = hashlib.sha256(store.read_bytes()).hexdigest()
    code, out, err = run("publish", "--source", laptop.uri, "--dry_run", "true")
    assert code == 0 and ": 8 new" in out and "nothing was written" in out, err
    assert hashlib.sha256(store.read_bytes()).hexdigest() == before


def test_a_store_that_goes_away_is_one_line_and_the_rest_follows_later(
    laptop: Laptop, store: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--source", laptop.uri, "--studies", "other")
    real, count = MlflowClient.log_batch, [0]

    def away(self: Any, *given: Any, **named: Any) -> Any:
        count[0] += 1
        if count[0] > 8:
            raise MlflowException("it is away", TEMPORARILY_UNAVAILABLE)
        return real(self, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", away)
        code, out, err = run("publish", *words)
    said = [line for line in err.splitlines() if line.startswith("Error")]
    assert code == 75 and len(said) == 1 and "4 of 4 runs are left: start again" in said[0]
    assert run("publish", *words)[0] == 0
    assert rows(store)["runs"] == 4 and rows(store)["metrics"] == 28


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--source", "sqlite:///nowhere.db"), "there is no database 'nowhere.db'"),
        (("--source", "mlflow.db"), "source and tracking store are the same"),
        (("--source", "no.db"), "expected"),
        (("--artifacts", "nowhere"), "artifacts: there is no folder 'nowhere'"),
        (("--studies", "s,t"), "studies: no run of 't' in the source; there are: other, s"),
    ],
)
def test_mistakes_are_one_line(words: tuple[str, ...], said: str, laptop: Laptop, run: Run) -> None:
    code, _, err = run("publish", "--source", laptop.uri, *words)
    errors = [line for line in err.splitlines() if line.startswith("Error")]
    assert code == 2 and len(errors) == 1 and said in errors[0], err


def test_files_that_did_not_come_along_are_missed(laptop: Laptop, store: Path, run: Run) -> None:
    (laptop.folder / "mlruns").rename(laptop.folder / "elsewhere")
    shutil.move(str(laptop.folder), str(laptop.folder.with_name("brought")))
    uri = f"sqlite:///{laptop.folder.with_name('brought') / 'mlflow.db'}"
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as connection:
        for table, column in (("runs", "artifact_uri"), ("logged_models", "artifact_location")):
            connection.execute(f"UPDATE {table} SET {column} = '/gone' || {column}")  # noqa: S608
    code, out, err = run("publish", "--source", uri)
    assert code == 1 and "7 new, 1 not whole" in out
    assert "samples.parquet is not here; say as artifacts in which folder" in err
    place = str(laptop.folder.with_name("brought") / "elsewhere")
    code, out, err = run("publish", "--source", uri, "--artifacts", place)
    assert code == 0 and "1 new" in out, err
    check(laptop_at(uri), store)


def laptop_at(uri: str) -> Laptop:
    found = Laptop.__new__(Laptop)
    found.uri, found.client = uri, MlflowClient(uri)
    return found


def test_a_database_of_somebody_elses_names_no_folder_of_this_machine(
    laptop: Laptop, tmp_path: Path, run: Run
) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "key").write_text("private")
    with sqlite3.connect(laptop.folder / "mlflow.db") as connection:
        connection.execute(f"UPDATE runs SET artifact_uri = '{tmp_path / 'secrets'}'")  # noqa: S608
    code, _, err = run("publish", "--source", laptop.uri)
    assert code == 2 and "expected a folder as MLflow names them" in err


def test_what_is_private_stays_and_what_was_signed_is_as_it_was(
    laptop: Laptop, store: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/somebodyhere")
    point = write.Point("eval/accuracy", 0.5, 0, 1.0)
    signed = digest.sign({"where": "/home/somebodyhere/x"}, [point])
    run_id = laptop.run(
        "trial", study="p", where="/home/somebodyhere/x", other="/home/somebodyhere/y", **signed
    )
    laptop.files(run_id, log="/home/somebodyhere/z")
    code, out, err = run("publish", "--source", laptop.uri, "--studies", "p")
    assert code == 0, err
    (found,) = [one for one in all_of(f"sqlite:///{store}").values() if one.tags[ORIGIN] == run_id]
    assert found.tags["where"] == "/home/somebodyhere/x" and found.tags["other"] == "~/y"
    text = mlflow.artifacts.load_text(f"runs:/{found.run_id}/report/log.html")
    assert text == "~/z"


def test_all_may_go_to_one_experiment_and_through_a_third_store(
    laptop: Laptop,
    store: Path,
    empty_store: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """An export is a store too: what comes back by another way is known."""
    some = ("--studies", "s")
    code, out, err = run("publish", "--source", laptop.uri, *some, "--experiment", "mine")
    assert code == 0 and "of 1 experiments" in out, err
    experiment = MlflowClient().get_experiment_by_name("mine").experiment_id
    found = MlflowClient().search_runs([experiment], run_view_type=3)
    assert len(found) == 3
    assert {one.data.tags[transfer.ORIGIN_EXPERIMENT] for one in found} == {"night"}
    (tmp_path / "third").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        use_store(empty_store, tmp_path / "third", patch)
        code, out, err = run("publish", "--source", f"sqlite:///{store}")
        assert code == 0 and "3 new" in out, err
        code, out, err = run("publish", "--source", laptop.uri, *some, "--experiment", "mine")
        assert code == 0 and "3 there already" in out, err
    code, out, err = run("publish", "--source", f"sqlite:///{tmp_path / 'third' / 'mlflow.db'}")
    assert code == 0 and "3 there already" in out, err


def test_registered_versions_come_along_when_asked(
    laptop: Laptop, store: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = next(one for one in all_of(laptop.uri).values() if one.models)
    source = f"models:/{first.models[0].model_id}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", laptop.uri)
    laptop.client.create_registered_model("mnist", {"a": "b"}, "digits")
    laptop.client.create_model_version("mnist", source, first.run_id, {"run_id": first.run_id})
    laptop.client.set_registered_model_alias("mnist", "champion", "1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}")
    words = ("--source", laptop.uri, "--studies", "s", "--registered_models", "true")
    for said in ("1 versions new, 0 there already", "0 versions new, 1 there already"):
        code, out, err = run("publish", *words)
        assert code == 0 and f"registered model mnist: {said}" in out, err
    client = MlflowClient()
    version = client.get_model_version_by_alias("mnist", "champion")
    assert version.run_id == version.tags["run_id"]
    assert client.get_run(version.run_id).data.tags[ORIGIN] == first.run_id


# --- two machines' studies, each in its own store


def test_machines_together_say_what_each_said_alone(
    empty_store: Path, tmp_path: Path, run: Run, undrawn: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, sources = [], []
    for i, truth in enumerate((0.78, 0.82)):
        (tmp_path / f"m{i}").mkdir()
        path = use_store(empty_store, tmp_path / f"m{i}", monkeypatch)
        keep([measured("fleet", f"m{i}", {MLX: truth}, 6, float(i), seed=i, arms=(MLX, TORCH))])
        code, _, err = run("analyze", "--study", "fleet", "--output", "alone")
        assert code == 0, err
        alone.append(table(Path("alone/comparisons.csv")))
        sources.append(f"sqlite:///{path}")
    (tmp_path / "server").mkdir()
    use_store(empty_store, tmp_path / "server", monkeypatch)
    for uri in sources:
        code, out, err = run("publish", "--source", uri)
        assert code == 0 and "13 new" in out, err
    code, out, err = run("analyze", "--study", "fleet")
    assert code == 0 and "study fleet on 2 machines, each by itself" in out, err
    assert [table(Path(f"results/fleet/m{i}/comparisons.csv")) for i in range(2)] == alone
    assert {row["machine"] for row in table(Path("results/fleet/machines.csv"))} == {"m0", "m1"}


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return [*csv.DictReader(file)]

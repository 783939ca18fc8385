"""What was measured reaches the store once, wherever its delivery is cut off and whatever the store does.

MLflow's own server runs in this process, before a real database, and fails when it is told to.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.entities import ViewType
from mlflow.tracking import MlflowClient

from entrypoints import deliver, keeping
from entrypoints.deliver import Courier, send, send_folder
from measurement.errors import InputError
from serving import log
from tests.entrypoints.conftest import use_store
from tests.entrypoints.faulty_server import Faults, serving
from tests.serving.served import write_trial
from tracking import delivery, names, outbox, read
from tracking.store import StoreAway
from tracking.write import Point, Record

TAGS = {"arm": "mlx", "framework": "mlx", "workload": "mnist", "seed": "0"}
DATASET = {"name": "digits", "sha256": "a" * 64, "source": "made", "train_items": "4"}
NOW = 1_790_000_000.0


@pytest.fixture(scope="module")
def served(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faults]:
    folder = tmp_path_factory.mktemp("served")
    with pytest.MonkeyPatch.context() as patch:
        database = use_store(empty_store, folder, patch)
        MlflowClient().create_experiment("kept", "mlflow-artifacts:/kept")
        patch.setenv("MLFLOW_EXPERIMENT_NAME", "kept")
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        patch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
        patch.setenv("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        with serving(database, folder / "artifacts") as faults:
            patch.setenv("MLFLOW_TRACKING_URI", faults.address)
            yield faults


@pytest.fixture
def server(served: Faults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Faults:
    """The server, well; records of this test are its own."""
    monkeypatch.chdir(tmp_path)
    served.reset()
    return served


def opened(name: str = "one", parent: str = "", tags: dict[str, str] | None = None) -> outbox.Kept:
    folder = outbox.RECORDS.resolve() / name
    folder.mkdir(parents=True)
    return outbox.begin(folder, Record(name, "", {}, {**TAGS, **(tags or {})}, [], {}), parent)


def record(name: str, folder: Path | None, model: bool = True) -> Record:
    """A small trial: two histories, a value of the whole, an artifact, a model."""
    if folder:
        write_trial(folder, "mlx")
        (folder / outbox.ARTIFACTS).mkdir(exist_ok=True)
        (folder / outbox.ARTIFACTS / "trial.json").write_text("{}")
    points = [Point(key, i / 3, i, NOW + i) for key in ("train/loss", "x/y") for i in range(3)]
    points += [Point("train/total_seconds", 4.0, 0, NOW), Point("z/nan", float("nan"), 0, NOW)]
    return Record(
        name, "a note", {"seed": "0"}, TAGS, points, DATASET, files=bool(folder), model=model
    )


def whole(name: str = "one", model: bool = True) -> outbox.Kept:
    kept = opened(name)
    return outbox.close(kept, record(name, kept.folder, model))


def assert_once(kept: outbox.Kept, model: bool = True) -> str:
    """The store has exactly what the record has, once; returns the run."""
    client = MlflowClient()
    experiment = client.get_experiment_by_name("kept").experiment_id
    (run,) = client.search_runs([experiment], f"tags.{names.RECORD} = '{kept.id}'")
    run_id = run.info.run_id
    assert (run.info.status, run.info.run_name) == ("FINISHED", kept.record.name)
    assert run.info.start_time == int(kept.started_seconds * 1000)
    assert run.info.end_time == int(kept.ended_seconds * 1000)
    assert run.data.params == {"seed": "0"}
    assert run.data.tags[names.DELIVERED] == "FINISHED"
    assert run.data.tags.items() >= {**TAGS, "mlflow.note.content": "a note"}.items()
    for key in ("train/loss", "x/y"):
        history = client.get_metric_history(run_id, key)
        assert [(p.step, p.value) for p in history] == [(i, i / 3) for i in range(3)]
        assert [p.timestamp for p in history] == [int(NOW + i) * 1000 for i in range(3)]
    assert len(client.get_metric_history(run_id, "train/total_seconds")) == 1
    assert len(client.get_metric_history(run_id, "z/nan")) == 1
    (data,) = run.inputs.dataset_inputs
    assert data.dataset.name == "digits"
    assert [file.path for file in client.list_artifacts(run_id)] == ["trial.json"]
    models = client.search_logged_models([experiment], f"source_run_id = '{run_id}'")
    assert [str(m.status) for m in models] == ["READY"] * model
    assert len(run.outputs.model_outputs if run.outputs else []) == model
    if model:
        measured = models[0].metrics
        assert len(measured) == len({(m.key, m.step) for m in measured}) == 4
        listed = client.list_logged_model_artifacts(models[0].model_id)
        assert "MLmodel" in [file.path for file in listed]
    return str(run_id)


def test_a_delivery_repeated_adds_nothing(server: Faults) -> None:
    kept = whole()
    run_id = send(kept)
    assert assert_once(kept) == run_id == send(kept)
    calls = len(server.calls)
    assert send(kept) == run_id and len(server.calls) == calls  # its receipt says so
    (kept.folder / outbox.RECEIPTS).unlink()
    assert send(kept) == run_id == assert_once(kept)


def test_a_delivery_cut_off_at_every_call_in_turn_ends_whole(
    server: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each attempt comes one call further than the one before: every call is once the last, done by
    the store and not known to be."""

    def saved(folder: Path, path: Path, *rest: object) -> None:
        path.mkdir()
        (path / "MLmodel").write_text("flavors: {}")

    monkeypatch.setattr(log, "save_model", saved)  # half of an attempt's time
    kept = whole()
    for calls in range(1, 100):
        server.dies_after(calls)
        try:
            send(kept)
        except StoreAway:
            server.reset()
            continue
        break
    server.reset()
    assert calls > 15
    assert_once(kept)


@settings(max_examples=5)
@given(cut=st.integers(1, 28), how=st.sampled_from(["lose", "refuse", 500, 503, 401]))
def test_a_delivery_cut_off_once_anywhere_ends_whole(
    served: Faults, tmp_path_factory: pytest.TempPathFactory, cut: int, how: Any
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("cut"))
        kept = whole()
        served.dies_after(cut, how)
        courier = Courier()
        courier.send(kept)
        served.reset()
        courier.retry()
        assert courier.waiting == [] and courier.away == ""
        assert_once(kept)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("refuse", "it broke the connection"),
        (500, "500"),
        (401, "refuses the credentials"),
        (403, "refuses the credentials"),
        ("slow", "no answer in time"),
    ],
)
def test_a_store_that_fails_is_one_line_and_is_not_asked_again(
    server: Faults,
    fault: Any,
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    server.seconds = 1.2
    server.reset(lambda number, path: fault)
    courier, first, second = Courier(), whole("first", False), whole("second", False)
    assert courier.send(first) == ""
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line and str(first.folder) in line and "-e deliver" in line
    calls = len(server.calls)
    assert courier.send(second) == "" and len(server.calls) == calls
    assert courier.waiting == [first.folder, second.folder]
    server.reset()
    courier.retry()
    assert not courier.waiting
    for kept in (first, second):
        assert_once(kept, model=False)


def test_a_slow_store_is_not_waited_for_after_a_measurement_but_by_deliver(server: Faults) -> None:
    server.seconds = 0.05
    server.reset(lambda number, path: "slow")
    kept = whole(model=False)
    courier = Courier(most=0.1)
    assert courier.send(kept) == "" and "too slowly" in courier.away
    assert send_folder(kept.folder)
    assert_once(kept, model=False)


def test_two_deliveries_at_once_double_nothing(server: Faults) -> None:
    kept = [whole(f"r{i}", False) for i in range(3)]
    threads = [threading.Thread(target=deliver.deliver, args=(outbox.RECORDS,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in kept:
        assert_once(one, model=False)


def test_two_runs_of_one_record_become_one(server: Faults) -> None:
    """As when a copy of the record is sent by another machine at the same moment."""
    kept = whole(model=False)
    client = MlflowClient()
    experiment = client.get_experiment_by_name("kept").experiment_id
    for _ in range(2):
        client.create_run(
            experiment,
            int(kept.started_seconds * 1000),
            {names.RECORD: kept.id, names.KIND: "trial"},
            kept.record.name,
        )
    run_id = send(kept)
    assert_once(kept, model=False)
    runs = client.search_runs(
        [experiment], f"tags.{names.RECORD} = '{kept.id}'", ViewType.DELETED_ONLY
    )
    assert [run.data.tags[names.KIND] for run in runs] == ["double"]
    assert run_id not in [run.info.run_id for run in runs]


# --- what was cut off, what is broken, what is elsewhere


def test_a_trial_that_was_cut_off_keeps_its_events_and_is_no_finished_one(
    server: Faults, run: Any
) -> None:
    kept = opened("cut", tags={"study": "cut", "pair": "0"})
    (kept.folder / outbox.EVENTS).write_text('{"event": "ready"}\n{"event": "epo')
    code, out, _ = run("deliver")
    assert code == 0 and "delivered  cut" in out and "cut off while it was measured" in out
    found = MlflowClient().get_run(outbox.receipts(kept.folder)[server.address]["run_id"])
    assert found.info.status == "KILLED" and found.data.tags["flags"] == "CRASHED"
    assert "2 events are kept" in found.data.tags["crash"]
    assert [f.path for f in MlflowClient().list_artifacts(found.info.run_id)] == ["events.jsonl"]
    assert read.trials("cut") == []


def test_a_study_that_went_on_and_was_killed_is_not_the_finished_one_it_was(
    server: Faults, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliver.agreement, "check", lambda *_: None)
    design = {"pairs": 1, "margin": 0.05, "metric": "train/total_seconds", "family": [], "arms": [],
              "comparisons": [], "machine": "here"}  # fmt: skip
    folder = outbox.RECORDS.resolve() / "study"
    folder.mkdir(parents=True)
    tags = {"study": "went-on", "design": json.dumps(design), "machine": "here"}
    kept = outbox.begin(folder, Record("study", "", {}, tags, [], {}, kind="study"))
    statuses = []
    for status in ("RUNNING", "FINISHED", "RUNNING", "cut off"):
        if status == "cut off":
            assert run("deliver")[0] == 0
        else:
            kept = outbox.with_status(kept, status)
            send(kept)
        statuses.append(MlflowClient().get_run(delivery.find(kept.id)).info.status)
    assert statuses == ["RUNNING", "FINISHED", "RUNNING", "KILLED"]
    assert len([s for s in read.studies() if s.name == "went-on"]) == 1


def test_a_trial_that_is_being_measured_is_left_alone(server: Faults, run: Any) -> None:
    kept = opened()
    with outbox.locked(kept.folder):
        code, out, _ = run("deliver")
    assert code == 0 and "being measured" in out
    assert outbox.read(kept.folder).running and not outbox.receipts(kept.folder)


def test_deliver_says_what_is_left_and_why_and_sends_the_rest(server: Faults, run: Any) -> None:
    broken, cut, good = (whole(name, model=False) for name in ("broken", "cut", "good"))
    (broken.folder / outbox.HEADER).write_text("{")
    text = (cut.folder / outbox.POINTS).read_text()
    (cut.folder / outbox.POINTS).write_text(text[:-9])
    code, out, _ = run("deliver")
    assert code == deliver.UNDELIVERED
    assert "1 delivered, 2 left, 0 that were there already" in out
    assert "record.json cannot be read" in out and "its digest differs" in out
    assert_once(good, model=False)
    server.reset(lambda number, path: "refuse")
    code, out, _ = run("deliver")
    assert code == deliver.UNDELIVERED and "0 delivered, 2 left, 1 that" in out


def test_a_model_that_is_broken_holds_no_number_back(
    server: Faults, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = whole()
    (kept.folder / "weights.safetensors").write_bytes(b"half of it")
    run_id = send(kept)
    assert assert_once(kept, model=False) == run_id
    assert "cannot be read" in MlflowClient().get_run(run_id).data.tags["unsaved"]
    assert "is missing" in capsys.readouterr().err


def test_what_another_store_has_is_copied_only_when_asked(
    server: Faults, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = whole(model=False)
    send(kept)
    other = server.address.replace("127.0.0.1", "localhost")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", other)
    assert "0 delivered, 0 left, 1 that" in run("deliver")[1]
    code, out, _ = run("deliver", "--copies", "true")  # the same store by another name: found again
    assert code == 0 and "1 delivered" in out
    assert_once(kept, model=False)


def test_the_run_that_mlflow_run_opened_is_used_and_closed_late(
    server: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = MlflowClient()
    experiment = client.get_experiment_by_name("kept").experiment_id
    given = client.create_run(experiment, tags={"mlflow.project.entryPoint": "x"}).info.run_id
    client.log_param(given, "seed", "0.0")  # as the user asked for it
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    folder = outbox.RECORDS.resolve() / "given"
    folder.mkdir(parents=True)
    kept = outbox.begin(folder, Record("x", "", {}, TAGS, [], {}), run_id=outbox.given_run())
    kept = outbox.close(kept, record("x", folder, model=False))
    server.dies_after(9)
    with pytest.raises(StoreAway):
        send(kept)
    server.reset()
    client.set_terminated(given, "FINISHED")  # which `mlflow run` does when the command has ended
    assert given not in [row.run_id for row in read.trials()]  # half of it is no trial
    assert send_folder(folder) == given
    assert given in [row.run_id for row in read.trials()]
    assert client.get_run(given).data.params == {"seed": "0.0"}


# --- disks that are full


def measured(kept: outbox.Kept, courier: Courier) -> str:
    """`keeping.measured` of a trial that is measured already."""
    return keeping.measured(
        kept, lambda: None, lambda _, place: record("one", place, False), courier
    )[2]


def full(monkeypatch: pytest.MonkeyPatch, *parts: str) -> None:
    """No file can be written any more below a folder whose path holds one of these parts."""
    real = outbox.disk.write

    def write(path: Path, content: str | bytes) -> None:
        if any(part in str(path) for part in parts):
            raise OSError(28, "No space left on device")
        real(path, content)

    monkeypatch.setattr(outbox.disk, "write", write)


def test_too_little_room_is_said_before_anything_is_measured(
    server: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "SPARE_BYTES", 2**60)
    folder = outbox.RECORDS.resolve() / "big"
    folder.mkdir(parents=True)
    with pytest.raises(InputError, match="no room for a record .* expected .* MiB: make room"):
        keeping.begin(folder, Record("x", "", {}, TAGS, [], {}))
    assert not folder.exists()


def test_a_disk_that_is_full_at_the_end_moves_the_record(
    server: Faults, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = opened()
    with monkeypatch.context() as patch:
        full(patch, str(kept.folder))
        assert measured(kept, Courier())
        with pytest.raises(InputError, match="cannot be written"):
            send_folder(kept.folder)
    assert (
        "cannot be written (No space left on device): the record is in " in capsys.readouterr().err
    )
    assert send_folder(kept.folder)  # the first folder still says RUNNING, and its run is whole
    client = MlflowClient()
    (run,) = client.search_runs(
        [client.get_experiment_by_name("kept").experiment_id], f"tags.{names.RECORD} = '{kept.id}'"
    )
    assert run.info.status == "FINISHED" and run.data.metrics["train/total_seconds"] == 4.0


def test_with_no_room_anywhere_the_store_takes_it_and_then_standard_error(
    server: Faults, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = opened("first"), opened("second")
    full(monkeypatch, "/")
    run_id = measured(first, Courier())
    found = MlflowClient().get_run(run_id)
    assert found.info.status == "FINISHED" and found.data.metrics["train/total_seconds"] == 4.0
    assert "nor can" in capsys.readouterr().err
    server.reset(lambda number, path: "refuse")
    assert measured(second, Courier()) == ""
    err = capsys.readouterr().err
    (line,) = [line for line in err.splitlines() if line.startswith("{")]
    assert ["train/total_seconds", 4.0, 0, NOW] in [
        [*point.values()] for point in json.loads(line)["record"]["points"]
    ]
    assert "Neither a disk nor the store" in err


def test_a_store_without_room_for_artifacts_gets_them_later(server: Faults) -> None:
    kept, courier = whole(model=False), Courier()
    server.reset(lambda number, path: 500 if path.startswith("PUT") else None)
    assert courier.send(kept) == "" and courier.away
    server.reset()
    courier.retry()
    assert_once(kept, model=False)


def test_what_is_interrupted_while_it_is_sent_stays_measured(
    server: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = opened()

    def interrupted(*arguments: object, **words: object) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(deliver, "send", interrupted)
        with pytest.raises(KeyboardInterrupt):
            measured(kept, Courier())
    assert outbox.read(kept.folder).record.status == "FINISHED"
    started = time.monotonic()
    send_folder(kept.folder)
    assert_once(outbox.read(kept.folder), model=False)
    assert time.monotonic() - started < 60


def test_a_record_that_was_never_born_is_forgotten_and_a_measured_one_is_not(
    tmp_path: Path,
) -> None:
    """Killed while room was made, or between the writing of its first lines and their getting their
    name."""
    for name, files in (
        ("unborn", ["record.json.new"]),
        ("room alone", ["reserve"]),
        ("with its room", ["reserve", "record.json"]),
        ("cut off", ["record.json.new", "record.json"]),
        ("measured", ["record.json.new", "events.jsonl"]),
        ("held", ["record.json.new"]),
    ):
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).write_text("{")
    with outbox.locked(tmp_path / "held"):
        outbox.forget_unborn(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "cut off", "held", "measured", "with its room",
    ]  # fmt: skip


def test_an_interrupted_beginning_leaves_nothing_and_holds_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "records" / "one"
    folder.mkdir(parents=True)

    def interrupted(*words: Any, **named: Any) -> None:
        assert (folder / "reserve").exists()
        outbox.forget_unborn(folder.parent)  # as another study does that starts now
        assert (folder / "reserve").exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(outbox, "begin", interrupted)
    with pytest.raises(KeyboardInterrupt):
        keeping.begin(folder, Record("x", "", {}, TAGS, [], {}))
    assert not folder.exists()

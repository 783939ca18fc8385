"""Trials and studies whose store is away when they start, in the middle, at the end; what a resumed one
knows; and that nothing is logged while a worker measures. One real trial is measured and then replayed.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from entrypoints import deliver, opening, study, supervisor
from entrypoints.analyze import Analysis
from tests.entrypoints.conftest import invoke, use_store
from tests.entrypoints.faulty_server import Faults, serving
from tracking import outbox, read

SMOKE = ("--preset", "smoke", "--dataset", "synthetic", "--epochs", "1", "--compile", "off")
TINY = (
    "--name", "tiny", "--arms", "mlx compile=off, mlx compile=off threads=1", "--pairs", "2", "--epochs",
    "1", "--preset", "smoke", "--dataset", "synthetic", "--device", "cpu", "--gap_seconds", "0",
)  # fmt: skip
Run = Callable[..., tuple[int, str, str]]


class Worker:
    """Measures once, and then says again what it said. `calls` of the store, before and after."""

    def __init__(self, faults: Faults) -> None:
        self.faults, self.folder = faults, Path()
        self.real = supervisor.run_worker
        self.calls: list[tuple[int, int]] = []
        self.before: Callable[[int], None] = lambda number: None

    def __call__(self, spec: Any, folder: Path, listen: Any, *rest: Any) -> dict[str, Any]:
        self.before(len(self.calls))
        before = len(self.faults.calls)
        result = self._run(spec, folder, listen, *rest)
        self.calls.append((before, len(self.faults.calls)))
        return result

    def _run(self, spec: Any, folder: Path, listen: Any, *rest: Any) -> dict[str, Any]:
        if not self.folder.name:
            self.folder = folder
            return self.real(spec, folder, listen, *rest)
        for name in ("events.jsonl", "weights.safetensors"):
            shutil.copy(self.folder / name, folder / name)
        for line in (folder / "events.jsonl").read_text().splitlines():
            event = json.loads(line)
            event["pid"] = os.getpid()
            listen(event)
        return dict(event)


@pytest.fixture(scope="module")
def worker(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    folder = tmp_path_factory.mktemp("served")
    with pytest.MonkeyPatch.context() as patch:
        database = use_store(empty_store, folder, patch)
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        patch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
        with serving(database, folder / "artifacts") as faults:
            patch.setenv("MLFLOW_TRACKING_URI", faults.address)
            found = Worker(faults)
            patch.setattr(supervisor, "run_worker", found)
            assert invoke("trial", "mnist", "mlx", *SMOKE) == 0
            yield found


@pytest.fixture(autouse=True)
def unanalysed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody draws figures."""
    monkeypatch.setattr(study, "analyze", lambda *a, **k: Analysis(Path("results"), "", ""))


@pytest.fixture
def server(worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Faults:
    monkeypatch.chdir(tmp_path)
    worker.faults.reset()
    worker.calls.clear()
    worker.before = lambda number: None
    return worker.faults


def away(number: int, path: str) -> str:
    return "refuse"


def statuses(study_name: str) -> list[str]:
    return [row.status for row in read.trials(study_name, finished=False)]


def test_nothing_is_logged_while_a_real_worker_measures(worker: Worker) -> None:
    (first,) = worker.calls[:1]
    assert first[0] == first[1]
    assert (worker.folder / "events.jsonl").read_text().count("\n") > 5


def test_a_trial_without_its_store_is_kept_and_delivered_once(server: Faults, run: Run) -> None:
    server.reset(away)
    code, out, err = run("trial", "mnist", "mlx", *SMOKE)
    assert code == deliver.UNDELIVERED
    assert "1 epochs in" in out and "not delivered yet" in out
    (line,) = [line for line in err.splitlines() if "Not delivered" in line]
    assert "the record is kept in" in line.lower() and "`mlflow run . -e deliver`" in line
    server.reset()
    for words in ("1 delivered, 0 left, 0 that", "0 delivered, 0 left, 1 that"):
        code, out, _ = run("deliver")
        assert code == 0 and words in out
    (folder,) = outbox.folders()
    (row,) = read.trials(run_ids=[outbox.receipts(folder)[server.address]["run_id"]])
    assert row.status == "FINISHED" and row.altered == ()
    assert MlflowClient().get_run(row.run_id).outputs.model_outputs


def test_a_study_starts_goes_on_and_ends_without_its_store(
    server: Faults, worker: Worker, run: Run
) -> None:
    server.reset(away)

    def stopped(number: int) -> None:
        if number == 2:
            raise KeyboardInterrupt

    worker.before = stopped
    assert run("study", *TINY)[0] == 130
    worker.before = lambda number: None
    server.reset(away)
    code, _, err = run("study", *TINY)
    assert code == deliver.UNDELIVERED and "2 of 6 trials are done already" in err
    assert "analyze -P study=tiny" in err
    assert len(server.calls) == 3  # when it begins, once between its blocks, and at the end
    server.reset()
    code, out, _ = run("deliver")
    assert code == 0 and "8 delivered, 0 left" in out
    part = read.study("tiny")
    rows = read.trials_of(part)
    assert sorted(row.status for row in rows) == ["FINISHED"] * 6 + ["KILLED"]
    assert {row.parent for row in rows} == {part.run_id}
    finished = [row.arm for row in rows if row.status == "FINISHED"]
    assert finished == part.design["order"]  # by the time of measuring, not of sending
    code, out, err = run("study", *TINY)
    assert code == 0 and "6 of 6 trials are done already" in err
    assert len(worker.calls) == 6
    assert len(statuses("tiny")) == 7


def test_a_store_that_leaves_in_the_middle_has_everything_when_it_is_back(
    server: Faults, worker: Worker, run: Run
) -> None:
    def comes_and_goes(number: int) -> None:
        if number == 1:
            server.reset(away)
        elif number == 2:  # the last one of the first block
            server.reset()

    worker.before = comes_and_goes
    code, _, err = run("study", *TINY, "--name", "gone")
    assert code == 0, err
    assert "2 of 2 records that waited are delivered" in err
    assert statuses("gone") == ["FINISHED"] * 6
    assert all(before == after for before, after in worker.calls)


def test_a_store_that_is_away_at_the_end_gets_the_rest_later(
    server: Faults, worker: Worker, run: Run
) -> None:
    worker.before = lambda number: server.reset(away) if number == 2 else None
    code, _, err = run("study", *TINY, "--name", "ends", "--pairs", "1")
    assert code == deliver.UNDELIVERED and "Everything is measured and kept" in err
    server.reset()
    assert len(read.trials("ends")) == 2
    assert run("deliver")[0] == 0
    assert len(read.trials("ends")) == 3
    client = MlflowClient()
    assert client.get_run(read.study("ends").run_id).info.status == "FINISHED"


def test_a_name_that_is_taken_is_found_on_delivery_and_nothing_is_lost(
    server: Faults, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_pair = ("--name", "taken", "--pairs", "1")
    assert run("study", *TINY, *one_pair)[0] == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    server.reset(away)
    code, _, _ = run("study", *TINY, *one_pair, "--epochs", "2")
    assert code == deliver.UNDELIVERED
    server.reset()
    code, out, _ = run("deliver")
    assert code == deliver.UNDELIVERED and "0 delivered, 4 left" in out
    assert "study 'taken' exists with another epochs (1 against 2)" in out
    assert statuses("taken") == ["FINISHED"] * 3


def test_a_slot_that_the_store_has_is_not_filled_twice(
    server: Faults, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured without the store in one folder, and with it in another."""
    words = (*TINY, "--name", "slots", "--pairs", "1")
    server.reset(away)
    assert run("study", *words)[0] == deliver.UNDELIVERED
    (tmp_path / "elsewhere").mkdir()
    server.reset()
    with monkeypatch.context() as patch:
        patch.chdir(tmp_path / "elsewhere")
        assert run("study", *words)[0] == 0
    code, out, _ = run("deliver")
    assert code == 0 and "4 delivered" in out
    assert statuses("slots") == ["FINISHED"] * 3
    again = MlflowClient().search_runs(["0"], "tags.kind = 'trial again'")
    assert len(again) == 3 and {r.data.tags["study"] for r in again} == {"slots"}
    assert len([s for s in read.studies() if s.name == "slots"]) == 1


def test_one_command_of_a_study_at_a_time(server: Faults, run: Run) -> None:
    with opening.alone("tiny"):
        code, _, err = run("study", *TINY)
        assert code == 2 and "study 'tiny' is being run on this machine by another command" in err
        with opening.alone("other"):
            pass
    with opening.alone("tiny"):
        pass

"""Rows of trials: order, selection, refusals, samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow.tracking import MlflowClient

from benchmarks import stores
from measurement.errors import InputError
from tracking import names, read, write


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    uri = stores.fill(tmp_path / "store.db", 6, epochs=2)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(None)
    return MlflowClient(uri)


def test_trials_come_oldest_first(store: MlflowClient) -> None:
    rows = read.trials(stores.STUDY)
    assert [row.run_id for row in rows] == [f"{number:032x}" for number in range(6)]
    assert rows[4].arm == "arm 4" and rows[4].pair == 0 and rows[5].pair == 1
    assert rows[1].start_seconds == stores.START_MILLISECONDS / 1000 + 60
    assert set(rows[1].metrics) == set(stores.METRICS)
    assert rows[1].cell["framework"] == "framework of 1"
    assert rows[1].flags == ("SYNTHETIC",) and rows[1].parity is not None
    assert read.trials("other") == []


def test_trials_that_did_not_finish_are_asked_for(store: MlflowClient) -> None:
    run = store.create_run("0", tags={"kind": "trial", "study": stores.STUDY, "arm": "x"})
    assert len(read.trials(stores.STUDY)) == 6
    rows = read.trials(stores.STUDY, finished=False)
    assert {row.run_id: row.status for row in rows}[run.info.run_id] == "RUNNING"
    assert len(rows) == 7


def test_named_trials_come_as_named(store: MlflowClient) -> None:
    named = [f"{number:032x}" for number in (5, 0, 3)]
    assert [row.run_id for row in read.trials(run_ids=named)] == named


def test_a_run_that_is_no_trial_is_refused(store: MlflowClient) -> None:
    other = store.create_run("0").info.run_id
    with pytest.raises(InputError, match=f"run '{other}' is no trial"):
        read.trials(run_ids=["0" * 32, other])
    for wrong in ("f" * 32, "latest", ""):
        with pytest.raises(InputError, match=f"no run '{wrong}' in this store"):
            read.trials(run_ids=[wrong])
    with pytest.raises(InputError, match="quote"):
        read.trials("it's")


def test_samples_of_many_are_the_samples_of_each(store: MlflowClient, tmp_path: Path) -> None:
    experiment = store.create_experiment("files", artifact_location=(tmp_path / "a").as_uri())
    run_ids = []
    for number in range(12):
        path = tmp_path / names.SAMPLES
        write.write_samples(path, {"epoch_seconds": [number, 0.5], "epoch_loss": [float("nan")]})
        run_ids.append(store.create_run(experiment).info.run_id)
        store.log_artifact(run_ids[-1], str(path))
    found = read.samples_of(run_ids)
    assert list(found) == run_ids
    for number, run_id in enumerate(run_ids):
        assert found[run_id]["epoch_seconds"].tolist() == [number, 0.5]
        assert np.isnan(found[run_id]["epoch_loss"]).all()
        np.testing.assert_equal(found[run_id], read.samples(run_id))


def test_a_store_whose_files_lie_elsewhere_now_is_one_line(
    store: MlflowClient, tmp_path: Path
) -> None:
    """As one that was brought home from a rented machine: it names its files by their whole path."""
    experiment = store.create_experiment("files", artifact_location=(tmp_path / "a").as_uri())
    path = tmp_path / names.SAMPLES
    write.write_samples(path, {"epoch_seconds": [1.0]})
    run_id = store.create_run(experiment).info.run_id
    store.log_artifact(run_id, str(path))
    (tmp_path / "a").rename(tmp_path / "home")
    for get in (read.samples, lambda run_id: read.samples_of([run_id])):
        with pytest.raises(
            InputError, match=f"'{run_id}' has no {names.SAMPLES} in .*put that folder"
        ):
            get(run_id)
    (tmp_path / "home").rename(tmp_path / "a")
    assert read.samples(run_id)["epoch_seconds"].tolist() == [1.0]


def test_what_a_rank_did_is_a_history_and_never_a_value_of_the_run(store: MlflowClient) -> None:
    first, second = (f"{number:032x}" for number in (0, 1))
    whole = read.trials(run_ids=[first])[0].metrics
    write.set_tags(first, {"ranks": "3"})
    for rank in (1, 0, 2):
        store.log_metric(first, "rank/items_per_second", 10.0 + rank, step=rank)
    assert read.trials(run_ids=[first])[0].metrics == whole
    alone, job = read.trials(run_ids=[second, first])
    assert job.ranks == {"rank/items_per_second": {0: 10.0, 1: 11.0, 2: 12.0}}
    assert alone.ranks == {}


def test_a_run_that_never_began_has_words_for_numbers_and_stops_nobody(store: MlflowClient) -> None:
    run = store.create_run("0", tags={"kind": "trial", "study": "words"})
    store.log_param(run.info.run_id, "batch_size", "preset")  # as `mlflow run` has logged it
    assert [row.cell["batch_size"] for row in read.trials("words", finished=False)] == ["preset"]
    store.set_tag(run.info.run_id, "epochs", "many")
    with pytest.raises(InputError, match="epochs is 'many'"):
        read.trials("words", finished=False)


def test_two_machines_of_one_name_are_not_mixed(store: MlflowClient) -> None:
    row = replace(read.trials(stores.STUDY)[0], study="s", machine="linux-x86_64-2c-000000")
    study = read.Study("s", "run", 6, 0.05, "train/total_seconds", 0.9, (), (), (), {}, row.machine)
    rows = [replace(row, tags={names.IDENTITY: digest}) for digest in ("", "ab", "ab")]
    assert read.belonging(study, rows) == rows
    with pytest.raises(InputError, match="2 machines have the name"):
        read.belonging(study, [*rows, replace(row, tags={names.IDENTITY: "cd"})])

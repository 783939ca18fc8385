"""A model in the store that is not its run's is found, whatever was changed in it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from safetensors.numpy import load_file, save_file
from served import CONFIG, digits, images, weights, write_trial

from measurement.digest import digest
from measurement.errors import InputError
from serving import integrity, log, predictions
from serving.integrity import Proof
from serving.predictions import Predictions
from tracking import names, read
from tracking.read import Row

ITEMS = images(8)
RECORDED = Predictions(ITEMS, digits(ITEMS))


Logged = tuple[Row, str, Path]
"""A trial's run, its model's URI, its model's files."""


def make(experiment: str, framework: str, trial: Path) -> Logged:
    """As a trial leaves it."""
    write_trial(trial, framework)
    client = MlflowClient()
    tags = {
        "kind": "trial",
        "workload": "mnist",
        "framework": framework,
        "dtype": "float32",
        names.TRAINED: digest(weights()),
        names.PREDICTED: digest(RECORDED.arrays()),
        **{names.SIZE + name: str(value) for name, value in vars(CONFIG).items()},
    }
    run_id = client.create_run(experiment, tags=tags).info.run_id
    predictions.save(trial / predictions.FILE, RECORDED)
    client.log_artifact(run_id, str(trial / predictions.FILE))
    uri = log.log_model(run_id, framework, "mnist", trial)
    client.set_terminated(run_id)
    (row,) = read.trials(run_ids=[run_id])
    place = client.get_logged_model(uri.removeprefix("models:/")).artifact_location
    return row, uri, Path(place.removeprefix("file://"))


@pytest.fixture
def logged(experiment: str, tmp_path: Path) -> Logged:
    """One to spoil, of MLX, which is saved in no time."""
    return make(experiment, "mlx", tmp_path / "trial")


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process is started: the model gives what it should."""
    monkeypatch.setattr(integrity, "ask", lambda folder, items: digits(items))


def test_a_sound_model_answers_in_a_process_of_its_own(experiment: str, tmp_path: Path) -> None:
    row, uri, _ = make(experiment, "mlx", tmp_path / "trial")
    assert integrity.prove(row, uri) == Proof(True, 8)
    others = replace(row, tags=row.tags | {names.TRAINED: "0" * 64})
    with pytest.raises(InputError, match="changed after the training"):
        integrity.prove(others, uri)


def test_an_older_run_lacks_what_it_did_not_record(logged: Logged, answering: None) -> None:
    row, uri, _ = logged
    tags = {k: v for k, v in row.tags.items() if k not in (names.TRAINED, names.PREDICTED)}
    proof = integrity.prove(replace(row, tags=tags), uri)
    assert proof == Proof(None, 0) and "digest" in proof.missing
    tags[names.TRAINED] = row.tags[names.TRAINED]
    assert "predictions" in integrity.prove(replace(row, tags=tags), uri).missing


def _other_weights(row: Row, folder: Path) -> Row:
    """As somebody would who has the store, and not the training."""
    place = folder / "data" / "weights.safetensors"
    values = load_file(place)
    values["head.bias"] = values["head.bias"] + 1
    save_file(values, place)
    return row


def _other_predictions(row: Row, folder: Path) -> Row:
    changed = Predictions(ITEMS, RECORDED.answers + 1)
    client, name = MlflowClient(), predictions.FILE
    path = folder.parent / name
    predictions.save(path, changed)
    client.log_artifact(row.run_id, str(path))
    path.unlink()
    return row


def _no_predictions(row: Row, folder: Path) -> Row:
    place = MlflowClient().get_run(row.run_id).info.artifact_uri.removeprefix("file://")
    (Path(place) / predictions.FILE).unlink()
    return row


def _edited_run(row: Row, folder: Path) -> Row:
    return replace(row, altered=("eval/accuracy",))


def _no_size(row: Row, folder: Path) -> Row:
    return replace(row, tags={k: v for k, v in row.tags.items() if "hidden_size" not in k})


def _other_size(row: Row, folder: Path) -> Row:
    return replace(row, tags=row.tags | {"size.hidden_size": "17"})


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_other_weights, "changed after the training"),
        (_other_predictions, "was changed"),
        (_no_predictions, "any more"),
        (_edited_run, "not as it was recorded"),
        (_no_size, "does not say its hidden_size"),
        (_other_size, "run"),
    ],
)
def test_what_was_changed_is_named(
    logged: Logged,
    answering: None,
    spoil: Callable[[Row, Path], Row],
    said: str,
) -> None:
    row, uri, folder = logged
    with pytest.raises(InputError, match=said) as refused:
        integrity.prove(spoil(row, folder), uri)
    assert "\n" not in str(refused.value)


def test_a_configuration_of_the_same_shapes_is_another_one(tmp_path: Path) -> None:
    """Sizes that no weight shows, such as heads, still make another function."""
    folder = write_trial(tmp_path / "trial", "mlx")
    log.save_model(folder, tmp_path / "model")
    tags = {names.SIZE + name: str(value) for name, value in vars(CONFIG).items()}
    cell = {"workload": "mnist", "framework": "mlx"}
    row = replace(_empty(), cell=cell, tags=tags | {names.TRAINED: digest(weights())})
    assert integrity.same_weights(row, tmp_path / "model")
    place = tmp_path / "model/data/config.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | {"batch_size": 255}))
    with pytest.raises(InputError, match="configuration is not that of its run"):
        integrity.same_weights(row, tmp_path / "model")


def test_other_answers_are_found(logged: Logged, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sound weights in another graph: what is served is what counts."""
    row, uri, _ = logged

    def turned(folder: Path, items: np.ndarray) -> np.ndarray:
        found = digits(items)
        found[3] = (found[3] + 1) % 10
        return found

    monkeypatch.setattr(integrity, "ask", turned)
    with pytest.raises(InputError, match="1 of 8 answers are not those"):
        integrity.prove(row, uri)
    monkeypatch.undo()


def test_a_model_that_cannot_be_asked_says_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho no such flavour >&2\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    with pytest.raises(InputError, match="cannot be loaded or asked: no such flavour"):
        integrity.ask(tmp_path / "none", ITEMS)
    script.write_text("#!/bin/sh\nsleep 5\n")
    monkeypatch.setattr(integrity, "_SECONDS", 0.2)
    with pytest.raises(InputError, match="did not answer within"):
        integrity.ask(tmp_path / "none", ITEMS)


def _empty() -> Row:
    return Row(
        run_id="a", name="", status="FINISHED", start_seconds=0.0, study="", arm="", pair=None,
        order=None, machine="", seed=0, cell={}, parity=None, receipt=None, flags=(), metrics={},
        not_measured={}, source="measured",
    )  # fmt: skip

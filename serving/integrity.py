"""Is a model in the store the one that its run trained, and does it still answer as it did there?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

import models
from measurement import untrusted
from measurement.digest import digest
from measurement.errors import InputError
from measurement.untrusted import shown
from serving import inspection, predictions, trained, weights
from serving.predictions import Predictions
from tracking import names
from tracking.read import Row
from tracking.store import reachable

_FROM = (
    "registered_model_meta"  # MLflow's own note of where it has downloaded from; no file of a model
)
_SECONDS = 300.0  # until a model has answered; importing a framework takes a few of them
# Where the project is not, so that what a server would run is run, and no other code of ours.
_ASK = """
import sys, mlflow, numpy as np
model = mlflow.pyfunc.load_model(sys.argv[1])
np.save(sys.argv[3], model.predict(np.load(sys.argv[2], allow_pickle=False)), allow_pickle=False)
"""


@dataclass(frozen=True)
class Proof:
    """What was found out about a model. weights: whether their digest is that of the run; None: the run
    has none. asked: items whose recorded answers the loaded model gave again; 0: none are recorded."""

    weights: bool | None
    asked: int

    @property
    def missing(self) -> str:
        """What an older run lacks; "" where nothing."""
        if self.weights is None:
            return "the digest of its trained weights"
        return "" if self.asked else "predictions of the process that trained it"


@contextmanager
def folder_of(model_uri: str) -> Iterator[Path]:
    """A model's files while the block runs. Raises MlflowException, OSError."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(mlflow.artifacts.download_artifacts(model_uri, dst_path=scratch))
        (folder / _FROM).unlink(missing_ok=True)
        yield folder


def same_weights(row: Row, folder: Path) -> bool | None:
    """Whether a model's weights and configuration are those that its run recorded; None where that
    recorded none. Raises InputError where they are others."""
    config = configuration(row)
    held = folder / "data" / trained.CONFIG_FILE
    if held.is_file():
        said = untrusted.parse_json(
            untrusted.read_text(held, untrusted.MIB, "a model's configuration"), held.name
        )
        sizes = {f.name: getattr(config, f.name) for f in fields(config)}
        wanted = {"workload": row.cell["workload"], "framework": row.cell["framework"], **sizes}
        if said != json.loads(json.dumps(wanted)):
            raise InputError("its configuration is not that of its run; log the run's model again")
    recorded = row.tags.get(names.TRAINED)
    shapes = {name: shape for name, (shape, _) in config.parameters().items()}
    found = digest(weights.read(folder, shapes))
    if recorded is None:
        return None
    if found != recorded:
        raise InputError(
            f"its weights have the digest {found[:12]}, those that its run trained {recorded[:12]}: "
            "they were changed after the training"
        )
    return True


def prove(row: Row, model_uri: str) -> Proof:
    """Checks the weights, then loads the model in a process of its own and asks what the training
    process was asked. Raises InputError naming what does not agree, or what of the run was changed."""
    with reachable(), folder_of(model_uri) as folder:
        inspection.check(folder)
        if row.altered:
            raise InputError(f"its run is not as it was recorded ({', '.join(row.altered[:3])})")
        same = same_weights(row, folder)
        recorded = recorded_of(row)
        if recorded is None:
            return Proof(same, 0)
        answers = ask(folder, recorded.inputs)
    if said := predictions.difference(recorded.answers, answers, row.cell.get("dtype", "float32")):
        raise InputError(f"the model that would be served gives {said}")
    return Proof(same, len(answers))


def recorded_of(row: Row) -> Predictions | None:
    """What the process that trained a run's model answered; None for a run that is older. Raises
    InputError where that is not what it recorded."""
    wanted = row.tags.get(names.PREDICTED)
    if wanted is None:
        return None
    with tempfile.TemporaryDirectory() as folder, reachable():
        try:
            path = MlflowClient().download_artifacts(row.run_id, predictions.FILE, folder)
        except (MlflowException, OSError) as error:
            raise InputError(
                f"run {row.run_id} has no {predictions.FILE} any more ({shown(str(error))}); train again"
            ) from None
        found = predictions.read(Path(path))
    if digest(found.arrays()) != wanted:
        raise InputError(f"the {predictions.FILE} of run {row.run_id} was changed; train again")
    return found


def ask(folder: Path, items: np.ndarray) -> np.ndarray:
    """A saved model's answers, given by a process of its own in another folder, as a server would.
    Raises InputError with its last words."""
    with tempfile.TemporaryDirectory() as scratch:
        asked, given = Path(scratch, "items.npy"), Path(scratch, "answers.npy")
        np.save(asked, items, allow_pickle=False)
        kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "MLFLOW_RUN_ID")}
        kept |= {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "MLX_ENABLE_TF32": "0"}
        command = [sys.executable, "-c", _ASK, *map(str, (folder, asked, given))]
        try:
            done = subprocess.run(
                command, cwd=scratch, env=kept, capture_output=True, text=True, timeout=_SECONDS
            )
        except subprocess.TimeoutExpired:
            raise InputError(f"the model did not answer within {_SECONDS:g} s") from None
        if done.returncode or not given.is_file():
            last = (done.stderr.strip().splitlines() or ["no output"])[-1]
            raise InputError(f"the model cannot be loaded or asked: {shown(last)}")
        return np.load(given, allow_pickle=False)


def configuration(row: Row) -> Any:
    """A run's configuration, from its tags. Raises InputError."""
    kind = models.load(row.cell["workload"], "config").Config
    values = {}
    for field in fields(kind):
        text = row.tags.get(names.SIZE + field.name, "")
        try:
            values[field.name] = {"int": int, "float": float}[str(field.type)](text)
        except ValueError:
            raise InputError(
                f"run {row.run_id} does not say its {field.name}; expected a trial of this version"
            ) from None
    return models.within(kind(**values))

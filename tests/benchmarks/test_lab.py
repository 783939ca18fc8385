"""Backup, loss and restore of the lab's database and files, in short and without its server, which takes
most of the time: benchmarks/lab.py is the whole drill. PostgreSQL of this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mlflow.tracking import MlflowClient

from benchmarks import lab
from benchmarks.postgres import missing
from entrypoints import publish
from measurement.errors import InputError
from tests.entrypoints.conftest import use_store
from tracking.contents import Store

sys.path.append(str(Path(__file__).resolve().parents[1] / "analysis"))
from fleet import MLX, TORCH, measured  # noqa: E402
from stored import store as keep  # noqa: E402

URI = "postgresql+psycopg2://{PGUSER}:{PGPASSWORD}@{PGHOST}:{PGPORT}/{LAB_DATABASE}"


@pytest.mark.slow
@pytest.mark.skipif(missing() != "", reason=missing())
def test_all_is_there_again_after_its_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, folder = lab.Drill(), tmp_path / "lab"
    (tmp_path / "laptop").mkdir()
    monkeypatch.chdir(tmp_path / "laptop")
    MlflowClient("sqlite:///mlflow.db").get_experiment("0")
    source = use_store(
        Path("mlflow.db").rename(tmp_path / "empty.db"), tmp_path / "laptop", monkeypatch
    )
    made = measured("fleet", "m0", {MLX: 0.8}, 2, arms=(MLX, TORCH))
    keep([made], lambda row: {"epoch_seconds": np.arange(3.0)})
    with lab.database() as variables:
        environment = lab.settings(folder, variables)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", URI.format(**variables))
        client = MlflowClient()
        client.create_experiment("fleet", str(folder / "artifacts" / "1"))
        publish.main.main(["--source", f"sqlite:///{source}", "--experiment", "fleet"])
        command = ["psql", "-qd", "mlflow_users", "-c", "CREATE TABLE users (name text)"]
        subprocess.run(command, env={**os.environ, **variables}, check=True)
        before = lab.all_of(Store(URI.format(**variables)))
        lab.script("backup.sh", environment)
        with pytest.raises(InputError, match="mlflow is not empty; expected a new one"):
            (backup,) = (tmp_path / "backups").glob("2*Z")
            lab.script("restore.sh", environment, str(backup))
    with lab.restored(found, tmp_path) as variables:
        found.compare(before, lab.all_of(Store(URI.format(**variables))))
    assert not found.problems
    assert found.before == found.after
    assert found.after["runs"] == 5 and found.after["files"] == 4

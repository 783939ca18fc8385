"""The drill of the lab server in short: two small histories, made by hand; benchmarks/lab.py records them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from mlflow.tracking import MlflowClient

from benchmarks import lab
from benchmarks.postgres import missing
from tests.entrypoints.conftest import use_store

sys.path.append(str(Path(__file__).resolve().parents[1] / "analysis"))
from fleet import MLX, TORCH, measured  # noqa: E402
from stored import store as keep  # noqa: E402


@pytest.mark.slow
@pytest.mark.skipif(missing() != "", reason=missing())
def test_a_server_is_the_same_after_its_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    empty = tmp_path / "empty" / "mlflow.db"
    MlflowClient(f"sqlite:///{empty}").get_experiment("0")
    sources = []
    for number in range(2):
        (tmp_path / f"m{number}").mkdir()
        path = use_store(empty, tmp_path / f"m{number}", monkeypatch)
        made = measured("fleet", f"m{number}", {MLX: 0.8}, 2, float(number), arms=(MLX, TORCH))
        keep([made], lambda row: {"epoch_seconds": np.arange(3.0)})
        sources.append(f"sqlite:///{path}")
    found = lab.drill(tmp_path, sources, serve_again=False)
    assert not found.problems
    assert found.before == found.after
    assert found.after["runs"] == 10 and found.after["files"] == 8

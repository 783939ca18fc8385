"""A trial's folder for each framework, and a scratch store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from served import FRAMEWORKS, write_trial


@pytest.fixture(params=FRAMEWORKS)
def framework(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def trial(tmp_path: Path, framework: str) -> Path:
    return write_trial(tmp_path / "trial", framework)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Id of an experiment in a fresh SQLite store, with artifacts beside it."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        yield MlflowClient().create_experiment("trials", (folder / "artifacts").as_uri())

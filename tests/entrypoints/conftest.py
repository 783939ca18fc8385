"""A store of its own for every test, copied from one made once, and commands run in-process."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.entrypoints.namespaces import two_hosts  # noqa: F401

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty SQLite store; making one takes two seconds."""
    from mlflow.tracking import MlflowClient

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").get_experiment("0")
    return path


@pytest.fixture
def store(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tracking store of this test; the working folder is `tmp_path`."""
    return use_store(empty_store, tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def module_store(empty_store: Path, tmp_path_factory: pytest.TempPathFactory):  # noqa: ANN201
    """One store for a whole module, for what is slow to measure."""
    with pytest.MonkeyPatch.context() as patch:
        yield use_store(empty_store, tmp_path_factory.mktemp("module"), patch)


def use_store(empty: Path, folder: Path, patch: pytest.MonkeyPatch) -> Path:
    path = folder / "mlflow.db"
    shutil.copy(empty, path)
    patch.chdir(folder)
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        patch.delenv(name, raising=False)
    return path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """run("study", "--pairs", "1") -> (exit code, standard output, standard error)."""

    def call(module: str, *words: str) -> tuple[int, str, str]:
        code = invoke(module, *words)
        out, err = capsys.readouterr()
        return code, out, err

    return call


def invoke(module: str, *words: str) -> int:
    """Runs a command in this process and returns its exit code."""
    loaded = importlib.import_module(f"entrypoints.{module}")
    try:
        if module == "trial":
            loaded.command(*words[:2]).main(list(words[2:]))
        else:
            loaded.main.main(list(words))
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without their slow figures and the samples that these need."""
    from entrypoints import analyze

    monkeypatch.setattr(analyze.read, "samples_of", lambda run_ids: {})
    monkeypatch.setattr(analyze.figures, "draw", lambda *given: [])

"""A SQLite store that is killed while it is made is made anew, and one that is there is left alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from sqlalchemy import event

from tracking import sqlite


class Killed(BaseException):
    """As a signal would."""


def test_a_store_cut_off_while_it_is_made_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "folder" / "mlflow.db"
    statements = 0

    def kill(*words: object) -> None:
        nonlocal statements
        statements += 1
        if statements == 400:
            raise Killed

    create = sqlite.utils.create_sqlalchemy_engine_with_retry

    def create_watched(uri: str) -> object:
        engine = create(uri)
        event.listen(engine, "before_cursor_execute", kill)
        return engine

    monkeypatch.setattr(sqlite.utils, "create_sqlalchemy_engine_with_retry", create_watched)
    with pytest.raises(Killed):
        sqlite.make(f"sqlite:///{path}")
    assert [file.name for file in path.parent.iterdir()] == ["mlflow.db.new"]
    sqlite.make(f"sqlite:///{path}")
    assert [file.name for file in path.parent.iterdir()] == ["mlflow.db"]
    made = path.read_bytes()
    sqlite.make(f"sqlite:///{path}")
    assert path.read_bytes() == made
    monkeypatch.undo()
    run = MlflowClient(f"sqlite:///{path}").create_run("0")
    assert run.info.status == "RUNNING"


@pytest.mark.parametrize("uri", ["http://127.0.0.1:1", "sqlite:///:memory:", "sqlite://", "mlruns"])
def test_other_stores_are_not_made_here(uri: str, tmp_path: Path) -> None:
    sqlite.make(uri)
    assert list(tmp_path.iterdir()) == []

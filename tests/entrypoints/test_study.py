"""A study survives being killed, runs only what is missing, and compares nothing half-written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from entrypoints import study
from tests.entrypoints.conftest import ROOT, invoke
from tracking import read

TINY = (
    "--name", "tiny", "--arms", "mlx, mlx threads=1", "--pairs", "2", "--epochs", "1", "--preset",
    "smoke", "--dataset", "synthetic", "--device", "cpu", "--gap_seconds", "0",
)  # fmt: skip


def count() -> int:
    return len(read.trials("tiny"))


def test_a_killed_study_goes_on_where_it_stopped(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "entrypoints.study", *TINY],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while count() < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(0.5)  # into the next trial
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = count()
    assert 2 <= before < 6

    assert invoke("study", *TINY) == 0
    err = capsys.readouterr().err
    assert f"{before} of 6 trials are done already" in err
    rows = read.trials("tiny")
    assert len(rows) == len({(row.pair, row.arm) for row in rows}) == 6
    statuses = [run.info.status for run in MlflowClient().search_runs(["0"])]
    assert "RUNNING" not in statuses
    assert Path("results/tiny/report.html").is_file()

    assert invoke("study", *TINY[:-4], "--epochs", "2", *TINY[-4:]) == 2
    assert "exists with another epochs (1 against 2)" in capsys.readouterr().err


def test_every_pair_has_one_seed_and_the_order_is_recorded(store: Path) -> None:
    assert invoke("study", *TINY) == 0
    design = read.study("tiny")
    rows = read.trials("tiny")
    assert design.arms == ("mlx", "mlx threads=1", "mlx threads=1 (again)")
    assert [row.arm for row in rows] == design.design["order"]
    assert {row.pair: row.seed for row in rows} == {0: 0, 1: 1}
    assert {row.cell["threads"] for row in rows if row.arm == "mlx threads=1"} == {"1"}


def test_default_arms_compare_like_with_like() -> None:
    arms, comparisons = study.default_arms("gpu")
    assert arms == ["mlx", "pytorch", "pytorch (again)"]
    assert [pairing["role"] for pairing in comparisons] == ["headline", "resolution"]

"""A study survives being killed, runs only what is missing, and compares nothing half-written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

import models
from entrypoints import study
from measurement.errors import InputError
from tests.entrypoints.conftest import ROOT, invoke
from tracking import names, read

Run = Callable[..., tuple[int, str, str]]

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


# --- workloads of every kind


ASKED = {
    "name": "auto", "mode": "auto", "preset": "auto", "arms": "mlx, pytorch", "pairs": 2,
    "epochs": "auto", "device": "cpu", "dtype": "float32", "threads": 0, "dataset": "auto",
    "checkpoint": "random", "data_dir": "auto", "seed": 0, "target": "auto", "margin": 0.05,
    "price_per_hour": 0.0, "price_table": "none", "slowdown_percent": 0.0, "until_resolved": False, "gap_seconds": 0.0,
}  # fmt: skip


@pytest.mark.parametrize("workload", models.names())
def test_auto_is_what_workload_and_device_say(workload: str) -> None:
    config = models.load(workload, "config")
    device = "cpu-cpu" if config.KIND == "switch" else "cpu"
    found, base = study.complete(ASKED | {"workload": workload, "device": device})
    assert found["preset"] == config.DEFAULT_PRESET["cpu"] and base.device == device
    assert found["dataset"] == config.DATASETS[0] and found["mode"] == config.KIND
    plan = study.design(found, base)
    assert plan["metric"] == names.PRIMARY[config.KIND]
    trained = config.KIND == "train"
    assert plan["quality"] == (config.QUALITY if trained else "none")
    assert (plan["epochs"] > 0) == (plan["target"] > 0) == trained
    assert "auto" not in json.dumps({k: v for k, v in plan.items() if k != "condition"})


def test_two_devices_are_never_one_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ASKED | {"workload": "device_switch"}
    missing: dict[str, list[dict[str, str]]] = {"devices": [{}, {"missing": "no GPU"}]}
    monkeypatch.setattr(study, "probe", lambda framework: missing)
    for device in ("auto", "cpu-gpu"):
        with pytest.raises(InputError, match="nothing to switch to; device=cpu-cpu") as error:
            study.complete(asked | {"device": device})
        assert "mlx and pytorch see no GPU" in str(error.value)
    monkeypatch.setattr(study, "probe", lambda framework: {"devices": [{}, {}]})
    found, base = study.complete(asked | {"device": "auto"})
    assert (base.device, found["preset"]) == ("cpu-gpu", "study")


def test_arms_that_multiply_on_a_cpu_get_one_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study.blas, "better", lambda: "mkl")
    monkeypatch.setattr(study.sys, "platform", "linux")
    for device, arm in (("cpu-gpu", "mlx blas=mkl"), ("cpu-cpu", "mlx blas=mkl"), ("gpu", "mlx")):
        assert study.default_arms(device, as_shipped=False)[0][0] == arm


def test_a_design_names_no_folder() -> None:
    asked = ASKED | {"workload": "tinyllama", "checkpoint": "/home/someone/stories"}
    found, base = study.complete(asked)
    assert study.design(found, base)["checkpoint"] == "stories"
    assert study.sources_of(found).checkpoint == "/home/someone/stories"


def test_two_workloads_make_two_studies_and_one_report(store: Path, run: Run) -> None:
    small = ("--preset", "smoke", "--dataset", "synthetic", "--device", "cpu", "--pairs", "1")
    code, out, err = run(
        "study", "--workload", "tinyllama,mnist", "--arms", "mlx compile=off, mlx threads=1",
        *small, "--name", "both", "--gap_seconds", "0",
    )  # fmt: skip
    assert code == 0, err
    assert {s.name for s in read.studies()} == {"tinyllama-both", "mnist-both"}
    (report,) = Path("results").rglob("workloads.csv")
    assert "tinyllama" in report.read_text() and "mnist" in report.read_text()

"""verify passes on the twins as they are, and fails on a broken copy, naming the layer."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import models
from entrypoints import verify
from tests.entrypoints.conftest import ROOT, invoke

PACKAGES = ("entrypoints", "models", "frameworks", "measurement", "tracking", "serving", "analysis")
BREAKS = {
    "": ("nn.relu(", "nn.relu(", 0, "equal"),
    "swapped activation": ("nn.relu(", "nn.gelu(", 1, "hidden.0 differs"),
    "summed loss": ("mx.mean(", "mx.sum(", 1, "differs"),
    "no optimiser step": ("- config.learning_rate *", "- 0 *", 1, "differs"),
}


@pytest.mark.parametrize("case", BREAKS)
def test_verify(case: str, tmp_path: Path) -> None:
    old, new, code, words = BREAKS[case]
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    twin = tmp_path / "models/mnist/mlx.py"
    text = twin.read_text()
    assert old in text
    twin.write_text(text.replace(old, new))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "entrypoints.verify",
            "--dataset",
            "synthetic",
            "--workload",
            "mnist",
        ],
        cwd=tmp_path,
        env={**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert words in done.stdout
    largest = re.search(
        r"output of every layer \(relative tolerance 1e-05, largest (\S+)\)", done.stdout
    )
    assert largest and (float(largest[1]) <= 1e-5) == (words != "hidden.0 differs")


def test_a_workload_without_the_dtype_is_left_out_of_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(verify, "verify", lambda name, *args, **given: asked.append(name) or [])
    assert invoke("verify", "--dtype", "float16", "--frameworks", "mlx") == 0
    have = [name for name in models.names() if "float16" in models.load(name, "config").DTYPES]
    assert asked == have and have
    assert "left out  device_switch: it has no dtype float16" in capsys.readouterr().out

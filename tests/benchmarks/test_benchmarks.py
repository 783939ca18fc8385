"""Both benchmarks run, on tiny sizes, and refuse what is not comparable. No figure is checked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import frameworks
from analysis.statistics import paired_ratio
from benchmarks import harness_cost, mnist_peers

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--pairs", "6", "--preset", "smoke", "--dataset", "synthetic"]

# Stand-ins for the public scripts: the same names and calls, written for this test.
MLX = """
import mlx.core as mx
import numpy as np
from mlx import nn
import mnist

class MLP(nn.Module):
    def __init__(self, count, inputs, hidden, outputs):
        super().__init__()
        sizes = [inputs, *[hidden] * count, outputs]
        self.layers = [nn.Linear(a, b) for a, b in zip(sizes, sizes[1:])]

    def __call__(self, x):
        for layer in self.layers[:-1]:
            x = nn.relu(layer(x))
        return self.layers[-1](x)

def loss_fn(model, x, y):
    return nn.losses.cross_entropy(model(x), y, reduction="mean")

def batch_iterate(size, x, y):
    order = mx.array(np.random.permutation(y.size))
    for start in range(0, y.size, size):
        yield x[order[start : start + size]], y[order[start : start + size]]
"""
PYTORCH = """
import torch
import mnist

class MLP(torch.nn.Module):
    def __init__(self, count, inputs, hidden, outputs):
        super().__init__()
        sizes = [inputs, *[hidden] * count, outputs]
        self.layers = torch.nn.ModuleList(torch.nn.Linear(a, b) for a, b in zip(sizes, sizes[1:]))

    def forward(self, x):
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        return self.layers[-1](x)

def loss_fn(model, x, y):
    return torch.nn.functional.cross_entropy(model(x), y)

def batch_iterate(size, x, y, device):
    order = torch.randperm(len(y), device=device)
    for start in range(0, len(y), size):
        yield x[order[start : start + size]], y[order[start : start + size]]
"""


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, timeout=280
    )


@pytest.fixture
def peers(tmp_path: Path) -> list[str]:
    folder = tmp_path / "mnist"
    folder.mkdir()
    (folder / "mnist.py").write_text("")
    (folder / "main.py").write_text(MLX)
    (folder / "torch_main.py").write_text(PYTORCH)
    return ["--mlx_examples", str(tmp_path), "--mlx_benchmarks", str(tmp_path)]


@pytest.fixture(params=["mlx", "pytorch"])
def framework(request: pytest.FixtureRequest) -> str:
    if not frameworks.available(request.param):
        pytest.skip(f"{request.param} is not installed")
    return request.param


def test_harness_cost(framework: str, tmp_path: Path) -> None:
    output = tmp_path / "cost.json"
    done = run("benchmarks.harness_cost", *SMALL, "--framework", framework, "--output", str(output))
    assert done.returncode == 0, done.stderr
    assert "trial / bare loop" in done.stdout
    assert f"{framework}: 6 of 6 pairs" in done.stderr
    (result,) = json.loads(output.read_text())["results"]
    assert {name: len(values) for name, values in result["samples"].items()} == {
        "trial": 6,
        "reported": 6,
        "bare": 6,
        "again": 6,
    }
    assert result["rows"][0]["ratio"]["n"] == 6


def test_mnist_peers(framework: str, peers: list[str], tmp_path: Path) -> None:
    output = tmp_path / "peers.json"
    done = run(
        "benchmarks.mnist_peers",
        *[*SMALL, *peers, "--framework", framework, "--output", str(output)],
    )
    assert done.returncode == 0, done.stderr
    assert "equal work" in done.stdout and "test accuracy" in done.stdout
    (result,) = json.loads(output.read_text())["results"]
    assert all(len(values) == 6 for values in result["samples"].values())
    assert {"peer", "equal", "eager", "all, eager", "one, eager"} <= set(result["samples"])


def test_a_peer_that_does_other_work_is_refused(peers: list[str], tmp_path: Path) -> None:
    if not frameworks.available("mlx"):
        pytest.skip("mlx is not installed")
    (tmp_path / "mnist" / "main.py").write_text(MLX.replace("nn.relu", "nn.tanh"))
    done = run("benchmarks.mnist_peers", *SMALL, *peers, "--framework", "mlx")
    assert done.returncode == 2
    assert "other work" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "--mlx_examples is missing"),
        (["--mlx_examples", "/nowhere"], "--mlx_examples /nowhere: expected a checkout"),
        (["--pairs", "5"], "expected 6 or more"),
        (["--output", "/nowhere/x.json"], "no such folder"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["mnist_peers", *words])
    assert mnist_peers.main() == 2
    error = capsys.readouterr().err
    assert error.startswith("Error: ") and expected in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("cost", "expected"),
    [
        ([1.001, 1.002, 1.003, 1.002, 1.001, 1.002], "within 1 %"),
        ([1.02, 1.03, 1.02, 1.03, 1.02, 1.04], "costs more than 1 %"),
        ([0.95, 1.05, 0.96, 1.04, 0.97, 1.03], "not resolved"),
        ([0.95, 0.96, 0.95, 0.96, 0.95, 0.96], "not resolved"),
    ],
)
def test_the_verdict_needs_the_whole_interval(cost: list[float], expected: str) -> None:
    assert harness_cost.verdict(paired_ratio(cost, [1.0] * 6)).startswith(expected)


def test_a_default_that_is_slower_is_named() -> None:
    slower = paired_ratio([1.2, 1.3, 1.2, 1.3, 1.2, 1.3], [1.0] * 6)
    assert mnist_peers.default(True)(slower) == "eager is faster, NOT THE DEFAULT"
    assert mnist_peers.default(False)(slower) == "eager is faster"

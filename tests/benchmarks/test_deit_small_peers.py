"""The benchmark of the vision transformer: the peers do our work, and a missing one is one line. No
figure is checked."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import frameworks
from benchmarks import common, deit_small_peers
from models.deit_small.config import SMOKE
from models.parameters import draw

ROOT = Path(__file__).resolve().parents[2]
both = pytest.mark.parametrize("name", deit_small_peers.PACKAGES)


def needs(name: str) -> None:
    module, package = deit_small_peers.PACKAGES[name]
    if not frameworks.available(name) or importlib.util.find_spec(module) is None:
        pytest.skip(f"{name} or {package} is not installed")


@both
def test_a_missing_peer_is_one_line(monkeypatch, capsys, name):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(sys, "argv", ["deit_small_peers", "--framework", name])
    assert deit_small_peers.main() == 2
    error = capsys.readouterr().err
    _, package = deit_small_peers.PACKAGES[name]
    assert f"pip install --no-deps {package}" in error and error.count("\n") == 1


def test_every_parameter_of_ours_becomes_one_of_theirs():
    values = draw(SMOKE.parameters(), 0)
    for renamed, more in (
        (deit_small_peers.keras_hub_weights(values, SMOKE.heads), 4 * SMOKE.depth),
        (deit_small_peers.timm_weights(values), 0),
        (deit_small_peers.mlx_image_weights(values), 4 * SMOKE.depth),  # qkv in three
    ):
        assert len(renamed) == len(values) + more
        assert sum(value.size for value in renamed.values()) == sum(
            value.size for value in values.values()
        )


@both
def test_a_peers_answers_are_ours(name):
    """Of every test image, from the same weights."""
    needs(name)
    options = common.parser("", 6, "synthetic", preset="smoke").parse_args(["--blas", "shipped"])
    session = common.session(name, options, "off", "deit_small")
    session.reset()
    _, forward = deit_small_peers.PEERS[name](session, False)
    inputs = session.test[0][0]
    ours = session.framework.read(session.predict(inputs))
    theirs = forward(inputs)
    assert len(ours) == len(inputs)
    np.testing.assert_array_equal(session.framework.read(theirs), ours)


@both
def test_it_runs_at_the_smoke_size(name, tmp_path):
    needs(name)
    output = tmp_path / "peers.json"
    words = ["--preset", "smoke", "--pairs", "6", "--framework", name, "--output", str(output)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.deit_small_peers", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    assert "equal work" in done.stdout
    (result,) = json.loads(output.read_text())["results"]
    assert all(len(values) == 6 for values in result["samples"].values())
    _, package = deit_small_peers.PACKAGES[name]
    assert {f"{package}, eager", f"{package}, eager, forward"} <= set(result["samples"])

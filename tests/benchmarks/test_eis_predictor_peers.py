"""The benchmark of the predictor: its peers do our work, or are refused. No figure is checked."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

import frameworks
import models
from benchmarks import common, eis_predictor_peers, training
from measurement.errors import InputError

WORKLOAD = "eis_predictor"
SMALL = ["--preset", "smoke", "--dataset", "synthetic", "--pairs", "6", "--blas", "shipped"]
both = pytest.mark.parametrize("name", ["mlx", "pytorch"])


def opened(name: str):
    if not frameworks.available(name):
        pytest.skip(f"{name} is not installed")
    options = common.parser("", pairs=6, dataset="synthetic", preset="smoke").parse_args(SMALL)
    return common.session(name, options, "off", WORKLOAD)


@both
def test_the_plain_spelling_does_our_work(name):
    session = opened(name)
    plain = {
        "mlx": eis_predictor_peers.plain_mlx,
        "pytorch": eis_predictor_peers.plain_pytorch,
    }[name]
    step, _ = plain(session, False)
    note = training.check_equal_work(session, "plain layers", step)
    assert "equal work, plain layers: losses of 4 steps" in note
    with pytest.raises(InputError, match="plain layers: the losses of the first steps"):
        training.check_equal_work(session, "plain layers", step)  # it has gone on meanwhile


def test_every_weight_has_its_place():
    config = models.load(WORKLOAD, "config").SMOKE
    ours = {
        name: np.arange(np.prod(shape)).reshape(shape)
        for name, (shape, _) in config.parameters().items()
    }
    theirs = eis_predictor_peers.plain_weights(ours)
    assert len(theirs) == 2 * (3 + 6 + 6)
    assert sum(v.size for v in theirs.values()) == sum(v.size for v in ours.values())
    np.testing.assert_array_equal(theirs["classes.5.weight"], ours["heads.resnorm.weight"])
    second = ours["heads.hidden.weight"][config.head_width : 2 * config.head_width]
    np.testing.assert_array_equal(theirs["hidden.1.weight"], second)


@both
def test_the_benchmark_runs(name, monkeypatch, capsys, tmp_path):
    if not frameworks.available(name):
        pytest.skip(f"{name} is not installed")
    output = tmp_path / "peers.json"
    words = [*SMALL, "--framework", name, "--output", str(output)]
    monkeypatch.setattr(sys, "argv", ["eis_predictor_peers", *words])
    assert eis_predictor_peers.main() == 0
    said = capsys.readouterr().out
    assert "equal work, plain layers, eager" in said and "step: ours" in said
    (result,) = json.loads(output.read_text())["results"]
    assert len(result["samples"]["plain layers, eager"]) == 6

"""A trial of JAX through the real worker, in its own environment: a run like any other."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

import frameworks
import models
from measurement.audit import parity_difference
from tests.models.twins import evidence

Command = Callable[..., tuple[int, str, str]]
SMOKE = ("--preset", "smoke", "--dataset", "synthetic", "--device", "cpu", "--epochs", "1")


@pytest.mark.skipif(not frameworks.available("pytorch"), reason="PyTorch is not installed")
def test_a_trial_is_a_run_like_any_other(
    store: Path, in_environment: Callable[..., object], run: Command
) -> None:
    in_environment("jax", "-c", "")  # makes the environment, or skips
    code, _, error = run("trial", "mnist", "jax", *SMOKE)
    assert code == 0, error
    (found,) = MlflowClient().search_runs(["0"])
    tags = found.data.tags
    theirs = evidence("mnist", "pytorch", models.load("mnist", "config").SMOKE).summary()
    assert parity_difference(theirs, json.loads(tags["parity"])) is None
    assert tags["imported"] == "jax"  # and nothing else that is large
    assert tags["blas"] == "own" and tags["blas_loaded"].startswith("XLA in jaxlib ")
    assert tags["blas_threads"] == tags["threads"] and tags["tf32"] == "off"
    assert "XLA" not in tags["settings"] and tags["compile"] == "on"
    assert found.data.metrics["train/items_per_second"] > 0
    code, _, error = run("trial", "mnist", "jax", *SMOKE, "--blas", "mkl")
    assert code == 2 and "blas=mkl: jax multiplies with XLA's code of its own" in error

"""JAX's twins, run in their own environment, against PyTorch's: equal numbers and counts, and broken twins
refused by the name of what differs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own_cases import initial, read_evidence
from twins import assert_equal, config_of, evidence, needs_all

from measurement.audit import parity_difference

pytestmark = needs_all
# Code that is less optimised, of the same operations, is compiled in two thirds of the time.
QUICK = {"XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"}
SIZES: dict[str, dict[str, int]] = {"mnist": {}, "transformer_lm": {"blocks": 1}}
SOUND = {  # name -> workload, dtype; mnist in float32: tests/entrypoints/test_jax_trial.py
    "mnist": ("mnist", "bfloat16"),
    "transformer_lm": ("transformer_lm", "float32"),
}
BROKEN = {  # workload, what differs, text, its mistake
    "another rate": ("mnist", "update", "p - config.", "p - 1.5 * config."),
}


def cases() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name, (workload, dtype) in SOUND.items():
        found[name] = {"workload": workload, "dtype": dtype, "compiled": True}
    for name, (workload, _, *change) in BROKEN.items():
        found[name] = {"workload": workload, "change": change, "compiled": True}
    return {
        name: {"framework": "jax", "sizes": SIZES[case["workload"]], **case}
        for name, case in found.items()
    }


@pytest.fixture(scope="module")
def done(
    in_environment: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The folder with one folder per case."""
    place = tmp_path_factory.mktemp("cases")
    (place / "cases.json").write_text(json.dumps(cases()))
    script = Path(__file__).with_name("own_cases.py")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in QUICK.items():
            patch.setenv(name, value)
        run = in_environment("jax", str(script), str(place / "cases.json"), str(place))
    assert run.returncode == 0, run.stdout + run.stderr[-3000:]
    return place


@cache
def reference(workload: str, dtype: str = "float32") -> Any:
    config = config_of(workload, **SIZES[workload])
    return evidence(workload, "pytorch", config, dtype=dtype, initial=initial(config, 0, ""))


@pytest.mark.parametrize("name", SOUND)
def test_it_computes_what_pytorch_does(done: Path, name: str) -> None:
    """Outputs, gradients, ten updates and losses, counted products, stored elements."""
    workload, dtype = SOUND[name]
    ours, theirs = read_evidence(done / name), reference(workload, dtype)
    assert_equal(theirs, ours)
    assert ours.dtype == dtype and ours.counted and theirs.counted
    assert ours.counted.summary() == theirs.counted.summary()
    assert all(np.abs(update).max() > 0 for update in ours.updates.values())


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_twin_is_refused_with_what_differs(done: Path, name: str) -> None:
    workload, differs, *_ = BROKEN[name]
    ours = read_evidence(done / name)
    assert differs in (parity_difference(reference(workload).summary(), ours.summary()) or "")

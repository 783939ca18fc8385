"""Evidence of a workload's twins, taken in this process as the worker takes it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import frameworks
import models
from entrypoints.session import GenerationSession, Session
from entrypoints.switch_session import SwitchSession
from measurement.audit import NO_OPTIMISER, parity_difference
from measurement.comparison import (
    TOLERANCES,
    first_difference,
    gradient_difference,
    update_difference,
)
from measurement.evidence import Evidence

REFERENCE = "pytorch"
PAIRS = [
    (workload, twin)
    for workload in models.names()
    for twin in models.frameworks(workload)
    if twin != REFERENCE
]
# A framework with an environment of its own is compared there: see own_cases.py.
ELSEWHERE = pytest.mark.skip(reason="has an environment of its own, where own_cases.py compares it")


def here(workload: str) -> list[str]:
    """The frameworks whose twins run in this process."""
    return [f for f in models.frameworks(workload) if f not in frameworks.OWN_ENVIRONMENT]


def marked(pairs: Iterable[tuple[str, str]]) -> list[Any]:
    """Workloads and frameworks as parameters of a test that runs the twins in this process."""
    return [
        pytest.param(workload, twin, marks=[ELSEWHERE] if twin not in here(workload) else [])
        for workload, twin in pairs
    ]


TRAINED = [w for w in models.names() if models.load(w, "config").KIND == "train"]
GENERATING = [w for w in models.names() if models.load(w, "config").KIND == "generate"]
SESSIONS: dict[str, Any] = {
    "train": Session,
    "generate": GenerationSession,
    "switch": SwitchSession,
}
TRAINED_TWINS = [(w, f) for w in TRAINED for f in models.frameworks(w)]
ITEMS, BATCH = 20, 7  # batches of 7, 7 and 6
# workload -> sizes for seconds, where those of the smoke preset take longer
TINY = {
    "mnist": {
        "hidden_size": 8,
        "layers": 2,
        "train_items": ITEMS,
        "test_items": 4,
        "batch_size": BATCH,
    }
}

needs_all = pytest.mark.skipif(
    not all(
        frameworks.available(f) for f in frameworks.names() if f not in frameworks.OWN_ENVIRONMENT
    ),
    reason="needs every framework that has no environment of its own",
)


def config_of(workload: str, **changes: Any) -> Any:
    """A size of seconds: the smoke preset, smaller still where TINY says so."""
    module = models.load(workload, "config")
    return replace(module.SMOKE, **{**TINY.get(workload, {}), **changes})


@cache
def data_of(workload: str, config: Any) -> Any:
    more = ("random",) if models.load(workload, "config").KIND == "generate" else ()
    return models.load(workload, "data").load(config, "synthetic", "auto", *more)


def session(
    workload: str,
    framework_name: str,
    config: Any,
    twin: Any = None,
    dtype: str = "float32",
    compiled: bool = False,
) -> Any:
    """A worker's session in this process, on synthetic data."""
    kind = models.load(workload, "config").KIND
    spec = {
        "workload": workload,
        "framework": framework_name,
        "device": "cpu-cpu" if kind == "switch" else "cpu",
        "dtype": dtype,
        "threads": None,
        "compile": "on" if compiled else "off",
        "sizes": asdict(config),
        "dataset": "synthetic",
        "data_dir": "auto",
        "seed": 0,
        "mode": kind,
        "checkpoint": "random",
    }
    return SESSIONS[kind](spec, twin)


def evidence(
    workload: str,
    framework_name: str,
    config: Any,
    twin: Any = None,
    dtype: str = "float32",
    compiled: bool = False,
    initial: dict[str, np.ndarray] | None = None,
    repeat: int = 1,
) -> Evidence:
    """As the worker takes it, in this process. initial: other values to start from; repeat: how
    often a step is done where it should be once."""
    opened = session(workload, framework_name, config, twin, dtype, compiled)
    found: Evidence
    if isinstance(opened, GenerationSession | SwitchSession):
        found = opened.evidence()
        return found
    once = opened.step
    opened.step = lambda rows: [once(rows) for _ in range(repeat)][0]
    found = opened.evidence(initial)
    return found


def assert_equal(a: Evidence, b: Evidence) -> None:
    """Both audits: tensor by tensor, as verify does, and by fingerprint, as a trial does."""
    outputs, _, losses = TOLERANCES[a.dtype]
    assert list(a.outputs) == list(b.outputs)  # in the same order of computation
    assert first_difference(a.outputs, b.outputs, outputs) is None
    assert gradient_difference(a.gradients, b.gradients, a.dtype) is None
    if a.optimiser != NO_OPTIMISER:
        assert update_difference(a.updates, b.updates, a.optimiser, a.dtype) is None
    np.testing.assert_allclose(a.losses, b.losses, rtol=losses)
    assert parity_difference(a.summary(), b.summary()) is None


def source(workload: str, framework: str) -> str:
    return Path(str(models.__file__)).parent.joinpath(workload, f"{framework}.py").read_text()


def broken_twin(workload: str, framework: str, change: tuple[str, str]) -> Any:
    """A twin with a mistake: the first text of `change` replaced by the second."""
    text, (old, new) = source(workload, framework), change
    assert old in text, "the twin changed: renew the mistake"
    module = ModuleType(f"broken_{framework}")
    exec(compile(text.replace(old, new), module.__name__, "exec"), module.__dict__)
    return module

"""Evidence of a workload's twins, taken in this process as the worker takes it."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import frameworks
import models
from measurement.audit import TOLERANCES, UPDATE_TOLERANCES, first_difference, parity_difference
from measurement.evidence import PROBE_STEPS, Evidence, collect, work_digest
from models.batches import epoch_rows
from models.parameters import draw

REFERENCE = "pytorch"
PAIRS = [
    (workload, twin)
    for workload in models.names()
    for twin in models.frameworks(workload)
    if twin != REFERENCE
]
ITEMS, BATCH = 20, 7  # batches of 7, 7 and 6
TINY = {"mnist": {"hidden_size": 8, "layers": 2}}  # workload -> sizes for seconds

needs_all = pytest.mark.skipif(
    not all(frameworks.available(name) for name in frameworks.names()),
    reason="needs every framework installed",
)


def config_of(workload: str, **changes: Any) -> Any:
    sizes = {"train_items": ITEMS, "test_items": 4, "batch_size": BATCH, **TINY.get(workload, {})}
    return replace(models.load(workload, "config").SMOKE, **{**sizes, **changes})


@cache
def data_of(workload: str) -> Any:
    return models.load(workload, "data").load(config_of(workload), "synthetic", "auto")


def evidence(
    workload: str,
    framework_name: str,
    config: Any,
    twin: Any = None,
    dtype: str = "float32",
    compiled: bool = False,
    seed: int = 0,
    initial: dict[str, np.ndarray] | None = None,
    steps: int = PROBE_STEPS,
    repeat: int = 1,
) -> Evidence:
    """As the worker takes it, in this process."""
    twin = twin or models.load(workload, framework_name)
    framework = frameworks.load(framework_name, "cpu", dtype)
    data = data_of(workload)
    put = framework.put
    train = [put(array) for array in data.train.values()]
    model = twin.Model(config)
    values = draw(config.parameters(), seed) if initial is None else initial
    framework.write_parameters(model, values)
    step, state = twin.training(model, config)
    submit = framework.compile_step(step, state, compiled)
    rows = [r for epoch in range(steps) for r in epoch_rows(ITEMS, config.batch_size, seed, epoch)]
    batch = [put(array[rows[0].astype(np.int64)]) for array in data.train.values()]

    def run(indices: Any) -> Any:
        return [submit(*train, indices) for _ in range(repeat)][0]

    return collect(
        framework,
        model,
        twin.loss,
        run,
        values,
        batch[:1],
        batch,
        [put(r) for r in rows[:steps]],
        work_digest(workload, asdict(config), data.sha256),
    )


def assert_equal(a: Evidence, b: Evidence) -> None:
    """Both audits: tensor by tensor, as verify does, and by fingerprint, as a trial does."""
    outputs, gradients, losses = TOLERANCES[a.dtype]
    assert list(a.outputs) == list(b.outputs)  # in the same order of computation
    assert first_difference(a.outputs, b.outputs, outputs) is None
    assert first_difference(a.gradients, b.gradients, gradients) is None
    assert first_difference(a.updates, b.updates, UPDATE_TOLERANCES[a.dtype]) is None
    np.testing.assert_allclose(a.losses, b.losses, rtol=losses)
    assert parity_difference(a.summary(), b.summary()) is None


def source(workload: str, framework: str) -> str:
    return Path(str(models.__file__)).parent.joinpath(workload, f"{framework}.py").read_text()

"""Evidence that a twin computes the agreed function: outputs, gradients and ten steps from fixed
initial values and batches, taken with the very step that is timed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from measurement.audit import NO_OPTIMISER, fingerprint
from measurement.framework import Framework
from measurement.operations import Counted

PROBE_SEED = 0  # the same for every trial, so that any two trials of one workload compare
PROBE_STEPS = 10


@dataclass(frozen=True)
class Evidence:
    """outputs: layer -> array, in order of computation; gradients and updates: parameter -> array
    (update = after ten steps minus before); losses: of the ten steps. A generation has neither
    gradients nor updates, its optimiser is "none" and its losses are those of ten given tokens. So
    has work on two devices, whose losses are the mean of each matrix after each of ten loops. counted:
    the operations of what is timed; None where nobody counted them."""

    work: str
    dtype: str
    parameters: int
    outputs: dict[str, np.ndarray]
    gradients: dict[str, np.ndarray]
    losses: list[float]
    updates: dict[str, np.ndarray]
    optimiser: str
    counted: Counted | None = None

    def summary(self) -> dict[str, Any]:
        """A few numbers that fit a tag; see measurement.audit.parity_difference."""
        return {
            "work": self.work,
            "dtype": self.dtype,
            "optimiser": self.optimiser,
            "parameters": self.parameters,
            "output": fingerprint(self.outputs),
            "gradient": fingerprint(self.gradients),
            "update": fingerprint(self.updates),
            "losses": self.losses,
            **({} if self.counted is None else {"counted": self.counted.summary()}),
        }


def work_digest(workload: str, sizes: Mapping[str, Any], data_sha256: str) -> str:
    """One digest of what is computed: workload, its sizes, its data."""
    text = json.dumps([workload, dict(sizes), data_sha256], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def collect(
    framework: Framework,
    model: Any,
    loss: Callable[..., Any],
    step: Callable[[Any], Any],
    reset: Callable[[], None],
    inputs: Sequence[Any],
    batch: Sequence[Any],
    batches: Sequence[tuple[Any, int]],
    work: str,
    optimiser: str,
) -> Evidence:
    """Takes every layer's output for `inputs` and every gradient for `batch` (both on the device),
    then runs `step` over `batches`, each with its number of items, all from the state that `reset`
    puts. Of several ranks the gradients and losses are those of the whole batches."""
    reset()
    initial = framework.read_parameters(model)
    outputs = framework.layer_outputs(model, *inputs)
    _, gradients = framework.gradients(loss, model, *batch)
    losses = framework.mean([float(framework.read(step(rows))) for rows, _ in batches],
                            [items for _, items in batches])  # fmt: skip
    after = framework.read_parameters(model)
    return Evidence(
        work=work,
        dtype=framework.dtype,
        parameters=sum(value.size for value in after.values()),
        outputs=outputs,
        gradients=gradients,
        losses=losses,
        updates={name: after[name] - initial[name] for name in after},
        optimiser=optimiser,
    )


def collect_generation(
    framework: Framework,
    model: Any,
    begin: Callable[[Any], tuple[Any, Any, Any]],
    advance: Callable[[Any, Any], tuple[Any, Any, Any]],
    inputs: Any,
    tokens: Sequence[int],
    parameters: int,
    work: str,
) -> Evidence:
    """Takes every layer's output for `inputs` (on the device), then gives the model `tokens` one
    after the other, as if it had chosen them: the negative log-likelihood of each goes through the
    very functions that are timed, cache included."""
    outputs = framework.layer_outputs(model, inputs)
    _, logits, cache = begin(inputs)
    losses = []
    for token in tokens:
        losses.append(_negative_log_likelihood(framework.read(logits), token))
        _, logits, cache = advance(framework.put(np.array([token], np.int32)), cache)
    return Evidence(work, framework.dtype, parameters, outputs, {}, losses, {}, NO_OPTIMISER)


def collect_switching(
    framework: Framework,
    halves: Sequence[Callable[..., Sequence[Any]]],
    matrices: Sequence[Any],
    names: Sequence[Sequence[str]],
    work: str,
) -> Evidence:
    """Takes the result of every product of one loop, named `names` for each half, and the mean of
    each matrix after each of ten loops. halves: a device's, with the move to it, as they are timed."""
    outputs: dict[str, np.ndarray] = {}
    means: list[float] = []
    for _ in range(PROBE_STEPS):
        for half, named in zip(halves, names, strict=True):
            matrices = half(*matrices)
            for name, matrix in zip(named, matrices, strict=True):
                if name not in outputs:  # a copy: on the CPU it may be a view of the matrix
                    outputs[name] = np.array(framework.read(matrix))
        means += [float(np.mean(framework.read(matrix), dtype=np.float64)) for matrix in matrices]
    return Evidence(work, framework.dtype, 0, outputs, {}, means, {}, NO_OPTIMISER)


def _negative_log_likelihood(logits: np.ndarray, token: int) -> float:
    values = np.asarray(logits, np.float64).reshape(-1)
    finite = values[np.isfinite(values)]  # a suppressed token has minus infinity
    top = float(np.max(finite))
    return float(top + np.log(np.sum(np.exp(finite - top))) - values[token])

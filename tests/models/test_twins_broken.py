"""Every deliberately broken twin is refused, with the tensor that differs by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from twins import (
    REFERENCE,
    TRAINED,
    broken_twin,
    config_of,
    evidence,
    needs_all,
    session,
)

import models
from measurement.audit import parity_difference
from measurement.comparison import (
    TOLERANCES,
    UPDATE_TOLERANCES,
    first_difference,
    first_distance,
    update_difference,
)
from measurement.evidence import Evidence
from models.parameters import draw


@dataclass(frozen=True)
class Broken:
    """A deliberate mistake in a twin: text to replace, and what must be named for it."""

    name: str
    old: str
    new: str
    parity: str
    kind: str
    layer: str
    sizes: dict[str, Any]


# --- broken twins

MLX_UPDATE = "lambda parameter, gradient: parameter - config.learning_rate * gradient"
TORCH_UPDATE = "parameter.sub_(gradient, alpha=config.learning_rate)"
REVERSED = "[self.hidden[0], self.hidden[2], self.hidden[1]]"
BROKEN = {
    "mlx": [
        ("gelu for relu", "nn.relu(", "nn.gelu(", "output", "outputs", "hidden.0 ", {}),
        ("tanh for relu", "nn.relu(", "mx.tanh(", "output", "outputs", "hidden.0 ", {}),
        ("rate", "- config.learning_rate", "- 0.101", "update", "updates", "hidden.0.linear.", {}),
        ("sum of losses", "mx.mean(", "mx.sum(", "gradient", "gradients", "hidden.0.linear.", {}),
        ("layers exchanged", "in self.hidden:", f"in {REVERSED}:", "output", "outputs",
         "hidden.1.linear ", {"layers": 3}),
        ("layer left out", "in self.hidden:", "in self.hidden[:-1]:", "output", "outputs",
         "hidden.1.linear is missing", {}),
        ("no step", MLX_UPDATE, "lambda parameter, gradient: parameter", "update", "updates",
         "hidden.0.linear.", {}),
        ("uphill", "parameter - config", "parameter + config", "update", "updates",
         "hidden.0.linear.", {}),
        ("item dropped", "mx.take(images, rows, axis=0), mx.take(labels, rows, axis=0)",
         "mx.take(images, rows[1:], axis=0), mx.take(labels, rows[1:], axis=0)", "update",
         "updates", "hidden.0.linear.", {}),
        ("weight decay", "config.learning_rate * gradient",
         "config.learning_rate * (gradient + 0.01 * parameter)", "update", "updates",
         "hidden.0.linear.weight", {}),
    ],
    "pytorch": [
        ("gelu for relu", "torch.relu(", "nn.functional.gelu(", "output", "outputs",
         "hidden.0 ", {}),
        ("tanh for relu", "torch.relu(", "torch.tanh(", "output", "outputs", "hidden.0 ", {}),
        ("rate", "alpha=config.learning_rate", "alpha=0.101", "update", "updates",
         "hidden.0.linear.", {}),
        ("sum of losses", '"mean"', '"sum"', "gradient", "gradients", "hidden.0.linear.", {}),
        ("layers exchanged", "in self.hidden:", f"in {REVERSED}:", "output", "outputs",
         "hidden.1.linear ", {"layers": 3}),
        ("no step", TORCH_UPDATE, "pass", "update", "updates", "hidden.0.linear.", {}),
        ("label smoothing", 'reduction="mean"', 'reduction="mean", label_smoothing=0.01',
         "gradient", "gradients", "hidden.0.linear.", {}),
    ],
}  # fmt: skip
CASES = [(name, Broken(*case)) for name, cases in BROKEN.items() for case in cases]


def refused(reference: Evidence, broken: Evidence, parity: str, kind: str, layer: str) -> None:
    assert parity in (parity_difference(reference.summary(), broken.summary()) or "")
    outputs, gradients, _ = TOLERANCES[reference.dtype]
    updates = UPDATE_TOLERANCES["sgd"][reference.dtype]
    compare, bound = {
        "outputs": (first_difference, outputs),
        "gradients": (first_difference, gradients),
        "updates": (first_distance, updates),
    }[kind]
    a, b = getattr(reference, kind), getattr(broken, kind)
    assert (compare(a, b, bound) or "").startswith(layer)
    assert compare(b, a, bound) is not None


@needs_all
@pytest.mark.parametrize(("name", "case"), CASES, ids=[f"{n}: {c.name}" for n, c in CASES])
def test_a_broken_twin_is_refused_with_what_differs(name, case):
    other = "mlx" if name == "pytorch" else "pytorch"
    config = config_of("mnist", **case.sizes)
    reference = evidence("mnist", other, config)
    broken = evidence("mnist", name, config, twin=broken_twin("mnist", name, (case.old, case.new)))
    refused(reference, broken, case.parity, case.kind, case.layer)


@needs_all
@pytest.mark.parametrize("name", ["mlx", "pytorch"])
@pytest.mark.parametrize(
    ("old", "said"),
    [("outputs, bias=True", "hidden.0.linear.bias"), ("CLASSES, bias=True", "head.bias")],
)
def test_a_twin_without_a_bias_has_no_evidence(name, old, said):
    case = Broken("no bias", old, old.replace("True", "False"), "", "", "", {})
    with pytest.raises(ValueError, match=f"parameter {said}"):
        evidence(
            "mnist", name, config_of("mnist"), twin=broken_twin("mnist", name, (case.old, case.new))
        )


@needs_all
@pytest.mark.parametrize("name", ["mlx", "pytorch"])
def test_two_steps_for_one_are_refused(name):
    config = config_of("mnist")
    reference = evidence("mnist", "mlx" if name == "pytorch" else "pytorch", config)
    broken = evidence("mnist", name, config, repeat=2)
    refused(reference, broken, "update", "updates", "hidden.0.linear.")
    assert broken.losses[0] == pytest.approx(reference.losses[0], rel=1e-5)
    assert broken.losses[1] != pytest.approx(reference.losses[1], rel=1e-3)


@needs_all
@pytest.mark.parametrize("name", ["mlx", "pytorch"])
def test_one_other_initial_value_is_refused(name):
    config = config_of("mnist", layers=3)
    initial = draw(config.parameters(), 0)
    changed = {key: value.copy() for key, value in initial.items()}
    reference = evidence("mnist", "mlx" if name == "pytorch" else "pytorch", config)
    column = int(np.argmax(np.abs(reference.outputs["hidden.0"]).max(axis=0)))  # one that is alive
    changed["hidden.1.linear.weight"][2, column] += 0.01
    broken = evidence("mnist", name, config, initial=changed)
    refused(reference, broken, "output", "outputs", "hidden.1.linear ")


@needs_all
@pytest.mark.parametrize("name", ["mlx", "pytorch"])
def test_other_sizes_are_other_work(name):
    a = evidence("mnist", name, config_of("mnist"))
    b = evidence("mnist", name, config_of("mnist", learning_rate=0.1000001))
    assert "work" in (parity_difference(a.summary(), b.summary()) or "")


@needs_all
@pytest.mark.parametrize("case", ["gelu for relu", "sum of losses", "layers exchanged", "no step"])
def test_a_broken_twin_is_refused_in_bfloat16_too(case):
    broken = next(c for n, c in CASES if n == "mlx" and c.name == case)
    config = config_of("mnist", **{"layers": 3, "hidden_size": 32, **broken.sizes})
    reference = evidence("mnist", REFERENCE, config, dtype="bfloat16")
    wrong = evidence(
        "mnist",
        "mlx",
        config,
        twin=broken_twin("mnist", "mlx", (broken.old, broken.new)),
        dtype="bfloat16",
    )
    refused(reference, wrong, broken.parity, broken.kind, broken.layer)


@needs_all
def test_a_step_twice_as_long_is_refused_in_bfloat16_too():
    """The update is large beside bfloat16's rounding of the initial values, or it proves nothing."""
    config = config_of("mnist", hidden_size=32)
    a = evidence("mnist", REFERENCE, config, dtype="bfloat16")
    b = evidence("mnist", "mlx", config, dtype="bfloat16", repeat=2)
    assert parity_difference(a.summary(), b.summary()) is not None
    updates = UPDATE_TOLERANCES["sgd"]["bfloat16"]
    assert first_distance(a.updates, b.updates, updates) is not None


@needs_all
@pytest.mark.parametrize("workload", TRAINED)
@pytest.mark.parametrize("name", ["mlx", "pytorch"])
def test_one_dropped_batch_is_refused(workload, name):
    """The third batch is never trained on; its loss is made up from the one before."""
    config = config_of(workload)
    reference = evidence(workload, "mlx" if name == "pytorch" else "pytorch", config)
    opened = session(workload, name, config)
    once, losses = opened.step, []

    def step(rows):
        losses.append(losses[-1] if len(losses) == 2 else once(rows))
        return losses[-1]

    opened.step = step
    broken = opened.evidence()
    assert len(broken.losses) == models.setting(workload, "PROBE_STEPS") < len(losses)
    said = update_difference(reference.updates, broken.updates, broken.optimiser, "float32")
    assert said is not None
    assert parity_difference(reference.summary(), broken.summary()) is not None

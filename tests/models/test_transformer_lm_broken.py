"""Every deliberately broken language model is refused, in either framework."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from twins import config_of, evidence, needs_all, session, source

import models.layers
from measurement.audit import parity_difference
from measurement.comparison import (
    GRADIENT_FLOOR,
    TOLERANCES,
    UPDATE_TOLERANCES,
    first_difference,
    first_distance,
)
from measurement.evidence import Evidence

WORKLOAD = "transformer_lm"


@dataclass(frozen=True)
class Broken:
    """A mistake: text to replace in the twin or in the shared layers, and the first of layer
    outputs, gradients and updates that must show it, with the name of the tensor."""

    name: str
    old: str
    new: str
    kind: str
    tensor: str = ""


GATHERED = {
    "mlx": "mx.take(inputs, rows, axis=0), mx.take(labels, rows, axis=0)",
    "pytorch": "inputs.index_select(0, rows), labels.index_select(0, rows)",
}
RELU = "linear_relu(self.inner, x)"
BOTH = [
    ("mask removed", '"causal")', "None)", "outputs", "blocks.0.attention.output "),
    ("other epsilon of the norms", "NORM_EPSILON)", "1e-6)", "outputs", "blocks.0.attention_norm "),
    ("operand order in attention", "attend(query, key,", "attend(key, query,", "outputs",
     "blocks.0.attention.output "),
    ("norm after its part", "self.attention(self.attention_norm(x))",
     "self.attention_norm(self.attention(x))", "outputs", ""),
    ("residual left out", "add_norm(x, change", "add_norm(0 * x, change", "outputs",
     "blocks.0.feed_forward_norm "),
    ("residual before the norm alone", "x, y = add_norm(x,", "_, y = add_norm(x,", "outputs", ""),
    ("positions backwards", "config.positions()", "config.positions()[::-1].copy()", "outputs",
     "blocks.0.attention_norm "),
    ("labels not shifted", "labels.flatten()", "inputs.flatten()", "gradients", ""),
    ("other epsilon of AdamW", "epsilon=EPSILON", "epsilon=1e-6", "updates", ""),
    ("rate not stepped", "warmup_steps=config.warmup_steps", "warmup_steps=0", "updates", ""),
    ("a shorter warm-up", "=config.warmup_steps", "=config.warmup_steps - 1", "updates", ""),
]  # fmt: skip
OWN = {  # PyTorch itself refuses a parameter that is not used
    "mlx": [
        ("no norm at the end", "return self.norm(x)", "return x", "outputs", "norm is missing"),
        ("a block left out", "in self.blocks:", "in self.blocks[:-1]:", "outputs",
         "blocks.1.attention_norm is missing"),
        ("gelu for relu", RELU, "nn.gelu(self.inner(x))", "outputs", "blocks.0.feed_forward.outer "),
        ("dropout left on", RELU, "nn.Dropout(0.1)(nn.relu(self.inner(x)))",
         "outputs", "blocks.0.feed_forward.outer "),
        ("sum of losses", "mx.mean(mx.log", "mx.sum(mx.log", "gradients", ""),
        ("no optimiser step", "optimiser.update(gradients)", "pass", "updates", ""),
        ("item dropped", GATHERED["mlx"], GATHERED["mlx"].replace("rows", "rows[1:]"),
         "updates", ""),
        ("no bias correction", "bias_correction=True", "bias_correction=False", "updates", ""),
        ("decay of a tenth", "weight_decay=weight_decay", "weight_decay=0.1 / 3e-4", "updates", ""),
    ],
    "pytorch": [
        ("gelu for relu", RELU, "nn.functional.gelu(self.inner(x))", "outputs",
         "blocks.0.feed_forward.outer "),
        ("dropout left on", RELU,
         "nn.functional.dropout(torch.relu(self.inner(x)), p=0.1)", "outputs",
         "blocks.0.feed_forward.outer "),
        ("sum of losses", 'reduction="mean"', 'reduction="sum"', "gradients", ""),
        ("no optimiser step", "optimiser.update(gradients)", "pass",
         "updates", ""),
        ("item dropped", GATHERED["pytorch"], GATHERED["pytorch"].replace("rows", "rows[1:]"),
         "updates", ""),
        ("no bias correction", "[steps] * len", "[steps + 1e6] * len", "updates", ""),
        ("decay of a tenth", "weight_decay=weight_decay", "weight_decay=0.1 / 3e-4", "updates", ""),
    ],
}  # fmt: skip
CASES = [(name, Broken(*case)) for name, own in OWN.items() for case in [*BOTH, *own]]


def layers_source(framework: str) -> str:
    return Path(models.layers.__path__[0], f"{framework}.py").read_text()


def executed(text: str, name: str) -> ModuleType:
    module = ModuleType(name)
    exec(compile(text, name, "exec"), module.__dict__)
    return module


def broken_twin(framework: str, case: Broken) -> ModuleType:
    text = source(WORKLOAD, framework)
    twin = executed(text.replace(case.old, case.new), f"broken_{framework}")
    if case.old not in text:
        layers = layers_source(framework)
        assert case.old in layers, "the twin changed: renew the mistake"
        own = f"broken::adamw_{abs(hash(case))}"  # an operator is registered once
        changed = layers.replace(case.old, case.new).replace("layers::adamw", own)
        twin.AdamW = executed(changed, f"broken_{framework}_layers").AdamW
    return twin


@cache
def reference(framework: str) -> Evidence:
    return evidence(WORKLOAD, framework, config_of(WORKLOAD))


def differences(a: Evidence, b: Evidence) -> dict[str, str | None]:
    """What verify finds, by kind."""
    outputs, gradients, _ = TOLERANCES[a.dtype]
    updates = UPDATE_TOLERANCES["adamw"][a.dtype]
    return {
        "outputs": first_difference(a.outputs, b.outputs, outputs),
        "gradients": first_difference(a.gradients, b.gradients, gradients, GRADIENT_FLOOR),
        "updates": first_distance(a.updates, b.updates, updates),
    }


@needs_all
@pytest.mark.parametrize(("name", "case"), CASES, ids=[f"{n}: {c.name}" for n, c in CASES])
def test_a_broken_twin_is_refused_with_what_differs(name, case):
    whole = reference("mlx" if name == "pytorch" else "pytorch")
    broken = evidence(WORKLOAD, name, config_of(WORKLOAD), twin=broken_twin(name, case))
    found = differences(whole, broken)
    kinds = list(found)
    assert all(found[kind] is None for kind in kinds[: kinds.index(case.kind)])
    said = found[case.kind]
    assert said is not None and said.startswith(case.tensor)
    assert parity_difference(whole.summary(), broken.summary()) is not None


@needs_all
@pytest.mark.parametrize("name", ["mlx", "pytorch"])
def test_a_whole_twin_passes_the_same_way(name):
    whole, other = reference(name), reference("mlx" if name == "pytorch" else "pytorch")
    assert set(differences(whole, other).values()) == {None}
    assert parity_difference(whole.summary(), other.summary()) is None


@needs_all
@pytest.mark.parametrize("name", ["mlx", "pytorch"])
def test_two_steps_for_one_are_refused(name):
    broken = evidence(WORKLOAD, name, config_of(WORKLOAD), repeat=2)
    assert differences(reference(name), broken)["updates"] is not None
    assert parity_difference(reference(name).summary(), broken.summary()) is not None


@needs_all
@pytest.mark.parametrize("name", ["mlx", "pytorch"])
def test_a_dropped_batch_is_refused(name):
    opened = session(WORKLOAD, name, config_of(WORKLOAD))
    once, losses = opened.step, []

    def step(rows: Any) -> Any:
        losses.append(losses[-1] if len(losses) == 2 else once(rows))
        return losses[-1]

    opened.step = step
    broken = opened.evidence()
    assert broken.losses[:2] == pytest.approx(reference(name).losses[:2], rel=1e-5)
    assert differences(reference(name), broken)["updates"] is not None
    assert parity_difference(reference(name).summary(), broken.summary()) is not None

"""Twins have the same outline and compute the same numbers."""

from __future__ import annotations

import ast
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twins import (
    ITEMS,
    PAIRS,
    REFERENCE,
    assert_equal,
    config_of,
    data_of,
    evidence,
    needs_all,
    source,
)

import frameworks
import models
from measurement.audit import first_difference, parity_difference
from models.parameters import draw

# --- outlines


def outline(source: str) -> list[Any]:
    """Constants, classes, methods, functions, arguments and attributes, in order."""

    def function(node: ast.FunctionDef) -> tuple:
        name = {"forward": "__call__"}.get(node.name, node.name)
        arguments = [a.arg for a in (*node.args.args, *node.args.kwonlyargs)]
        attributes = [
            target.attr
            for inner in ast.walk(node)
            if isinstance(inner, ast.Assign)
            for target in inner.targets
            if isinstance(target, ast.Attribute)
        ]
        inside = [function(n) for n in node.body if isinstance(n, ast.FunctionDef)]
        return ("def", name, arguments, attributes, ast.get_docstring(node), inside)

    found: list[Any] = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign):
            found += [("constant", t.id) for t in node.targets if isinstance(t, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.append(("constant", node.target.id))
        elif isinstance(node, ast.FunctionDef):
            found.append(function(node))
        elif isinstance(node, ast.ClassDef):
            bases = [ast.unparse(base) for base in node.bases]
            methods = [function(n) for n in node.body if isinstance(n, ast.FunctionDef)]
            found.append(("class", node.name, bases, ast.get_docstring(node), methods))
    return found


@pytest.mark.parametrize(("workload", "twin"), PAIRS)
def test_twins_have_one_outline(workload, twin):
    assert outline(source(workload, twin)) == outline(source(workload, REFERENCE))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("def loss(model", "def cost(model"),
        ("images: mx.array, labels: mx.array, rows", "labels: mx.array, images: mx.array, rows"),
        ("self.head =", "self.top ="),
        ("class Block", "class Layer"),
        ("FASTER_COMPILED", "FASTER"),
        ("def step(", "def update("),
        ('"""Mean cross-entropy of a batch."""', '"""Cross-entropy."""'),
    ],
)
def test_an_outline_that_differs_is_seen(old, new):
    text = source("mnist", "mlx")
    assert old in text
    assert outline(text.replace(old, new)) != outline(source("mnist", REFERENCE))


@pytest.mark.parametrize("workload", models.names())
def test_twins_stay_short(workload):
    for twin in models.frameworks(workload):
        assert len(source(workload, twin).splitlines()) <= 150


# --- equal numbers


@needs_all
@settings(max_examples=12)
@given(
    hidden_size=st.integers(1, 40),
    layers=st.integers(1, 3),
    batch_size=st.integers(1, ITEMS + 3),
    learning_rate=st.sampled_from([0.01, 0.1, 0.5]),
    seed=st.integers(0, 100),
)
def test_mnist_twins_agree_at_any_size(hidden_size, layers, batch_size, learning_rate, seed):
    config = config_of(
        "mnist",
        hidden_size=hidden_size,
        layers=layers,
        batch_size=batch_size,
        learning_rate=learning_rate,
    )
    theirs, ours = (evidence("mnist", name, config, seed=seed) for name in (REFERENCE, "mlx"))
    assert_equal(theirs, ours)


@needs_all
@pytest.mark.parametrize(("workload", "twin"), PAIRS)
def test_twins_agree_at_the_size_of_the_study(workload, twin):
    config = replace(models.load(workload, "config").SMOKE, train_items=ITEMS, test_items=4)
    a, b = (evidence(workload, name, config) for name in (REFERENCE, twin))
    assert_equal(a, b)
    assert a.parameters == sum(np.prod(shape) for shape, _ in config.parameters().values())
    assert a.losses[-1] < a.losses[0]  # it learns
    assert all(np.abs(update).max() > 0 for update in a.updates.values())


@needs_all
@pytest.mark.parametrize(("workload", "twin"), PAIRS)
def test_a_compiled_twin_agrees_with_the_reference(workload, twin):
    config = config_of(workload)
    assert_equal(
        evidence(workload, REFERENCE, config), evidence(workload, twin, config, compiled=True)
    )


@needs_all
@pytest.mark.parametrize("workload", models.names())
def test_the_reference_agrees_with_itself_compiled(workload):
    """With the compiler that is measured; half a minute where nothing is cached."""
    framework = frameworks.load(REFERENCE, "cpu")
    if reason := framework.can_compile():
        pytest.skip(reason)
    config = config_of(workload, layers=1) if workload == "mnist" else config_of(workload)
    assert_equal(
        evidence(workload, REFERENCE, config), evidence(workload, REFERENCE, config, compiled=True)
    )


@needs_all
@pytest.mark.parametrize(("workload", "twin"), PAIRS)
@pytest.mark.parametrize("seed", range(3))
def test_twins_agree_in_bfloat16_within_the_stated_bounds(workload, twin, seed):
    config = config_of(workload, layers=3, hidden_size=32)
    a, b = (evidence(workload, n, config, dtype="bfloat16", seed=seed) for n in (REFERENCE, twin))
    assert a.dtype == b.dtype == "bfloat16"
    assert_equal(a, b)
    exact = evidence(workload, REFERENCE, config, seed=seed)
    assert first_difference(a.outputs, exact.outputs, 1e-4) is not None  # it is not float32
    assert parity_difference(a.summary(), exact.summary()) is not None


@needs_all
@pytest.mark.parametrize("workload", models.names())
def test_predictions_agree(workload):
    config, answers = config_of(workload), []
    inputs = next(iter(data_of(workload).train.values())) * 20
    for name in models.frameworks(workload):
        framework, twin = frameworks.load(name, "cpu"), models.load(workload, name)
        model = twin.Model(config)
        framework.write_parameters(model, draw(config.parameters(), 0))
        predict = framework.compile_predict(twin.predict, model, False)
        answers.append(framework.read(predict(framework.put(inputs))))
    for answer in answers:
        assert answer.shape == (ITEMS,) and np.issubdtype(answer.dtype, np.integer)
        np.testing.assert_array_equal(answer, answers[0])
    assert len(set(answers[0].tolist())) > 1


def test_evidence_needs_every_parameter():
    """A twin with a parameter that the workload does not list has no evidence at all."""
    config = config_of("mnist")
    initial = draw(config.parameters(), 0)
    initial.pop("head.bias")
    for name in frameworks.names():
        if frameworks.available(name):
            with pytest.raises(ValueError, match="head.bias"):
                evidence("mnist", name, config, initial=initial)


def test_the_configuration_lists_the_parameters_of_the_twins():
    for workload in models.names():
        config = config_of(workload)
        shapes = {name: shape for name, (shape, _) in config.parameters().items()}
        for name in models.frameworks(workload):
            if not frameworks.available(name):
                continue
            model = models.load(workload, name).Model(config)
            read = frameworks.load(name, "cpu").read_parameters(model)
            assert {key: value.shape for key, value in read.items()} == shapes

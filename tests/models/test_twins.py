"""Twins: the same outline, the same numbers, and every broken twin is refused by name."""

from __future__ import annotations

import ast
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


def source(workload: str, framework: str) -> str:
    return Path(str(models.__file__)).parent.joinpath(workload, f"{framework}.py").read_text()


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


# --- broken twins

MLX_UPDATE = "lambda parameter, gradient: parameter - config.learning_rate * gradient"
TORCH_UPDATE = "parameter.sub_(gradient, alpha=config.learning_rate)"
REVERSED = "[self.hidden[0], self.hidden[2], self.hidden[1]]"
BROKEN = {
    "mlx": [
        ("gelu for relu", "nn.relu(", "nn.gelu(", "output", "outputs", "hidden.0 ", {}),
        ("tanh for relu", "nn.relu(", "mx.tanh(", "output", "outputs", "hidden.0 ", {}),
        ("rate", "- config.learning_rate", "- 0.101", "update", "updates", "hidden.0.linear.", {}),
        ("sum of losses", '"mean"', '"sum"', "gradient", "gradients", "hidden.0.linear.", {}),
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


def broken_twin(framework: str, case: Broken) -> Any:
    text = source("mnist", framework)
    assert case.old in text, "the twin changed: renew the mistake"
    module = ModuleType(f"broken_{framework}")
    exec(compile(text.replace(case.old, case.new), module.__name__, "exec"), module.__dict__)
    return module


def refused(reference: Evidence, broken: Evidence, parity: str, kind: str, layer: str) -> None:
    assert parity in (parity_difference(reference.summary(), broken.summary()) or "")
    outputs, gradients, _ = TOLERANCES[reference.dtype]
    updates = UPDATE_TOLERANCES[reference.dtype]
    bound = {"outputs": outputs, "gradients": gradients, "updates": updates}[kind]
    a, b = getattr(reference, kind), getattr(broken, kind)
    assert (first_difference(a, b, bound) or "").startswith(layer)
    assert first_difference(b, a, bound) is not None


@needs_all
@pytest.mark.parametrize(("name", "case"), CASES, ids=[f"{n}: {c.name}" for n, c in CASES])
def test_a_broken_twin_is_refused_with_what_differs(name, case):
    other = "mlx" if name == "pytorch" else "pytorch"
    config = config_of("mnist", **case.sizes)
    reference = evidence("mnist", other, config)
    broken = evidence("mnist", name, config, twin=broken_twin(name, case))
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
        evidence("mnist", name, config_of("mnist"), twin=broken_twin(name, case))


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
    wrong = evidence("mnist", "mlx", config, twin=broken_twin("mlx", broken), dtype="bfloat16")
    refused(reference, wrong, broken.parity, broken.kind, broken.layer)


@needs_all
def test_a_step_twice_as_long_is_refused_in_bfloat16_too():
    """The update is large beside bfloat16's rounding of the initial values, or it proves nothing."""
    config = config_of("mnist", hidden_size=32)
    a = evidence("mnist", REFERENCE, config, dtype="bfloat16")
    b = evidence("mnist", "mlx", config, dtype="bfloat16", repeat=2)
    assert parity_difference(a.summary(), b.summary()) is not None
    assert first_difference(a.updates, b.updates, UPDATE_TOLERANCES["bfloat16"]) is not None


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

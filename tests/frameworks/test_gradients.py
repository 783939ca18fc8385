"""Parameters, outputs of layers and gradients, against NumPy and finite differences."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest
from networks import SHAPES, plain

# --- parameters


def test_parameters_are_written_and_read_by_name(framework, parts, values):
    model = parts.Net()
    framework.write_parameters(model, values)
    read = framework.read_parameters(model)
    assert set(read) == set(SHAPES)
    for key, value in values.items():
        assert read[key].dtype == np.float32
        np.testing.assert_array_equal(read[key], value)


def test_what_was_read_or_written_is_not_tied_to_the_model(framework, parts, values):
    model = parts.Net()
    framework.write_parameters(model, values)
    before = framework.read_parameters(model)
    kept = {key: value.copy() for key, value in before.items()}
    values["out.bias"] += 100  # the caller's own array
    for value in before.values():
        if value.flags.writeable:
            value += 50
    after = framework.read_parameters(model)
    for key, value in kept.items():
        np.testing.assert_array_equal(after[key], value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v: v.pop("layers.1.bias"), r"layers\.1\.bias: expected \(5,\), got nothing"),
        (
            lambda v: v.update({"out.weight": v["out.weight"].T}),
            r"out\.weight: expected \(2, 5\), got \(5, 2\)",
        ),
        (
            lambda v: v.update({"out.bias": v["out.bias"][:1]}),  # would broadcast
            r"out\.bias: expected \(2,\), got \(1,\)",
        ),
        (lambda v: v.update({"extra.bias": v["out.bias"]}), r"extra\.bias"),
    ],
)
def test_parameters_that_do_not_fit_are_named_and_nothing_is_written(
    framework, parts, values, change, said
):
    model = parts.Net()
    framework.write_parameters(model, {key: np.zeros_like(v) for key, v in values.items()})
    change(values)
    with pytest.raises(ValueError, match=said):
        framework.write_parameters(model, values)
    assert all(not value.any() for value in framework.read_parameters(model).values())


# --- outputs and gradients


def test_layer_outputs_are_all_there_in_order_of_computation(framework, parts, values, rng):
    model = parts.Net()
    framework.write_parameters(model, values)
    x = rng.standard_normal((7, 3)).astype(np.float32)
    outputs = framework.layer_outputs(model, framework.put(x))
    expected = plain(values, x)
    assert list(outputs) == list(expected)
    for key, value in expected.items():
        assert outputs[key].dtype == np.float32
        np.testing.assert_allclose(outputs[key], value, rtol=1e-4, atol=1e-5)


def hooks(model: Any) -> list[Any]:
    """What watching a model could leave behind: classes and hooks of every module."""
    modules = [module for _, module in model.named_modules()]
    return [(type(m), len(getattr(m, "_forward_hooks", ()))) for m in modules]


@pytest.mark.parametrize("fails", [False, True])
def test_watching_a_model_leaves_it_as_it_was(framework, parts, values, rng, fails):
    model = parts.Net(fails)
    framework.write_parameters(model, values)
    before = hooks(model)
    x = framework.put(rng.standard_normal((2, 3)).astype(np.float32))
    raised = pytest.raises(ArithmeticError) if fails else contextlib.nullcontext()
    with raised:
        framework.layer_outputs(model, x)
    assert hooks(model) == before
    with raised:
        model(x)
    with raised:
        framework.layer_outputs(model, x)  # and again


def test_gradients_are_those_of_finite_differences(framework, parts, values, rng):
    model = parts.Net()
    x = rng.standard_normal((6, 3)).astype(np.float32)
    y = rng.standard_normal((6, 2)).astype(np.float32)
    framework.write_parameters(model, values)
    value, gradients = framework.gradients(parts.loss, model, *map(framework.put, (x, y)))

    def loss(changed: dict[str, np.ndarray]) -> float:
        return float(np.mean((plain(changed, x)["out"] - y) ** 2))

    assert value == pytest.approx(loss(values), rel=1e-5)
    assert set(gradients) == set(SHAPES)
    exact = {key: v.astype(np.float64) for key, v in values.items()}
    for key, gradient in gradients.items():
        assert gradient.shape == SHAPES[key] and gradient.dtype == np.float32
        for index in np.ndindex(*SHAPES[key]):
            step = np.zeros(SHAPES[key])
            step[index] = 1e-5
            up = loss({**exact, key: exact[key] + step})
            down = loss({**exact, key: exact[key] - step})
            assert gradient[index] == pytest.approx((up - down) / 2e-5, rel=1e-3, abs=1e-4)


def test_gradients_and_outputs_leave_the_parameters_alone(framework, parts, values, rng):
    model = parts.Net()
    framework.write_parameters(model, values)
    x = framework.put(rng.standard_normal((4, 3)).astype(np.float32))
    y = framework.put(rng.standard_normal((4, 2)).astype(np.float32))
    first = framework.gradients(parts.loss, model, x, y)
    framework.layer_outputs(model, x)
    second = framework.gradients(parts.loss, model, x, y)
    assert first[0] == second[0]
    for key in SHAPES:
        np.testing.assert_array_equal(first[1][key], second[1][key])
        np.testing.assert_array_equal(framework.read_parameters(model)[key], values[key])

"""Every adapter keeps the promises of measurement.framework.Framework.

A tiny network with a branch, an activation and unequal layers is written here in each framework.
"""

from __future__ import annotations

import contextlib
import inspect
import threading
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import frameworks
from measurement.errors import InputError
from measurement.framework import Framework

NAMES = [name for name in frameworks.names() if frameworks.available(name)]
SHAPES = {
    "layers.0.weight": (5, 3),
    "layers.0.bias": (5,),
    "layers.1.weight": (5, 5),
    "layers.1.bias": (5,),
    "out.weight": (2, 5),
    "out.bias": (2,),
}
RATE = 0.1


def torch_parts() -> SimpleNamespace:
    import torch

    class Net(torch.nn.Module):
        def __init__(self, fails: bool = False) -> None:
            super().__init__()
            self.out = torch.nn.Linear(5, 2)  # defined first, computed last
            self.layers = torch.nn.ModuleList([torch.nn.Linear(3, 5), torch.nn.Linear(5, 5)])
            self.fails = fails

        def forward(self, x):
            for layer in self.layers:
                x = torch.tanh(layer(x))
            if self.fails:
                raise ArithmeticError("in the middle")
            return self.out(x)

    def loss(model, x, y):
        return ((model(x) - y) ** 2).mean()

    def training(model):
        parameters = list(model.parameters())

        def step(x, y, rows):
            value = loss(model, x.index_select(0, rows), y.index_select(0, rows))
            gradients = torch.autograd.grad(value, parameters)
            with torch.no_grad():
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.sub_(gradient, alpha=RATE)
            return value.detach()

        return step, parameters

    return SimpleNamespace(Net=Net, loss=loss, training=training)


def mlx_parts() -> SimpleNamespace:
    import mlx.core as mx
    from mlx import nn
    from mlx.utils import tree_map

    class Net(nn.Module):
        def __init__(self, fails: bool = False) -> None:
            super().__init__()
            self.out = nn.Linear(5, 2)
            self.layers = [nn.Linear(3, 5), nn.Linear(5, 5)]
            self.fails = fails

        def __call__(self, x):
            for layer in self.layers:
                x = mx.tanh(layer(x))
            if self.fails:
                raise ArithmeticError("in the middle")
            return self.out(x)

    def loss(model, x, y):
        return mx.mean((model(x) - y) ** 2)

    def training(model):
        both = nn.value_and_grad(model, loss)

        def step(x, y, rows):
            value, gradients = both(model, mx.take(x, rows, axis=0), mx.take(y, rows, axis=0))
            moved = tree_map(lambda p, g: p - RATE * g, model.trainable_parameters(), gradients)
            model.update(moved)
            return value

        return step, [model.state]

    return SimpleNamespace(Net=Net, loss=loss, training=training)


PARTS = {"pytorch": torch_parts, "mlx": mlx_parts}


@pytest.fixture(params=NAMES)
def name(request) -> str:
    return request.param


@pytest.fixture(params=["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
def framework(name, request) -> Framework:
    try:
        return frameworks.load(name, request.param)
    except InputError as error:
        pytest.skip(str(error))


@pytest.fixture
def parts(name) -> SimpleNamespace:
    return PARTS[name]()


@pytest.fixture
def values(rng) -> dict[str, np.ndarray]:
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


def plain(values: dict[str, Any], x: np.ndarray) -> dict[str, np.ndarray]:
    """Every layer's output in NumPy, float64."""
    w = {name: value.astype(np.float64) for name, value in values.items()}
    first = x @ w["layers.0.weight"].T + w["layers.0.bias"]
    second = np.tanh(first) @ w["layers.1.weight"].T + w["layers.1.bias"]
    out = np.tanh(second) @ w["out.weight"].T + w["out.bias"]
    return {"layers.0": first, "layers.1": second, "out": out, "": out}


def test_every_adapter_has_its_test_network():
    assert set(frameworks.names()) <= set(PARTS)


# --- what it is


def test_an_adapter_has_every_method_of_the_protocol(framework):
    for method, wanted in inspect.getmembers(Framework, inspect.isfunction):
        if not method.startswith("_"):
            have = inspect.signature(getattr(framework, method)).parameters
            assert list(have) == list(inspect.signature(wanted).parameters)[1:], method


def test_what_it_is_and_how_it_computes_are_strings(framework, name):
    assert framework.name == name and framework.device in ("cpu", "gpu")
    assert framework.dtype == "float32"
    state = framework.numerics()
    assert {"tf32", "blas_loaded", "blas_threads", "pool_threads"} <= set(state)
    assert state["tf32"] == "off" or framework.device == "gpu"
    assert framework.versions()["framework"]
    assert all(isinstance(v, str) for v in (*state.values(), *framework.versions().values()))


def test_device_auto_is_one_that_is_there(name):
    assert frameworks.load(name).device in ("cpu", "gpu")
    assert frameworks.load(name, "cpu").device == "cpu"


def test_a_gpu_that_is_not_there_is_one_line_with_the_remedy(name):
    with contextlib.suppress(InputError):
        frameworks.load(name, "gpu")
        pytest.skip("this machine has a GPU that the framework sees")
    with pytest.raises(InputError, match="device=gpu: .* use device=cpu, or install") as raised:
        frameworks.load(name, "gpu")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("device", "tpu"), ("device", ""), ("dtype", "float8"), ("dtype", "double")],
)
def test_an_unknown_device_or_dtype_is_one_line_with_the_choices(name, setting, value):
    with pytest.raises(InputError, match=f"unknown {setting} '{value}'; choose one of"):
        frameworks.load(name, **{setting: value})


def test_threads_are_as_asked_where_the_framework_has_a_pool(name):
    if name == "mlx":
        assert frameworks.load(name, "cpu", threads=2).numerics()["pool_threads"] == "1"
        return
    for threads in (1, 2):
        adapter = frameworks.load(name, "cpu", threads=threads)
        assert adapter.numerics()["pool_threads"] == str(threads)


def test_compiling_without_a_compiler_is_told(framework, monkeypatch):
    if framework.device == "cpu":
        monkeypatch.setenv("PATH", "/nowhere")
        assert "g++" in (framework.can_compile() or "")
    else:
        assert framework.can_compile() is None


# --- put and read


@pytest.mark.parametrize("name", NAMES)
@given(
    hnp.arrays(
        st.sampled_from([np.float32, np.int32, np.int64, np.uint8, np.bool_]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
        elements={"allow_nan": False, "allow_subnormal": False},
    )
)
def test_arrays_come_back_as_they_went(name, array):
    framework = frameworks.load(name, "cpu")
    back = framework.read(framework.put(array))
    assert back.shape == array.shape
    np.testing.assert_array_equal(back, array)
    kind = {"f": np.floating, "i": np.integer, "u": np.integer, "b": np.bool_}[array.dtype.kind]
    assert np.issubdtype(back.dtype, kind)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_floats_take_the_adapters_type_and_come_back_as_float32(name, dtype, rng):
    framework = frameworks.load(name, "cpu", dtype)
    array = rng.standard_normal(200)
    for given_as in (array, array.astype(np.float32), array.astype(np.float16)):
        on_device = framework.put(given_as)
        assert dtype in str(on_device.dtype)
        back = framework.read(on_device)
        assert back.dtype == np.float32
        bits = {"float32": 24, "bfloat16": 8, "float16": 11}[dtype]
        np.testing.assert_allclose(back, given_as, rtol=2.0**-bits, atol=1e-7)
    assert framework.dtype == dtype


def test_what_is_not_contiguous_or_not_writable_is_put_too(framework, rng):
    array = rng.standard_normal((4, 6)).astype(np.float32)
    np.testing.assert_array_equal(framework.read(framework.put(array.T)), array.T)
    np.testing.assert_array_equal(framework.read(framework.put(array[::2, ::-1])), array[::2, ::-1])
    array.flags.writeable = False
    np.testing.assert_array_equal(framework.read(framework.put(array)), array)


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


# --- steps


@pytest.fixture
def quick_compiler(name, monkeypatch):
    """torch.compile traces as always, but makes no C++: tests/models has one test that does."""
    if name == "pytorch":
        import torch

        real = torch.compile
        torch._dynamo.reset()
        monkeypatch.setattr(
            torch, "compile", lambda f, **options: real(f, backend="aot_eager", **options)
        )


@pytest.mark.usefixtures("quick_compiler")
def test_a_compiled_step_is_the_eager_step(framework, parts, values, rng):
    """Ten steps, the last batch of each epoch short, and parameters rewritten in between."""
    x = framework.put(rng.standard_normal((10, 3)).astype(np.float32))
    y = framework.put(rng.standard_normal((10, 2)).astype(np.float32))
    rows = [framework.put(np.arange(i, min(i + 4, 10), dtype=np.int32)) for i in (0, 4, 8)]
    results = []
    for compiled in (False, True):
        model = parts.Net()
        framework.write_parameters(model, values)
        step, state = parts.training(model)
        submit = framework.compile_step(step, state, compiled)
        losses = [float(framework.read(submit(x, y, rows[i % 3]))) for i in range(10)]
        trained = framework.read_parameters(model)
        framework.write_parameters(model, values)  # as a trial does between phases
        again = [float(framework.read(submit(x, y, rows[i % 3]))) for i in range(10)]
        np.testing.assert_allclose(again, losses, rtol=1e-6)
        results.append((losses, trained))
    (eager, eager_values), (compiled_, compiled_values) = results
    np.testing.assert_allclose(eager, compiled_, rtol=1e-5)
    assert eager[9] < eager[0]
    for key in SHAPES:
        np.testing.assert_allclose(eager_values[key], compiled_values[key], rtol=1e-4, atol=1e-6)
        assert not np.array_equal(eager_values[key], values[key])


@pytest.mark.usefixtures("quick_compiler")
@pytest.mark.parametrize("compiled", [False, True])
def test_prediction_sees_parameters_that_change(framework, parts, values, rng, compiled):
    model = parts.Net()
    framework.write_parameters(model, values)
    predict = framework.compile_predict(lambda m, x: m(x), model, compiled)
    x = rng.standard_normal((3, 3)).astype(np.float32)
    first = framework.read(predict(framework.put(x)))
    np.testing.assert_allclose(first, plain(values, x)["out"], rtol=1e-4, atol=1e-5)
    other = {key: value / 2 for key, value in values.items()}
    framework.write_parameters(model, other)
    second = framework.read(predict(framework.put(x)))
    np.testing.assert_allclose(second, plain(other, x)["out"], rtol=1e-4, atol=1e-5)
    one = framework.read(predict(framework.put(x[:1])))
    np.testing.assert_allclose(one, second[:1], rtol=1e-4, atol=1e-5)


def test_prediction_records_no_gradient():
    if "pytorch" not in NAMES:
        pytest.skip("PyTorch is not installed")
    framework, parts = frameworks.load("pytorch", "cpu"), PARTS["pytorch"]()
    predict = framework.compile_predict(lambda m, x: m(x), parts.Net(), False)
    assert not predict(framework.put(np.zeros((1, 3), np.float32))).requires_grad


# --- the barrier


@pytest.mark.skipif("mlx" not in NAMES, reason="MLX is not installed")
def test_mlx_waiting_evaluates_everything_in_any_nesting():
    import mlx.core as mx

    framework = frameworks.load("mlx", "cpu")

    def lazy() -> Any:
        return mx.random.normal((256, 256)) @ mx.random.normal((256, 256))

    values = [lazy() for _ in range(4)]
    nested = ([values[0]], {"a": values[1], "b": [values[2]]}, values[3])
    assert not any(evaluated(value) for value in values)
    framework.wait(*nested)
    assert all(evaluated(value) for value in values)


def evaluated(array: Any) -> bool:
    """An MLX array that has been computed has no graph left behind it."""
    import io

    import mlx.core as mx

    text = io.StringIO()
    mx.export_to_dot(text, array)
    return "Matmul" not in text.getvalue()


def test_after_waiting_nothing_is_left_to_do(framework, parts, values, rng):
    """Reading the state back after the barrier takes no part of the time of the steps."""
    model = parts.Net()
    framework.write_parameters(model, values)
    step, state = parts.training(model)
    submit = framework.compile_step(step, state, False)
    x = framework.put(rng.standard_normal((2_000, 3)).astype(np.float32))
    y = framework.put(rng.standard_normal((2_000, 2)).astype(np.float32))
    rows = framework.put(np.arange(2_000, dtype=np.int32))
    framework.wait(submit(x, y, rows), state)
    shares = []
    for _ in range(5):
        start = time.perf_counter()
        losses = [submit(x, y, rows) for _ in range(20)]
        framework.wait(losses, state)
        middle = time.perf_counter()
        framework.read_parameters(model)
        shares.append((time.perf_counter() - middle) / (middle - start))
    assert min(shares) < 0.5


@pytest.mark.skipif("pytorch" not in NAMES, reason="PyTorch is not installed")
def test_pytorch_waits_for_its_accelerator_and_for_nothing_on_a_cpu(monkeypatch):
    import torch

    calls = []
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda: calls.append(1))
    framework = frameworks.load("pytorch", "cpu")
    framework.wait([torch.zeros(1)])
    assert calls == []
    framework._waits = True
    framework.wait()
    assert calls == [1]


def test_the_inference_context_can_be_entered_twice(framework):
    for _ in range(2):
        with framework.inference():
            pass


# --- memory and ceiling


def test_a_cpu_has_no_device_peak_and_a_gpu_a_rising_one(framework):
    framework.reset_peak_memory()
    before = framework.device_peak_bytes()
    if framework.device == "cpu":
        assert before is None
        return
    held = framework.put(np.zeros((1024, 1024), np.float32))
    framework.wait(held)
    assert framework.device_peak_bytes() - before >= held.nbytes


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("size", [1, 64])
def test_the_ceilings_product_is_computed_in_full(name, dtype, size, monkeypatch):
    """The right shape and type, and finished when the call returns."""
    framework = frameworks.load(name, "cpu", dtype)
    seen = []
    if name == "pytorch":
        import torch

        real = torch.mm
        monkeypatch.setattr(torch, "mm", lambda a, b: seen.append(real(a, b)) or seen[-1])
    else:
        real_wait = framework.wait

        def wait(*values: Any) -> None:
            real_wait(*values)
            seen.extend(values)

        monkeypatch.setattr(framework, "wait", wait)
    multiply = framework.matmul(size)
    seen.clear()
    assert multiply() is None
    assert [tuple(product.shape) for product in seen] == [(size, size)]
    assert dtype in str(seen[0].dtype)
    generator = np.random.default_rng(0)
    a, b = (generator.standard_normal((size, size), np.float32) for _ in range(2))
    tolerance = 1e-4 if dtype == "float32" else 0.2
    np.testing.assert_allclose(framework.read(seen[0]), a @ b, atol=tolerance * size**0.5)


def test_an_adapter_serves_the_thread_that_made_it_and_others(framework):
    """The web server calls a model from its own threads."""
    results = []
    array = np.arange(6, dtype=np.float32)

    def work() -> None:
        results.append(framework.read(framework.put(array)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    np.testing.assert_array_equal(results[0], array)

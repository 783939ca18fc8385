"""Steps, predictions, the barrier, memory and the ceiling of every adapter."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest
from networks import NAMES, SHAPES, parts_of, plain

import frameworks
from measurement.framework import factors

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
    framework, parts = frameworks.load("pytorch", "cpu"), parts_of("pytorch")
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
    # More than there ever was: XLA's peak is that of the process.
    held = framework.put(np.zeros((before >> 2) + (1 << 20), np.float32))
    framework.wait(held)
    assert framework.device_peak_bytes() - before >= 4 << 20


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
    a, b = factors(size)
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


def test_an_embedding_is_learnt_without_atomics_in_a_compiled_step(name):
    """By which two trainings on two threads would end with other bits."""
    if name != "pytorch":
        pytest.skip("of PyTorch's compiler")
    import torch
    from torch._inductor.decomposition import select_decomp_table

    frameworks.load("pytorch", "cpu").compile_step(lambda rows: rows, None, compiled=True)
    assert torch.ops.aten.embedding_dense_backward.default not in select_decomp_table()

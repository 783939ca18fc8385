"""TensorFlow's adapter, in its own environment: see test_own_environments.py."""

from __future__ import annotations

import numpy as np
import pytest
from networks import parts_of

import frameworks

there = pytest.mark.skipif(
    not frameworks.available("tensorflow"),
    reason="runs in TensorFlow's own environment, by test_own_environments.py",
)


@there
def test_parameters_take_the_adapters_type_and_keep_their_variables_after_that() -> None:
    """A compiled step holds on to the variables that it began with."""
    framework = frameworks.load("tensorflow", "cpu", "bfloat16")
    model = parts_of("tensorflow").Net()
    values = {name: np.ones(p.shape, np.float32) for name, p in model.named_parameters()}
    framework.write_parameters(model, values)
    first = dict(model.named_parameters())
    assert {p.dtype.name for p in first.values()} == {"bfloat16"}
    framework.write_parameters(model, values)
    assert all(p is first[name] for name, p in model.named_parameters())


@there
def test_running_out_of_memory_is_told_from_other_errors() -> None:
    import tensorflow as tf

    adapter = frameworks.load("tensorflow", "cpu")
    one = adapter.put(np.zeros(1, np.float32))
    with pytest.raises(Exception) as raised:  # noqa: B017, PT011
        adapter.wait(tf.broadcast_to(one, (10**9, 10**6)))
    assert frameworks.out_of_memory(raised.value), raised.value
    compiled = adapter.compile_predict(
        lambda _, x: tf.sort(tf.broadcast_to(x, (10**7, 10**6)) + 1.0, axis=0), None, True
    )
    with pytest.raises(Exception) as raised:  # noqa: B017, PT011
        compiled(one)
    assert frameworks.out_of_memory(raised.value), raised.value
    for other in (
        RuntimeError("out of memory"),
        tf.errors.InvalidArgumentError(None, None, "shapes do not match"),
    ):
        assert not frameworks.out_of_memory(other)


@there
@pytest.mark.parametrize("compiled", [False, True])
def test_work_is_done_when_a_call_returns(compiled: bool) -> None:
    """On a CPU the barrier does nothing: reading the result afterwards must take no time."""
    import time

    import tensorflow as tf

    framework = frameworks.load("tensorflow", "cpu")
    x = framework.put(np.random.default_rng(0).standard_normal((700, 700)).astype(np.float32))

    def work(_: object, x: tf.Tensor) -> tf.Tensor:
        for _ in range(6):
            x = tf.matmul(x, x) * 1e-3
        return x

    submit = framework.compile_predict(work, None, compiled)
    framework.wait(submit(x))
    shares = []
    for _ in range(5):
        start = time.perf_counter()
        result = submit(x)
        framework.wait(result)
        middle = time.perf_counter()
        framework.read(result)
        shares.append((time.perf_counter() - middle) / (middle - start))
    assert min(shares) < 0.2

"""TensorFlow's adapter: here it is started in its own environment, there its tests run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from networks import PARTS

import frameworks

HERE = Path(__file__).parent
there = pytest.mark.skipif(
    not frameworks.available("tensorflow"),
    reason="runs in TensorFlow's own environment, by the first test of this file",
)


@pytest.mark.skipif(frameworks.available("tensorflow"), reason="this is that environment")
def test_every_promise_of_an_adapter_is_kept_in_its_environment(
    in_tensorflow: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    # without the options of pyproject.toml: pytest-xdist is not among that environment's packages
    done = in_tensorflow("-m", "pytest", "-o", "addopts=-q --strict-markers", str(HERE), "-rs")
    assert done.returncode == 0, done.stdout + done.stderr
    reasons = ("PyTorch", "MLX", "GPU", "that environment", "empty parameter set")
    skipped = [line for line in done.stdout.splitlines() if line.startswith("SKIPPED")]
    assert not [line for line in skipped if not any(reason in line for reason in reasons)], (
        done.stdout
    )


@there
@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_set_before_the_first_operation(threads: int) -> None:
    code = (
        "import frameworks; f = frameworks.load('tensorflow', 'cpu', threads={0}); f.matmul(8)();"
        "n = f.numerics(); print(n['pool_threads'], n['blas_threads'], n['blas_name'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code.format(threads)],
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split()[:2] == [str(threads)] * 2
    assert "eigen" in done.stdout.split()[2]


@there
def test_parameters_take_the_adapters_type_and_keep_their_variables_after_that() -> None:
    """A compiled step holds on to the variables that it began with."""
    framework = frameworks.load("tensorflow", "cpu", "bfloat16")
    model = PARTS["tensorflow"]().Net()
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

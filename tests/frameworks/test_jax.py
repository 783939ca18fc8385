"""JAX's adapter, in its own environment: see test_own_environments.py."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import parts_of

import frameworks

pytestmark = pytest.mark.skipif(
    not frameworks.available("jax"),
    reason="runs in JAX's own environment, by test_own_environments.py",
)


def test_another_number_of_threads_in_one_process_is_refused() -> None:
    code = (
        "import frameworks; frameworks.load('jax', 'cpu', threads=1)\n"
        "try: frameworks.load('jax', 'cpu', threads=2)\n"
        "except ValueError as error: print(error)"
    )
    root = Path(__file__).parents[2]
    said = subprocess.check_output([sys.executable, "-c", code], cwd=root, text=True)
    if sys.platform == "linux":  # elsewhere nobody lists the pool's threads by name
        assert "threads=2: XLA's pool of this process has 1 threads" in said


def test_a_compiled_step_takes_over_the_memory_of_the_state() -> None:
    framework, parts = frameworks.load("jax", "cpu"), parts_of("jax")
    model = parts.Net()
    values = {name: np.ones(p.shape, np.float32) for name, p in model.named_parameters()}
    framework.write_parameters(model, values)
    step, state = parts.training(model)
    x, y = (framework.put(np.ones((4, n), np.float32)) for n in (3, 2))
    submit = framework.compile_step(step, state, True)
    before = model.parameters()
    framework.wait(submit(x, y, framework.put(np.arange(4, dtype=np.int32))), state)
    assert all(array.is_deleted() for array in before)
    assert not any(array.is_deleted() for array in (x, y, *model.parameters()))
    assert all(value.min() == 1 for value in values.values())  # the caller's own are as they were


def test_float32_is_multiplied_in_all_its_bits() -> None:
    import jax

    found = frameworks.load("jax", "cpu").numerics()
    assert found["float32_products"] == "ieee" and found["tf32"] == "off"
    assert found["matmul_precision"] == jax.config.jax_default_matmul_precision == "highest"


def test_running_out_of_memory_is_told_from_other_errors() -> None:
    import jax
    import jax.numpy as jnp

    adapter = frameworks.load("jax", "cpu")
    one = adapter.put(np.zeros(1, np.float32))
    with pytest.raises(Exception) as raised:  # noqa: B017, PT011
        adapter.wait(jnp.broadcast_to(one, (10**6, 10**9)) + 1.0)
    assert frameworks.out_of_memory(raised.value), raised.value
    for other in (RuntimeError("out of memory"), jax.errors.JaxRuntimeError("INTERNAL: other")):
        assert not frameworks.out_of_memory(other)


def test_what_slows_the_same_work_down_is_said_and_variables_stay_as_they_were() -> None:
    import jax

    before = dict(os.environ)
    framework = frameworks.load("jax", "cpu")
    assert dict(os.environ) == before and framework.numerics()["switched"] == ""
    with jax.debug_nans(True):
        assert framework.numerics()["switched"] == "debug_nans on"


# --- what is counted


def counted(call: Callable[..., Any], *shapes: tuple[int, ...]) -> Any:
    framework = frameworks.load("jax", "cpu")
    inputs = [framework.put(np.ones(shape, np.float32)) for shape in shapes]
    one = np.ones(3, np.float32)  # put while it is counted, as a call with one item is
    return framework.count(lambda: (framework.put(one), call(*inputs)), [])


def test_products_are_counted_as_often_as_they_are_computed() -> None:
    import jax
    import jax.numpy as jnp

    def products(function: Callable[..., Any], *shapes: tuple[int, ...]) -> dict[str, int]:
        assert counted(function, *shapes).unknown == ""
        found: dict[str, int] = counted(function, *shapes).products
        return found

    one = 2 * 3 * 4 * 5
    a, b, square = (3, 4), (4, 5), (4, 4)
    assert products(jnp.matmul, a, b) == {"float32": one}
    assert products(jax.jit(jnp.matmul), a, b) == {"float32": one}
    assert products(jax.jit(lambda x, y: (x @ y, x + 1)[1]), a, b) == {}  # of no use to anybody
    assert products(jax.jit(lambda x, y: [x @ y, x @ y][0]), a, b) == {"float32": one}
    gradient = jax.jit(jax.grad(lambda x, y: (x @ y).sum(), argnums=(0, 1)))
    assert products(gradient, a, b) == {"float32": 2 * one}
    again = jax.value_and_grad(lambda x, y: jax.checkpoint(lambda x: jnp.sin(x @ y))(x).sum())
    assert products(again, a, b) == {"float32": 3 * one}
    looped = jax.jit(lambda x, y: jax.lax.scan(lambda c, _: (c @ y, None), x, length=7)[0])
    assert products(looped, a, square) == {"float32": 7 * 2 * 3 * 4 * 4}
    either = jax.jit(
        lambda x, y: jax.lax.cond(x[0, 0] > 0, lambda: x @ y, lambda: jnp.zeros((3, 5)))
    )
    assert products(either, a, b) == {"float32": one}
    assert products(lambda x: jnp.fft.rfft(x), (2, 8)) == {"float32": 4 * 2 * 5 * 8}
    convolved = jax.jit(lambda x, w: jax.lax.conv(x, w, (1, 1), "VALID"))
    assert products(convolved, (2, 3, 8, 8), (5, 3, 3, 3)) == {"float32": 2 * 2 * 5 * 36 * 27}


def test_what_cannot_be_counted_says_why() -> None:
    import jax

    def until(x: Any, y: Any) -> Any:
        return jax.lax.while_loop(lambda c: c.sum() < 9, lambda c: c @ y, x)

    assert "while loop" in counted(until, (3, 4), (4, 4)).unknown
    assert "it cannot be traced" in counted(lambda x: float((x @ x.T)[0, 0]), (1, 4)).unknown

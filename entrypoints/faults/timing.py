"""Class T: a clock that stops too soon, or holds what it should not."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from entrypoints.faults.fault import Fault, Patch, Spec, on_adapter, on_run, on_session


def _no_barrier(patch: Patch, spec: Spec) -> None:
    """Work is handed over and nobody waits for it, as on a GPU without a synchronisation."""
    on_adapter(patch, _lazy if spec["framework"] == "mlx" else _in_the_background)


def _lazy(adapter: Any) -> None:
    """MLX builds a graph, and computes when somebody reads."""
    compiled = adapter.compile_step
    adapter.wait = lambda *values: None
    adapter.compile_step = lambda step, state, on: _untouched(compiled, step, state, on)


def _untouched(compiled: Any, step: Any, state: Any, on: bool) -> Any:
    """The step without the evaluation that the adapter adds to it."""
    submit = compiled(step, state, on)
    return submit.__closure__[[*submit.__code__.co_freevars].index("function")].cell_contents


def _in_the_background(adapter: Any) -> None:
    """PyTorch computes on the CPU at once; a thread does so later, one step after the other."""
    queue = ThreadPoolExecutor(1)
    compiled, read, parameters = adapter.compile_step, adapter.read, adapter.read_parameters
    write = adapter.write_parameters

    def later(step: Any, state: Any, on: bool) -> Any:
        now = compiled(step, state, False)  # PyTorch's compiler is not for another thread
        return lambda *batch: queue.submit(now, *batch)

    def drained(function: Any) -> Any:
        def after(*arguments: Any) -> Any:
            queue.submit(int).result()
            return function(*arguments)

        return after

    adapter.compile_step = later
    adapter.read = lambda value: read(value.result() if isinstance(value, Future) else value)
    adapter.read_parameters = drained(parameters)
    adapter.write_parameters = drained(write)


def _state_left(patch: Patch, spec: Spec) -> None:
    """The barrier waits for the loss, and leaves the new weights to be computed later."""

    def change(adapter: Any) -> None:
        wait, compiled = adapter.wait, adapter.compile_step
        adapter.wait = lambda *values: wait(*values[:1])
        adapter.compile_step = lambda step, state, on: _untouched(compiled, step, state, on)

    on_adapter(patch, change)


def _lazy_rows(patch: Patch, spec: Spec) -> None:
    """Each batch is a promise that the first clock has to keep."""

    def change(session: Any) -> None:
        shard = session.framework.shard
        heavy = session.framework.put(session.data.train["labels"][:1])

        def lazy(rows: Any) -> tuple[Any, int]:
            given, count = shard(rows)
            late = heavy
            for _ in range(2000):
                late = late + 0
            return given + (late - late).sum().astype(given.dtype), count

        session.framework.shard = lazy

    on_session(patch, change)


def _no_warm_up(patch: Patch, spec: Spec) -> None:
    on_run(patch, lambda work, plan: (work, replace(plan, warmup_steps=1), {}))


def _half_clock(patch: Patch, spec: Spec) -> None:
    """Ticks that are counted in another unit than they are read in."""
    on_run(
        patch, lambda work, plan: (_sleepy(work), plan, {"clock": lambda: time.perf_counter() / 2})
    )


def _processor_clock(patch: Patch, spec: Spec) -> None:
    """The time of the process and not that of the wall: what waits costs nothing."""
    on_run(patch, lambda work, plan: (_sleepy(work), plan, {"clock": time.process_time}))


def _sleeps(patch: Patch, spec: Spec) -> None:
    """A step that waits for something that is not work."""
    on_run(patch, lambda work, plan: (_sleepy(work), plan, {}))


def _sleepy(work: Any) -> Any:
    """Its first steps sleep: all of the smoke preset's epochs, and not the whole audit after them."""
    step, awake_after = work.step, [60]

    def sleeps(batch: Any) -> Any:
        awake_after[0] -= 1
        if awake_after[0] > 0:
            time.sleep(0.05)
        return step(batch)

    return replace(work, step=sleeps)


def _records(patch: Patch, spec: Spec) -> None:
    """Answers keep all that a gradient would need."""

    def change(adapter: Any) -> None:
        adapter.compile_predict = lambda predict, model, compiled: (
            lambda *inputs: predict(model, *inputs)
        )

    on_adapter(patch, change)


FAULTS = (
    Fault(
        "no_barrier",
        "T",
        "the clock stops when work is handed over, not when it is done",
        ("AUDIT", "UNFINISHED", "UNTIMED", "counted work"),
        worker=_no_barrier,
    ),
    Fault(
        "state_left",
        "T",
        "the loss is waited for, the new weights are left to be computed later",
        ("UNFINISHED", "AUDIT"),
        frameworks=("mlx",),
        worker=_state_left,
    ),
    Fault(
        "lazy_batches",
        "T",
        "batches are promises that the first clock would keep",
        ("UNFINISHED",),
        frameworks=("mlx",),
        worker=_lazy_rows,
    ),
    Fault(
        "no_warm_up", "T", "one arm starts cold", ("differ in warmup_calls",), worker=_no_warm_up
    ),
    Fault("half_clock", "T", "a clock in another unit", ("UNTIMED",), worker=_half_clock),
    Fault(
        "processor_clock",
        "T",
        "the processor's time in place of the wall's",
        ("UNTIMED",),
        worker=_processor_clock,
    ),
    Fault("sleep", "T", "a step that sleeps for most of its time", ("IDLE",), worker=_sleeps),
    Fault(
        "gradients_recorded",
        "T",
        "gradients are recorded while answers are timed",
        ("recorded for a gradient",),
        frameworks=("pytorch",),
        worker=_records,
    ),
)

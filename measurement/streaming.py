"""Continuous learning: batches arrive one at a time, and each is learnt from before the next.

    first update | warm-up | reset | quality before | updates | quality after | completion audit |
    matmul ceiling | energy window

An update's clock holds all that lies between a batch in NumPy and weights that have learnt from it:
the way to the device, the step, and the barrier. Batches are made before the clock starts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from measurement.audit import StreamReceipt, completion, fingerprint
from measurement.framework import Framework
from measurement.memory import process_peak_bytes
from measurement.phases import (
    Clock,
    Report,
    as_json,
    check_clock,
    elapsed,
    end_warmup,
    energy_window,
    matmul_ceiling,
)
from measurement.trial import Plan, distance

Batch = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Work:
    """arrivals: NumPy batches of one size in the order in which they come; update(batch) brings one
    to the device, submits a step with it and returns its loss; the rest as in measurement.trial."""

    arrivals: Sequence[Batch]
    update: Callable[[Batch], Any]
    state: Any
    reset: Callable[[], None]
    evaluate: Callable[[], float]
    details: Callable[[], dict[str, float]]
    read_parameters: Callable[[], dict[str, np.ndarray]]
    batch_items: int
    test_items: int
    flops_per_item: int


@dataclass(frozen=True)
class Stream:
    """Every sample of one trial; seconds unless the name says otherwise. total_seconds: from the
    first arrival to the end of the last update, whatever lies between two updates included."""

    first_update_seconds: float
    update_seconds: list[float]
    total_seconds: float
    total_cpu_seconds: float
    losses: list[float]
    quality_before: float
    quality: float
    details: dict[str, float]
    process_peak_bytes: int
    device_peak_bytes: int | None
    flops_per_second: float
    ceiling_flops_per_second: float
    completion_ratio: float
    completion_residue: float
    energy_window_passes: int
    receipt: StreamReceipt
    parameters: dict[str, np.ndarray] = field(repr=False)

    def as_json(self) -> dict[str, Any]:
        return as_json(self)


def run(
    work: Work,
    framework: Framework,
    plan: Plan,
    clock: Clock = time.perf_counter,
    report: Report = lambda event, values: None,
) -> Stream:
    """Runs every phase. `report(event, values)` is called between phases, never inside a clock."""
    work.reset()
    initial = work.read_parameters()
    framework.reset_peak_memory()
    first = _update(work, framework, work.arrivals[0], clock, plan.slowdown)[0]
    for batch in work.arrivals[1 : plan.warmup_steps]:
        _update(work, framework, batch, clock, 0.0)
    work.reset()
    started, before = fingerprint(work.read_parameters()), work.evaluate()
    end_warmup(report, {"first_step_seconds": first, "quality": before})
    report("epoch_begin", {"epoch": 0})
    seconds, losses = [], []
    report("timing", {})
    cpu, start = time.process_time(), clock()
    for batch in work.arrivals:
        spent, loss = _update(work, framework, batch, clock, plan.slowdown)
        seconds.append(spent)
        losses.append(loss)
    total, cpu = clock() - start, time.process_time() - cpu
    report("timed", {"seconds": total})
    report("trained", {})
    check_clock(clock, report)
    trained = work.read_parameters()
    after, details = work.evaluate(), work.details()
    values = [float(framework.read(loss)) for loss in losses]
    report("stream", {"updates": len(seconds), "seconds": total, "before": before, "after": after})

    def timed(count: int) -> float:
        start = clock()
        for number in range(count):
            _update(work, framework, work.arrivals[number % len(work.arrivals)], clock, 0.0)
        return clock() - start

    ratio, residue = completion(
        timed, work.read_parameters, clock, plan.audit_seconds, repetitions=plan.audit_repetitions
    )
    items = work.batch_items * len(seconds)
    receipt = StreamReceipt(
        items=items,
        steps=len(losses),
        flops=items * work.flops_per_item,
        eval_items=2 * work.test_items,
        weight_change_norm=distance(initial, trained),
        check_value=float(np.mean(values)),
        warmup_calls=max(1, min(plan.warmup_steps, len(work.arrivals))),
        initial=started,
    )
    return Stream(
        first_update_seconds=first,
        update_seconds=seconds,
        total_seconds=total,
        total_cpu_seconds=cpu,
        losses=values,
        quality_before=before,
        quality=after,
        details=details,
        process_peak_bytes=process_peak_bytes(),
        device_peak_bytes=framework.device_peak_bytes(),
        flops_per_second=receipt.flops / total,
        ceiling_flops_per_second=matmul_ceiling(framework, plan.ceiling_seconds, clock),
        completion_ratio=ratio,
        completion_residue=residue,
        energy_window_passes=energy_window(
            lambda: timed(len(work.arrivals)), plan.energy_seconds, clock, report
        ),
        receipt=receipt,
        parameters=trained,
    )


def _update(
    work: Work, framework: Framework, batch: Batch, clock: Clock, slowdown: float
) -> tuple[float, Any]:
    """Seconds from a batch in NumPy until the weights that it changed exist; its loss."""
    start = clock()
    loss = work.update(batch)
    framework.wait(loss, work.state)
    return elapsed(clock, start, slowdown), loss

"""A trial without training: what a model answers, how well and how fast.

first call | quality on the test set | single-item latency | batched inference | matmul ceiling |
energy window
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from measurement.audit import InferenceReceipt, completion
from measurement.framework import Framework
from measurement.ledger import put_out, single_put_out
from measurement.memory import process_peak_bytes
from measurement.phases import (
    Clock,
    Report,
    as_json,
    check_clock,
    elapsed,
    end_warmup,
    energy_window,
    latency,
    matmul_ceiling,
    passes,
    throughput,
)
from measurement.trial import Plan, Work


@dataclass(frozen=True)
class Inference:
    """Every sample of one trial; seconds unless the name says otherwise."""

    first_call_seconds: float
    quality: float
    latency_seconds: list[float]
    inference_seconds: list[float]
    inference_cpu_seconds: float
    inference_items: int
    batch_seconds: dict[str, list[float]]
    details: dict[str, float]
    process_peak_bytes: int
    device_peak_bytes: int | None
    flops_per_second: float
    ceiling_flops_per_second: float
    completion_ratio: float
    completion_residue: float
    energy_window_passes: int
    receipt: InferenceReceipt

    def as_json(self) -> dict[str, Any]:
        return as_json(self)


def run(
    work: Work,
    framework: Framework,
    plan: Plan,
    infer_flops_per_item: int,
    clock: Clock = time.perf_counter,
    report: Report = lambda event, values: None,
) -> Inference:
    """Runs every phase. `report(event, values)` is called between phases, never inside a clock."""
    work.reset()
    framework.reset_peak_memory()
    start = clock()
    work.predict_one(0)
    first = elapsed(clock, start, plan.slowdown)
    framework.wait(work.predict_all())
    quality, details = work.evaluate(), work.details()
    end_warmup(report, {"first_step_seconds": first, "quality": quality})
    report("epoch_begin", {"epoch": 0})
    cpu = time.process_time()
    report("timing", {})
    batched, whole = passes(
        work.predict_all, framework, plan.inference_seconds, clock, plan.slowdown
    )
    report("timed", {"seconds": sum(batched) * (1 + 1 / len(batched))})  # one goes before them
    cpu = time.process_time() - cpu
    report("trained", {})
    said = put_out(whole, framework, work.judge)
    del whole
    check_clock(clock, report)
    report("latency", {})
    one_item, single = latency(
        work.predict_one,
        work.test_items,
        plan.latency_warmup_calls,
        plan.latency_calls,
        clock,
        plan.slowdown,
    )
    report("audit", {})
    ratio, residue = _completion(work, framework, plan, clock)
    receipt = InferenceReceipt(
        flops=work.test_items * infer_flops_per_item,
        eval_items=work.test_items,
        inference_items=work.test_items,
        latency_calls=len(one_item),
        check_value=quality,
        warmup_calls=plan.latency_warmup_calls,
        **said,
        **single_put_out(single, framework, work.judge),
    )
    return Inference(
        first_call_seconds=first,
        quality=quality,
        latency_seconds=one_item,
        inference_seconds=batched,
        inference_cpu_seconds=cpu / (len(batched) + 1),  # one pass goes before those that are timed
        inference_items=work.test_items,
        batch_seconds=throughput(
            work.predict_batch, framework, plan.inference_seconds, clock, plan.slowdown
        ),
        details=details,
        process_peak_bytes=process_peak_bytes(),
        device_peak_bytes=framework.device_peak_bytes(),
        flops_per_second=receipt.flops / float(np.median(batched)),
        ceiling_flops_per_second=matmul_ceiling(framework, plan.ceiling_seconds, clock),
        completion_ratio=ratio,
        completion_residue=residue,
        energy_window_passes=energy_window(
            lambda: framework.wait(work.predict_all()), plan.energy_seconds, clock, report
        ),
        receipt=receipt,
    )


def _completion(work: Work, framework: Framework, plan: Plan, clock: Clock) -> tuple[float, float]:
    """Of passes instead of steps; the last pass's output is what is read back."""
    last: list[Any] = []

    def timed(count: int) -> float:
        start = clock()
        last[:] = [work.predict_all() for _ in range(count)]
        framework.wait(last)
        return clock() - start

    read: Callable[[], Any] = lambda: [framework.read(output) for output in last[-1]]  # noqa: E731
    return completion(timed, read, clock, plan.audit_seconds, most=8)

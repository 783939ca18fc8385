"""A trial of work that two devices do in turn: half of a loop on the first, the results moved, half on
the second, moved back.

    first call | warm-up | passes of all loops | waited loops | parts of a loop | completion audit |
    matmul ceilings | energy window

A pass has one barrier, at its end: within it a framework may do at once what it can. The parts are
timed in a phase of their own, with a barrier after each, so that their sum may be more than the
whole. The matrices exist on their device before any clock starts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from measurement.audit import SwitchReceipt, completion
from measurement.framework import Framework
from measurement.memory import process_peak_bytes
from measurement.phases import Clock, Report, as_json, elapsed, energy_window, matmul_ceiling

Matrices = Sequence[Any]


@dataclass(frozen=True)
class Plan:
    """How much of each phase; counts of calls, and seconds where a name says so."""

    passes: int = 5
    warmup_loops: int = 2
    waited_loops: int = 20
    parts_loops: int = 20
    audit_seconds: float = 0.1
    audit_repetitions: int = 5
    ceiling_seconds: float = 0.3
    energy_seconds: float = 0.0  # 0: the machine has no meter
    slowdown: float = 0.0  # share by which every timed span is drawn out: an arm of known truth


@dataclass(frozen=True)
class Side:
    """One of the two devices. move(*matrices) submits their way to it, half(*matrices) what it
    computes of a loop; select() makes it the one that work is submitted to."""

    framework: Framework
    select: Callable[[], None]
    move: Callable[..., Matrices]
    half: Callable[..., Matrices]


@dataclass(frozen=True)
class Work:
    """What a trial runs. sides: the first device and the second. start: the matrices, where the
    second leaves them. products: results of one loop. unmoved: why no move can be timed, or None."""

    sides: tuple[Side, Side]
    start: Matrices
    loops: int
    products: int
    flops_per_loop: int
    unmoved: str | None


@dataclass(frozen=True)
class Switching:
    """Every sample of one trial; seconds unless the name says otherwise. pass_seconds: of all loops
    of a pass; loop_seconds: of single loops, waited for; the others have one value for each loop of
    the phase that takes it apart. moved_back: to the second device, where a loop ends.
    ceilings_flops_per_second: of the two devices; ceiling_flops_per_second: the rate of work of which
    each does half at its own ceiling, one after the other."""

    first_call_seconds: float
    passes: int
    pass_seconds: list[float]
    passes_cpu_seconds: float
    loop_seconds: list[float]
    moved_seconds: list[float]
    first_device_seconds: list[float]
    moved_back_seconds: list[float]
    second_device_seconds: list[float]
    unmoved: str | None
    process_peak_bytes: int
    device_peak_bytes: int | None
    flops_per_second: float
    ceilings_flops_per_second: list[float]
    ceiling_flops_per_second: float
    completion_ratio: float
    completion_residue: float
    energy_window_loops: int
    receipt: SwitchReceipt

    def as_json(self) -> dict[str, Any]:
        return as_json(self)


def run(
    work: Work,
    plan: Plan,
    clock: Clock = time.perf_counter,
    report: Report = lambda event, values: None,
) -> Switching:
    """Runs every phase. `report(event, values)` is called between phases, never inside a clock."""
    for side in work.sides:
        side.framework.reset_peak_memory()
    first, _, _ = _timed(work, 1, clock, plan.slowdown)
    _timed(work, plan.warmup_loops, clock)
    report("warm", {"first_step_seconds": first})

    seconds, products, cpu = [], 0, 0.0
    matrices = work.start
    for number in range(plan.passes):
        report("epoch_begin", {"epoch": number})
        cpu_start = time.process_time()
        took, matrices, counted = _timed(work, work.loops, clock, plan.slowdown)
        cpu += time.process_time() - cpu_start
        report("epoch_end", {"epoch": number})
        seconds.append(took)
        products += counted
        values = {"number": number, "seconds": took, "loops": work.loops, "time": time.time()}
        report("loops", values)
    report("trained", {})
    loops = plan.passes * work.loops
    if products != loops * work.products:
        raise RuntimeError(f"{loops} loops put out {products} products")
    read = work.sides[1].framework.read
    check = float(np.mean([np.mean(1.0 - read(matrix).astype(np.float64)) for matrix in matrices]))

    waited = [_timed(work, 1, clock, plan.slowdown)[0] for _ in range(plan.waited_loops)]
    parts = _parts(work, plan, clock)
    peaks = [side.framework.device_peak_bytes() for side in work.sides]
    process_peak = process_peak_bytes()
    ratio, residue = _completion(work, plan, clock)
    ceilings = _ceilings(work, plan, clock)
    receipt = SwitchReceipt(
        loops=loops,
        products=products,
        flops=loops * work.flops_per_loop,
        latency_calls=len(waited),
        check_value=check,
    )
    return Switching(
        first_call_seconds=first,
        passes=plan.passes,
        pass_seconds=seconds,
        passes_cpu_seconds=cpu,
        loop_seconds=waited,
        **parts,
        unmoved=work.unmoved,
        process_peak_bytes=process_peak,
        device_peak_bytes=next((peak for peak in peaks if peak is not None), None),
        flops_per_second=receipt.flops / sum(seconds),
        ceilings_flops_per_second=ceilings,
        ceiling_flops_per_second=2 / sum(1 / ceiling for ceiling in ceilings),
        completion_ratio=ratio,
        completion_residue=residue,
        energy_window_loops=energy_window(
            lambda: _timed(work, 1, clock, plan.slowdown), plan.energy_seconds, clock, report
        ),
        receipt=receipt,
    )


def _wait(work: Work, *matrices: Any) -> None:
    """The barrier of both devices."""
    for side in work.sides:
        side.framework.wait(*matrices)


def _timed(
    work: Work, loops: int, clock: Clock, slowdown: float = 0.0
) -> tuple[float, Matrices, int]:
    """(seconds of so many loops from the start, the matrices after them, results counted)."""
    matrices, products = work.start, 0
    _wait(work, *matrices)  # data that were never computed would be computed inside the clock
    start = clock()
    for _ in range(loops):
        for side in work.sides:
            matrices = side.half(*side.move(*matrices))
            products += len(matrices)
    _wait(work, *matrices)
    return elapsed(clock, start, slowdown), matrices, products


def _parts(work: Work, plan: Plan, clock: Clock) -> dict[str, list[float]]:
    """Seconds of each part of so many loops, each waited for."""
    moves: tuple[list[float], ...] = ([], [])
    halves: tuple[list[float], ...] = ([], [])
    matrices = work.start
    for _ in range(plan.parts_loops):
        for side, move, half in zip(work.sides, moves, halves, strict=True):
            start = clock()
            matrices = side.move(*matrices)
            _wait(work, *matrices)
            if work.unmoved is None:
                move.append(elapsed(clock, start, plan.slowdown))
            start = clock()
            matrices = side.half(*matrices)
            _wait(work, *matrices)
            half.append(elapsed(clock, start, plan.slowdown))
    return {
        "moved_seconds": moves[0],
        "first_device_seconds": halves[0],
        "moved_back_seconds": moves[1],
        "second_device_seconds": halves[1],
    }


def _completion(work: Work, plan: Plan, clock: Clock) -> tuple[float, float]:
    """Of loops instead of steps; the matrices after the last one are what is read back."""
    last: list[Any] = []

    def timed(count: int) -> float:
        seconds, matrices, _ = _timed(work, count, clock)
        last[:] = matrices
        return seconds

    def read() -> Any:
        return [work.sides[1].framework.read(matrix) for matrix in last]

    return completion(timed, read, clock, plan.audit_seconds, repetitions=plan.audit_repetitions)


def _ceilings(work: Work, plan: Plan, clock: Clock) -> list[float]:
    """Of each device's matrix products; measured once where both are one."""
    found: list[float] = []
    for number, side in enumerate(work.sides):
        if number and side.framework is work.sides[0].framework:
            found.append(found[0])
            continue
        side.select()
        found.append(matmul_ceiling(side.framework, plan.ceiling_seconds, clock))
    return found

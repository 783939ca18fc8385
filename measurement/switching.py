"""A trial of work that two devices do in turn: half of a loop on the first, the results moved, half on
the second, moved back.

    first call | warm-up | passes of all loops | waited loops | parts of a loop | completion audit |
    matmul ceilings | energy window

A pass has one barrier, at its end: within it a framework may do at once what it can. The parts are
timed in a phase of their own, with a barrier after each, so that their sum may be more than the
whole. The matrices exist on their device before any clock starts, and every phase goes on from those
that the last one left: MLX on CUDA keeps a copy on the GPU of matrices that were there once, so that
a loop from the same ones again would move less than a loop does.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from measurement.audit import SwitchReceipt, completion
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

Matrices = Sequence[Any]


@dataclass(frozen=True)
class Plan:
    """How much of each phase; counts of calls, and seconds where a name says so."""

    passes: int = 5
    warmup_loops: int = 2
    waited_loops: int = 20
    parts_loops: int = 20
    audit_seconds: float = 0.5  # the first loop after a pause is not like the others
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
    chain = _Chain(work, clock)
    first = chain.seconds(1, plan.slowdown)
    chain.seconds(plan.warmup_loops)
    end_warmup(report, {"first_step_seconds": first})

    seconds, products, cpu = [], chain.products, 0.0
    for number in range(plan.passes):
        report("epoch_begin", {"epoch": number})
        report("timing", {})
        cpu_start = time.process_time()
        took = chain.seconds(work.loops, plan.slowdown)
        cpu += time.process_time() - cpu_start
        report("timed", {"seconds": took})
        report("epoch_end", {"epoch": number})
        seconds.append(took)
        values = {"number": number, "seconds": took, "loops": work.loops, "time": time.time()}
        report("loops", values)
    report("trained", {})
    check_clock(clock, report)
    loops, products = plan.passes * work.loops, chain.products - products
    if products != loops * work.products:
        raise RuntimeError(f"{loops} loops put out {products} products")
    check = float(np.mean([np.mean(1.0 - matrix.astype(np.float64)) for matrix in chain.read()]))
    if not math.isfinite(check):  # every product of positive numbers, normalised, is
        raise RuntimeError(
            f"the matrices after {loops} timed loops are not finite: a device went on with what another "
            "had not finished, or a twin computes something else"
        )

    waited = [chain.seconds(1, plan.slowdown) for _ in range(plan.waited_loops)]
    parts = chain.parts(plan)
    peaks = [side.framework.device_peak_bytes() for side in work.sides]
    process_peak = process_peak_bytes()
    # Of loops instead of steps; the matrices after the last one are what is read back.
    ratio, residue = completion(
        chain.seconds, chain.read, clock, plan.audit_seconds, repetitions=plan.audit_repetitions
    )
    ceilings = _ceilings(work, plan, clock)
    receipt = SwitchReceipt(
        loops=loops,
        products=products,
        flops=loops * work.flops_per_loop,
        latency_calls=len(waited),
        check_value=check,
        warmup_calls=1 + plan.warmup_loops,
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
            lambda: chain.seconds(1, plan.slowdown), plan.energy_seconds, clock, report
        ),
        receipt=receipt,
    )


class _Chain:
    """Loops one after the other, each from the matrices that the last one left. products: counted."""

    def __init__(self, work: Work, clock: Clock) -> None:
        self.work, self.clock = work, clock
        self.matrices, self.products = work.start, 0

    def seconds(self, loops: int, slowdown: float = 0.0) -> float:
        """Of so many loops with one barrier at their end."""
        self._wait()  # data that were never computed would be computed inside the clock
        matrices, products = self.matrices, 0
        start = self.clock()
        for _ in range(loops):
            for side in self.work.sides:
                matrices = side.half(*side.move(*matrices))
                products += len(matrices)
        self._wait(*matrices)
        took = elapsed(self.clock, start, slowdown)
        self.matrices, self.products = matrices, self.products + products
        return took

    def parts(self, plan: Plan) -> dict[str, list[float]]:
        """Seconds of each part of so many loops, each waited for."""
        moves: tuple[list[float], ...] = ([], [])
        halves: tuple[list[float], ...] = ([], [])
        self._wait()
        for _ in range(plan.parts_loops):
            for side, move, half in zip(self.work.sides, moves, halves, strict=True):
                took = self._part(side.move, plan.slowdown)
                if self.work.unmoved is None:
                    move.append(took)
                half.append(self._part(side.half, plan.slowdown))
        return {
            "moved_seconds": moves[0],
            "first_device_seconds": halves[0],
            "moved_back_seconds": moves[1],
            "second_device_seconds": halves[1],
        }

    def read(self) -> list[np.ndarray]:
        """The matrices as the second device leaves them."""
        return [self.work.sides[1].framework.read(matrix) for matrix in self.matrices]

    def _part(self, part: Callable[..., Matrices], slowdown: float) -> float:
        start = self.clock()
        self.matrices = part(*self.matrices)
        self._wait()
        return elapsed(self.clock, start, slowdown)

    def _wait(self, *matrices: Any) -> None:
        """The barrier of both devices."""
        for side in self.work.sides:
            side.framework.wait(*(matrices or self.matrices))


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

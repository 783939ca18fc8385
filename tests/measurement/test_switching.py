"""A trial over two devices, on simulated ones: what is counted, what lies inside which clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from measurement import switching
from measurement.audit import completed, receipt_difference
from measurement.switching import Plan, Side, Switching, Work

PLAN = Plan(
    passes=3, warmup_loops=2, waited_loops=4, parts_loops=6, audit_seconds=5.0, ceiling_seconds=0.01
)
LOOPS = 4
HALVES, MOVES = (0.5, 2.0), (0.25, 0.125)  # seconds on the first and the second device


class Machine:
    """Two devices with one queue, and a clock: nothing is done before a barrier waits, or a value is
    read. A loop takes 2.5 s of work and 0.375 s of moves."""

    def __init__(self, waits: bool = True, submit: float = 0.0, lazy: float = 0.0) -> None:
        self.now, self.waits, self.submit = 100.0, waits, submit
        self.pending = lazy  # work of data that were put and never computed
        self.rates = [1e9, 4e9]
        self.selected: int | None = None
        self.log: list[str] = []

    def clock(self) -> float:
        self.log.append("clock")
        return self.now

    def report(self, event: str, values: dict[str, Any]) -> None:
        self.now += 7.0  # a slow listener must not cost a trial anything
        self.log.append(event)

    def drain(self) -> None:
        self.now, self.pending = self.now + self.pending, 0.0

    def work(self, unmoved: str | None = None, one_device: bool = False, **changes: Any) -> Work:
        devices = [Device(self, 0), Device(self, 1)]
        if one_device:
            devices[1] = devices[0]
        sides = [
            Side(
                device,  # type: ignore[arg-type]
                lambda number=number: self.select(number),  # type: ignore[misc]
                self._spends(MOVES[number]),
                self._spends(HALVES[number]),
            )
            for number, device in enumerate(devices)
        ]
        values = {
            "sides": tuple(sides), "start": [0.25, 0.5, 0.75], "loops": LOOPS, "products": 6,
            "flops_per_loop": 1000, "unmoved": unmoved,
        }  # fmt: skip
        return Work(**{**values, **changes})

    def select(self, number: int) -> None:
        self.selected = number

    def _spends(self, seconds: float) -> Callable[..., Any]:
        def call(*matrices: Any) -> Any:
            self.now += self.submit
            self.pending += seconds
            return matrices

        return call


class Device:
    """One of the machine's two as a framework."""

    dtype = "float32"

    def __init__(self, machine: Machine, number: int) -> None:
        self.machine, self.number = machine, number

    def wait(self, *values: Any) -> None:
        self.machine.log.append("wait")
        if self.machine.waits:
            self.machine.drain()

    def read(self, value: Any) -> np.ndarray:
        self.machine.drain()
        return np.full((2, 2), value)

    def reset_peak_memory(self) -> None:
        self.machine.log.append(f"reset {self.number}")

    def device_peak_bytes(self) -> int | None:
        return None if self.number else 77

    def matmul(self, size: int) -> Callable[[], None]:
        def multiply() -> None:
            assert self.machine.selected == self.number  # else it measures the other device
            self.machine.now += 2 * size**3 / self.machine.rates[self.number]

        return multiply


def measured(machine: Machine, plan: Plan = PLAN, **work: Any) -> Switching:
    return switching.run(machine.work(**work), plan, machine.clock, machine.report)


def test_a_pass_is_timed_as_a_whole_and_its_parts_apart() -> None:
    found = measured(Machine())
    assert found.first_call_seconds == pytest.approx(2.875)
    assert found.pass_seconds == pytest.approx([LOOPS * 2.875] * 3)
    assert found.loop_seconds == pytest.approx([2.875] * 4)
    assert found.first_device_seconds == [HALVES[0]] * 6
    assert found.second_device_seconds == [HALVES[1]] * 6
    assert found.moved_seconds == [MOVES[0]] * 6
    assert found.moved_back_seconds == [MOVES[1]] * 6
    assert found.completion_ratio == pytest.approx(2.0) and found.completion_residue == 0.0
    assert found.flops_per_second == pytest.approx(1000 / 2.875)
    assert found.device_peak_bytes == 77 and found.unmoved is None


def test_what_cannot_be_moved_by_a_call_has_no_time_of_one() -> None:
    found = measured(Machine(), unmoved="it belongs to no device")
    assert found.moved_seconds == found.moved_back_seconds == []
    assert found.unmoved == "it belongs to no device"
    assert len(found.first_device_seconds) == 6


def test_the_receipt_counts_results_and_loops() -> None:
    receipt = measured(Machine()).receipt
    assert (receipt.loops, receipt.products, receipt.flops) == (12, 72, 12_000)
    assert (receipt.latency_calls, receipt.kind) == (4, "switch")
    assert receipt.check_value == pytest.approx(0.5)  # 1 - mean of 0.25, 0.5, 0.75
    one, other = (vars(measured(Machine(), loops=loops).receipt) for loops in (4, 3))
    assert receipt_difference(one, dict(one)) is None
    assert "loops: 12 against 9" in (receipt_difference(one, other) or "")
    for name in ("loops", "products", "flops", "latency_calls", "check_value"):
        assert name in (receipt_difference(one, {**one, name: 1}) or "")
    assert "check_value" in (receipt_difference(one, {**one, "check_value": float("nan")}) or "")
    assert "kind" in (receipt_difference(one, {**one, "kind": "infer"}) or "")


def test_a_half_that_loses_a_result_has_no_receipt() -> None:
    machine = Machine()
    work = machine.work()
    short = replace(work.sides[0], half=lambda *matrices: work.sides[0].half(*matrices)[:2])
    with pytest.raises(RuntimeError, match="12 loops put out 4[0-9] products"):
        switching.run(
            replace(work, sides=(short, work.sides[1])), PLAN, machine.clock, machine.report
        )


def test_results_that_are_no_numbers_end_the_trial() -> None:
    """As where the CPU did not wait for the GPU: everything after it is NaN."""
    machine = Machine()
    with pytest.raises(RuntimeError, match="after 12 timed loops are not finite"):
        switching.run(
            machine.work(start=[0.25, float("nan"), 0.75]), PLAN, machine.clock, machine.report
        )


def test_every_phase_goes_on_from_the_last_results() -> None:
    """A loop from matrices that a device has had already would move less than a loop does."""
    machine, seen = Machine(), []
    work = machine.work(start=[0, 0, 0])

    def counted(*matrices: int) -> list[int]:
        seen.append(matrices[0])
        return [matrix + 1 for matrix in work.sides[0].half(*matrices)]

    first = replace(work.sides[0], half=counted)
    found = switching.run(
        replace(work, sides=(first, work.sides[1])), PLAN, machine.clock, machine.report
    )
    assert seen == list(range(len(seen)))
    assert len(seen) > 1 + 2 + 12 + 4 + 6 and found.receipt.check_value == -14.0  # 1 + 2 + 12 loops


def test_data_that_were_never_computed_are_computed_before_the_clock() -> None:
    """As the published script does not: there the timed loop draws its own matrices."""
    assert measured(Machine(lazy=50.0)).first_call_seconds == pytest.approx(2.875)
    machine = Machine()
    measured(machine)
    assert machine.log.index("wait") < machine.log.index("clock")


def test_a_barrier_that_does_not_wait_fails_the_audit() -> None:
    found = measured(Machine(waits=False, submit=1e-3))
    assert not completed(found.completion_ratio, found.completion_residue)
    kept = measured(Machine(submit=1e-3))
    assert completed(kept.completion_ratio, kept.completion_residue)


def test_both_ceilings_and_the_rate_that_halves_of_the_work_allow() -> None:
    found = measured(Machine())
    assert found.ceilings_flops_per_second == pytest.approx([1e9, 4e9])
    assert found.ceiling_flops_per_second == pytest.approx(1 / (0.5 / 1e9 + 0.5 / 4e9))


def test_one_device_twice_has_one_ceiling() -> None:
    machine = Machine()
    found = measured(machine, one_device=True, unmoved="nothing is moved")
    assert found.ceilings_flops_per_second == pytest.approx([1e9, 1e9])
    assert found.ceiling_flops_per_second == pytest.approx(1e9)


def test_a_slowdown_draws_out_every_timed_span() -> None:
    class Ticking(Machine):
        def clock(self) -> float:
            self.now += 1e-4  # time goes on while the trial waits
            return self.now

    found = measured(Ticking(), replace(PLAN, slowdown=0.5))
    for name, seconds in (
        ("pass", LOOPS * 2.875), ("loop", 2.875), ("first_device", 0.5), ("second_device", 2.0),
        ("moved", 0.25), ("moved_back", 0.125),
    ):  # fmt: skip
        assert getattr(found, f"{name}_seconds") == pytest.approx(
            [1.5 * seconds] * len(getattr(found, f"{name}_seconds")), rel=0.01
        )


def test_reports_lie_outside_the_clocks() -> None:
    machine = Machine()
    measured(machine)
    running = False
    for entry in machine.log:
        if entry == "clock":
            running = not running
        elif entry not in ("wait",):
            assert not running, entry
    events = [entry for entry in machine.log if entry in ("warm", "loops", "trained")]
    assert events == ["warm", "loops", "loops", "loops", "trained"]


def test_the_energy_window_counts_loops() -> None:
    machine = Machine()
    found = measured(machine, replace(PLAN, energy_seconds=10.0))
    assert found.energy_window_loops == 4  # of 2.875 s
    assert machine.log.index("energy_begin") < machine.log.index("energy_end")


def test_every_sample_is_kept_for_the_record() -> None:
    found = measured(Machine()).as_json()
    assert found["receipt"]["kind"] == "switch" and len(found["pass_seconds"]) == 3

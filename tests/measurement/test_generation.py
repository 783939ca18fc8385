"""Trials that generate or only infer, on a simulated framework: what is counted, timed and kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from measurement import generation, inference
from measurement.audit import completed, receipt_difference
from measurement.framework import Alone
from measurement.generation import Plan, Work
from tests.measurement.simulated import PLAN as TRAINING
from tests.measurement.simulated import World

PLAN = Plan(passes=3, warmup_passes=1, latency_passes=2, ceiling_seconds=0.01)


class Machine(Alone):
    """A clock and a queue: the first phase takes 2 s, a token 0.5 s, and only a barrier waits."""

    name, device, dtype = "simulated", "cpu", "float32"

    def __init__(self, waits: bool = True, shift: int = 0) -> None:
        self.now, self.pending, self.waits, self.shift = 100.0, 0.0, waits, shift
        self.log: list[str] = []

    def clock(self) -> float:
        self.log.append("clock")
        return self.now

    def report(self, event: str, values: dict[str, Any]) -> None:
        self.now += 7.0
        self.log.append(event)

    def wait(self, *values: Any) -> None:
        if self.waits:
            self.drain()

    def drain(self) -> None:
        self.now, self.pending = self.now + self.pending, 0.0

    def read(self, token: Any) -> np.ndarray:
        self.drain()
        return np.array([token])

    def reset_peak_memory(self) -> None:
        self.log.append("peak")

    def device_peak_bytes(self) -> None:
        return None

    def matmul(self, size: int) -> Any:
        def multiply() -> None:
            self.now += 0.001

        return multiply

    def begin(self, item: int) -> tuple[int, int]:
        self.pending += 2.0
        return item + self.shift, 0

    def advance(self, token: int, cache: int) -> tuple[int, int]:
        self.pending += 0.5
        return token + 1, cache + 1

    def work(self, items: int = 2, tokens: int = 9) -> Work:
        return Work(self.begin, self.advance, items, 5, tokens, 100)


def measured(machine: Machine, plan: Plan = PLAN, **sizes: int) -> generation.Generation:
    return generation.run(machine.work(**sizes), machine, plan, machine.clock, machine.report)  # type: ignore[arg-type]


def test_phases_are_timed_apart_and_every_sample_is_kept() -> None:
    found = measured(Machine())
    assert found.begin_seconds == [2.0] * 6
    assert found.decode_seconds == [4.0] * 6  # eight tokens after the first
    assert found.token_seconds == [0.5] * 32
    assert found.first_call_seconds == 2.5
    assert found.completion_ratio == pytest.approx(2.0)
    assert found.completion_residue == 0.0
    assert found.flops_per_second == pytest.approx(600 / 36)


def test_the_receipt_counts_what_was_timed() -> None:
    receipt = measured(Machine()).receipt
    assert (receipt.items, receipt.prompt_tokens, receipt.tokens) == (6, 30, 54)
    assert (receipt.flops, receipt.latency_calls, receipt.kind) == (600, 32, "generate")


def test_equal_receipts_and_other_tokens() -> None:
    one, other = (vars(measured(Machine(shift=shift)).receipt) for shift in (0, 1))
    assert receipt_difference(one, dict(one)) is None
    assert "tokens_digest" in (receipt_difference(one, other) or "")
    assert "kind" in (receipt_difference(one, {**one, "kind": "train"}) or "")
    for name in ("items", "prompt_tokens", "tokens", "flops", "latency_calls"):
        assert name in (receipt_difference(one, {**one, name: 1}) or "")


def test_in_16_bits_tokens_are_not_compared() -> None:
    machine = Machine()
    machine.dtype = "bfloat16"
    assert measured(machine).receipt.tokens_digest == ""


def test_a_barrier_that_does_not_wait_fails_the_audit() -> None:
    class Late(Machine):
        """Submitting takes a little time, and the barrier returns at once."""

        def advance(self, token: int, cache: int) -> tuple[int, int]:
            self.now += 0.01
            return super().advance(token, cache)

    found = measured(Late(waits=False))
    assert not completed(found.completion_ratio, found.completion_residue)


def test_a_slowdown_draws_out_every_timed_span() -> None:
    class Ticking(Machine):
        def clock(self) -> float:
            self.now += 1e-3  # time goes on while the trial waits
            return self.now

    found = measured(Ticking(), replace(PLAN, slowdown=0.5))
    assert np.median(found.begin_seconds) == pytest.approx(3.0, rel=0.01)
    assert np.median(found.token_seconds) == pytest.approx(0.75, rel=0.01)


def test_reports_lie_outside_the_clocks() -> None:
    machine = Machine()
    measured(machine)
    running = False
    for entry in machine.log:
        if entry == "clock":
            running = not running
        else:
            assert not running, entry


def test_an_inference_trial_trains_nothing() -> None:
    world = World()
    work = world.as_work(predict_all=lambda: [world.predict_all() or 0.0])
    found = inference.run(work, world, replace(TRAINING, epochs=0), 10, world.clock, world.report)  # type: ignore[arg-type]
    assert "step" not in world.log
    assert found.quality in world.accuracies
    assert found.receipt.kind == "infer" and found.receipt.flops == 10 * found.inference_items
    assert len(found.latency_seconds) == TRAINING.latency_calls
    assert len(found.inference_seconds) >= 5
    assert receipt_difference(vars(found.receipt), vars(found.receipt)) is None

"""Updates that arrive one at a time: what is inside an update's clock, and that it learns."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from simulated import PLAN, World

from measurement import streaming
from measurement.audit import completed, receipt_difference

ARRIVALS = 30


def stream(world: World, **changes: Any) -> streaming.Work:
    def update(batch: streaming.Batch) -> float:
        world.now += 0.004  # the way to the device
        return world.step((0, len(batch[0])))

    values: dict[str, Any] = {
        "arrivals": [(np.zeros((world.batch, 1)),)] * ARRIVALS,
        "update": update,
        "state": world,
        "reset": world.reset,
        "evaluate": world.evaluate,
        "details": lambda: {"eval/top5_accuracy": 0.99},
        "read_parameters": world.read_parameters,
        "batch_items": world.batch,
        "test_items": 6,
        "flops_per_item": 1000,
    }
    return streaming.Work(**{**values, **changes})


def measured(world: World, plan: Any = PLAN, **changes: Any) -> streaming.Stream:
    return streaming.run(stream(world, **changes), world, plan, world.clock, world.report)


def test_every_update_is_timed_from_numpy_to_weights() -> None:
    world = World()
    found, one = measured(world), 0.004 + world.submit + world.work
    assert found.first_update_seconds == pytest.approx(world.compile + one)
    assert found.update_seconds == pytest.approx([one] * ARRIVALS)
    assert found.total_seconds == pytest.approx(one * ARRIVALS)
    assert found.losses == pytest.approx([10.0 - n for n in range(1, ARRIVALS + 1)])
    assert found.details == {"eval/top5_accuracy": 0.99}
    assert found.receipt.steps == ARRIVALS and found.receipt.items == ARRIVALS * world.batch
    assert found.receipt.weight_change_norm == pytest.approx(ARRIVALS)
    assert completed(found.completion_ratio, found.completion_residue)
    assert found.energy_window_passes == 0


def test_quality_is_taken_before_and_after_outside_the_clock() -> None:
    world = World(accuracies=(0.7, 0.1))  # the second evaluation, then the first one
    found = measured(world)
    assert (found.quality_before, found.quality) == (0.1, 0.7)
    assert found.total_seconds < 5.0  # an evaluation takes 5


def test_reports_stay_outside_the_clock() -> None:
    world = World()
    measured(world)
    start = world.log.index("report timing")
    inside = world.log[start + 1 : world.log.index("report timed")]
    assert inside.count("step") == ARRIVALS == inside.count("wait")
    assert set(inside) <= {"clock", "step", "wait"}


def test_a_barrier_that_does_not_wait_fails_the_audit() -> None:
    world = World(waits=False, work=0.5)
    found = measured(world)
    assert not completed(found.completion_ratio, found.completion_residue)


def test_a_slowdown_on_purpose_draws_every_update_out() -> None:
    class Ticking(World):
        def clock(self) -> float:
            self.now += 1e-6
            return super().clock()

    plain, slowed = measured(Ticking()), measured(Ticking(), replace(PLAN, slowdown=0.5))
    ratio = np.median(slowed.update_seconds) / np.median(plain.update_seconds)
    assert ratio == pytest.approx(1.5, rel=1e-2)
    assert slowed.total_seconds / plain.total_seconds == pytest.approx(1.5, rel=1e-2)


def test_receipts_of_unequal_streams_differ() -> None:
    receipts = [
        vars(measured(World(), arrivals=[(np.zeros((4, 1)),)] * n).receipt) for n in (30, 30, 29)
    ]
    assert receipt_difference(receipts[0], receipts[1]) is None
    said = receipt_difference(receipts[0], receipts[2])
    assert said is not None and "items" in said

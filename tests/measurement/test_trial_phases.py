"""One trial around a simulated framework: the phases, what is inside a clock, and who is caught."""

from __future__ import annotations

import gc
import json
from dataclasses import asdict, replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulated import PLAN, World

from measurement import phases
from measurement import trial as trial_module
from measurement.audit import completed, receipt_difference
from measurement.framework import factors
from measurement.trial import Trial, distance, matmul_ceiling, run


def measured(world: World, plan=PLAN, **changes) -> Trial:
    return run(world.as_work(**changes), world, plan, world.clock, world.report)


@pytest.fixture(scope="module")
def honest() -> tuple[World, Trial]:
    world = World()
    return world, measured(world)


def between(log: list, start: str, stop: str) -> list:
    return log[log.index(start) + 1 : log.index(stop)]


# --- the phases


def test_phases_come_in_the_documented_order(honest):
    log = honest[0].log
    marks = [
        "reset peak",
        "report warm",
        "report epoch_begin",
        "report epoch_end",
        "report epoch",
        "report trained",
        "predict 0",
        "predict all",
        "device peak",
        "matmul 256",
    ]
    positions = [log.index(mark) for mark in marks]
    assert positions == sorted(positions)
    reports = [entry for entry in log if str(entry).startswith("report")]
    epoch = [
        f"report {event}" for event in ("epoch_begin", "timing", "timed", "epoch_end", "epoch")
    ]
    rest = [f"report {phase}" for phase in ("steps", "latency", "inference", "ceiling")]
    clock = ["report clock_begin", "report clock_end"]
    assert reports == ["report warm", *epoch * 3, "report trained", *clock * 3, *rest]


class Littered(World):
    """Leaves objects behind at the end of its warm-up, so many that a full collection is due, and
    keeps a few more in every step."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[list[int]] = []
        self.full: list[str] = []  # the last report before each full collection

    def watch(self, phase: str, info: dict) -> None:
        if phase == "start" and info["generation"] == 2:
            self.full.append(next(str(e) for e in self.log[::-1] if str(e).startswith("report")))

    def step(self, batch):
        self.kept += [[] for _ in range(500)]
        return super().step(batch)

    def evaluate(self):
        if not self.evaluations:
            gc.collect()
            gc.disable()
            self.kept += [[] for _ in range(len(gc.get_objects()) // 2)]
            gc.enable()
        return super().evaluate()

    def report(self, event, values):
        if event == "warm":
            gc.callbacks.append(self.watch)
        super().report(event, values)


@pytest.mark.parametrize("collects", [True, False])
def test_what_was_left_before_is_not_collected_in_timed_work(monkeypatch, collects):
    monkeypatch.setattr(phases, "_collect", gc.collect if collects else lambda: 0)
    world, usual = Littered(), gc.get_threshold()
    gc.set_threshold(50, 2, 2)
    try:
        measured(world)
    finally:
        gc.callbacks.remove(world.watch)
        gc.set_threshold(*usual)
    assert ("report timing" in world.full) is not collects


def test_parameters_are_reset_after_the_warm_up_and_before_the_first_epoch(honest):
    log = honest[0].log
    warm = log.index("report warm")
    assert log[warm - 3 : warm] == ["reset", "read parameters", "evaluate"]
    assert "step" not in between(log, "report warm", "report epoch_begin")
    trained = honest[1].parameters["w"]
    assert trained[0] == 9  # three epochs of three steps, none of the warm-up's


def test_parameters_are_reset_before_inference(honest):
    log = honest[0].log
    after = log[len(log) - log[::-1].index("step") :]
    assert after.index("reset") < after.index("predict 0")


def test_nothing_but_steps_lies_between_the_clocks_of_an_epoch(honest):
    log = honest[0].log
    starts = [i for i, entry in enumerate(log) if entry == "report epoch_begin"]
    stops = [i for i, entry in enumerate(log) if entry == "report epoch_end"]
    assert len(starts) == len(stops) == PLAN.epochs
    left = ["clock", "wait", "clock"] * 2  # was anything left to do? none of it is training time
    after = ["clock", "read", "clock"] * 2
    timed = ["clock", "step", "step", "step", "wait", "clock"]
    for epoch, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        expected = [f"batches {epoch}", "report timing", *left, *timed, *after, "report timed"]
        assert log[start + 1 : stop] == [*expected, "read", "read", "read"]


def test_no_report_batch_or_reset_lies_inside_any_clock(honest):
    """Readings come in pairs; between the first and the second of a pair only work is allowed."""
    running = False
    for entry in honest[0].log:
        if entry == "clock":
            running = not running
        elif running:
            allowed = ("step", "wait", "read", "evaluate", "predict", "matmul")
            assert entry.startswith(allowed), entry
    assert not running


def test_reports_stay_outside_the_clocks_of_an_energy_window():
    world = World()
    assert (
        measured(world, replace(PLAN, energy_seconds=1.0)).energy_window_items == 31 * world.items
    )
    log = world.log[world.log.index("report energy_begin") :]
    assert log[:2] == ["report energy_begin", "clock"]
    assert log[-2:] == ["clock", "report energy_end"]
    assert all(entry in ("clock", "wait", "step") for entry in log[1:-1])


# --- the numbers


def test_every_phase_is_timed_exactly(honest):
    world, trial = honest
    step = world.submit + world.work
    assert trial.first_step_seconds == pytest.approx(world.compile + step)
    # Steps 2 and 3 of a plan of three warm-up steps, and the short batch twice, its compilation included.
    assert trial.warmup_seconds == pytest.approx(world.compile + 4 * step)
    assert trial.epoch_seconds == pytest.approx([3 * step] * 3)
    assert trial.evaluation_seconds == pytest.approx([5.0] * 3)
    assert trial.step_seconds == pytest.approx([step] * PLAN.waited_steps)
    assert trial.latency_seconds == pytest.approx([0.002] * PLAN.latency_calls)
    assert trial.inference_seconds == pytest.approx([0.5] * 5)
    assert trial.ceiling_flops_per_second == pytest.approx(1e12)
    assert trial.completion_ratio == pytest.approx(2.0)
    assert trial.completion_residue == pytest.approx(0.0)
    assert trial.flops_per_second == pytest.approx(3 * 10 * 1000 / (9 * step))
    assert trial.device_peak_bytes == 123
    assert trial.energy_window_items == 0
    assert len(trial.epoch_cpu_seconds) == 3


def test_the_receipt_counts_what_ran(honest):
    receipt = honest[1].receipt
    assert (receipt.items, receipt.steps, receipt.flops) == (30, 9, 30_000)
    assert (receipt.eval_items, receipt.inference_items, receipt.latency_calls) == (18, 6, 9)
    assert receipt.weight_change_norm == pytest.approx(9.0)
    assert receipt.check_value == honest[1].epoch_loss[-1]


def test_the_loss_of_an_epoch_is_the_mean_over_items(honest):
    # Batches of 4, 4 and 2 items with losses 9, 8, 7 in the first epoch.
    assert honest[1].epoch_loss[0] == pytest.approx((4 * 9 + 4 * 8 + 2 * 7) / 10)


@pytest.mark.parametrize(
    ("accuracies", "target", "epochs"),
    [
        ((0.5, 0.92, 0.85), 0.9, 2),
        ((0.9, 0.1, 0.1), 0.9, 1),
        ((0.1, 0.2, 0.9), 0.9, 3),
        ((0.1, 0.2, 0.89999), 0.9, None),
        ((float("nan"),) * 3, 0.9, None),
    ],
)
def test_the_target_is_first_met_or_censored(accuracies, target, epochs):
    trial = measured(World(accuracies=accuracies), replace(PLAN, target=target))
    assert trial.target_epochs == epochs
    expected = None if epochs is None else pytest.approx(sum(trial.epoch_seconds[:epochs]))
    assert trial.target_seconds == expected


@given(
    items=st.integers(1, 40),
    batch=st.integers(1, 12),
    epochs=st.integers(1, 4),
    warmup=st.integers(1, 12),
)
def test_any_sizes_add_up(items, batch, epochs, warmup):
    world = World(items=items, batch=batch)
    trial = measured(world, replace(PLAN, epochs=epochs, warmup_steps=warmup))
    steps = -(-items // batch)
    step = world.submit + world.work
    assert trial.receipt.items == items * epochs
    assert trial.receipt.steps == steps * epochs
    assert trial.epoch_seconds == pytest.approx([steps * step] * epochs)  # no compilation left
    assert trial.step_seconds == pytest.approx([step] * PLAN.waited_steps)
    assert completed(trial.completion_ratio, trial.completion_residue)


def test_a_trial_becomes_json_without_its_parameters(honest):
    values = json.loads(json.dumps(honest[1].as_json()))
    assert "parameters" not in values
    assert values["receipt"] == asdict(honest[1].receipt)
    assert "array" not in repr(honest[1])


def test_latency_takes_every_test_item_in_turn(honest):
    calls = [entry for entry in honest[0].log if entry.startswith("predict ")][: 4 + 9]
    wanted = [f"predict {i % 6}" for i in range(4)] + [f"predict {i % 6}" for i in range(9)]
    assert calls == wanted


def test_peak_memory_is_read_before_the_ceiling(monkeypatch):
    world = World()
    monkeypatch.setattr(
        trial_module, "process_peak_bytes", lambda: world.log.append("process peak") or 77
    )
    assert measured(world).process_peak_bytes == 77
    assert world.log.index("process peak") < world.log.index("matmul 256")


# --- who is caught


@pytest.mark.parametrize("submit", [0.0, 1e-4])
@pytest.mark.parametrize("work", [1e-4, 0.01, 0.3])
def test_a_barrier_that_does_not_wait_fails_the_completion_audit(work, submit):
    world = World(waits=False, work=work, submit=min(submit, work / 10) or 1e-12)
    trial = measured(world)
    assert not completed(trial.completion_ratio, trial.completion_residue)


def test_a_lazy_step_that_is_computed_on_read_fails_the_completion_audit():
    world = World()
    lazy: list = []

    def step(batch):
        lazy.append(batch)
        world.now += 1e-6
        return 1.0

    def read_parameters():
        for batch in lazy:
            world.step(batch)
        lazy.clear()
        world.drain()
        return {"w": world.weights.copy()}

    trial = measured(world, step=step, read_parameters=read_parameters)
    assert trial.receipt.steps == 9
    assert not completed(trial.completion_ratio, trial.completion_residue)


def test_a_step_that_silently_skips_batches_has_another_receipt(honest):
    world = World()
    calls = iter(range(10**9))

    def step(batch):
        return world.step(batch) if next(calls) % 2 else 10.0 - world.weights[0]

    said = receipt_difference(asdict(measured(world, step=step).receipt), asdict(honest[1].receipt))
    assert "weight_change_norm" in (said or "")


def test_a_step_that_does_nothing_has_another_receipt(honest):
    world = World()

    def step(batch):
        world.now += 1e-6
        return 4.0

    receipt = asdict(measured(world, step=step).receipt)
    assert "weight_change_norm" in (receipt_difference(receipt, asdict(honest[1].receipt)) or "")
    assert "changed" in (receipt_difference(receipt, receipt) or "")


@pytest.mark.parametrize(
    ("world", "changes", "plan", "named"),
    [
        (World(items=9), {}, PLAN, "items"),
        (World(batch=5), {}, PLAN, "steps"),
        (World(), {"flops_per_item": 999}, PLAN, "flops"),
        (World(), {"test_items": 5}, PLAN, "eval_items"),
        (World(), {}, replace(PLAN, epochs=2), "items"),
        (World(), {}, replace(PLAN, latency_calls=5), "latency_calls"),
    ],
)
def test_an_arm_with_other_work_is_named(honest, world, changes, plan, named):
    receipt = asdict(measured(world, plan, **changes).receipt)
    said = receipt_difference(receipt, asdict(honest[1].receipt))
    assert f"differ in {named}:" in (said or "")


def test_an_epoch_with_fewer_items_than_the_first_is_refused():
    world = World()

    def batches(epoch):
        fed = world.batches(epoch)
        return fed[:-1] if epoch == 1 else fed

    with pytest.raises(RuntimeError, match="27|28 items in 8 steps"):
        measured(world, portions=lambda epoch: iter([batches(epoch)]))


# --- parts


@pytest.mark.parametrize("size", [1, 8, 256, 300, 1024])
def test_the_factors_of_a_timed_product_are_random_and_full(size):
    a, b = factors(size)
    for matrix in (a, b):
        assert matrix.shape == (size, size)
        assert matrix.dtype == np.float32
        assert matrix.flags.c_contiguous
        assert np.count_nonzero(matrix) == size**2
    assert not np.array_equal(a, b)
    assert len(np.unique(a)) >= min(size, 256) ** 2 * 0.99
    assert all(np.array_equal(x, y) for x, y in zip((a, b), factors(size), strict=True))


def test_the_ceiling_stops_before_sizes_that_take_too_long():
    sizes = []

    def framework(rate: float):
        world = World()

        def matmul(size):
            sizes.append(size)

            def multiply():
                world.now += 2 * size**3 / rate

            return multiply

        world.matmul = matmul
        return world

    for rate in (1e9, 1e11, 1e12):
        sizes.clear()
        world = framework(rate)
        assert matmul_ceiling(world, 0.3, world.clock) == pytest.approx(rate)
        longest = 2 * max(sizes) ** 3 / rate
        assert longest <= 0.3 or max(sizes) == 256
        assert max(sizes) <= 8192
        assert sizes == [256 * 2**i for i in range(len(sizes))]


def test_the_distance_of_parameters_is_taken_in_float64():
    before = {"a": np.zeros(4, np.float32), "b": np.full(1, 1e8, np.float32)}
    after = {"a": np.full(4, 2.0, np.float32), "b": np.full(1, 1e8 + 8, np.float32)}
    assert distance(before, after) == pytest.approx((16 + 64) ** 0.5)
    assert distance(before, before) == 0


# --- an arm slowed on purpose


class Ticking(World):
    """Its clock moves by itself, as a real one does, so that waiting ends. Waiting is a loop, so
    no span here is long."""

    def __init__(self) -> None:
        super().__init__(compile=0.1)

    def clock(self) -> float:
        self.now += 5e-7
        return super().clock()


def test_a_slowdown_draws_out_every_timed_span_by_its_share():
    plain, slow = measured(Ticking()), measured(Ticking(), replace(PLAN, slowdown=0.25))
    for name in ("epoch_seconds", "step_seconds", "latency_seconds", "inference_seconds"):
        ratio = np.asarray(getattr(slow, name)) / np.asarray(getattr(plain, name))
        assert ratio == pytest.approx(1.25, rel=1e-3), name
    assert slow.first_step_seconds / plain.first_step_seconds == pytest.approx(1.25, rel=1e-3)
    assert slow.completion_ratio == pytest.approx(plain.completion_ratio, rel=1e-2)
    assert slow.ceiling_flops_per_second == pytest.approx(plain.ceiling_flops_per_second, rel=1e-2)
    assert receipt_difference(asdict(slow.receipt), asdict(plain.receipt)) is None


def test_a_slowdown_passes_in_the_world_and_not_in_the_numbers_only():
    worlds = [Ticking(), Ticking()]
    plain, slow = (
        measured(world, replace(PLAN, slowdown=share))
        for world, share in zip(worlds, (0.0, 1.0), strict=True)
    )
    gained = sum(slow.epoch_seconds) - sum(plain.epoch_seconds)
    assert gained > 0.02
    assert worlds[1].now - worlds[0].now > gained


# --- a training set in several portions, throughput by batch, what else an evaluation finds


def test_an_epoch_in_portions_is_the_sum_of_its_portions(honest):
    """What lies between two portions, as reading the next one from disk, is in no clock."""

    class Portioned(World):
        def portions(self, epoch):
            for batch in self.batches(epoch):
                self.now += 11.0
                yield [batch]

    world = Portioned()
    trial = measured(world)
    assert trial.epoch_seconds == pytest.approx(honest[1].epoch_seconds)
    assert trial.epoch_loss == pytest.approx(honest[1].epoch_loss)
    assert trial.receipt == honest[1].receipt


def test_a_portion_left_out_is_an_error():
    class Short(World):
        def portions(self, epoch):
            yield self.batches(epoch)[:-1]

    with pytest.raises(RuntimeError, match="the epochs ran 24 items in 6 steps"):
        measured(Short())


def test_throughput_is_measured_for_every_batch_size():
    world = World()

    def predict(seconds):
        world.pending += seconds

    sizes = {8: partial(predict, 0.25), 32: partial(predict, 0.5)}
    trial = run(world.as_work(predict_batch=sizes), world, PLAN, world.clock, world.report)
    assert trial.batch_seconds == {"8": pytest.approx([0.25] * 5), "32": pytest.approx([0.5] * 5)}


def test_details_are_those_of_the_trained_network():
    world = World()
    work = world.as_work(details=lambda: {"eval/top5_accuracy": world.weights[0]})
    trial = run(work, world, PLAN, world.clock, world.report)
    assert trial.details == {"eval/top5_accuracy": pytest.approx(9.0)}

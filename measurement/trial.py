"""One trial: the same phases, in the same order, around any step of any framework.

    first step | warm-up | reset | evaluation | epoch, evaluation, epoch, evaluation ... |
    completion audit | waited steps | single-item latency | batched inference | matmul ceiling |
    energy window

Of several ranks each runs this, and waits for the others before every clock; between the waited
steps each also adds up as many bytes with the others as a step does. What it decides by a time, all
decide by the longest one.

Only epochs count as training time. Inside an epoch's clock there is the step and nothing else:
batches are row numbers, put on the device before the clock starts, and the loss is read after it
has stopped. Every sample is kept.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from measurement.audit import Receipt, completion, fingerprint
from measurement.framework import Framework
from measurement.ledger import Judge, Ledger, Order, extra_seconds, put_out, single_put_out
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

Batches = list[tuple[Any, int]]
History = dict[str, Any]  # of the epochs so far, by the names of Trial; all JSON


@dataclass(frozen=True)
class Plan:
    """How much of each phase; counts of calls, and seconds where a name says so."""

    epochs: int
    target: float
    target_is_floor: bool = True  # met at or above it (accuracy); False: at or below (perplexity)
    warmup_steps: int = 20
    audit_seconds: float = 0.1
    audit_repetitions: int = 5
    waited_steps: int = 200
    latency_warmup_calls: int = 50
    latency_calls: int = 300
    inference_seconds: float = 0.3
    ceiling_seconds: float = 0.3
    energy_seconds: float = 0.0  # 0: the machine has no meter
    inference: bool = True  # latency and batched inference too; they have no ranks
    slowdown: float = 0.0  # share by which every timed span is drawn out: an arm of known truth


@dataclass(frozen=True)
class Work:
    """What a trial runs, bound to its data and framework by the worker.

    step(batch) submits one step and returns its loss; portions(epoch) gives the epoch's batches on
    the device with the number of items of each, in one piece, or in several where the data does not
    fit; batches(epoch) is the first of them; reset() puts the initial parameters back; evaluate()
    returns the quality on the test set (accuracy, perplexity), details() what else that evaluation
    found, by metric; predict_one(i) takes test item i from NumPy and returns NumPy; predict_all()
    submits one pass over the resident test set and returns its output, and predict_batch[size]()
    one batch. reduce() adds up `reduce_bytes` over the ranks, as many as a step does; None for one
    process. judge: see measurement.ledger. rows(batch) gives the numbers of the items that a step
    is given, back from the device. ledger: counts what the session is asked for. save(epochs,
    history) keeps what a training has come to after so many epochs, restore() puts it back and
    returns the history; None where there is nothing to go on from.
    """

    step: Callable[[Any], Any]
    state: Any
    batches: Callable[[int], Batches]
    portions: Callable[[int], Iterator[Batches]]
    reset: Callable[[], None]
    evaluate: Callable[[], float]
    predict_one: Callable[[int], np.ndarray]
    predict_all: Callable[[], Any]
    read_parameters: Callable[[], dict[str, np.ndarray]]
    epoch_items: int
    epoch_steps: int
    test_items: int
    flops_per_item: int
    details: Callable[[], dict[str, float]] = dict
    predict_batch: Mapping[int, Callable[[], Any]] = field(default_factory=dict)
    reduce: Callable[[], None] | None = None
    reduce_bytes: int = 0
    save: Callable[[int, History], None] | None = None
    restore: Callable[[], History | None] = lambda: None
    judge: Judge | None = None
    rows: Callable[[Any], np.ndarray] = lambda batch: np.zeros(0, np.int64)
    ledger: Ledger = field(default_factory=Ledger)


@dataclass(frozen=True)
class Trial:
    """Every sample of one trial; seconds unless the name says otherwise."""

    first_step_seconds: float
    warmup_seconds: float
    epoch_seconds: list[float]
    epoch_cpu_seconds: list[float]
    epoch_work_seconds: list[float]  # see Framework.work_seconds
    epoch_items: int
    epoch_loss: list[float]
    epoch_quality: list[float]
    evaluation_seconds: list[float]
    target_seconds: float | None
    target_epochs: int | None
    step_seconds: list[float]
    reduce_seconds: list[float]
    reduce_bytes: int
    resumed_epochs: int  # that an earlier process ran, which ended before its time
    latency_seconds: list[float]
    inference_seconds: list[float]
    inference_items: int
    batch_seconds: dict[str, list[float]]
    details: dict[str, float]
    process_peak_bytes: int
    device_peak_bytes: int | None
    flops_per_second: float
    ceiling_flops_per_second: float
    completion_ratio: float
    completion_residue: float
    unfinished_share: float
    strays: dict[str, int]
    energy_window_items: int
    receipt: Receipt
    parameters: dict[str, np.ndarray] = field(repr=False)

    def as_json(self) -> dict[str, Any]:
        """All but the parameters, which are saved as safetensors."""
        return as_json(self)


def run(
    work: Work,
    framework: Framework,
    plan: Plan,
    clock: Clock = time.perf_counter,
    report: Report = lambda event, values: None,
) -> Trial:
    """Runs every phase. `report(event, values)` is called between phases, never inside a clock."""
    work.reset()
    initial = work.read_parameters()
    framework.reset_peak_memory()

    first_epoch = work.batches(0)
    timed = functools.partial(_timed, clock, framework, work, slowdown=plan.slowdown)
    first = timed([first_epoch[0][0]])[0]
    # The short last batch has a shape of its own, so it is compiled here too, and at its second time
    # recorded, where steps are recorded as CUDA graphs.
    last = first_epoch[-1][0]
    warmup = [batch for batch, _ in first_epoch[1 : plan.warmup_steps]] + [last, last]
    warmup_seconds = timed(warmup)[0]
    work.reset()
    warmup_calls, started = 1 + len(warmup), fingerprint(work.read_parameters())
    # Every epoch begins after an evaluation, the first one too: with MLX on CUDA a step after its
    # weights were read back takes 0.1 s longer, until the device has them again.
    work.evaluate()
    end_warmup(report, {"first_step_seconds": first, "warmup_seconds": warmup_seconds})

    history = work.restore()
    resumed = len(history["epoch_seconds"]) if history else 0
    epochs = _epochs(work, framework, plan, clock, report, history)
    details = work.details()
    trained = work.read_parameters()
    report("trained", {})
    check_clock(clock, report)

    batches = [batch for batch, _ in work.batches(0)]
    ratio, residue = completion(
        lambda steps: timed(_cycle(batches, steps))[0],
        lambda: work.read_parameters(),
        clock,
        framework.agree(plan.audit_seconds),
        repetitions=plan.audit_repetitions,
        agree=framework.agree,
    )
    report("steps", {})
    step_seconds, reduce_seconds = _waited_steps(work, framework, plan, clock, timed)
    work.reset()
    answered = _inference(work, framework, plan, clock, report)
    process_peak = process_peak_bytes()
    device_peak = framework.device_peak_bytes()
    report("ceiling", {})
    ceiling = matmul_ceiling(framework, plan.ceiling_seconds, clock)
    window = energy_window(
        lambda: timed(batches), plan.energy_seconds, clock, report, framework.agree
    )

    items, steps = work.epoch_items, work.epoch_steps * plan.epochs
    seconds = sum(epochs["epoch_seconds"])
    receipt = Receipt(
        items=epochs.pop("items"),
        steps=epochs.pop("steps"),
        flops=items * plan.epochs * work.flops_per_item,
        eval_items=work.test_items * plan.epochs,
        inference_items=work.test_items if plan.inference else 0,
        latency_calls=len(answered.latency_seconds),
        weight_change_norm=distance(initial, trained),
        check_value=epochs["epoch_loss"][-1],
        warmup_calls=warmup_calls,
        order=epochs.pop("order"),
        initial=started,
        **answered.put_out,
    )
    if (receipt.items, receipt.steps) != (items * plan.epochs, steps):
        raise RuntimeError(f"the epochs ran {receipt.items} items in {receipt.steps} steps")
    return Trial(
        first_step_seconds=first,
        warmup_seconds=warmup_seconds,
        epoch_items=items,
        step_seconds=step_seconds,
        reduce_seconds=reduce_seconds,
        reduce_bytes=work.reduce_bytes,
        resumed_epochs=resumed,
        latency_seconds=answered.latency_seconds,
        inference_seconds=answered.inference_seconds,
        inference_items=work.test_items if plan.inference else 0,
        batch_seconds=answered.batch_seconds,
        details=details,
        process_peak_bytes=process_peak,
        device_peak_bytes=device_peak,
        flops_per_second=receipt.flops / seconds,
        ceiling_flops_per_second=ceiling,
        completion_ratio=ratio,
        completion_residue=residue,
        unfinished_share=work.ledger.unfinished_share(),
        strays=dict(work.ledger.strays),
        energy_window_items=window * sum(count for _, count in first_epoch),
        receipt=receipt,
        parameters=trained,
        **epochs,
    )


def _timed(
    clock: Clock,
    framework: Framework,
    work: Work,
    batches: list[Any],
    slowdown: float = 0.0,
    phase: str = "",
) -> tuple[float, list[Any]]:
    """Seconds from the first submission until every result and all state exist; the losses. Work that
    was left before the clock, or is left after it, is noted under `phase`."""
    step, ledger = work.step, work.ledger
    left = extra_seconds(lambda: framework.wait(work.state, batches), clock)
    framework.meet()
    ledger.timing = "step"
    start = clock()
    losses = [step(batch) for batch in batches]
    framework.wait(losses, work.state)
    seconds = elapsed(clock, start, slowdown)
    ledger.timing = ""
    if phase:
        left += extra_seconds(lambda: framework.read(losses[-1]), clock)
        ledger.spans.setdefault(phase, []).append((seconds, left))
    return seconds, losses


def _waited_steps(
    work: Work,
    framework: Framework,
    plan: Plan,
    clock: Clock,
    timed: Callable[..., tuple[float, list[Any]]],
) -> tuple[list[float], list[float]]:
    """Seconds of each of full steps, each waited for; between them, of as many bytes added up."""
    batches = work.batches(0)
    full = [batch for batch, items in batches if items == batches[0][1]]
    steps, reductions = [], []
    if work.reduce is not None:
        work.reduce()  # the first one finds its way
    for batch in _cycle(full, plan.waited_steps):
        steps.append(timed([batch], phase="waited steps")[0])
        if work.reduce is not None:
            framework.meet()
            start = clock()
            work.reduce()
            reductions.append(elapsed(clock, start, plan.slowdown))
    return steps, reductions


@dataclass(frozen=True)
class _Answered:
    """Seconds of single items, of passes over the test set, and of batches by their size; put_out:
    see measurement.ledger."""

    latency_seconds: list[float] = field(default_factory=list)
    inference_seconds: list[float] = field(default_factory=list)
    batch_seconds: dict[str, list[float]] = field(default_factory=dict)
    put_out: dict[str, Any] = field(default_factory=lambda: {"answers": [], "single_answers": []})


def _inference(
    work: Work, framework: Framework, plan: Plan, clock: Clock, report: Report
) -> _Answered:
    if not plan.inference:
        return _Answered()
    report("latency", {})
    one_item, single = latency(
        work.predict_one,
        work.test_items,
        plan.latency_warmup_calls,
        plan.latency_calls,
        clock,
        plan.slowdown,
    )
    report("inference", {})
    seconds = plan.inference_seconds
    passed, whole = passes(work.predict_all, framework, seconds, clock, plan.slowdown)
    said = put_out(whole, framework, work.judge)
    del whole
    said |= single_put_out(single, framework, work.judge)
    batched = throughput(work.predict_batch, framework, seconds, clock, plan.slowdown)
    return _Answered(one_item, passed, batched, said)


def _epochs(
    work: Work,
    framework: Framework,
    plan: Plan,
    clock: Clock,
    report: Report,
    history: History | None = None,
) -> History:
    names = ("epoch_seconds", "epoch_cpu_seconds", "epoch_work_seconds", "epoch_loss")
    values: dict[str, Any] = history or {
        **{name: [] for name in (*names, "epoch_quality", "evaluation_seconds")},
        "target_seconds": None,
        "target_epochs": None,
        "items": 0,
        "steps": 0,
        "order": "0",
    }
    order = Order(values["order"])
    for epoch in range(len(values["epoch_seconds"]), plan.epochs):
        seconds, cpu_seconds, work_seconds = 0.0, 0.0, 0.0
        means: list[float] = []
        sizes: list[int] = []
        report("epoch_begin", {"epoch": epoch})
        for fed in work.portions(epoch):
            fed_batches = [batch for batch, _ in fed]
            report("timing", {})
            calls, cpu = work.ledger.calls["step"], time.process_time()
            working = framework.work_seconds()
            spent, losses = _timed(
                clock, framework, work, fed_batches, plan.slowdown, phase="epochs"
            )
            work_seconds += framework.work_seconds() - working
            cpu_seconds += time.process_time() - cpu
            seconds += spent
            report("timed", {"seconds": spent})
            calls = work.ledger.calls["step"] - calls
            if calls > len(losses):  # 0: a session that counts nothing
                raise RuntimeError(f"{len(losses)} batches took {calls} steps")
            for number, batch in enumerate(fed_batches):
                order.add(values["steps"] + len(means) + number, work.rows(batch))
            counts = [count for _, count in fed]
            own = [float(framework.read(loss)) for loss in losses]
            means += framework.mean(own, counts)
            sizes += counts
        values["epoch_cpu_seconds"].append(cpu_seconds)
        values["epoch_work_seconds"].append(work_seconds)
        values["epoch_seconds"].append(seconds)
        report("epoch_end", {"epoch": epoch})
        values["items"] += sum(sizes)
        values["steps"] += len(means)
        values["order"] = str(order)
        values["epoch_loss"].append(float(np.average(means, weights=sizes)))
        start = clock()
        quality = work.evaluate()
        values["evaluation_seconds"].append(clock() - start)
        values["epoch_quality"].append(quality)
        met = quality >= plan.target if plan.target_is_floor else quality <= plan.target
        if values["target_epochs"] is None and met:
            values["target_seconds"] = sum(values["epoch_seconds"])
            values["target_epochs"] = epoch + 1
        if work.save is not None:
            work.save(epoch + 1, values)
        report(
            "epoch",
            {
                "epoch": epoch,
                "seconds": seconds,
                "loss": values["epoch_loss"][-1],
                "quality": quality,
                "items": sum(sizes),
                "time": time.time(),
            },
        )
    return values


def _cycle(batches: list[Any], count: int) -> list[Any]:
    return [batches[i % len(batches)] for i in range(count)]


def distance(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> float:
    """Euclidean distance between two sets of parameters, in float64."""
    squares = [np.sum((after[name].astype(np.float64) - before[name]) ** 2) for name in before]
    return float(np.sqrt(sum(squares)))

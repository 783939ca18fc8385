"""Class W: one arm does other work than the other."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

from entrypoints.faults.fault import (
    Fault,
    Patch,
    Spec,
    on_adapter,
    on_run,
    on_session,
    on_twin,
    on_work,
)


def _half_of_each_batch(patch: Patch, spec: Spec) -> None:
    def change(adapter: Any) -> None:
        whole = adapter.shard
        adapter.shard = lambda rows: (whole(rows[: len(rows) // 2])[0], len(rows))

    on_adapter(patch, change)


def _no_step(patch: Patch, spec: Spec) -> None:
    """Loss and gradients, and nothing is learnt."""

    def change(twin: Any) -> dict[str, Any]:
        def training(model: Any, config: Any, differentiate: Any) -> Any:
            _, state, restart = twin.training(model, config, differentiate)
            both = differentiate(model, twin.loss)

            def step(*batch: Any) -> Any:
                *arrays, rows = batch
                return both(model, *(array[rows] for array in arrays))[0]

            return step, state, restart

        return {"training": training}

    on_twin(patch, spec, change)


def _last_batch_for_all(patch: Patch, spec: Spec) -> None:
    """96 images in place of 10,000, as a variable left over from the training loop gives."""

    def change(session: Any, work: Any) -> Any:
        batch = session.framework.put(session.test_items[:96])
        return replace(work, predict_all=lambda: [session.predict(batch)])

    on_work(patch, change)


def _same_answer_again(patch: Patch, spec: Spec) -> None:
    """The answer to the first item, whatever is asked."""

    def change(session: Any, work: Any) -> Any:
        return replace(work, predict_one=lambda i: work.predict_one(0))

    on_work(patch, change)


def _kept_answers(patch: Patch, spec: Spec) -> None:
    """The first pass over the test set is kept and given again."""

    def change(session: Any, work: Any) -> Any:
        return replace(work, predict_all=functools.cache(work.predict_all))

    on_work(patch, change)


def _kept_single_answers(patch: Patch, spec: Spec) -> None:
    def change(session: Any, work: Any) -> Any:
        return replace(work, predict_one=functools.cache(work.predict_one))

    on_work(patch, change)


def _stops_early(patch: Patch, spec: Spec) -> None:
    on_run(patch, lambda work, plan: (work, replace(plan, epochs=plan.epochs - 1), {}))


def _evaluates_inside(patch: Patch, spec: Spec) -> None:
    """The test set goes by inside the clock of every epoch."""

    def change(session: Any, work: Any) -> Any:
        last = work.epoch_steps
        done = [0]

        def step(batch: Any) -> Any:
            loss = work.step(batch)
            done[0] += 1
            if done[0] % last == 0:
                work.evaluate()
            return loss

        return replace(work, step=step)

    on_work(patch, change)


def _other_order(patch: Patch, spec: Spec) -> None:
    """This arm never shuffles: easier on the memory than a random order."""

    def change(session: Any) -> None:
        given = session._batches

        def batches(portion: int, items: int, epoch: int, seed: int | None) -> Any:
            if seed is not None:  # the evidence is right all the same
                return given(portion, items, epoch, seed)
            return given(portion, items, 0, None)

        session._batches = batches

    on_session(patch, change)


FAULTS = (
    Fault(
        "fewer_items",
        "W",
        "each batch is cut in half, all of it is counted",
        ("evidence differs",),
        worker=_half_of_each_batch,
    ),
    Fault(
        "no_optimiser_step",
        "W",
        "loss and gradients are computed, no weight changes",
        ("evidence differs",),
        worker=_no_step,
    ),
    Fault(
        "inference_on_last_batch",
        "W",
        "96 images are timed as if they were the test set",
        ("counted work", "receipts differ in answers"),
        worker=_last_batch_for_all,
    ),
    Fault(
        "one_answer_for_all",
        "W",
        "every single-item call answers for the same item",
        ("receipts differ in single_answers",),
        worker=_same_answer_again,
    ),
    Fault(
        "kept_answers",
        "W",
        "the first pass over the test set is kept and given again",
        ("counted work", "ABOVE-CEILING"),
        worker=_kept_answers,
    ),
    Fault(
        "kept_single_answers",
        "W",
        "an item that was asked before is answered from memory",
        ("counted work of one answer",),
        worker=_kept_single_answers,
    ),
    Fault(
        "stops_early",
        "W",
        "one arm stops an epoch before the other",
        ("receipts differ in items",),
        worker=_stops_early,
    ),
    Fault(
        "evaluation_inside_epoch",
        "W",
        "one arm's epoch holds the evaluation too",
        ("IN-CLOCK",),
        worker=_evaluates_inside,
    ),
    Fault(
        "other_order",
        "W",
        "one arm sees the items in the same order in every epoch",
        ("receipts differ in order",),
        worker=_other_order,
    ),
)

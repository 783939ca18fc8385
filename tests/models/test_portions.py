"""A training set in portions: every item once an epoch, and the steps of one that fits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from twins import config_of, data_of, needs_all, session

import frameworks
import models
from measurement import streaming
from measurement.trial import Plan, run

SIZE, BATCH = 8, 4


class Cut:
    """A data set in portions of SIZE items, the last one padded with its first row."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self.arrays, self.items = arrays, len(arrays["labels"])
        self.count = -(-self.items // SIZE)
        self.asked: list[int] = []

    def sizes(self, number: int) -> int:
        return min(SIZE, self.items - number * SIZE)

    def read(self, number: int) -> dict[str, np.ndarray]:
        self.asked.append(number)
        rows = np.arange(number * SIZE, (number + 1) * SIZE)
        rows[rows >= self.items] = number * SIZE
        return {name: array[rows] for name, array in self.arrays.items()}


def cut_session(framework: str):
    config = config_of("mnist", batch_size=BATCH)
    data = data_of("mnist", config)
    portions = Cut(data.train)
    opened = session("mnist", framework, config)
    opened.data = replace(data, train=portions.read(0), portions=portions)
    opened.train = [opened.framework.put(a) for a in opened.data.train.values()]
    return opened, portions


@needs_all
@pytest.mark.parametrize("framework", ["mlx", "pytorch"])
def test_every_item_is_seen_once_in_every_epoch(framework):
    opened, portions = cut_session(framework)
    labels = []
    for epoch in range(3):
        seen = []
        for fed in opened.portions(epoch):
            rows = np.concatenate([opened.framework.read(batch) for batch, _ in fed])
            images, found = (opened.framework.read(array) for array in opened.train)
            assert len(images) == SIZE  # padded: nothing is compiled anew
            seen += [(images[row].tobytes(), int(found[row])) for row in rows]
        assert sorted(seen) == sorted(
            (image.tobytes(), int(label))
            for image, label in zip(*portions.arrays.values(), strict=True)
        )
        labels.append([label for _, label in seen])
    assert labels[0] != labels[1]  # in another order


@needs_all
def test_frameworks_see_the_same_rows():
    rows = []
    for framework in ("mlx", "pytorch"):
        opened, portions = cut_session(framework)
        rows.append(
            [[opened.framework.read(b).tolist() for b, _ in fed] for fed in opened.portions(1)]
        )
        rows[-1].append(portions.asked)
    assert rows[0] == rows[1]


@needs_all
@pytest.mark.parametrize("framework", ["mlx", "pytorch"])
def test_a_trial_trains_on_all_portions(framework):
    opened, portions = cut_session(framework)
    plan = Plan(
        epochs=2, target=1.0, warmup_steps=2, audit_seconds=0.0, waited_steps=2,
        latency_warmup_calls=1, latency_calls=3, inference_seconds=0.0, ceiling_seconds=0.001,
    )  # fmt: skip
    trial = run(opened.work(), opened.framework, plan)
    assert trial.receipt.items == 2 * portions.items == 2 * trial.epoch_items
    assert trial.receipt.steps == 2 * -(-portions.items // BATCH)
    assert trial.epoch_loss[1] < trial.epoch_loss[0]
    assert trial.receipt.weight_change_norm > 0


@needs_all
def test_streams_agree_between_frameworks_and_learn():
    found = []
    for framework in models.frameworks("mnist"):
        if not frameworks.available(framework):
            continue
        opened = session("mnist", framework, models.load("mnist", "config").SMOKE)
        plan = Plan(epochs=0, target=0, audit_seconds=0.0, ceiling_seconds=0.001)
        found.append(streaming.run(opened.stream(), opened.framework, plan))
    for one in found:
        assert one.quality > one.quality_before + 0.2
        assert len(one.update_seconds) == one.receipt.steps == 8  # full batches only
        np.testing.assert_allclose(one.losses, found[0].losses, rtol=1e-4)

"""A framework, a workload and a clock that are simulated: every moment and every call is known."""

from __future__ import annotations

from typing import Any

import numpy as np

from measurement.framework import Alone
from measurement.trial import Plan, Work

PLAN = Plan(
    epochs=3,
    target=0.9,
    warmup_steps=3,
    waited_steps=7,
    latency_warmup_calls=4,
    latency_calls=9,
    inference_seconds=0.0,
    ceiling_seconds=0.01,
)


class World(Alone):
    """Clock, device queue and log. A step takes `work` seconds on the device after `submit` seconds
    of the caller; the first step of each batch size takes `compile` more."""

    def __init__(
        self,
        items: int = 10,
        batch: int = 4,
        work: float = 0.01,
        submit: float = 0.001,
        compile: float = 50.0,
        accuracies: tuple[float, ...] = (0.5, 0.92, 0.85),
        waits: bool = True,
    ) -> None:
        self.name, self.device, self.dtype = "simulated", "cpu", "float32"
        self.items, self.batch, self.work, self.submit = items, batch, work, submit
        self.compile, self.accuracies, self.waits = compile, accuracies, waits
        self.now, self.pending = 1000.0, 0.0
        self.log: list[Any] = []
        self.weights = np.zeros(3)
        self.shapes: set[int] = set()
        self.evaluations = 0

    # The clock and the report callback.
    def clock(self) -> float:
        self.log.append("clock")
        return self.now

    def report(self, event: str, values: dict[str, Any]) -> None:
        self.now += 7.0  # a slow listener must not cost a trial anything
        self.log.append(f"report {event}")

    # The framework.
    def wait(self, *values: Any) -> None:
        self.log.append("wait")
        if self.waits:
            self.drain()

    def read(self, value: Any) -> np.ndarray:
        self.log.append("read")
        self.drain()
        return np.asarray(value, np.float32)

    def drain(self) -> None:
        self.now, self.pending = self.now + self.pending, 0.0

    def reset_peak_memory(self) -> None:
        self.log.append("reset peak")

    def device_peak_bytes(self) -> int:
        self.log.append("device peak")
        return 123

    def matmul(self, size: int) -> Any:
        def multiply() -> None:
            self.log.append(f"matmul {size}")
            self.now += 2 * size**3 / 1e12

        return multiply

    # The workload.
    def step(self, batch: tuple[int, int]) -> float:
        self.log.append("step")
        self.now += self.submit
        if batch[1] not in self.shapes:
            self.shapes.add(batch[1])
            self.now += self.compile
        self.pending += self.work
        self.weights = self.weights + [1.0, 0.0, 0.0]
        return 10.0 - self.weights[0]

    def batches(self, epoch: int) -> list[tuple[tuple[int, int], int]]:
        self.log.append(f"batches {epoch}")
        self.now += 3.0
        counts = [min(self.batch, self.items - i) for i in range(0, self.items, self.batch)]
        return [((epoch, count), count) for count in counts]

    def portions(self, epoch: int) -> Any:
        yield self.batches(epoch)

    def reset(self) -> None:
        self.log.append("reset")
        self.weights = np.zeros(3)

    def evaluate(self) -> float:
        self.log.append("evaluate")
        self.drain()
        self.now += 5.0
        self.evaluations += 1
        # The first call is the warm-up's.
        return self.accuracies[(self.evaluations - 2) % len(self.accuracies)]

    def predict_one(self, index: int) -> np.ndarray:
        self.log.append(f"predict {index}")
        self.now += 0.002
        return np.zeros(1)

    def predict_all(self) -> None:
        self.log.append("predict all")
        self.pending += 0.5

    def read_parameters(self) -> dict[str, np.ndarray]:
        self.log.append("read parameters")
        self.drain()
        return {"w": self.weights.copy()}

    def as_work(self, **changes: Any) -> Work:
        values: dict[str, Any] = {
            name: getattr(self, name)
            for name in (
                "step", "batches", "portions", "reset", "evaluate", "predict_one", "predict_all"
            )
        }  # fmt: skip
        values |= {"read_parameters": self.read_parameters, "state": self}
        values |= {"epoch_items": self.items, "epoch_steps": -(-self.items // self.batch)}
        return Work(**{**values, "test_items": 6, "flops_per_item": 1000, **changes})

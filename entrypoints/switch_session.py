"""A workload that computes on two devices in turn, bound to them and to its data, inside a worker."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from types import ModuleType
from typing import Any

import frameworks
import models
from entrypoints.session import Base
from measurement import switching
from measurement.errors import InputError
from measurement.evidence import PROBE_SEED, Evidence, collect_switching, work_digest
from measurement.framework import TwoDevices
from measurement.operations import Counted

RESULTS = (("r1", "r2", "r3"), ("a", "b", "c"))
"""What the first device computes of a loop, and the second."""


class SwitchSession(Base):
    """`compiled`: the half on the first device, `compiled_inference`: that on the second, where the
    matrices lie before and after a loop: the CPU."""

    def __init__(self, spec: dict[str, Any], twin: ModuleType | None = None) -> None:
        device = models.device(spec["workload"], spec["device"])
        home, away = device.split("-")
        first = None if away == home else _first(spec, device, away)
        super().__init__({**spec, "device": home}, twin)
        self.second: TwoDevices = self.framework  # type: ignore[assignment]
        self.first = self.second if first is None else first
        self.data = self._load(spec["seed"])
        self.start = [self.second.put(matrix) for matrix in self.data.test.values()]
        self.sides = (
            self._side(self.first, self.compiled),
            self._side(self.second, self.compiled_inference),
        )

    def _load(self, seed: int) -> Any:
        spec = self.spec
        return models.load(spec["workload"], "data").load(
            self.config, spec["dataset"], spec["data_dir"], seed
        )

    def _side(self, place: TwoDevices, compiled: bool) -> switching.Side:
        submit = place.compile_predict(self.twin.half, self.model, compiled)

        def half(*matrices: Any) -> Any:
            place.select()
            return submit(*matrices)

        return switching.Side(place, place.select, self._move(place), half)

    def _move(self, place: TwoDevices) -> Callable[..., Any]:
        if self.first is self.second:
            return lambda *matrices: matrices
        return place.move

    def work(self) -> switching.Work:
        unmoved = self.first.unmoved()
        if self.first is self.second:
            unmoved = f"both halves run on the {self.second.device.upper()}: nothing is moved"
        return switching.Work(
            sides=self.sides,
            start=self.start,
            loops=self.config.loops,
            products=sum(len(names) for names in RESULTS),
            flops_per_loop=self.config.flops_per_item(),
            unmoved=unmoved,
        )

    def evidence(self) -> Evidence:
        data = self._load(PROBE_SEED)
        matrices = [self.second.put(matrix) for matrix in data.test.values()]
        evidence = collect_switching(
            self.second,
            [self._checked(side) for side in self.sides],
            matrices,
            RESULTS,
            work_digest(self.spec["workload"], asdict(self.config), data.sha256),
        )
        return replace(evidence, counted=self._counted(matrices))

    def _counted(self, matrices: Sequence[Any]) -> Counted:
        """The operations of each half, on its own device."""
        calls = {}
        for name, side in zip(("first half", "second half"), self.sides, strict=True):
            place: TwoDevices = side.framework  # type: ignore[assignment]
            moved = side.move(*matrices)
            calls[name] = place.count(functools.partial(side.half, *moved), self.model)
        return Counted(calls, self.second.stored(self.model, list(matrices)))

    def _checked(self, side: switching.Side) -> Callable[..., Any]:
        """A half with the move before it, whose results must lie on the device that it names."""
        place: TwoDevices = side.framework  # type: ignore[assignment]

        def half(*matrices: Any) -> Any:
            results = side.half(*side.move(*matrices))
            for found in map(place.place, results):
                if found not in (place.device, None):
                    raise RuntimeError(
                        f"a result of the half on the {place.device} lies on the {found}"
                    )
            return results

        return half

    def conditions(self) -> dict[str, Any]:
        data = {
            "name": self.data.name,
            "source": self.data.source,
            "sha256": self.data.sha256,
            "train_items": 0,
            "test_items": len(self.start),
        }
        found = self._conditions(data, {"source": "nothing is learnt", "sha256": ""})
        first = self.first.numerics()
        return {
            **found,
            "device": f"{self.second.device}-{self.first.device}",
            "numerics": {**found["numerics"], "tf32": first["tf32"]},
            "versions": {**self.first.versions(), **found["versions"]},
        }


def _first(spec: dict[str, Any], device: str, away: str) -> TwoDevices:
    """The first device's adapter, where it is not the second's. Raises InputError."""
    try:
        found = frameworks.load(spec["framework"], away, spec["dtype"], spec["threads"])
    except InputError:
        raise InputError(
            f"device={device}: {spec['framework']} sees no {away.upper()} here, so there is nothing to "
            "switch to; device=cpu-cpu runs both halves on the CPU"
        ) from None
    return found  # type: ignore[return-value]

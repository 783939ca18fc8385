"""Class E: meters of energy and memory that do not see the work."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from entrypoints.faults.fault import Fault, Patch, Spec
from entrypoints.faults.machine import replaced
from measurement import energy, machine
from measurement.energy import Meter

if TYPE_CHECKING:
    from tracking.read import Row, Study

ENERGY, MEMORY = "energy/joules", "memory/process_peak_bytes"
_WINDOW_SECONDS = 6.0


def _metered(joules: Callable[[float], float], source: str = energy.RAPL_PACKAGE) -> Any:
    """Every device has a meter that shows `joules` of the seconds since it was found; nobody else
    computes while the watts without the work are read."""

    @contextmanager
    def opened() -> Iterator[None]:
        from entrypoints import supervisor

        begin = time.monotonic()
        meter = Meter(source, lambda: joules(time.monotonic() - begin))
        with (
            replaced(energy, "find", lambda *_: (meter, "")),
            replaced(supervisor, "ENERGY_SECONDS", _WINDOW_SECONDS),
            replaced(machine.LoadWindow, "stop", lambda *_: (0.0, 0.0)),
        ):
            yield

    return opened


def _course(watts: Callable[[float], float]) -> Callable[[float], float]:
    """The joules of watts that change in time and by chance, as those of a device do."""
    chance, state = random.Random(0), {"joules": 0.0, "until": 0.0}

    def joules(now: float) -> float:
        power = watts(now) * (1 + chance.uniform(-0.01, 0.01))
        state["joules"] += power * max(0.0, now - state["until"])
        state["until"] = now
        return state["joules"]

    return joules


def _of(values: Mapping[str, Any], metric: str) -> Any:
    """What the first arm recorded, with other values: `metrics`, `tags`, `cell`, `facts`; compared is
    `metric`."""

    def change(study: Study, rows: Sequence[Row]) -> tuple[Study, list[Row]]:
        arm = study.comparisons[0].numerator
        known = {"energy/joules": 50.0, "energy/watts_mean": 40.0} if metric == ENERGY else {}
        tags = {"energy_source": energy.RAPL_PACKAGE} if known else {}
        given = []
        for row in rows:
            row = replace(row, metrics={**row.metrics, **known}, tags={**row.tags, **tags})
            if row.arm == arm or "cell" in values:  # the condition is that of both arms
                parts: dict[str, Any] = {k: {**getattr(row, k), **v} for k, v in values.items()}
                row = replace(row, **parts)
            given.append(row)
        return replace(study, metric=metric, family=(metric,)), given

    return change


def _launchers_memory(patch: Patch, spec: Spec) -> None:
    from measurement import memory, trial

    patch(trial, "process_peak_bytes", lambda: memory.peak_bytes(os.getppid()))


def _tiny_memory(patch: Patch, spec: Spec) -> None:
    from measurement import trial

    patch(trial, "process_peak_bytes", lambda: 5_000_000)


def _energy(name: str, what: str, word: str, supervisor: Any) -> Fault:
    return Fault(
        name, "E", what, (word,), frameworks=("mlx",), supervisor=supervisor, metric=ENERGY
    )


FAULTS = (
    _energy("table_of_watts", "energy is the processor's typical watts times the time",
            "figure from a table", _metered(lambda t: 65.0 * t)),
    _energy("unknown_source", "energy comes from something that is no counter",
            "is no counter", _metered(_course(lambda t: 20.0 + 5 * t), "typical watts")),
    _energy("stalled_meter", "the counter stands still after a while", "stalled",
            _metered(lambda t: 30.0 * min(t, 1.0))),
    _energy("other_devices_watts", "the meter is that of a device that does nothing",
            "does not see the device", _metered(_course(lambda t: 40.0))),
    _energy("impossible_watts", "one processor is said to take 5 kW", "more than a device takes",
            _metered(_course(lambda t: 100.0 if t < 2 else 5000.0))),
    Fault("energy_without_counter", "E", "the record names no counter that energy is of",
          ("is no counter",), study=_of({"tags": {"energy_source": "TDP of the maker"}}, ENERGY)),
    Fault("memory_of_the_launcher", "E", "peak memory is read in the process that started the worker",
          ("another process",), worker=_launchers_memory, metric=MEMORY),
    Fault("memory_of_nothing", "E", "peak memory is a small number that nobody read",
          ("another process",), frameworks=("pytorch",), worker=_tiny_memory, metric=MEMORY),
    Fault("memory_below_weights", "E", "peak memory is less than the weights take",
          ("less than the",), study=_of({"metrics": {MEMORY: 1000.0}}, MEMORY)),
    Fault("host_memory_for_gpu", "E", "memory of the process for work on a GPU that it does not see",
          ("does not hold that of the GPU",),
          study=_of({"cell": {"device": "gpu"}, "facts": {"machine_os": "Linux 6.1"}}, MEMORY)),
)  # fmt: skip

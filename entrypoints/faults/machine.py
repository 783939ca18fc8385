"""Class D: the machine was in another state for one arm. Load is real; what this machine may not have,
such as heat or a battery, is put into the readings of its counters."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psutil

from entrypoints.faults.fault import Fault
from measurement import machine, monitor, readings
from measurement.gpus import Card
from measurement.readings import Reading

if TYPE_CHECKING:
    from tracking.read import Row, Study

_BURN = """
import os, time
end = time.monotonic() + 120
while time.monotonic() < end:
    os.kill({pid}, 0)  # raises when that process is gone
    for _ in range(100_000):
        pass
"""


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """`owner.name` is `value` meanwhile."""
    own = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, own)


@contextmanager
def _burning() -> Iterator[None]:
    """A busy loop on every processor, started by nobody of this program's family: the process between
    has ended. Each loop ends by itself when this program is gone, or after two minutes."""
    burn = _BURN.format(pid=os.getpid())
    script = (
        "import subprocess, sys\n"
        "quiet = dict.fromkeys(('stdin', 'stdout', 'stderr'), subprocess.DEVNULL)\n"
        f"loops = [subprocess.Popen([sys.executable, '-c', {burn!r}], **quiet)"
        f" for _ in range({psutil.cpu_count() or 1})]\n"
        "print(*(loop.pid for loop in loops))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    loops = [psutil.Process(int(pid)) for pid in done.stdout.split()]
    try:
        yield
    finally:
        for loop in loops:
            with suppress(psutil.NoSuchProcess):
                loop.kill()


@contextmanager
def _in_latency() -> Iterator[None]:
    """The loops run while single items are timed, and no longer."""
    see, running = monitor.Monitor.see, nullcontext()
    open_now: list[AbstractContextManager[Any]] = [running]

    def watched(self: monitor.Monitor, event: dict[str, Any]) -> None:
        if event["event"] == "steps":
            open_now[0] = _burning()
            open_now[0].__enter__()
        elif event["event"] == "ceiling":
            open_now[0].__exit__(None, None, None)
            open_now[0] = nullcontext()
        see(self, event)

    try:
        with replaced(monitor.Monitor, "see", watched):
            yield
    finally:
        open_now[0].__exit__(None, None, None)


def _read(change: Callable[[float], dict[str, Any]], gpu: bool = False) -> Any:
    """Every reading has what `change` gives for the seconds since the first one, added to numbers that
    grow, in place of the others. gpu: the work is said to be on one."""

    @contextmanager
    def opened() -> Iterator[None]:
        call, see = readings.Reader.__call__, monitor.Monitor.see
        first: list[float] = []

        def read(self: readings.Reader, quick: bool = False) -> Reading:
            now = call(self, quick)
            first.append(now.seconds)
            values = change(now.seconds - first[0])
            grown = {k: (getattr(now, k) or 0) + v for k, v in values.items() if k in _GROW}
            return replace(now, **{**values, **grown})

        def on_gpu(self: monitor.Monitor, event: dict[str, Any]) -> None:
            see(self, event)
            self._on_gpu = self._on_gpu or gpu

        with replaced(readings.Reader, "__call__", read), replaced(monitor.Monitor, "see", on_gpu):
            yield

    return opened


_GROW = (
    "swapped_bytes", "heat", "stolen_seconds", "throttled_seconds", "memory_stalled_seconds",
    "wall_seconds",
)  # fmt: skip
_OTHERS = Card(0.95, 8 * 2**30, 0.9, False, False, 1, 6 * 2**30, 0.6)
_HOT = Card(0.95, 2**29, 0.6, True, True, 0, 0, 0.0)


def _rosetta() -> AbstractContextManager[None]:
    return replaced(machine, "_rosetta", lambda: True)


def _asymmetric(flag: str) -> Callable[[Study, Sequence[Row]], tuple[Study, list[Row]]]:
    """All trials of the first arm met it, none of the others."""

    def change(study: Study, rows: Sequence[Row]) -> tuple[Study, list[Row]]:
        arm = study.comparisons[0].numerator
        clean = [replace(r, flags=tuple(f for f in r.flags if f != flag)) for r in rows]
        return study, [replace(r, flags=(*r.flags, flag)) if r.arm == arm else r for r in clean]

    return change


def _fault(name: str, what: str, flag: str, supervisor: Any) -> Fault:
    return Fault(name, "D", what, (flag,), frameworks=("mlx",), supervisor=supervisor)


FAULTS = (
    _fault("background_load", "other programs keep every processor busy", "LOAD", _burning),
    _fault("load_in_latency", "they do so only while latency is timed", "LOAD", _in_latency),
    _fault("swapped", "the machine swaps 50 MB/s", "SWAP",
           _read(lambda t: {"swapped_bytes": int(50e6 * t)})),
    _fault("memory_pressure", "processes wait for memory a tenth of the time", "SWAP",
           _read(lambda t: {"memory_stalled_seconds": 0.1 * t})),
    _fault("thermal_pressure", "macOS says that the machine is hot", "THERMAL",
           _read(lambda t: {"thermal_pressure": 2})),
    _fault("throttled_for_heat", "the processor slows itself for heat", "THERMAL",
           _read(lambda t: {"heat": 0.2 * t, "heat_unit": "s"})),
    _fault("clock_drop", "the clock falls to a fifth", "CLOCK",
           _read(lambda t: {"clock_share": 0.2, "clock_floor": 0.6})),
    _fault("stolen_cpu", "the hypervisor takes half a processor", "STOLEN-CPU",
           _read(lambda t: {"stolen_seconds": 0.5 * t})),
    _fault("container_limit", "a container's limit stops the work a fifth of the time", "CPU-QUOTA",
           _read(lambda t: {"throttled_seconds": 0.2 * t})),
    _fault("one_arm_on_battery", "one arm ran on battery", "BATTERY",
           _read(lambda t: {"on_battery": True})),
    _fault("low_power_mode", "one arm ran in low power mode", "LOW-POWER",
           _read(lambda t: {"low_power": True})),
    _fault("machine_slept", "the machine slept for a minute half way", "SUSPENDED",
           _read(lambda t: {"wall_seconds": 60.0 if t > 1 else 0.0})),
    _fault("rosetta", "one arm ran under Rosetta translation", "ROSETTA", _rosetta),
    _fault("gpu_shared", "another program computes on the GPU", "GPU-SHARED",
           _read(lambda t: {"cards": (_OTHERS,)}, gpu=True)),
    _fault("gpu_throttled", "the GPU slows itself for heat", "THERMAL",
           _read(lambda t: {"cards": (_HOT,)}, gpu=True)),
    Fault("asymmetric_load", "D", "all trials of one arm met a busy machine, none of the other's",
          ("not in the same state",), study=_asymmetric("LOAD")),
    Fault("asymmetric_heat", "D", "all trials of one arm ran on a throttled machine",
          ("not in the same state",), study=_asymmetric("THERMAL")),
)  # fmt: skip

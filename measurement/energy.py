"""Energy and mean power of a window, from the machine's own counters (zeus device layer), or the
reason why there is none. A figure from a table of typical watts is never energy.

zeus' monitor is not used: its total leaves Apple's SoC out, it imports torch to synchronise, and it
closes an Apple window before any barrier. The worker waits; the supervisor reads the counters.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MINIMUM_SECONDS = 5.0  # Apple's CPU counters were seen to advance in batches of a third of a second
RAPL = Path("/sys/class/powercap")


@dataclass(frozen=True)
class Energy:
    """`joules` and `watts_mean` are None when not measured; `status` then says why."""

    joules: float | None
    watts_mean: float | None
    seconds: float
    source: str
    status: str  # measured, or "not measured: <reason>"


@dataclass(frozen=True)
class Meter:
    """A cumulative counter: `read()` gives joules since an arbitrary moment."""

    source: str
    read: Callable[[], float]


def find(device: str, index: int = 0) -> tuple[Meter | None, str]:
    """(meter, "") for `device` (cpu, gpu, or both as in cpu-gpu) on this machine, or (None, reason).
    index: of several GPUs."""
    if platform.system() == "Darwin":
        return _apple()
    found = [
        _nvidia(index) if place == "gpu" else _rapl() for place in sorted({*device.split("-")})
    ]
    meters = [meter for meter, _ in found if meter]
    if len(meters) < len(found):  # the energy of one of two devices is not that of the work
        return None, "; ".join(reason for _, reason in found if reason)
    source = " + ".join(meter.source for meter in meters)
    return Meter(source, lambda: sum(meter.read() for meter in meters)), ""


class Window:
    """Reads the meter at start() and stop(); stop() returns the Energy between."""

    def __init__(
        self, meter: Meter | None, reason: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._meter, self._reason, self._clock = meter, reason, clock
        self._start: tuple[float, float] | None = None

    def start(self) -> None:
        if self._meter and (joules := self._read(self._meter)) is not None:
            self._start = joules, self._clock()

    def stop(self) -> Energy:
        """Raises nothing for an absent, failing, short or stalled meter: the status says it."""
        end = self._read(self._meter) if self._meter and self._start else None
        if self._meter is None or self._start is None or end is None:
            return Energy(None, None, 0.0, "", f"not measured: {self._reason or 'no window'}")
        joules, seconds = end - self._start[0], self._clock() - self._start[1]
        if seconds < MINIMUM_SECONDS:
            reason = f"the window took {seconds:.1f} s, {MINIMUM_SECONDS:.0f} s are needed"
        elif not joules > 0:
            reason = "the meter stalled: its counter did not advance under load"
        else:
            return Energy(joules, joules / seconds, seconds, self._meter.source, "measured")
        return Energy(None, None, seconds, self._meter.source, f"not measured: {reason}")

    def _read(self, meter: Meter) -> float | None:
        try:
            return meter.read()
        except Exception as error:  # noqa: BLE001 each meter's library has errors of its own
            self._reason = f"the meter failed: {error}"
            return None


def _apple() -> tuple[Meter | None, str]:
    from zeus.device.exception import ZeusBaseSoCError
    from zeus.device.soc import get_soc

    try:
        soc = get_soc()
    except ZeusBaseSoCError as error:
        return None, f"no meter ({error}); pip install zeus-apple-silicon"

    def read() -> float:
        measured = soc.get_total_energy_consumption()
        parts = ("cpu_total_mj", "gpu_mj", "gpu_sram_mj", "dram_mj", "ane_mj")
        return sum(getattr(measured, part, None) or 0 for part in parts) / 1000

    # IOReport's values are Apple's own model of the chip: good for two frameworks on one machine.
    return Meter("Apple IOReport (SoC, modelled)", read), ""


def _nvidia(index: int) -> tuple[Meter | None, str]:
    from zeus.device.exception import ZeusBaseGPUError
    from zeus.device.gpu import get_gpus

    try:
        gpus = get_gpus()
        # zeus counts the GPUs in CUDA_VISIBLE_DEVICES from 0, as the frameworks do.
        if not gpus.supports_get_total_energy_consumption(index):
            return None, "no meter: this GPU has no energy counter"
    except (ZeusBaseGPUError, ValueError, IndexError) as error:
        return None, f"no meter ({error})"
    return Meter("NVML energy counter", lambda: gpus.get_total_energy_consumption(index) / 1000), ""


def _rapl() -> tuple[Meter | None, str]:
    # By name: laptops show the whole platform as one more zone (psys) that holds the package again.
    names = sorted(RAPL.glob("intel-rapl:*/name"))
    counters = [n.parent / "energy_uj" for n in names if n.read_text().startswith("package-")]
    if not counters:
        return None, "no meter: this CPU shows no RAPL counter (usual in a virtual machine)"
    if not all(os.access(counter, os.R_OK) for counter in counters):
        return (
            None,
            f"no permission: an administrator may run 'chmod a+r {RAPL}/intel-rapl:*/energy_uj'",
        )
    limits = {c: int((c.parent / "max_energy_range_uj").read_text()) for c in counters}
    last = {c: int(c.read_text()) for c in counters}
    total = dict.fromkeys(counters, 0)

    def read() -> float:
        # The counter wraps after minutes under load; windows are seconds, so once at the most.
        # Read here and not by zeus, which starts a process per zone that imports this program.
        for counter in counters:
            now = int(counter.read_text())
            total[counter] += (now - last[counter]) % limits[counter]
            last[counter] = now
        return sum(total.values()) / 1e6

    return Meter("RAPL package", read), ""

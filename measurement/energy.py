"""Energy and mean power of a window, from the machine's own counters (zeus device layer), or the
reason why there is none. A figure from a table of typical watts is never energy.

zeus' monitor is not used: its total leaves Apple's SoC out, it imports torch to synchronise, and it
closes an Apple window before any barrier. The worker waits; the supervisor reads the counters.
"""

from __future__ import annotations

import os
import platform
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

MINIMUM_SECONDS = 5.0  # Apple's CPU counters were seen to advance in batches of a third of a second
LOOK_SECONDS = 0.5  # between readings within a window
IDLE_SECONDS = 1.5  # without the worker, before it begins
STANDSTILL_SECONDS = 2.0  # a counter in use advances every third of a second at the latest
CONSTANT_SHARE = 1e-4
"""Typical (median) distance of a reading's power from the median. That of a device at an even load is
thousandths; that of a figure times the time is the jitter of the clock, hundred-thousandths."""
LOAD_SHARE = 0.02  # by which a meter must show more under load than without
LEAST_WATTS, MOST_WATTS = 0.1, 2000.0
"""Of a device at work. A phone's processor takes more than the one; no single one that is built takes
the other."""
BATTERY_JOULES = 100 * 3600.0  # the largest that a laptop may carry onto an aeroplane
APPLE, NVML, RAPL_PACKAGE = "Apple IOReport (SoC, modelled)", "NVML energy counter", "RAPL package"
KNOWN = frozenset({APPLE, NVML, RAPL_PACKAGE})
RAPL = Path("/sys/class/powercap")


@dataclass(frozen=True)
class Energy:
    """`joules` and `watts_mean` are None when not measured; `status` then says why."""

    joules: float | None
    watts_mean: float | None
    seconds: float
    source: str
    status: str  # measured, or "not measured: <reason>"
    watts: Sequence[float] = ()  # in the course of the window


@dataclass(frozen=True)
class Meter:
    """A cumulative counter: `read()` gives joules since an arbitrary moment."""

    source: str
    read: Callable[[], float]
    devices: int = 1


Reading = tuple[float, float]  # joules, and the moment


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
    devices = sum(meter.devices for meter in meters)
    return Meter(source, lambda: sum(meter.read() for meter in meters), devices), ""


def unknown(source: str) -> str | None:
    """Why a source of energy is none, in a sentence; None where all of it are counters.

    >>> unknown("RAPL package + NVML energy counter")
    >>> unknown("typical watts")
    "'typical watts' is no counter of a device that is known here"
    """
    for part in source.split(" + "):
        if part not in KNOWN:
            return f"'{part or 'nothing named'}' is no counter of a device that is known here"
    return None


def implausible(watts: float, devices: int = 1) -> str | None:
    """Why a power is none of so many devices at work; None where it may be.

    >>> implausible(35.0), implausible(2500.0)
    (None, '2,500 W are more than a device takes (2,000 W)')
    """
    if watts > MOST_WATTS * devices:
        return f"{watts:,.0f} W are more than a device takes ({MOST_WATTS:,.0f} W)"
    if not watts >= LEAST_WATTS:
        return f"{watts:.3g} W are less than a device at work takes ({LEAST_WATTS:g} W)"
    return None


def untrue(readings: Sequence[Reading], idle_watts: float | None, devices: int = 1) -> str | None:
    """Why the readings of a window are not those of a counter that sees the work; None where they may
    be. idle_watts: of the same meter without the work; None where that is not known."""
    joules, seconds = (b - a for a, b in zip(readings[0], readings[-1], strict=True))
    if not joules > 0:
        return "the meter stalled: its counter did not advance under load"
    moved = readings[0]
    for now in readings:
        if now[0] < moved[0]:
            return "the meter's counter went back under load"
        if now[0] > moved[0]:
            moved = now
        elif now[1] - moved[1] > STANDSTILL_SECONDS:
            return f"the meter stalled: its counter stood still for {now[1] - moved[1]:.1f} s"
    powers = [
        (b[0] - a[0]) / (b[1] - a[1])
        for a, b in zip(readings, readings[1:], strict=False)
        if b[1] - a[1] > LOOK_SECONDS / 2  # the last one may come at once
    ]
    middle = statistics.median(powers) if powers else 0.0
    apart = statistics.median(abs(power - middle) for power in powers) if powers else 0.0
    if len(powers) >= _LEAST_POWERS and apart < CONSTANT_SHARE * middle:
        return (
            f"the power was {middle:.6g} W at all times: that is a figure from a table, no counter"
        )
    watts = joules / seconds
    if idle_watts is not None and watts < (1 + LOAD_SHARE) * idle_watts:
        return (
            f"the meter shows {watts:.3g} W with the work and {idle_watts:.3g} W without: it does not "
            "see the device that worked"
        )
    return implausible(watts, devices)


_LEAST_POWERS = 5


def idle(meters: Mapping[str, tuple[Meter | None, str]]) -> dict[str, float]:
    """Device -> watts without the work, of every meter that can be read."""
    before = {device: _reading(meter) for device, (meter, _) in meters.items() if meter}
    if not before:
        return {}
    time.sleep(IDLE_SECONDS)
    found = {}
    for device, first in before.items():
        meter, _ = meters[device]
        last = _reading(meter) if meter else None
        if first and last and last[1] > first[1]:
            found[device] = (last[0] - first[0]) / (last[1] - first[1])
    return found


def _reading(meter: Meter) -> Reading | None:
    try:
        return meter.read(), time.monotonic()
    except Exception:  # noqa: BLE001 each meter's library has errors of its own; the window says which
        return None


class Window:
    """Reads the meter at start() and stop(), and twice a second between: a thread, in a process that is
    not timed then. stop() returns the Energy between. idle_watts: of the meter without the work."""

    def __init__(
        self,
        meter: Meter | None,
        reason: str,
        clock: Callable[[], float] = time.monotonic,
        idle_watts: float | None = None,
    ) -> None:
        self._meter, self._reason, self._clock = meter, reason, clock
        self._idle = idle_watts
        self._readings: list[Reading] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def start(self) -> None:
        if self._meter and self._read(self._meter):
            self._thread.start()

    def stop(self) -> Energy:
        """Raises nothing for an absent, failing, short, stalled or untrue meter: the status says it."""
        self.close()
        begun = bool(self._readings)
        if self._meter is None or not begun or not self._read(self._meter):
            return Energy(None, None, 0.0, "", f"not measured: {self._reason or 'no window'}")
        joules, seconds = (b - a for a, b in zip(*self._ends(), strict=True))
        source = self._meter.source
        if seconds < MINIMUM_SECONDS:
            reason = f"the window took {seconds:.1f} s, {MINIMUM_SECONDS:.0f} s are needed"
        elif wrong := unknown(source) or untrue(self._readings, self._idle, self._meter.devices):
            reason = wrong
        else:
            return Energy(joules, joules / seconds, seconds, source, "measured", self.watts())
        return Energy(None, None, seconds, source, f"not measured: {reason}", self.watts())

    def close(self) -> None:
        """Ends the looking, of a window too whose end never came."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def watts(self) -> list[float]:
        """Between one reading and the next."""
        pairs = zip(self._readings, self._readings[1:], strict=False)
        return [(b[0] - a[0]) / (b[1] - a[1]) for a, b in pairs if b[1] > a[1]]

    def _ends(self) -> tuple[Reading, Reading]:
        return self._readings[0], self._readings[-1]

    def _look(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            if self._meter is None or not self._read(self._meter):
                return

    def _read(self, meter: Meter) -> bool:
        try:
            self._readings.append((meter.read(), self._clock()))
        except Exception as error:  # noqa: BLE001 each meter's library has errors of its own
            self._reason = f"the meter failed: {error}"
            return False
        return True


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
    return Meter(APPLE, read), ""


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
    return Meter(NVML, lambda: gpus.get_total_energy_consumption(index) / 1000), ""


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

    return Meter(RAPL_PACKAGE, read, len(counters)), ""

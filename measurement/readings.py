"""Counters of this machine, all read at one moment: who computed, what was swapped, what was slowed.

Counters only grow, so that the difference of two readings is what happened between them, to processes
that began and ended meanwhile too. What a system does not tell is None.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from measurement import machine, memory
from measurement.gpus import Card, Cards

PROC, CPUS = Path("/proc"), Path("/sys/devices/system/cpu")
BUSY_CPU = 0.5  # share of a reading's time from which a processor's clock is that of work
_CLOCKS_READ = 3  # some kernels wake a processor to read its clock
_HEAT_FILES = 8
_LOW_POWER_SECONDS = 30.0  # macOS tells it by a command only


@dataclass(frozen=True)
class Reading:
    """The machine at a moment. Seconds of processors are summed over those that this process may use."""

    seconds: float  # of the monotonic clock, which stands while the machine sleeps
    wall_seconds: float
    cpus: int
    busy_seconds: float
    stolen_seconds: float  # by the hypervisor
    own_seconds: float  # of this process
    worker_seconds: float  # of all that it started, those that have ended included
    swapped_bytes: int | None = None  # in and out
    swap_used_bytes: int = 0
    memory_stalled_seconds: float | None = None  # in which some process waited for memory (Linux)
    throttled_seconds: float | None = (
        None  # that a control group's limit took, per core of the limit
    )
    heat: float | None = (
        None  # seconds, or events where the kernel does not time them, of throttling
    )
    heat_unit: str = "s"
    thermal_pressure: int | None = None  # macOS, 0 to 4
    clock_share: float | None = None  # of the highest clock that a busy processor has
    clock_floor: float | None = None  # the share that any load is promised
    on_battery: bool = False
    low_power: bool = False
    cards: tuple[Card, ...] = ()


class Reader:
    """Reads this machine again and again. cards: the GPUs that the work may run on."""

    def __init__(self, cards: Cards | None = None) -> None:
        self._cards = cards
        self._pid = os.getpid()
        self._linux = sys.platform == "linux"
        self._usable = os.sched_getaffinity(0) if self._linux else set()
        self._quota = machine.core_quota() or len(self._usable) or psutil.cpu_count() or 1
        self._heat = _heat_files()
        self._groups = [f / "cpu.stat" for f in memory.control_groups("cpu")]
        self._battery = _has_battery()
        self._last: tuple[float, dict[int, float]] | None = None  # (seconds, busy by processor)
        self._slow: dict[str, object] = {}
        self._low_power_read = -_LOW_POWER_SECONDS

    def __call__(self, quick: bool = False) -> Reading:
        """quick: what a moment's state is (clock, power, GPUs) is that of the reading before."""
        now = time.monotonic()
        busy, stolen = self._processors()
        own, below = self._tree()
        if not quick:
            self._slow = self._states(now, busy)
        return Reading(
            seconds=now,
            wall_seconds=time.time(),
            cpus=len(busy) or psutil.cpu_count() or 1,
            busy_seconds=sum(busy.values()),
            stolen_seconds=stolen,
            own_seconds=own,
            worker_seconds=below,
            swapped_bytes=self._swapped(),
            memory_stalled_seconds=_stalled("memory"),
            throttled_seconds=self._throttled(),
            heat=self._hot(),
            heat_unit=self._heat[1],
            **self._slow,  # type: ignore[arg-type]
        )

    def _states(self, now: float, busy: dict[int, float]) -> dict[str, object]:
        clock, floor = self._clock(now, busy)
        if now - self._low_power_read >= _LOW_POWER_SECONDS:
            self._low_power_read, self._low = now, machine.low_power_mode()
        return {
            "swap_used_bytes": self._swap_used(),
            "thermal_pressure": machine.thermal_pressure(),
            "clock_share": clock,
            "clock_floor": floor,
            "on_battery": self._battery and machine.on_battery(),
            "low_power": self._low,
            "cards": self._cards.read(self._pids) if self._cards else (),
        }

    def _processors(self) -> tuple[dict[int, float], float]:
        """(seconds in which each processor ran a process, seconds stolen from all)."""
        if not self._linux:
            times = psutil.cpu_times()
            count = psutil.cpu_count() or 1
            total = times.user + times.system + getattr(times, "nice", 0.0)
            return dict.fromkeys(range(count), total / count), 0.0
        busy, stolen = {}, 0
        for line in (PROC / "stat").read_bytes().splitlines():
            if not line.startswith(b"cpu"):
                break
            name, *fields = line.split()
            if name == b"cpu" or int(name[3:]) not in self._usable:
                continue
            ticks = [int(field) for field in fields]
            busy[int(name[3:])] = (sum(ticks[:3]) + sum(ticks[5:7])) / _TICKS
            stolen += ticks[7] if len(ticks) > 7 else 0
        return busy, stolen / _TICKS

    def _tree(self) -> tuple[float, float]:
        """(seconds of this process, of all that it started): a process that has ended lives on in the
        count of the one that waited for it."""
        self._pids = {self._pid}
        times, children = (_times, _children) if self._linux else (_mac_times, _mac_children)
        own, below = times(self._pid) or (0.0, 0.0)
        left = list(children(self._pid))
        while left:
            pid = left.pop()
            found = times(pid)
            if found is None or pid in self._pids:
                continue
            self._pids.add(pid)
            below += sum(found)
            left += children(pid)
        return own, below

    def _swapped(self) -> int | None:
        if not self._linux:
            return _mac_swapped()
        text = (PROC / "vmstat").read_bytes()
        found = re.findall(rb"^pswp(?:in|out) (\d+)$", text, re.MULTILINE)
        return sum(map(int, found)) * _PAGE if found else None

    def _swap_used(self) -> int:
        if not self._linux:
            return int(psutil.swap_memory().used)
        text = (PROC / "meminfo").read_bytes()
        total, free = (re.search(rb"^Swap%s: +(\d+)" % n, text, re.MULTILINE) for n in _SWAP)
        return (int(total[1]) - int(free[1])) * 1024 if total and free else 0

    def _throttled(self) -> float | None:
        """The most of this process's groups: a limit above counts those below again."""
        found = []
        for path in self._groups:
            try:
                text = path.read_bytes()
            except OSError:  # no such controller, or the other version of control groups
                continue
            if match := re.search(rb"^throttled_(usec|time) (\d+)$", text, re.MULTILINE):
                found.append(int(match[2]) / (1e6 if match[1] == b"usec" else 1e9))
        return max(found) / self._quota if found else None

    def _hot(self) -> float | None:
        files, unit = self._heat
        if not files:
            return None
        most = max(int(path.read_bytes()) for path in files)
        return most / 1000 if unit == "s" else float(most)

    def _clock(self, now: float, busy: dict[int, float]) -> tuple[float | None, float | None]:
        """(share of its highest clock, the share it is promised) of the fastest of the processors that
        worked most since the last reading; (None, None) where none did or none tells."""
        last, self._last = self._last, (now, busy)
        if last is None or not self._linux:
            return None, None
        spent = {cpu: seconds - last[1].get(cpu, seconds) for cpu, seconds in busy.items()}
        working = [c for c in spent if spent[c] > BUSY_CPU * (now - last[0])]
        working = sorted(working, key=lambda c: -spent[c])[:_CLOCKS_READ]
        found = [clock for c in working if (clock := _clock_of(CPUS / f"cpu{c}"))]
        return max(found, key=lambda pair: pair[0] / pair[1]) if found else (None, None)


_SWAP = (b"Total", b"Free")
_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


def _times(pid: int) -> tuple[float, float] | None:
    """(seconds of a process, of those it started and waited for); None when it is gone."""
    try:
        text = (PROC / str(pid) / "stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(b")") + 2 :].split()  # the name before may hold anything
    own, ended = int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14])
    return own / _TICKS, ended / _TICKS


def _children(pid: int) -> Iterator[int]:
    """Of every thread of a process. Asking each process for its parent would cost a read of all."""
    folder = PROC / str(pid) / "task"
    try:
        for thread in os.listdir(folder):
            yield from map(int, (folder / thread / "children").read_bytes().split())
    except (FileNotFoundError, ProcessLookupError):  # it, or a thread of it, has just ended
        return


def _stalled(what: str) -> float | None:
    """Seconds in which at least one process waited for it (Linux's pressure stall information)."""
    try:
        text = (PROC / "pressure" / what).read_bytes()
    except OSError:  # another system, or a kernel that does not count it
        return None
    match = re.search(rb"^some .*total=(\d+)", text, re.MULTILINE)
    return int(match[1]) / 1e6 if match else None


def _heat_files() -> tuple[list[Path], str]:
    """(counters of throttling by heat, their unit): seconds where the kernel times it, else events.
    Processors of one package share its heat, so a few of them are enough."""
    for kind, unit in (("total_time_ms", "s"), ("count", "events")):
        files = sorted(CPUS.glob(f"cpu[0-9]*/thermal_throttle/package_throttle_{kind}"))
        if files:
            return files[:: -(-len(files) // _HEAT_FILES)], unit
    return [], "s"


def _clock_of(folder: Path) -> tuple[float, float] | None:
    """(clock over the highest one, promised clock over the highest one) of a processor."""
    try:
        highest = int((folder / "cpufreq/cpuinfo_max_freq").read_bytes())
        now = int((folder / "cpufreq/scaling_cur_freq").read_bytes())
    except (OSError, ValueError):  # virtual machines have none
        return None
    for name, unit in (("cpufreq/base_frequency", 1), ("acpi_cppc/nominal_freq", 1000)):
        try:
            promised = int((folder / name).read_bytes()) * unit
            return now / highest, min(promised / highest, 1.0)
        except (OSError, ValueError):
            continue
    return now / highest, _UNKNOWN_FLOOR


_UNKNOWN_FLOOR = 0.6  # laptops sustain little more than half of their shortest burst


def _has_battery() -> bool:
    return bool(hasattr(psutil, "sensors_battery") and psutil.sensors_battery())


# macOS: the counters of <libproc.h> and <mach/host_info.h>.


def _mac_times(pid: int) -> tuple[float, float] | None:
    try:
        ticks = _mac_ticks_per_second()
        own = memory.rusage(pid, *memory.TIMES)
        return own / ticks, memory.rusage(pid, *memory.CHILD_TIMES) / ticks
    except OSError:  # it has ended
        return None


def _mac_ticks_per_second() -> float:
    class Timebase(ctypes.Structure):
        _fields_ = [("numer", ctypes.c_uint32), ("denom", ctypes.c_uint32)]

    base = Timebase()
    ctypes.CDLL(None).mach_timebase_info(ctypes.byref(base))
    return 1e9 * base.denom / base.numer


def _mac_children(pid: int) -> list[int]:
    found = (ctypes.c_int * 1024)()
    library = ctypes.CDLL("libproc.dylib")
    count = library.proc_listchildpids(pid, found, ctypes.sizeof(found))
    return [child for child in found[: max(0, count)] if child > 0]


def _mac_swapped() -> int | None:
    class Statistics(ctypes.Structure):  # vm_statistics64
        _fields_ = [
            *[(f"pages_{i}", ctypes.c_uint32) for i in range(4)],
            *[(f"count_{i}", ctypes.c_uint64) for i in range(9)],
            *[(f"pages_{i}", ctypes.c_uint32) for i in range(4, 6)],
            ("decompressions", ctypes.c_uint64),
            ("compressions", ctypes.c_uint64),
            ("swapins", ctypes.c_uint64),
            ("swapouts", ctypes.c_uint64),
            *[(f"pages_{i}", ctypes.c_uint32) for i in range(6, 10)],
            ("uncompressed", ctypes.c_uint64),
        ]

    found = Statistics()
    words = ctypes.c_uint32(ctypes.sizeof(found) // 4)
    library = ctypes.CDLL(None)
    library.mach_host_self.restype = ctypes.c_uint32
    host = ctypes.c_uint32(library.mach_host_self())
    if library.host_statistics64(host, 4, ctypes.byref(found), ctypes.byref(words)) != 0:
        return None
    return int(found.swapins + found.swapouts) * _PAGE


if platform.system() not in ("Linux", "Darwin"):  # pragma: no cover
    raise ImportError("this project measures on Linux and macOS")

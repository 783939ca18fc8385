"""Memory of a process. Not the device allocator's: that is another metric."""

from __future__ import annotations

import ctypes
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path

import psutil


def process_peak_bytes() -> int:
    """Highest resident size so far (Linux), or lifetime peak of the physical footprint (macOS,
    where the resident size leaves Metal's memory out).

    On Linux VmHWM and not `ru_maxrss`, which a child inherits from the process that started it.
    """
    if platform.system() == "Darwin":
        return rusage(os.getpid(), LIFETIME_MAX_FOOTPRINT)
    peak = _high_water_mark("self")
    if peak is None:
        raise RuntimeError("/proc/self/status has no VmHWM")
    return peak


def peak_bytes(pid: int) -> int | None:
    """`process_peak_bytes` of another process, as it is seen from outside; None when it has ended."""
    try:
        if platform.system() == "Darwin":
            return rusage(pid, LIFETIME_MAX_FOOTPRINT)
        return _high_water_mark(str(pid))
    except OSError:
        return None


def _high_water_mark(pid: str) -> int | None:
    status = Path(f"/proc/{pid}/status").read_text()
    match = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)  # a zombie has none
    return int(match.group(1)) * 1024 if match else None


def contradiction(claimed: int, before: int | None, after: int | None) -> str | None:
    """Why a peak that a process claims cannot be its own; None when it can. before, after: its peak
    as seen from outside at a moment before it was claimed, and at one after; None: not seen.

    A meter of another process (the one that started it, a launcher), a peak that was inherited, or
    one that was never read is found so, whatever it shows.
    """
    for seen, wrong in ((before, (before or 0) - claimed), (after, claimed - (after or claimed))):
        if seen is not None and wrong > _APART_SHARE * seen + _APART_BYTES:
            return (
                f"the process claims a peak of {claimed / 2**20:,.0f} MiB; seen from outside it was "
                f"{seen / 2**20:,.0f} MiB, so the meter is that of another process"
            )
    return None


# Linux counts resident pages per processor and adds them up late: megabytes on large machines.
_APART_SHARE, _APART_BYTES = 0.02, 8 * 2**20


ITEM_BYTES = {"float32": 4, "tf32": 4, "bfloat16": 2, "float16": 2}


def too_small(claimed: int, parameters: int, item_bytes: int, trained: bool) -> str | None:
    """Why a peak cannot be that of the work; None when it can. A process holds its weights, and one
    that trains them their gradients or the optimiser's state too.

    >>> too_small(10 * 2**20, 4 * 2**20, 4, True)
    'a peak of 10 MiB is less than the 32 MiB of the weights and their gradients'
    """
    least = parameters * item_bytes * (2 if trained else 1)
    if claimed >= least:
        return None
    what = "weights and their gradients" if trained else "weights"
    return f"a peak of {claimed / 2**20:,.0f} MiB is less than the {least / 2**20:,.0f} MiB of the {what}"


def resident_bytes(pid: int) -> int | None:
    """What another process holds now, in the measure of `process_peak_bytes`; None when it has
    ended."""
    try:
        if platform.system() == "Darwin":
            return rusage(pid, FOOTPRINT)
        return int(psutil.Process(pid).memory_info().rss)
    except (psutil.NoSuchProcess, ProcessLookupError):
        return None


def available_bytes() -> int:
    """Memory that a new process could take without anything being swapped out, in this machine and
    in the Linux control groups (containers, service limits) that this process is in."""
    found = [int(psutil.virtual_memory().available)]
    for folder in control_groups("memory"):
        for limit, used in (
            ("memory.max", "memory.current"),  # version 2, then version 1
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            try:
                most, held = (folder / limit).read_text().strip(), (folder / used).read_text()
                statistics = (folder / "memory.stat").read_text()
            except OSError:  # the other version, or no group with a limit
                continue
            if most != "max":
                cache = re.search(r"^(?:total_)?inactive_file (\d+)$", statistics, re.MULTILINE)
                given_back = int(cache.group(1)) if cache else 0  # files count as used
                found.append(int(most) - int(held) + given_back)
    return max(0, min(found))


def control_groups(controller: str) -> Iterator[Path]:
    """The folders of this process's groups for memory or cpu, and of those above them."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers and controller not in controllers.split(","):
            continue
        top = Path("/sys/fs/cgroup") / controllers
        own = top / path.lstrip("/")
        yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(top))


def rusage(pid: int, *fields: int) -> int:
    """The sum of fields of rusage_info_v4, <sys/resource.h> of macOS; bytes or ticks."""

    class RusageInfoV4(ctypes.Structure):
        _fields_ = [
            ("uuid", ctypes.c_uint8 * 16),
            *[(f"field_{i}", ctypes.c_uint64) for i in range(_V4_FIELDS)],
        ]

    info = RusageInfoV4()
    library = ctypes.CDLL("libproc.dylib", use_errno=True)
    if library.proc_pid_rusage(pid, 4, ctypes.byref(info)) != 0:
        raise OSError(ctypes.get_errno(), "proc_pid_rusage failed")
    return sum(int(getattr(info, f"field_{field}")) for field in fields)


# Order of the 64-bit fields after ri_uuid: user_time 0, system_time, pkg_idle_wkups,
# interrupt_wkups, pageins, wired_size 5, resident_size, phys_footprint 7, proc_start_abstime,
# proc_exit_abstime, child_user_time 10 .. child_elapsed_abstime 15, diskio_bytesread 16,
# diskio_byteswritten, cpu_time_qos_default 18 .. cpu_time_qos_user_interactive 24,
# billed_system_time 25, serviced_system_time, logical_writes 27, lifetime_max_phys_footprint 28,
# instructions, cycles, billed_energy, serviced_energy, interval_max_phys_footprint, runnable_time.
FOOTPRINT, LIFETIME_MAX_FOOTPRINT = 7, 28
TIMES, CHILD_TIMES = (0, 1), (10, 11)
_V4_FIELDS = 35

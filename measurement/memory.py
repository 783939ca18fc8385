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
        return _footprint_bytes(os.getpid(), _LIFETIME_MAX_FOOTPRINT)
    status = Path("/proc/self/status").read_text()
    match = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    if match is None:
        raise RuntimeError("/proc/self/status has no VmHWM")
    return int(match.group(1)) * 1024


def resident_bytes(pid: int) -> int | None:
    """What another process holds now, in the measure of `process_peak_bytes`; None when it has
    ended."""
    try:
        if platform.system() == "Darwin":
            return _footprint_bytes(pid, _FOOTPRINT)
        return int(psutil.Process(pid).memory_info().rss)
    except (psutil.NoSuchProcess, ProcessLookupError):
        return None


def available_bytes() -> int:
    """Memory that a new process could take without anything being swapped out, in this machine and
    in the Linux control groups (containers, service limits) that this process is in."""
    found = [int(psutil.virtual_memory().available)]
    for folder in _control_groups():
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


def _control_groups() -> Iterator[Path]:
    """The folders of this process's groups and of those above them."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers not in ("", "memory"):
            continue
        top = Path("/sys/fs/cgroup") / controllers
        own = top / path.lstrip("/")
        yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(top))


def _footprint_bytes(pid: int, field: int) -> int:
    """A field of rusage_info_v4, <sys/resource.h> of macOS: `ri_phys_footprint` or
    `ri_lifetime_max_phys_footprint`."""

    class RusageInfoV4(ctypes.Structure):
        _fields_ = [
            ("uuid", ctypes.c_uint8 * 16),
            *[(f"field_{i}", ctypes.c_uint64) for i in range(_V4_FIELDS)],
        ]

    info = RusageInfoV4()
    library = ctypes.CDLL("libproc.dylib", use_errno=True)
    if library.proc_pid_rusage(pid, 4, ctypes.byref(info)) != 0:
        raise OSError(ctypes.get_errno(), "proc_pid_rusage failed")
    return int(getattr(info, f"field_{field}"))


# Order of the 64-bit fields after ri_uuid: user_time 0, system_time, pkg_idle_wkups,
# interrupt_wkups, pageins, wired_size 5, resident_size, phys_footprint 7, proc_start_abstime,
# proc_exit_abstime, child_user_time 10 .. child_elapsed_abstime 15, diskio_bytesread 16,
# diskio_byteswritten, cpu_time_qos_default 18 .. cpu_time_qos_user_interactive 24,
# billed_system_time 25, serviced_system_time, logical_writes 27, lifetime_max_phys_footprint 28,
# instructions, cycles, billed_energy, serviced_energy, interval_max_phys_footprint, runnable_time.
_FOOTPRINT, _LIFETIME_MAX_FOOTPRINT = 7, 28
_V4_FIELDS = 35

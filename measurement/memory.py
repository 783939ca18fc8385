"""Peak memory of this process. Not the device allocator's: that is another metric."""

from __future__ import annotations

import ctypes
import os
import platform
import re
from pathlib import Path


def process_peak_bytes() -> int:
    """Highest resident size so far (Linux), or lifetime peak of the physical footprint (macOS,
    where the resident size leaves Metal's memory out).

    On Linux VmHWM and not `ru_maxrss`, which a child inherits from the process that started it.
    """
    if platform.system() == "Darwin":
        return _footprint_peak_bytes()
    status = Path("/proc/self/status").read_text()
    match = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    if match is None:
        raise RuntimeError("/proc/self/status has no VmHWM")
    return int(match.group(1)) * 1024


def _footprint_peak_bytes() -> int:
    """`ri_lifetime_max_phys_footprint` of rusage_info_v4, <sys/resource.h> of macOS."""

    class RusageInfoV4(ctypes.Structure):
        _fields_ = [
            ("uuid", ctypes.c_uint8 * 16),
            *[(f"field_{i}", ctypes.c_uint64) for i in range(_V4_FIELDS)],
        ]

    info = RusageInfoV4()
    library = ctypes.CDLL("libproc.dylib", use_errno=True)
    if library.proc_pid_rusage(os.getpid(), 4, ctypes.byref(info)) != 0:
        raise OSError(ctypes.get_errno(), "proc_pid_rusage failed")
    return int(getattr(info, f"field_{_LIFETIME_MAX_FOOTPRINT}"))


# Order of the 64-bit fields after ri_uuid: user_time 0, system_time, pkg_idle_wkups,
# interrupt_wkups, pageins, wired_size 5, resident_size, phys_footprint 7, proc_start_abstime,
# proc_exit_abstime, child_user_time 10 .. child_elapsed_abstime 15, diskio_bytesread 16,
# diskio_byteswritten, cpu_time_qos_default 18 .. cpu_time_qos_user_interactive 24,
# billed_system_time 25, serviced_system_time, logical_writes 27, lifetime_max_phys_footprint 28,
# instructions, cycles, billed_energy, serviced_energy, interval_max_phys_footprint, runnable_time.
_LIFETIME_MAX_FOOTPRINT = 28
_V4_FIELDS = 35

"""The processor's time of single threads of this process, where the system counts it (Linux)."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable


def threads() -> set[int]:
    """Ids of the threads of this process; none where nobody says."""
    return (
        {int(name) for name in os.listdir("/proc/self/task")} if sys.platform == "linux" else set()
    )


def seconds(ids: Iterable[int]) -> float:
    """Processor time of threads that live. The clock's number is made as pthread_getcpuclockid makes it
    (linux/posix-timers_types.h: the complement of the id, and 6 for one thread's scheduled time)."""
    return sum(time.clock_gettime((~thread << 3) | 6) for thread in ids)

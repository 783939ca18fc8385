"""A process that takes too much is ended in time, with all that it started; others are left alone."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from measurement import memory
from measurement.doubts import Stopwatch
from measurement.phases import check_clock
from measurement.watch import Watch

MIB = 2**20
GREEDY = """
import time
kept = []
for _ in range(400):  # 10 MiB at a time, up to 4 GB
    kept.append(bytearray(b"x") * (10 * 2**20))
    time.sleep(0.002)
"""
FAMILY = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
time.sleep(60)
"""


def start(program: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)


def gone(pid: int, seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


def test_a_greedy_process_is_ended_with_little_over_the_limit() -> None:
    process, watch = start(GREEDY), Watch(200 * MIB, 60)
    with watch(process):
        code = process.wait()
    assert code < 0 and watch.stopped == "memory"
    # Grows by 5 MiB a millisecond at most; a machine that is busy looks later.
    assert 200 * MIB < watch.peak_bytes < 700 * MIB


def test_a_process_below_the_limit_is_left_alone() -> None:
    process, watch = (
        start("x = bytearray(50 * 2**20); import time; time.sleep(0.2)"),
        Watch(None, 60),
    )
    with watch(process):
        assert process.wait() == 0
    assert watch.stopped == "" and watch.peak_bytes > 50 * MIB


def test_a_process_that_takes_too_long_is_ended_with_its_children() -> None:
    process, watch = start(FAMILY), Watch(None, 1.5)
    assert process.stdout is not None
    with watch(process):
        child = int(process.stdout.readline())
        process.wait()
    process.stdout.close()
    assert watch.stopped == "time" and gone(child) and gone(process.pid)


def test_resident_memory_of_a_process() -> None:
    held = memory.resident_bytes(os.getpid())
    assert held is not None and MIB < held <= memory.process_peak_bytes() * 1.05
    assert memory.resident_bytes(2**22 + 1) is None


def test_what_is_available_is_no_more_than_there_is() -> None:
    assert 0 < memory.available_bytes() <= psutil.virtual_memory().total


@pytest.mark.parametrize(
    ("files", "available"),
    [
        ({"memory.max": "1000\n", "memory.current": "700\n", "memory.stat": "anon 5\ninactive_file 200\n"}, 500),
        ({"memory.max": "max\n", "memory.current": "700\n", "memory.stat": ""}, None),
        (
            {
                "memory.limit_in_bytes": "1000\n",
                "memory.usage_in_bytes": "900\n",
                "memory.stat": "total_inactive_file 50\n",
            },
            150,
        ),
        ({"memory.max": "1000\n", "memory.current": "1200\n", "memory.stat": ""}, 0),
        ({}, None),
    ],
)  # fmt: skip
def test_the_limit_of_a_container_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], available: int | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(memory, "control_groups", lambda controller: iter([tmp_path]))
    found = memory.available_bytes()
    if available is None:
        assert found > 1000
    else:
        assert found == available


def test_a_processors_time_is_found_beside_a_thread_that_spins_for_a_while():
    """As those of Intel's OpenMP after a product."""
    until = time.monotonic() + 0.2

    def spin():
        while time.monotonic() < until:
            pass

    spinning = threading.Thread(target=spin)
    spinning.start()
    stopwatch = Stopwatch()
    check_clock(
        time.process_time,
        lambda event, said: stopwatch.see({"event": event, **said}, time.monotonic()),
    )
    spinning.join()
    assert len(stopwatch.rates) == 3 and stopwatch.untimed()

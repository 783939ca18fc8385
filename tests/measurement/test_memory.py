"""Peak memory is this process's own, and the macOS call reads the documented field."""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
import sys

import numpy as np
import pytest

from measurement import memory

MIB = 2**20
CHILD = """
import resource
from measurement.memory import process_peak_bytes
print(process_peak_bytes(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@linux
def test_the_peak_holds_what_was_touched_and_stays():
    before = memory.process_peak_bytes()
    block = np.ones(before // MIB * MIB + 128 * MIB, np.uint8)
    high = memory.process_peak_bytes()
    assert block.nbytes < high < block.nbytes + before + 32 * MIB
    del block
    # The kernel keeps the counter by CPU and adds it up roughly: 64 KiB less was seen.
    assert memory.process_peak_bytes() > high - MIB


@linux
def test_a_child_does_not_inherit_the_peak_of_a_big_parent(project):
    """ru_maxrss does, which is why it is not used."""
    block = np.ones(300 * MIB, np.uint8)
    done = subprocess.run(
        [sys.executable, "-c", CHILD], cwd=project, capture_output=True, text=True, check=True
    )
    peak, inherited = map(int, done.stdout.split())
    assert peak < 100 * MIB < block.nbytes
    assert peak <= inherited


@linux
def test_another_process_is_seen_from_outside_as_it_sees_itself(project):
    code = (
        "block = bytearray(b'x') * (60 << 20); del block\n"
        + CHILD
        + "import sys\nprint(flush=True)\ninput()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], cwd=project, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )  # fmt: skip
    assert child.stdin and child.stdout
    own = int(child.stdout.readline().split()[0])
    outside = memory.peak_bytes(child.pid)
    child.communicate("\n")
    assert outside is not None and abs(outside - own) < MIB
    assert memory.contradiction(own, outside, outside) is None
    assert memory.peak_bytes(child.pid) is None  # it has ended


@pytest.mark.parametrize(
    ("claimed", "before", "after", "wrong"),
    [
        (300, 290, 310, False),
        (300, None, None, False),
        (300, 305, 305, False),  # pages are counted late
        (60, 290, 310, True),  # the meter of a launcher
        (900, 290, 310, True),  # inherited from a parent
        (900, None, 310, True),
        (0, 290, None, True),
    ],
)
def test_a_peak_of_another_process_contradicts_what_is_seen(claimed, before, after, wrong):
    sizes = [None if size is None else size * MIB for size in (claimed, before, after)]
    said = memory.contradiction(*sizes)
    assert ("another process" in said) if wrong else said is None


def test_a_process_is_no_smaller_than_its_weights():
    assert memory.too_small(100 * MIB, 25 * MIB, 4, trained=False) is None
    assert "100 MiB of the weights" in (memory.too_small(99 * MIB, 25 * MIB, 4, False) or "")
    assert "200 MiB" in (memory.too_small(150 * MIB, 25 * MIB, 4, trained=True) or "")
    assert memory.too_small(150 * MIB, 25 * MIB, 2, trained=True) is None


# Not run on a Mac: the library is replaced; offsets are those of rusage_info_v4, <sys/resource.h>.
def test_the_mac_peak_is_the_lifetime_footprint_of_this_process(monkeypatch):
    asked = []

    class Library:
        def proc_pid_rusage(self, pid, flavour, buffer):
            asked.append((pid, flavour))
            fields = [1000 + i for i in range(35)]
            raw = struct.pack("16s35Q", b"u" * 16, *fields)
            assert ctypes.sizeof(buffer._obj) == len(raw) == 296
            ctypes.memmove(buffer, raw, len(raw))
            return 0

    monkeypatch.setattr(memory.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda *names, **options: Library())
    assert memory.process_peak_bytes() == 1028
    assert asked == [(os.getpid(), 4)]


def test_a_mac_that_refuses_is_an_error_and_not_a_zero(monkeypatch):
    class Library:
        def proc_pid_rusage(self, *arguments):
            return -1

    monkeypatch.setattr(memory.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda *names, **options: Library())
    with pytest.raises(OSError, match="proc_pid_rusage"):
        memory.process_peak_bytes()

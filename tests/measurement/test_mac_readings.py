"""What is read of macOS through <libproc.h>, <mach/host_info.h> and ioreg, from recorded structures laid
out byte by byte as its headers give them. Not run on a Mac."""

from __future__ import annotations

import ctypes
import struct

import pytest

from measurement import machine, memory, readings

# ioreg -r -d 1 -w 0 -c IOAccelerator, shortened: one line a statistic's dictionary
ACCELERATOR = """+-o AGXAcceleratorG13X  <class AGXAcceleratorG13X, id 0x100000457, registered, matched>
    {{
      "PerformanceStatistics" = {{"Alloc system memory"=2539274240,"Tiler Utilization %"=3,"Device Utilization %"={busy},"Renderer Utilization %"=9}}
      "model" = "Apple M1 Pro"
    }}
"""  # noqa: E501


def library(monkeypatch: pytest.MonkeyPatch, made: type) -> None:
    monkeypatch.setattr(readings.ctypes, "CDLL", lambda *names, **options: made())


@pytest.mark.parametrize(
    ("answered", "children"), [([41, 42, 0], [41, 42]), ([], []), (None, [])], ids=str
)
def test_children_are_as_many_as_the_call_says(monkeypatch, answered, children):
    class Library:
        def proc_listchildpids(self, pid, buffer, size_bytes):
            assert pid == 7 and size_bytes == ctypes.sizeof(buffer)
            if answered is None:
                return -1  # the process has ended
            raw = struct.pack(
                f"{len(answered) + 1}i", *answered, 99
            )  # what lies behind is not read
            ctypes.memmove(buffer, raw, len(raw))
            return len(answered)

    library(monkeypatch, Library)
    assert readings._mac_children(7) == children


@pytest.mark.parametrize(("failed", "pages"), [(0, 700_000 + 80_000), (5, None)])
def test_swapped_pages_are_read_from_their_place(monkeypatch, failed, pages):
    raw = struct.pack(
        "=4I9Q2I4Q4IQ",
        *(11, 12, 13, 14),  # free, active, inactive, wired
        *range(21, 30),  # zero filled, reactivated, paged in and out, faults, copies, lookups ...
        *(31, 32),  # purgeable, speculative
        *(41, 42, 700_000, 80_000),  # decompressions, compressions, swapins, swapouts
        *(51, 52, 53, 54),
        61,
    )

    class Host:
        restype = None

        def __call__(self):
            return 2_051

    class Library:
        mach_host_self = Host()

        def host_statistics64(self, host, flavour, found, words):
            assert (host.value, flavour) == (2_051, 4)  # HOST_VM_INFO64
            assert words._obj.value * 4 == len(raw) == 152
            ctypes.memmove(found, raw, len(raw))
            return failed

    library(monkeypatch, Library)
    monkeypatch.setattr(readings, "_PAGE", 16_384)
    assert readings._mac_swapped() == (None if pages is None else pages * 16_384)


def test_times_are_in_units_of_the_mach_clock(monkeypatch):
    class Library:
        def mach_timebase_info(self, base):
            ctypes.memmove(base, struct.pack("2I", 125, 3), 8)  # Apple silicon: 24 MHz

    library(monkeypatch, Library)
    counted = {memory.TIMES: 48_000_000, memory.CHILD_TIMES: 12_000_000}
    monkeypatch.setattr(readings.memory, "rusage", lambda pid, *fields: counted[fields])
    assert readings._mac_times(7) == pytest.approx((2.0, 0.5))

    def gone(pid, *fields):
        raise OSError("proc_pid_rusage")

    monkeypatch.setattr(readings.memory, "rusage", gone)
    assert readings._mac_times(7) is None


@pytest.mark.parametrize(
    ("text", "share"),
    [
        (ACCELERATOR.format(busy=37), 0.37),
        (ACCELERATOR.format(busy=2) + ACCELERATOR.format(busy=100), 1.0),
        ("", None),  # no ioreg, or a machine without a GPU that counts
    ],
)
def test_a_macs_gpu_is_as_busy_as_the_busiest(monkeypatch, text, share):
    asked = []
    monkeypatch.setattr(machine.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(machine, "_command", lambda *words: asked.append(words) or text)
    assert machine.gpu_busy() == share
    assert asked == [("ioreg", "-r", "-d", "1", "-w", "0", "-c", "IOAccelerator")]

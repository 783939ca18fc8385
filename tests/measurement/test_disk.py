"""Files that outlive a full disk and a killed process."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from measurement import disk


@contextmanager
def at_most(size_bytes: int) -> Iterator[None]:
    """No file of this process grows beyond it, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    disk.write(path, "before")
    with at_most(10), pytest.raises(OSError, match="too large"):
        disk.write(path, "x" * 1000)
    assert path.read_text() == "before" and [*tmp_path.iterdir()] == [path]


def test_what_a_write_left_that_was_cut_off_is_removed(tmp_path: Path) -> None:
    (tmp_path / "artifacts").mkdir()
    for name in ("record.json", "record.json.new", "artifacts/a.json.new"):
        (tmp_path / name).write_text("x")
    disk.sweep(tmp_path)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["artifacts", "record.json"]


def test_space_is_taken_and_given_back(tmp_path: Path) -> None:
    disk.reserve(tmp_path, 2**20)
    assert (tmp_path / disk.RESERVE).stat().st_blocks * 512 >= 2**20
    assert disk.give_back(tmp_path) and not disk.give_back(tmp_path)
    for size in (2**60, 2**70):
        with pytest.raises(OSError):
            disk.reserve(tmp_path, size)
    assert [*tmp_path.iterdir()] == []


def test_what_a_full_disk_does_not_take_waits_in_order(tmp_path: Path) -> None:
    disk.reserve(tmp_path, 100)
    append = disk.Appender(tmp_path / "events.jsonl")
    append("first\n")
    with at_most(10):
        append("second\n")  # four bytes of it fit
        append("third\n")
        assert append.waiting == b"nd\nthird\n"
        assert not (tmp_path / disk.RESERVE).exists()  # given back, and it was not enough
    append("fourth\n")
    assert append.close()
    assert (tmp_path / "events.jsonl").read_text() == "first\nsecond\nthird\nfourth\n"


def test_an_end_without_room_is_said(tmp_path: Path) -> None:
    append = disk.Appender(tmp_path / "events.jsonl")
    with at_most(3):
        append("first\n")
        assert not append.close()
    assert append.waiting == b"st\n"


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = (
        "import sys, time; from pathlib import Path; from measurement import disk\n"
        f"with disk.locked(Path({str(path)!r})) as got: print(got, flush=True); time.sleep(60)"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert other.stdout is not None and other.stdout.readline() == "True\n"
    with disk.locked(path) as got:
        assert not got
    os.kill(other.pid, signal.SIGKILL)
    other.wait()
    with disk.locked(path) as got:
        assert got
        with disk.locked(path) as again:
            assert not again

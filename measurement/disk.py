"""Files that outlive the process, the machine's power and a full disk: atomic writes, an append-only
file, space set aside before it is needed, and locks that end with their process."""

from __future__ import annotations

import errno
import fcntl
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_NO_LOCKS = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})
RESERVE = "reserve"
"""Name of the file that holds a folder's space; who cannot write deletes it and tries again."""


def write(path: Path, content: str | bytes) -> None:
    """The whole file or none of it, on the disk when this returns. Raises OSError."""
    data = content.encode() if isinstance(content, str) else content
    new = path.with_name(path.name + ".new")
    try:
        with new.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sweep(folder: Path) -> None:
    """Removes what writes that were cut off have left; nobody else may be writing there."""
    for left in folder.rglob("*.new"):
        left.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """A file's or a folder's own content to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def reserve(folder: Path, size_bytes: int) -> None:
    """Takes space in a folder before it is needed. Raises OSError where there is not so much, and
    then leaves nothing behind."""
    path = folder / RESERVE
    try:
        with path.open("wb") as file:
            if size_bytes > sys.maxsize:  # more than can be asked for
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size_bytes)
            else:  # macOS
                for start in range(0, size_bytes, 2**20):
                    file.write(bytes(min(2**20, size_bytes - start)))
                file.flush()
                os.fsync(file.fileno())
    except OSError:
        path.unlink(missing_ok=True)
        raise


def give_back(folder: Path) -> bool:
    """Frees the space that was set aside; False where none was left."""
    try:
        (folder / RESERVE).unlink()
    except FileNotFoundError:
        return False
    return True


class Appender:
    """A file that only grows. What a full disk does not take waits in memory, in order, and is tried
    again with the next line: the space set aside beside it is given back first."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._lock = threading.Lock()
        self.waiting = b""
        """What is not on disk yet."""

    def __call__(self, line: str) -> None:
        with self._lock:
            self.waiting += line.encode()
            try:
                self._write()
            except OSError:
                if give_back(self._path.parent):
                    with suppress(OSError):  # then it waits for the next line, or the end
                        self._write()

    def _write(self) -> None:
        while self.waiting:
            self.waiting = self.waiting[os.write(self._handle, self.waiting) :]

    def write(self, text: str) -> int:
        """As of any stream of text."""
        self(text)
        return len(text)

    def flush(self) -> None:
        """Nothing is held back that there is room for."""

    def close(self) -> bool:
        """Everything to the disk; False where a part of it found no room."""
        self("")
        try:
            os.fsync(self._handle)
        except OSError:
            return False
        finally:
            os.close(self._handle)
        return not self.waiting


@contextmanager
def locked(path: Path, wait_seconds: float = 0.0) -> Iterator[bool]:
    """Whether this process has the lock while the block runs. The system takes it back when the
    process ends, however it ends: the file that stays locks nobody out. A file system that has no
    locks keeps nobody out either. Raises OSError."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        until = time.monotonic() + wait_seconds
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                got = True
            except BlockingIOError:
                if time.monotonic() < until:
                    time.sleep(0.1)
                    continue
                got = False
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                got = True
            yield got
            return
    finally:
        os.close(handle)

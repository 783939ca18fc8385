"""A guard over another process: ends it as soon as it holds more memory, or takes longer, than it may."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import psutil

from measurement.memory import resident_bytes

INTERVAL_SECONDS = 0.01


class Watch:
    """Of one process. stopped: why it was ended, "" where it was not; peak_bytes: the most memory
    that was seen, looking every hundredth of a second."""

    def __init__(self, limit_bytes: int | None, seconds: float) -> None:
        self.limit_bytes, self.seconds = limit_bytes, seconds
        self.peak_bytes = 0
        self.stopped: Literal["", "memory", "time"] = ""

    @contextmanager
    def __call__(self, process: subprocess.Popen[bytes]) -> Iterator[None]:
        """Watches `process` while the block runs."""
        over = threading.Event()
        thread = threading.Thread(target=self._look, args=(process, over), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _look(self, process: subprocess.Popen[bytes], over: threading.Event) -> None:
        end = time.monotonic() + self.seconds
        while not over.wait(INTERVAL_SECONDS):
            held = resident_bytes(process.pid)
            if held is None:  # it has ended
                return
            self.peak_bytes = max(self.peak_bytes, held)
            if self.limit_bytes is not None and held > self.limit_bytes:
                self.stopped = "memory"
            elif time.monotonic() > end:
                self.stopped = "time"
            if self.stopped:
                end_with_children(process)
                return


def end_with_children(process: subprocess.Popen[bytes]) -> None:
    """Kills a process and what it started, such as the compilers of torch.compile."""
    try:
        children = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        children = []
    process.kill()
    for child in children:
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue

"""Watches a host that the supervisor does not run on: processor, memory and network once a second,
under MLflow's own names, in a process of its own beside the ranks."""

from __future__ import annotations

import ctypes
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

PERIOD_SECONDS = 1.0


class Node:
    """Samples from `with` to its end, where `on`; `samples` are what it saw."""

    def __init__(self, path: Path, on: bool) -> None:
        self._path, self._on = path, on
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Node:
        if self._on:
            command = [sys.executable, "-m", "entrypoints.node", str(self._path)]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def samples(self) -> list[dict[str, Any]]:
        """Each with its `time`, seconds since 1970."""
        if not self._on or not self._path.exists():  # the folder may be one that the hosts share
            return []
        lines = self._path.read_text().split("\n")[:-1]  # the last one may be half a line
        return [json.loads(line) for line in lines]


def sample(start: Any) -> dict[str, float]:
    """What MLflow's CPU monitor tells of a machine. start: its network counters at the beginning."""
    memory, network = psutil.virtual_memory(), psutil.net_io_counters()
    return {
        "time": time.time(),
        "cpu_utilization_percentage": psutil.cpu_percent(),
        "system_memory_usage_megabytes": memory.used / 1e6,
        "system_memory_usage_percentage": memory.used / memory.total * 100,
        "network_receive_megabytes": (network.bytes_recv - start.bytes_recv) / 1e6,
        "network_transmit_megabytes": (network.bytes_sent - start.bytes_sent) / 1e6,
    }


def main() -> None:
    if sys.platform == "linux":  # end with the rank that started it
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    start = psutil.net_io_counters()
    with Path(sys.argv[1]).open("a") as stream:
        while True:
            time.sleep(PERIOD_SECONDS)
            stream.write(json.dumps(sample(start)) + "\n")
            stream.flush()


if __name__ == "__main__":
    main()

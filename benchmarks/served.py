"""`mlflow models serve` in a process of its own, and load that does not wait for it.

Open loop: the moments at which requests are meant to be sent are drawn beforehand, and a latency counts
from that moment, whether or not the server, or a connection, was free then. A generator that waits
for an answer before it sends the next request hides exactly the waiting it is to measure (coordinated
omission, Tene 2013).
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from entrypoints.processes import ends_with_parent
from measurement.errors import InputError

ARRIVALS = ("poisson", "constant")
READY_SECONDS = 120.0
_HEADERS = {"Content-Type": "application/json"}


@contextmanager
def served(model: Path, folder: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """The address of a server of one worker while the block runs; its log is in `folder`. Raises
    InputError with its last words where it does not answer."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # The server is started through a shell that looks for uvicorn on the PATH.
    kept = {k: v for k, v in environment.items() if k != "PYTHONPATH"}
    kept["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', os.defpath)}"
    kept["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    command = ["-m", "mlflow", "models", "serve", "-m", str(model.resolve()), "-p", str(port)]
    log = folder / "server.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, *command, "--env-manager", "local", "--workers", "1"],
            cwd=folder,
            env=kept,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=ends_with_parent(),
        )
        try:
            address = f"http://127.0.0.1:{port}"
            _await(address, process, log)
            yield address
        finally:
            _end(process)


def _await(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + READY_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/ping", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise InputError(
        f"the server did not answer within {READY_SECONDS:g} s; its last words: "
        + log.read_text(errors="replace")[-300:]
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """The whole session: the server is the child of a shell of a process."""
    for number in (signal.SIGINT, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(timeout=20)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
        if number == signal.SIGINT and _alive(process.pid):
            time.sleep(0.5)
    process.wait()


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def body(items: np.ndarray) -> bytes:
    """A request as a client sends it: a batch of items."""
    return json.dumps({"inputs": items.tolist()}).encode()


def ask(address: str, request: bytes, seconds: float = 60.0) -> list[Any]:
    """The answers to one request. Raises InputError with the server's own words."""
    call = urllib.request.Request(f"{address}/invocations", request, _HEADERS)
    try:
        with urllib.request.urlopen(call, timeout=seconds) as answer:
            return list(json.load(answer)["predictions"])
    except urllib.error.HTTPError as error:
        said = error.read(2000).decode(errors="replace")
        raise InputError(f"the server refuses the request ({error.code}): {said[:300]}") from None


def arrivals(rate: float, seconds: float, kind: str, seed: Sequence[int]) -> np.ndarray:
    """Moments (seconds from the start) at which requests are meant to be sent, in order.

    >>> arrivals(4, 1, "constant", [0]).tolist()
    [0.0, 0.25, 0.5, 0.75]
    """
    count = max(1, round(rate * seconds))
    if kind == "constant":
        return np.arange(count) / rate
    return np.cumsum(np.random.default_rng(list(seed)).exponential(1 / rate, count))


@dataclass(frozen=True)
class Answered:
    """What became of the requests of a block, in the order in which they were meant to be sent; seconds.

    latencies: from that moment to the last byte of the answer; inf where it failed. late: by how much
    a request was sent later than meant, because every connection was busy or this machine was. errors:
    what went wrong -> how often. wrong: answers that were not the expected ones. seconds: until the
    last answer."""

    latencies: np.ndarray
    late: np.ndarray
    errors: Mapping[str, int]
    wrong: int
    seconds: float

    @property
    def rate(self) -> float:
        """Requests answered rightly, a second."""
        return float(np.isfinite(self.latencies).sum() - self.wrong) / self.seconds


class _Load:
    """Connections that share one schedule: whichever is free takes the next request."""

    def __init__(
        self, address: str, requests: Sequence[bytes], expected: Sequence[Any], times: np.ndarray,
        seconds: float,
    ) -> None:  # fmt: skip
        self._place = address.removeprefix("http://")
        self._requests, self._expected, self._times = requests, expected, times
        self._seconds, self._lock, self._next = seconds, threading.Lock(), 0
        self.latencies = np.full(len(times), np.inf)
        self.late = np.zeros(len(times))
        self.errors: dict[str, int] = {}
        self.wrong = 0
        self.start = 0.0

    def run(self) -> None:
        """One connection, until there is no request left."""
        connection = self._connected()
        while (number := self._taken()) is not None:
            meant = self.start + self._times[number]
            if (wait := meant - time.perf_counter()) > 0:
                time.sleep(wait)
            self.late[number] = time.perf_counter() - meant
            which = number % len(self._requests)
            try:
                status, content = _sent(connection, self._requests[which])
                done = time.perf_counter()
            except (OSError, http.client.HTTPException) as error:
                self._failed(type(error).__name__)
                connection.close()
                connection = self._connected()
                continue
            if status != 200:
                self._failed(f"HTTP {status}")
                continue
            self.latencies[number] = done - meant
            if json.loads(content).get("predictions") != self._expected[which]:
                with self._lock:
                    self.wrong += 1
        connection.close()

    def _connected(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self._place, timeout=self._seconds)

    def _taken(self) -> int | None:
        with self._lock:
            number = self._next
            self._next += 1
        return number if number < len(self._times) else None

    def _failed(self, how: str) -> None:
        with self._lock:
            self.errors[how] = self.errors.get(how, 0) + 1


def _sent(connection: http.client.HTTPConnection, request: bytes) -> tuple[int, bytes]:
    """Status and content. A server closes a connection that was idle for seconds, which shows only when
    the next request comes: that one is sent again, as every client does."""
    reused = connection.sock is not None
    try:
        connection.request("POST", "/invocations", request, _HEADERS)
        answer = connection.getresponse()
    except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
        connection.close()
        if not reused:
            raise
        connection.request("POST", "/invocations", request, _HEADERS)
        answer = connection.getresponse()
    return answer.status, answer.read()


def offer(
    address: str,
    requests: Sequence[bytes],
    expected: Sequence[Any],
    times: np.ndarray,
    connections: int,
    seconds: float = 30.0,
) -> Answered:
    """Sends one request at each of `times`, the given ones in turn, over so many connections that stay
    open. seconds: to wait for one answer; one that takes longer has failed."""
    load = _Load(address, requests, expected, times, seconds)
    threads = [threading.Thread(target=load.run, daemon=True) for _ in range(connections)]
    load.start = time.perf_counter() + 0.05
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    passed = time.perf_counter() - load.start
    return Answered(load.latencies, load.late, dict(load.errors), load.wrong, passed)

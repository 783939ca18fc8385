"""Two test hosts on one Linux machine: two network namespaces joined by a virtual cable (veth).

Each has its own interfaces, addresses, ports and routes, and shares files, Python and processors with
the other. What is *not* tested this way: sshd and its keys, two copies of the project, two clocks.
`ssh` is a stand-in that this module puts first on PATH: like the real one it needs the other host to
answer over the network, passes no environment on, runs the command on a terminal of its own (so both
output streams are one), and hangs up when it is killed; unlike the real one it carries the output beside
the cable, not through it.
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import itertools
import json
import os
import select
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from ctypes import CDLL, get_errno
from pathlib import Path
from typing import Any

import pytest

ADDRESSES = ("10.77.0.1", "10.77.0.2")
_COUNT = itertools.count()
_SSH = """#!{python}
# Stand-in for ssh: takes ssh's options, runs the command in the namespace that has the address.
import os, pty, signal, socket, sys, time
words = sys.argv[1:]
terminal = False
while words[0].startswith("-"):
    terminal |= words[0] == "-tt"
    del words[: 2 if words[0] == "-o" else 1]
host, command = words[0].split("@")[-1], " ".join(words[1:])
try:
    socket.create_connection((host, 22), timeout=10).close()
except ConnectionRefusedError:
    pass  # no sshd, but the host is there
except OSError as error:
    sys.exit(255)  # LogLevel=QUIET: ssh says nothing either
kept = [f"{n}={os.environ[n]}" for n in ("HOME", "USER", "LANG") if n in os.environ]
kept += ["PATH=/usr/local/bin:/usr/bin:/bin"]
words = ["ip", "netns", "exec", {places}[host], "env", "-i", *kept, "bash", "-c", command]
if not terminal:
    os.execvp(words[0], words)
signal.signal(signal.SIGTERM, lambda *_: os._exit(143))  # closes the terminal: the job is hung up
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # as sshd does: under nohup nobody would hang up
sys.exit(os.waitstatus_to_exitcode(pty.spawn(words)))
"""


class TwoHosts:
    """Hosts 0 and 1, at `ADDRESSES`."""

    def __init__(self, folder: Path) -> None:
        tag = f"{os.getpid()}-{next(_COUNT)}"
        self.names = (f"test-host-0-{tag}", f"test-host-1-{tag}")
        self.interfaces = ("cable0", "cable1")
        self.folder = folder
        self._line: subprocess.Popen[bytes] | None = None
        self._ssh()

    def set_up(self) -> None:
        """The namespaces and the cable; raises CalledProcessError where the right is missing."""
        for name in self.names:
            _ip("netns", "add", name)
        first, second = (
            ["name", c, "netns", n] for c, n in zip(self.interfaces, self.names, strict=True)
        )
        _ip("link", "add", *first, "type", "veth", "peer", *second)
        for host, (name, interface) in enumerate(zip(self.names, self.interfaces, strict=True)):
            _ip("-n", name, "address", "add", f"{ADDRESSES[host]}/24", "dev", interface)
            for up in ("lo", interface):
                _ip("-n", name, "link", "set", up, "up")

    def tear_down(self) -> None:
        """Ends every process of the hosts, then the hosts."""
        if self._line:
            self._line.kill()
            self._line.wait()
        for name in self.names:
            for _ in range(50):
                found = _ip("netns", "pids", name, check=False).stdout.split()
                for process in found:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(process), signal.SIGKILL)
                if not found:
                    break
                time.sleep(0.1)
            _ip("netns", "delete", name, check=False)

    def processes(self, host: int) -> list[int]:
        """Processes that run on a host."""
        return [int(p) for p in _ip("netns", "pids", self.names[host]).stdout.split()]

    def start(self, host: int, command: Sequence[str], **keywords: Any) -> subprocess.Popen[str]:
        """Popen on a host, in text, in a session of its own, with the stand-in for ssh."""
        environment = keywords.pop("env", dict(os.environ))
        environment = environment | {"PATH": f"{self.folder}:{environment['PATH']}"}
        words = ["ip", "netns", "exec", self.names[host], *command]
        keywords = {"text": True, "start_new_session": True, **keywords}
        return subprocess.Popen(words, env=environment, **keywords)

    def run(
        self, host: int, command: Sequence[str], *, timeout: float = 60, **keywords: Any
    ) -> subprocess.CompletedProcess[str]:
        """A command on a host, with its output; after `timeout` seconds it is killed and raises."""
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started = self.start(host, command, **{**pipes, **keywords})
        try:
            out, err = started.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGKILL)
            started.communicate()
            raise
        return subprocess.CompletedProcess(started.args, started.returncode, out, err)

    def hostfile(self, ranks: int = 1, **more: Any) -> Path:
        """Our hostfile of the two hosts."""
        hosts = [
            {"name": f"host-{i}", "address": a, "ranks": ranks} for i, a in enumerate(ADDRESSES)
        ]
        path = self.folder / "hosts.json"
        path.write_text(json.dumps({"hosts": hosts, **more}))
        return path

    def slow(self, delay_ms: float = 50, rate_mbit: float = 100) -> str:
        """Delays every packet by `delay_ms` each way and limits the rate; says what imposes it. tc's
        netem does both; where the kernel lacks it, tc's tbf limits the rate of a line that delays."""
        done = self._tc(
            "netem", "delay", f"{delay_ms}ms", "rate", f"{rate_mbit}mbit", "limit", "100000"
        )
        if done:
            return "tc netem"
        self._delay_line(delay_ms)
        self._tc("tbf", "rate", f"{rate_mbit}mbit", "burst", "32kb", "latency", "1s", check=True)
        return "tc tbf and a delay line: this kernel has no netem"

    def cut(self) -> None:
        """Pulls the cable: host 1's end goes down, host 0 loses its carrier."""
        _ip("-n", self.names[1], "link", "set", self.interfaces[1], "down")

    def mend(self) -> None:
        """Plugs it in again."""
        _ip("-n", self.names[1], "link", "set", self.interfaces[1], "up")

    def _tc(self, *words: str, check: bool = False) -> bool:
        done = True
        for name, interface in zip(self.names, self.interfaces, strict=True):
            tc = ["tc", "-n", name, "qdisc", "replace", "dev", interface, "root", *words]
            done &= subprocess.run(tc, check=check, capture_output=True).returncode == 0
        return done

    def _delay_line(self, delay_ms: float) -> None:
        """Moves the addresses from the cable to the two ends of a line in user space."""
        for host, (name, cable) in enumerate(zip(self.names, self.interfaces, strict=True)):
            line = f"line{host}"
            _ip("-n", name, "address", "flush", "dev", cable)
            _ip("-n", name, "tuntap", "add", "dev", line, "mode", "tun")
            _ip("-n", name, "address", "add", f"{ADDRESSES[host]}/24", "dev", line)
            _ip("-n", name, "link", "set", line, "up")
        self.interfaces = ("line0", "line1")
        words = [sys.executable, __file__, *self.names, str(delay_ms)]
        self._line = subprocess.Popen(words, stdout=subprocess.PIPE)
        assert self._line.stdout is not None
        assert self._line.stdout.readline() == b"ready\n"

    def _ssh(self) -> None:
        places = dict(zip(ADDRESSES, self.names, strict=True))
        path = self.folder / "ssh"
        path.write_text(_SSH.replace("{python}", sys.executable).replace("{places}", repr(places)))
        path.chmod(0o755)


def _ip(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *words], check=check, capture_output=True, text=True)


@contextlib.contextmanager
def hosts_in(folder: Path) -> Iterator[TwoHosts]:
    """Two hosts, torn down whatever happens; skips the test where they cannot be had."""
    if missing := [tool for tool in ("ip", "tc") if shutil.which(tool) is None]:
        pytest.skip(f"two test hosts need {' and '.join(missing)} (Debian's iproute2)")
    hosts = TwoHosts(folder)
    try:
        try:
            hosts.set_up()
        except subprocess.CalledProcessError as error:
            pytest.skip(
                f"two test hosts need the right to make network namespaces: {error.stderr.strip()}"
            )
        yield hosts
    finally:
        hosts.tear_down()


@pytest.fixture
def two_hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoHosts]:
    with hosts_in(tmp_path_factory.mktemp("hosts")) as hosts:
        yield hosts


def _carry(names: Sequence[str], delay_seconds: float) -> None:
    """The delay line: what is read at one end is written at the other, `delay_seconds` later."""
    ends = [_open(name, f"line{host}") for host, name in enumerate(names)]
    print("ready", flush=True)
    waiting: list[tuple[float, int, int, bytes]] = []  # (due, number, end to write to, packet)
    number = itertools.count()
    while True:
        wait = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        for end in select.select(ends, [], [], wait)[0]:
            with contextlib.suppress(OSError):  # the end is down
                packet = os.read(end, 65536)
                other = ends[1 - ends.index(end)]
                due = time.monotonic() + delay_seconds
                heapq.heappush(waiting, (due, next(number), other, packet))
        while waiting and waiting[0][0] <= time.monotonic():
            with contextlib.suppress(OSError):  # a cut line loses what is under way
                os.write(waiting[0][2], waiting[0][3])
            heapq.heappop(waiting)


def _open(name: str, interface: str) -> int:
    """The file of a TUN interface of a namespace; this process is a host's for that moment only."""
    with open("/proc/self/ns/net") as own, open(f"/run/netns/{name}") as place:
        _enter(place.fileno())
        file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        set_interface, tun, no_header = 0x400454CA, 1, 0x1000
        fcntl.ioctl(file, set_interface, struct.pack("16sH", interface.encode(), tun | no_header))
        _enter(own.fileno())
    return file


def _enter(place: int) -> None:
    library = CDLL(None, use_errno=True)
    if library.setns(place, 0):
        raise OSError(get_errno(), "setns")


if __name__ == "__main__":
    _carry(sys.argv[1:3], float(sys.argv[3]) / 1000)

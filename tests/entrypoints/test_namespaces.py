"""The two test hosts are what the tests on them rely on: apart, joined by one cable, and gone after."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.entrypoints.namespaces import ADDRESSES, TwoHosts, hosts_in

CONNECT = """
import socket, sys, time
start = time.monotonic()
try:
    socket.create_connection((sys.argv[1], 9), timeout=2)
except ConnectionRefusedError:
    print(time.monotonic() - start)
except OSError:
    print("none")
"""
SEND = """
import socket, sys, time
other = socket.create_connection((sys.argv[1], 5000))
other.recv(1)
start = time.monotonic()
other.sendall(bytes(2_500_000))
other.recv(1)
print(time.monotonic() - start)
"""
RECEIVE = """
import socket, sys
other, _ = socket.create_server((sys.argv[1], 5000)).accept()
other.sendall(b".")
size = 0
while size < 2_500_000:
    size += len(other.recv(1 << 20))
other.sendall(b".")
"""


def soon(holds: Callable[[], bool]) -> bool:
    """Whether it holds within ten seconds."""
    deadline = time.monotonic() + 10
    while not (now := holds()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return now


def runs(process: int) -> bool:
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def round_trip(hosts: TwoHosts, host: int) -> str:
    return hosts.run(host, [sys.executable, "-c", CONNECT, ADDRESSES[1 - host]]).stdout.strip()


def sending_seconds(hosts: TwoHosts) -> float:
    """Seconds of 20 Mbit from host 0 to host 1."""
    receiver = hosts.start(1, [sys.executable, "-c", RECEIVE, ADDRESSES[1]])
    for _ in range(100):
        done = hosts.run(0, [sys.executable, "-c", SEND, ADDRESSES[1]])
        if done.returncode == 0:
            break
        time.sleep(0.1)
    assert receiver.wait(30) == 0
    return float(done.stdout)


def test_slow_is_slow_both_ways_and_cut_is_cut(two_hosts: TwoHosts) -> None:
    for host in (0, 1):
        assert float(round_trip(two_hosts, host)) < 0.05
    fast = sending_seconds(two_hosts)
    assert "tc" in two_hosts.slow(delay_ms=50, rate_mbit=100)
    for host in (0, 1):
        assert 0.1 <= float(round_trip(two_hosts, host)) < 0.5
    assert sending_seconds(two_hosts) > max(0.2, 3 * fast)
    two_hosts.cut()
    assert round_trip(two_hosts, 0) == round_trip(two_hosts, 1) == "none"
    two_hosts.mend()
    assert float(round_trip(two_hosts, 0)) >= 0.1


def test_the_stand_in_for_ssh_runs_on_the_other_host(two_hosts: TwoHosts) -> None:
    words = [
        "ssh",
        "-tt",
        "-o",
        "LogLevel=QUIET",
        f"me@{ADDRESSES[1]}",
        "ip -br address; tty; exit 3",
    ]
    done = two_hosts.run(0, words)
    assert done.returncode == 3
    assert ADDRESSES[1] in done.stdout and "/dev/pts/" in done.stdout
    assert two_hosts.run(0, ["ssh", ADDRESSES[1], "printf %s 'a b'"]).stdout == "a b"
    hanging = two_hosts.start(0, [*words[:-1], "sleep 1000"], stdin=subprocess.DEVNULL)
    assert soon(lambda: two_hosts.processes(1) != [])
    hanging.terminate()
    assert hanging.wait(10) == 143
    assert soon(lambda: two_hosts.processes(1) == [])
    two_hosts.cut()
    assert two_hosts.run(0, words, timeout=30).returncode == 255


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    with pytest.raises(KeyError), hosts_in(tmp_path) as hosts:
        hosts.slow()
        stubborn = ["bash", "-c", "trap '' TERM HUP INT; sleep 1000 & wait"]
        started = [hosts.start(host, stubborn) for host in (0, 1)]
        assert soon(lambda: all(len(hosts.processes(host)) == 2 for host in (0, 1)))
        living = [pid for host in (0, 1) for pid in hosts.processes(host)]
        raise KeyError("a test that fails")
    for process in started:
        process.wait(10)
    assert not [pid for pid in living if runs(pid)]
    spaces = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    assert not [name for name in hosts.names if name in spaces]

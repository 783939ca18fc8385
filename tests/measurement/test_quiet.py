"""Waiting for a quiet machine: on recorded readings, and beside a real busy loop."""

from __future__ import annotations

import getpass
import subprocess
import sys
from dataclasses import replace

import pytest

from measurement import quiet
from measurement.gpus import Card
from tests.measurement.test_monitor import Recorded

IDLE = Card(0.0, 0, 0.2, False, False, None, None, None)


class World:
    """Others compute for `busy` seconds, then no more; sleeping makes time pass."""

    def __init__(self, busy: float, **state: object) -> None:
        self.machine, self.busy, self.state = Recorded(), busy, state
        self.slept = 0.0
        self.lines: list[str] = []

    def sleep(self, seconds: float) -> None:
        others = 0.4 if self.slept < self.busy else 0.01
        self.machine.pass_(seconds, others)
        self.machine.now = replace(
            self.machine.now, worker_seconds=0.0, busy_seconds=self.machine.now.busy_seconds - 2 * seconds,
            **(self.state if self.slept < self.busy else {"cards": (IDLE,)}),
        )  # fmt: skip
        self.slept += seconds

    def wait(self, seconds: float) -> dict[str, str]:
        return quiet.wait(seconds, self.lines.append, True, self.machine, self.sleep)


def test_zero_seconds_do_not_wait() -> None:
    world = World(0.0)
    assert world.wait(0.0) == {} and world.slept == 0.0 and world.lines == []


def test_a_quiet_machine_is_waited_for_two_seconds_without_a_word() -> None:
    world = World(0.0)
    assert world.wait(60.0) == {}
    assert world.slept == pytest.approx(2.0) and world.lines == []


def test_a_busy_machine_is_waited_for_until_it_is_quiet() -> None:
    world = World(25.0)
    assert world.wait(60.0) == {}
    assert 26.0 < world.slept < 29.0
    assert 1 < len(world.lines) < 5 and "LOAD, others used 40%" in world.lines[0]


def test_no_longer_than_is_allowed_and_then_it_goes_on() -> None:
    world = World(1e9)
    assert set(world.wait(20.5)) == {"LOAD"}
    assert world.slept == pytest.approx(20.5)
    assert "goes on" in world.lines[-1]


def test_what_waiting_cannot_cure_is_not_waited_for() -> None:
    world = World(0.0)
    world.machine.now = replace(world.machine.now, on_battery=True, low_power=True)
    assert world.wait(60.0) == {} and world.slept == pytest.approx(2.0)


def test_a_busy_gpu_is_waited_for() -> None:
    world = World(10.0, cards=(replace(IDLE, busy_share=0.8),))
    assert world.wait(60.0) == {}
    assert "GPU-SHARED" in world.lines[0]


def test_who_computes_is_named_by_the_program_alone() -> None:
    """Not through a shell: a process of this test would be of its family."""
    script = (
        "import subprocess, sys, os\n"
        "code = 'import time; t = time.time()\\nwhile time.time() - t < 30: pass'\n"
        "print(subprocess.Popen([sys.executable, '-c', code], start_new_session=True,"
        " stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    pid = int(done.stdout)  # its parent has ended: it is nobody's of ours
    try:
        import time

        before = quiet._used()
        time.sleep(0.5)
        text = quiet.busiest(before, quiet._used(), 0.5)
    finally:
        import os
        import signal

        os.kill(pid, signal.SIGKILL)
    assert "of a core" in text
    assert "-c" not in text and getpass.getuser() not in text.replace("root", "")
    assert quiet.busiest({}, {}, 1.0) == "by nothing that can be seen from here"

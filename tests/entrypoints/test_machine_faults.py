"""Every broken machine and meter of the self-test is named, without a trial around it; `selftest` has
the trials."""

from __future__ import annotations

import os
import time
from dataclasses import replace

import numpy as np
import pytest

from analysis import comparison
from entrypoints import supervisor
from entrypoints.faults import machine, meters
from entrypoints.faults.fault import Fault
from measurement import energy, limits
from measurement import machine as this_machine
from measurement.monitor import Monitor
from tests.analysis.rows import rows, study

ARMS = [f for f in (*machine.FAULTS, *meters.FAULTS) if f.supervisor]
RECORDED = [f for f in (*machine.FAULTS, *meters.FAULTS) if f.study]
EVENTS = ("ready", "epoch_begin", "trained", "steps", "latency", "ceiling", "evidence")


@pytest.mark.parametrize(
    "fault", [f for f in ARMS if f.kind == "D" and f.name != "rosetta"], ids=lambda f: f.name
)
def test_a_machine_in_another_state_is_named(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "JUDGED_SECONDS", 0.0)
    monkeypatch.setattr("measurement.monitor.PERIOD_SECONDS", 0.05)
    assert fault.supervisor
    with fault.supervisor(), Monitor() as monitor:
        for event in EVENTS:
            monitor.see({"event": event, "pid": os.getpid(), "device": "cpu"})
            time.sleep(1.1 if fault.name == "machine_slept" and event == "epoch_begin" else 0.12)
    (flag,) = fault.caught_by
    found = monitor.seen().found
    assert flag in found
    if fault.name == "load_in_latency":
        assert {"latency", "steps"} & set(found[flag])


def test_rosetta_is_named() -> None:
    with machine._rosetta():
        assert "ROSETTA" in this_machine.flags(this_machine.state(seconds=0.01))


@pytest.mark.parametrize("fault", [f for f in ARMS if f.kind == "E"], ids=lambda f: f.name)
def test_a_meter_that_does_not_see_the_work_is_named(
    fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in (("MINIMUM", 0.2), ("LOOK", 0.1), ("STANDSTILL", 0.3), ("IDLE", 0.1)):
        monkeypatch.setattr(energy, f"{name}_SECONDS", seconds)
    assert fault.supervisor
    with fault.supervisor():
        found = {"cpu": energy.find("cpu")}
        idle = supervisor._idle_watts(found)
        if fault.name == "impossible_watts":
            time.sleep(1.8)
        window = energy.Window(*found["cpu"], idle_watts=idle.get("cpu"))
        window.start()
        time.sleep(1.5 if fault.name == "stalled_meter" else 0.8)
        got = window.stop()
    assert got.joules is None and fault.caught_by[0] in got.status


@pytest.mark.parametrize("fault", RECORDED, ids=lambda f: f.name)
def test_what_was_recorded_of_one_arm_alone_is_refused(fault: Fault) -> None:
    assert fault.study
    sound = [replace(row, flags=()) for row in rows()]
    design, given = fault.study(study(), sound)
    found = comparison.analyse(design, given, np.random.default_rng(0)).comparisons
    headline = next(c for c in found if c.metric == design.metric)
    assert fault.caught_by[0] in (headline.refused or "")
    assert len(given) == len(sound)  # nothing is dropped

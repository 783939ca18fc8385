"""Energy windows on meters that work, wrap, stall, fail or are not there. No real meter is read."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from measurement import energy
from measurement.energy import MINIMUM_SECONDS, Meter, Window


def window(joules: list[float], seconds: float, reason: str = "") -> energy.Energy:
    readings, times = iter(joules), iter([100.0, 100.0 + seconds])
    w = Window(Meter(energy.RAPL_PACKAGE, lambda: next(readings)), reason, lambda: next(times))
    w.start()
    return w.stop()


@given(st.floats(0, 1e9), st.floats(0.2, 1900), st.floats(MINIMUM_SECONDS, 1e4))
def test_a_good_window_is_the_difference_of_two_readings(start, watts, seconds):
    got = window([start, start + watts * seconds], seconds)
    assert got.status == "measured" and got.source == energy.RAPL_PACKAGE
    assert got.joules == (start + watts * seconds) - start
    assert got.watts_mean == pytest.approx(got.joules / got.seconds)


def course(watts: list[float], step: float = 0.5, jitter: float = 5e-6) -> list[energy.Reading]:
    """Readings of a counter under these powers, each for `step` seconds."""
    readings, joules = [(1000.0, 50.0)], 1000.0
    for number, power in enumerate(watts, 1):
        joules += power * step
        readings.append((joules, 50.0 + number * step + jitter * (number % 3)))
    return readings


EVEN = [60.0 + 0.15 * ((7 * n) % 5 - 2) for n in range(20)]  # a device at an even load: 0.3 %


def test_a_counter_of_a_device_at_work_is_believed():
    assert energy.untrue(course(EVEN), idle_watts=20.0) is None
    assert energy.untrue(course(EVEN), idle_watts=None) is None
    assert (
        energy.untrue(course([0.0 if n % 2 else 30.0 for n in range(20)]), 1.0) is None
    )  # batches
    assert energy.untrue(course([1500.0 + n for n in range(20)]), 100.0, devices=1) is None


@pytest.mark.parametrize(
    ("readings", "idle", "said"),
    [
        (course([65.0] * 20), 10.0, "figure from a table"),
        (course([65.0] * 20, jitter=4e-5), 10.0, "figure from a table"),
        (course([65.0] * 18 + [64.0, 66.0]), 10.0, "figure from a table"),  # a clock that slipped
        (course(EVEN), 59.9, "does not see the device"),
        (course([*EVEN[:10], *[0.0] * 6, *EVEN[:4]]), 10.0, "stood still for"),
        (course([*EVEN[:10], -90.0, *EVEN[:4]]), 10.0, "went back"),
        (course([40.0 * power for power in EVEN]), 10.0, "more than a device takes"),
        (course([power / 1e4 for power in EVEN]), None, "less than a device"),
        (course([0.0] * 20), None, "stalled"),
    ],
)
def test_what_is_no_counter_of_the_work_is_named(readings, idle, said):
    assert said in (energy.untrue(readings, idle) or "")


def test_a_table_of_typical_watts_is_refused_through_a_real_window():
    """65 W times the time, as from a table, read by the window's own thread."""
    begin = time.monotonic()
    clock = lambda: begin + 4 * (time.monotonic() - begin)  # noqa: E731 four times as fast
    w = Window(Meter(energy.RAPL_PACKAGE, lambda: 65.0 * clock()), "", clock)
    energy_look, energy.LOOK_SECONDS = energy.LOOK_SECONDS, 0.15
    try:
        w.start()
        time.sleep(1.4)
        got = w.stop()
    finally:
        energy.LOOK_SECONDS = energy_look
    assert got.joules is None and "figure from a table" in got.status
    assert len(got.watts) >= 5 and got.watts[1] == pytest.approx(65.0, rel=0.01)


def test_a_source_that_is_no_counter_is_refused_whatever_it_shows():
    w = Window(Meter("typical watts", iter([0.0, 600.0]).__next__), "", iter([0.0, 10.0]).__next__)
    w.start()
    assert "'typical watts' is no counter" in w.stop().status
    assert energy.unknown("") is not None and energy.unknown(energy.NVML) is None


def test_watts_without_the_work(monkeypatch):
    monkeypatch.setattr(energy, "IDLE_SECONDS", 0.05)
    meter = Meter(energy.RAPL_PACKAGE, lambda: 12.0 * time.monotonic())

    def fails() -> float:
        raise OSError

    broken = Meter(energy.NVML, fails)
    found = energy.idle({"cpu": (meter, ""), "gpu": (None, "none"), "x": (broken, "")})
    assert found == {"cpu": pytest.approx(12.0, rel=0.01)}
    assert energy.idle({"cpu": (None, "none")}) == {}


@pytest.mark.parametrize(
    ("joules", "seconds", "said"),
    [
        ([5.0, 5.0], 10.0, "stalled"),
        ([5.0, 4.0], 10.0, "stalled"),
        ([0.0, 50.0], MINIMUM_SECONDS - 0.1, "4.9 s, 5 s are needed"),
        ([0.0, 0.0], 0.0, "are needed"),
        ([0.0, float("nan")], 10.0, "stalled"),
    ],
)
def test_a_window_that_proves_nothing_is_not_measured(joules, seconds, said):
    got = window(joules, seconds)
    assert (got.joules, got.watts_mean) == (None, None)
    assert got.status.startswith("not measured: ") and said in got.status


def test_no_meter_or_no_start_is_not_measured():
    absent = Window(None, "no meter: none")
    absent.start()
    assert absent.stop().status == "not measured: no meter: none"
    assert Window(Meter("fake", lambda: 1.0), "").stop().status == "not measured: no window"
    assert Window(None, "").stop().joules is None


@pytest.mark.parametrize("fails_at", [1, 2])
def test_a_meter_that_fails_costs_its_reading_and_not_the_trial(fails_at):
    calls = 0

    def read() -> float:
        nonlocal calls
        calls += 1
        if calls >= fails_at:
            raise OSError(61, "No data available")
        return 1.0

    w = Window(Meter("fake", read), "")
    w.start()
    got = w.stop()
    assert got.joules is None
    assert "not measured: " in got.status and "No data available" in got.status


# --- RAPL, in a folder laid out as /sys/class/powercap is


def zone(root: Path, number: str, name: str, used: int, limit: int = 262_143_328_850) -> Path:
    folder = root / f"intel-rapl:{number}"
    folder.mkdir()
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{used}\n")
    (folder / "max_energy_range_uj").write_text(f"{limit}\n")
    return folder / "energy_uj"


@pytest.fixture
def rapl(tmp_path, monkeypatch):
    monkeypatch.setattr(energy, "RAPL", tmp_path)
    monkeypatch.setattr(energy.platform, "system", lambda: "Linux")
    return tmp_path


def test_packages_are_summed_and_their_parts_are_not_counted_twice(rapl):
    one, two = zone(rapl, "0", "package-0", 5_000_000), zone(rapl, "1", "package-1", 7_000_000)
    parts = [
        zone(rapl, "0:0", "core", 0),
        zone(rapl, "0:1", "dram", 0),
        zone(rapl, "2", "psys", 0),  # the whole platform: it holds the packages again
    ]
    meter, reason = energy.find("cpu")
    assert meter is not None and reason == ""
    before = meter.read()
    one.write_text("6500000")
    two.write_text("8000000")
    for part in parts:
        part.write_text("900000000")
    assert meter.read() - before == pytest.approx(2.5)


def test_a_counter_that_wraps_goes_on(rapl):
    counter = zone(rapl, "0", "package-0", 900, limit=1000)
    meter, _ = energy.find("cpu")
    assert meter is not None
    readings = [meter.read()]
    for value in (950, 30, 999, 0):
        counter.write_text(str(value))
        readings.append(meter.read())
    steps = [round((b - a) * 1e6) for a, b in zip(readings, readings[1:], strict=False)]
    assert steps == [50, 80, 969, 1]


def test_no_rapl_folder_is_a_reason(rapl):
    assert energy.find("cpu")[0] is None
    assert energy.find("cpu")[1].startswith("no meter")
    zone(rapl, "0", "psys", 1)
    assert energy.find("cpu")[0] is None
    assert energy.find("cpu")[1].startswith("no meter")


def test_an_unreadable_counter_is_a_reason_with_the_remedy(rapl, monkeypatch):
    zone(rapl, "0", "package-0", 1)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    meter, reason = energy.find("cpu")
    assert meter is None
    assert reason.startswith("no permission") and "chmod a+r" in reason


def test_a_counter_that_disappears_is_not_measured(rapl):
    counter = zone(rapl, "0", "package-0", 1)
    w = Window(*energy.find("cpu"))
    w.start()
    counter.unlink()
    assert w.stop().status.startswith("not measured: ")


# --- NVIDIA and Apple, on stand-ins for zeus


class GpuError(Exception):
    """Stands for zeus's base error."""


def stand_in(monkeypatch, kind: str, **names) -> None:
    module = ModuleType(f"zeus.device.{kind}")
    for name, value in names.items():
        setattr(module, name, value)
    errors = ModuleType("zeus.device.exception")
    errors.ZeusBaseGPUError = errors.ZeusBaseSoCError = GpuError
    monkeypatch.setitem(sys.modules, "zeus", ModuleType("zeus"))
    monkeypatch.setitem(sys.modules, "zeus.device", ModuleType("zeus.device"))
    monkeypatch.setitem(sys.modules, f"zeus.device.{kind}", module)
    monkeypatch.setitem(sys.modules, "zeus.device.exception", errors)


@pytest.mark.parametrize("visible", [None, "0", "1", "2,3", "3,0"])
def test_the_gpu_meter_is_the_first_visible_gpu(monkeypatch, visible):
    """zeus numbers the visible GPUs from 0, as CUDA does."""
    monkeypatch.setattr(energy.platform, "system", lambda: "Linux")
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    shown = [int(i) for i in (visible or "0,1,2,3").split(",")]
    gpus = SimpleNamespace(
        supports_get_total_energy_consumption=lambda i: shown[i] >= 0,
        get_total_energy_consumption=lambda i: shown[i] * 1000,
    )
    stand_in(monkeypatch, "gpu", get_gpus=lambda: gpus)
    meter, reason = energy.find("gpu")
    assert meter is not None, reason
    assert meter.read() == shown[0]


def test_a_gpu_without_a_counter_or_a_driver_is_a_reason(monkeypatch):
    monkeypatch.setattr(energy.platform, "system", lambda: "Linux")
    old = SimpleNamespace(supports_get_total_energy_consumption=lambda i: False)
    stand_in(monkeypatch, "gpu", get_gpus=lambda: old)
    assert energy.find("gpu") == (None, "no meter: this GPU has no energy counter")

    def fail():
        raise GpuError("NVML is not there")

    stand_in(monkeypatch, "gpu", get_gpus=fail)
    assert energy.find("gpu") == (None, "no meter (NVML is not there)")


def test_two_devices_are_metered_together_or_not_at_all(monkeypatch, rapl):
    gpus = SimpleNamespace(
        supports_get_total_energy_consumption=lambda i: True,
        get_total_energy_consumption=lambda i: 2000,
    )
    stand_in(monkeypatch, "gpu", get_gpus=lambda: gpus)
    meter, reason = energy.find("cpu-gpu")  # a GPU's energy alone is not that of the work
    assert meter is None and "this CPU shows no RAPL counter" in reason
    counter = zone(rapl, "0", "package-0", 0)
    meter, reason = energy.find("cpu-gpu")
    assert meter is not None and (meter.source, reason) == (
        "RAPL package + NVML energy counter", "",
    )  # fmt: skip
    counter.write_text("5000000")
    assert meter.read() == pytest.approx(5 + 2)
    twice, _ = energy.find("cpu-cpu")  # one package, counted once
    assert twice is not None and twice.source == "RAPL package"


# Not run on a Mac: the fields are those of zeus 0.16.0's AppleSiliconMeasurement.
def test_the_apple_meter_sums_what_does_not_overlap(monkeypatch):
    monkeypatch.setattr(energy.platform, "system", lambda: "Darwin")
    measured = SimpleNamespace(
        cpu_total_mj=1000, efficiency_cores_mj=[400], performance_cluster_mj=[600],
        gpu_mj=2000, gpu_sram_mj=None, dram_mj=500, ane_mj=0,
    )  # fmt: skip
    soc = SimpleNamespace(get_total_energy_consumption=lambda: measured)
    stand_in(monkeypatch, "soc", get_soc=lambda: soc)
    for device in ("cpu", "gpu"):
        meter, reason = energy.find(device)
        assert meter is not None and reason == ""
        assert meter.read() == pytest.approx(3.5)

    def fail():
        raise GpuError("No observable SoC")

    stand_in(monkeypatch, "soc", get_soc=fail)
    assert "pip install zeus-apple-silicon" in energy.find("cpu")[1]


def test_this_machine_has_a_meter_or_a_reason():
    for device in ("cpu", "gpu"):
        meter, reason = energy.find(device)
        assert (meter is None) == bool(reason)
        assert "\n" not in reason

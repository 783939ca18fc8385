"""What is seen of a machine, from recorded readings; and that watching a real one counts right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

import pytest

from analysis.flags import TRIAL_REMEDIES
from measurement import limits, readings
from measurement.gpus import Card
from measurement.limits import Sample
from measurement.monitor import COST_SHARE, Monitor, Seen
from measurement.readings import Reader, Reading

QUIET = Sample(
    start=0.0, seconds=1.0, phase="training", cpus=10, others_share=0.02, own_share=0.002,
    worker_share=0.9, stolen_share=0.0, slept_seconds=0.0, swapped_bytes=0,
    memory_stalled_share=0.0, throttled_share=0.0, heat=0.0, thermal_pressure=0, clock_share=0.7,
    clock_floor=0.55, gpu_busy_share=0.9, gpu_clock_share=0.8, gpu_others=0, gpu_others_bytes=0,
    gpu_others_share=0.0,
)  # fmt: skip
SPOILED: list[tuple[str, dict[str, Any]]] = [
    ("LOAD", {"others_share": 0.11, "worker_share": 0.3}),
    ("LOAD", {"others_share": 0.08, "worker_share": 0.9}),  # a core's worth, and no room beside it
    ("LOAD", {"own_share": 0.2, "worker_share": 0.3}),
    ("STOLEN-CPU", {"stolen_share": 0.06, "worker_share": 0.8}),
    ("SWAP", {"swapped_bytes": 2 * 2**20}),
    ("SWAP", {"memory_stalled_share": 0.03}),
    ("CPU-QUOTA", {"throttled_share": 0.03}),
    ("THERMAL", {"thermal_pressure": 1}),
    ("THERMAL", {"heat": 0.03}),
    ("THERMAL", {"heat": 1.0, "heat_unit": "events"}),
    ("THERMAL", {"gpu_hot_share": 0.1}),
    ("CLOCK", {"clock_share": 0.4}),
    ("CLOCK", {"clock_share": 0.45, "clock_floor": 0.5}),  # under half of the trial's own 0.95
    ("CLOCK", {"gpu_slowed_share": 0.1}),
    ("CLOCK", {"gpu_clock_share": 0.4}),
    ("BATTERY", {"on_battery": True}),
    ("LOW-POWER", {"low_power": True}),
    ("SUSPENDED", {"slept_seconds": 3.0}),
    ("GPU-SHARED", {"gpu_others_share": 0.06}),
    ("GPU-SHARED", {"gpu_others": 1, "gpu_others_bytes": 2**31}),
]
SOUND: list[dict[str, Any]] = [
    {},
    {"others_share": 0.095, "worker_share": 0.5},  # room enough
    {"others_share": 0.07, "worker_share": 0.93},  # a desktop being drawn
    {"cpus": 2, "others_share": 0.09, "worker_share": 0.9},
    {"swapped_bytes": 900_000},  # cold pages go out now and then
    {"throttled_share": 0.01, "memory_stalled_share": 0.01, "stolen_share": 0.04},
    {"clock_share": 0.5},  # wide vector instructions
    {"clock_share": None, "clock_floor": None, "thermal_pressure": None, "heat": None},
    {"gpu_clock_share": None, "gpu_busy_share": 0.1},  # a GPU that waits for work
    {"gpu_clock_share": 0.65, "gpu_others": 2, "gpu_others_bytes": 300 * 2**20},  # a desktop
]


@pytest.mark.parametrize(("flag", "changes"), SPOILED)
def test_each_state_has_its_flag(flag: str, changes: dict[str, Any]) -> None:
    found = limits.said(replace(QUIET, **changes), highest_clock=0.95, on_gpu=True)
    assert list(found) == [flag]
    assert flag in TRIAL_REMEDIES


@pytest.mark.parametrize("changes", SOUND)
def test_a_quiet_machine_has_none(changes: dict[str, Any]) -> None:
    assert limits.said(replace(QUIET, **changes), highest_clock=0.9, on_gpu=True) == {}


def test_the_gpu_concerns_work_on_it_only() -> None:
    shared = replace(QUIET, gpu_others_share=0.5, gpu_slowed_share=1.0)
    assert limits.said(shared) == {}


def test_what_a_gpu_does_before_the_worker_is_done_by_others() -> None:
    idle = Card(0.02, 600 * 2**20, 0.2, False, False, None, None, None)  # a desktop, or a container
    assert limits.said_before((idle,)) == {} == limits.said_before(())
    for changes in ({"busy_share": 0.5}, {"used_bytes": 8 * 2**30}):
        assert "GPU-SHARED" in limits.said_before((idle, replace(idle, **changes)))


def test_a_gpus_clock_counts_while_it_works() -> None:
    """As recorded on a GPU that had just begun: 345 MHz of 1980 while nothing ran."""
    idle, busy = (
        Card(use, 2**30, clock, False, False, 0, 0, 0.0) for use, clock in ((0, 0.17), (0.9, 1.0))
    )
    seen = [
        limits.between(READING, later(cards=(card,)), "training") for card in (idle, idle, busy)
    ]
    assert limits.said(limits.merged(seen, "training"), on_gpu=True) == {}
    slow = replace(busy, clock_share=0.3)
    assert "CLOCK" in limits.said(limits.between(READING, later(cards=(slow,)), "x"), on_gpu=True)


def test_a_gpu_without_a_trace_of_the_work_did_none() -> None:
    card = Card(0.0, 3 * 2**20, 0.17, False, False, 0, 0, None)
    worked = replace(card, used_bytes=600 * 2**20)
    for cards, nothing in (
        ((card,), True),
        ((worked,), False),
        ((replace(card, busy_share=0.1),), False),
    ):
        assert (
            limits.did_nothing((card,), [limits.between(READING, later(cards=cards), "steps")])
            is nothing
        )
    assert limits.did_nothing((), [QUIET]) is False


# --- between two readings

READING = Reading(
    seconds=100.0, wall_seconds=5000.0, cpus=4, busy_seconds=1000.0, stolen_seconds=3.0,
    own_seconds=7.0, worker_seconds=50.0, swapped_bytes=0, heat=2.0, throttled_seconds=1.0,
)  # fmt: skip


def later(seconds: float = 2.0, **changes: Any) -> Reading:
    values = {"seconds": 100.0 + seconds, "wall_seconds": 5000.0 + seconds}
    return replace(READING, **{**values, **changes})


def test_others_are_all_but_the_worker_and_the_supervisor() -> None:
    now = later(busy_seconds=1006.0, own_seconds=7.5, worker_seconds=54.5, stolen_seconds=3.4)
    found = limits.between(READING, now, "training")
    assert found.others_share == pytest.approx(1.0 / 8)
    assert found.own_share == pytest.approx(0.5 / 8)
    assert found.worker_share == pytest.approx(4.5 / 8)
    assert found.stolen_share == pytest.approx(0.4 / 8)


def test_counters_of_any_order_give_no_negative_share() -> None:
    """The worker's time is exact, the machine's is counted in ticks."""
    found = limits.between(READING, later(busy_seconds=1001.0, worker_seconds=53.0), "training")
    assert found.others_share == 0.0
    assert limits.between(READING, READING, "training").others_share == 0.0


def test_a_machine_that_slept_has_a_clock_that_ran_on() -> None:
    asleep = later(wall_seconds=5000.0 + 2.0 + 40.0)
    assert limits.between(READING, asleep, "x").slept_seconds == pytest.approx(40.0)
    assert limits.between(READING, later(wall_seconds=4990.0), "x").slept_seconds == 0.0


# --- a trial of recorded readings


class Recorded:
    """Gives a reading for every call: `step` makes each from the one before."""

    def __init__(self) -> None:
        self.now = READING

    def pass_(self, seconds: float, others: float = 0.0, **more: float) -> None:
        changes = {
            "seconds": self.now.seconds + seconds,
            "wall_seconds": self.now.wall_seconds + seconds,
            "busy_seconds": self.now.busy_seconds + 4 * seconds * (0.5 + others),
            "worker_seconds": self.now.worker_seconds + 4 * seconds * 0.5,
        }
        self.now = replace(self.now, **{**changes, **more})  # type: ignore[arg-type]

    def __call__(self, quick: bool) -> Reading:
        return self.now


def watched(stretches: list[tuple[str, float, float]], device: str = "cpu", **more: Any) -> Seen:
    """(event, seconds until the next one, share of others in it), one reading a second."""
    machine = Recorded()
    machine.now = replace(machine.now, **more)
    with Monitor(read=machine) as monitor:
        for event, seconds, others in stretches:
            monitor.see({"event": event, "pid": os.getpid(), "device": device})
            left = seconds
            while left > 0:
                machine.pass_(min(1.0, left), others)
                monitor._take(quick=False)
                left -= 1.0
    return monitor.seen()


TRIAL = [
    ("start", 2.0, 0.0), ("ready", 1.0, 0.0), ("epoch_begin", 60.0, 0.0), ("epoch_end", 0.5, 0.0),
    ("epoch", 0.0, 0.0), ("epoch_begin", 60.0, 0.0), ("trained", 1.0, 0.0), ("steps", 1.0, 0.0),
    ("latency", 0.05, 0.0), ("inference", 1.0, 0.0), ("ceiling", 1.0, 0.0), ("evidence", 2.0, 0.0),
]  # fmt: skip


def with_load(event: str, share: float, seconds: float | None = None) -> list[Any]:
    return [(e, seconds or s, share) if e == event else (e, s, o) for e, s, o in TRIAL]


def test_a_quiet_trial_carries_no_flag() -> None:
    seen = watched(TRIAL)
    assert seen.found == {}
    assert seen.phases["training"].seconds == pytest.approx(120.5)
    assert list(seen.phases)[:3] == ["start", "warm-up", "training"]


@pytest.mark.parametrize("phase", ["latency", "steps", "ceiling"])
def test_a_burst_in_a_short_phase_is_seen_though_the_mean_is_quiet(phase: str) -> None:
    seen = watched(with_load(phase, 0.4, 1.0))
    assert set(seen.found) == {"LOAD"} and phase in seen.found["LOAD"]
    assert "training" not in seen.found["LOAD"]
    assert "40%" in seen.found["LOAD"][phase]
    assert seen.values()["machine/others_cpu_share_max"] == pytest.approx(0.4)


def test_load_while_nothing_is_timed_is_no_flag() -> None:
    assert watched(with_load("start", 0.5)).found == {}
    assert watched(with_load("evidence", 0.5)).found == {}


def test_a_short_burst_in_a_long_phase_is_below_the_limit() -> None:
    """5 s of 120: it costs the total less than is looked for, and shows in the worst second."""
    stretches = [*TRIAL[:2], ("epoch_begin", 115.0, 0.0), ("epoch_begin", 5.0, 0.5), *TRIAL[6:]]
    seen = watched(stretches)
    assert seen.found == {}
    assert seen.values()["machine/others_cpu_share_max"] == pytest.approx(0.5)


def test_a_phase_too_short_for_the_kernels_clock_is_judged_with_its_neighbours() -> None:
    """10 ms of a tick are 20 % of 50 ms."""
    assert watched(with_load("latency", 0.2)).found == {}


def test_the_record_of_a_watch_is_json_and_metrics_have_names() -> None:
    from tracking.names import METRICS

    seen = watched(with_load("latency", 0.4, 1.0))
    text = json.loads(json.dumps(seen.as_json()))
    assert text["flags"] == {"LOAD": dict(seen.found["LOAD"])}
    assert len({len(column) for column in text["samples"].values()}) == 1
    assert "gpu_busy_share" not in text["samples"]
    assert set(seen.values()) <= set(METRICS)
    assert len({len(values) for values in seen.series().values()}) == 1


def test_a_gpu_shared_before_the_worker_is_a_flag_of_work_on_the_gpu() -> None:
    busy = Card(0.9, 2**33, 0.9, False, False, None, None, None)
    assert set(watched(TRIAL, "gpu", cards=(busy,)).found) == {"GPU-SHARED"}
    assert watched(TRIAL, "cpu", cards=(busy,)).found == {}


def test_a_watch_that_fails_is_said_and_costs_no_trial() -> None:
    def read(quick: bool) -> Reading:
        if quick:
            raise PermissionError("denied")
        return READING

    with Monitor(read=read) as monitor:
        monitor.see({"event": "ready", "pid": 1, "device": "cpu"})
    assert "UNWATCHED" in monitor.seen().found


def test_the_workers_peak_is_seen_before_and_after_it_reads_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    peaks = iter([10, 20, 30, 40, 50])
    monkeypatch.setattr("measurement.memory.peak_bytes", lambda pid: next(peaks))
    monkeypatch.setattr("measurement.monitor._LATE_SECONDS", 0.03)
    with Monitor(read=Recorded()) as monitor:
        for event, seconds in (("ready", 0.0), ("trained", 0.05), ("steps", 0.0), ("ceiling", 0.0)):
            monitor.see({"event": event, "pid": 1, "device": "cpu"})
            time.sleep(seconds)
    # The reading at "steps" may have come late: the one before it counts.
    assert (monitor.seen().peak_before, monitor.seen().peak_after) == (20, 40)


def test_other_modes_name_their_own_work() -> None:
    with Monitor("generate", read=Recorded()) as monitor:
        for event in ("ready", "epoch_begin", "trained"):
            monitor.see({"event": event, "pid": os.getpid(), "device": "cpu"})
    assert [sample.phase for sample in monitor.seen().samples] == [
        "start", "warm-up", "generation", "audit"
    ]  # fmt: skip


# --- this machine, whatever else runs on it

BURN = "import time\nend = time.process_time() + {}\nwhile time.process_time() < end: pass"
FAMILY = (
    "import subprocess, sys\n"
    f"subprocess.run([sys.executable, '-c', {BURN.format(0.3)!r}])\n"  # ends, and is waited for
    f"child = subprocess.Popen([sys.executable, '-c', {BURN.format(0.2)!r} + '\\ninput()'],"
    " stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
    f"{BURN.format(0.2)}\ninput()\nchild.communicate(b'\\n')"
)


def test_the_workers_whole_family_is_counted_alive_and_ended() -> None:
    read = Reader()
    before = read(quick=False)
    process = subprocess.Popen([sys.executable, "-c", FAMILY], stdin=subprocess.PIPE)
    end = time.monotonic() + 20
    while read(True).worker_seconds - before.worker_seconds < 0.7 and time.monotonic() < end:
        time.sleep(0.05)
    alive = read(quick=True)
    process.communicate(b"\n")
    ended = read(quick=True)
    spent = alive.worker_seconds - before.worker_seconds
    assert 0.6 <= spent < 1.5
    assert ended.worker_seconds >= alive.worker_seconds - 0.02  # waited for, and not forgotten
    assert ended.busy_seconds - before.busy_seconds >= 0.9 * spent


def test_watching_costs_next_to_nothing() -> None:
    read = Reader()
    read(quick=False)
    start = time.thread_time()
    for _ in range(20):
        read(quick=False)
    assert (time.thread_time() - start) / 20 < 2 * COST_SHARE  # a second; longer where it is dearer
    monitor = Monitor(read=Recorded())
    assert monitor._wait(0.0005) == 1.0
    assert monitor._wait(0.01) == pytest.approx(10.0)


# --- files as Linux and macOS have them


@pytest.fixture
def files(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(readings, "CPUS", tmp_path)
    return tmp_path


def put(path: Any, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_heat_is_seconds_where_the_kernel_times_it_else_events(files: Any) -> None:
    assert readings._heat_files() == ([], "s")
    for cpu in range(32):
        put(files / f"cpu{cpu}/thermal_throttle/package_throttle_count", "3\n")
    found, unit = readings._heat_files()
    assert unit == "events" and 1 < len(found) <= 8
    put(files / "cpu0/thermal_throttle/package_throttle_total_time_ms", "1500\n")
    assert readings._heat_files()[1] == "s"
    assert Reader()._hot() == 1.5


def test_the_clock_is_that_of_a_busy_processor_against_what_it_is_promised(files: Any) -> None:
    for cpu, now in ((0, 800_000), (1, 2_000_000)):
        put(files / f"cpu{cpu}/cpufreq/cpuinfo_max_freq", "4000000\n")
        put(files / f"cpu{cpu}/cpufreq/scaling_cur_freq", f"{now}\n")
    read = Reader()
    assert read._clock(10.0, {0: 5.0, 1: 5.0}) == (None, None)
    assert read._clock(11.0, {0: 5.0, 1: 5.1}) == (None, None)  # nobody works
    assert read._clock(12.0, {0: 5.9, 1: 5.2}) == (0.2, 0.6)
    put(files / "cpu0/acpi_cppc/nominal_freq", "3000\n")
    assert read._clock(13.0, {0: 6.9, 1: 5.2}) == (0.2, 0.75)
    put(files / "cpu1/cpufreq/base_frequency", "2400000\n")
    assert read._clock(14.0, {0: 6.9, 1: 6.2}) == (0.5, 0.6)
    assert readings._clock_of(files / "cpu9") is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("nr_throttled 4\nthrottled_usec 2000000\n", 2.0), ("throttled_time 3000000000\n", 3.0)],
)
def test_both_versions_of_control_groups_say_what_they_held_back(
    tmp_path: Any, text: str, seconds: float
) -> None:
    read = Reader()
    put(tmp_path / "cpu.stat", text)
    read._groups, read._quota = [tmp_path / "missing", tmp_path / "cpu.stat"], 2
    assert read._throttled() == seconds / 2


def test_a_process_name_may_hold_anything(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readings, "PROC", tmp_path)
    rest = " ".join(str(number) for number in range(4, 53))
    put(tmp_path / "7/stat", f"7 (a ) S (b) S 1 {rest}\n")
    own, ended = readings._times(7) or (0.0, 0.0)
    assert (own * readings._TICKS, ended * readings._TICKS) == (13 + 14, 15 + 16)
    assert readings._times(8) is None and list(readings._children(8)) == []

"""Facts and flags of a machine, on fabricated states and recorded outputs of macOS commands."""

from __future__ import annotations

import platform
import re
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from measurement import identity, machine

CALM = {
    "busy_fraction": 0.0,
    "on_battery": False,
    "low_power_mode": False,
    "thermal_pressure": None,
    "swap_used_fraction": 0.0,
    "rosetta": False,
    "gpu_busy_fraction": None,
}
SPOILED = {
    "busy_fraction": (0.11, "LOAD"),
    "on_battery": (True, "BATTERY"),
    "low_power_mode": (True, "LOW-POWER"),
    "thermal_pressure": (1, "THERMAL"),
    "swap_used_fraction": (0.51, "SWAP"),
    "rosetta": (True, "ROSETTA"),
    "gpu_busy_fraction": (0.31, "GPU-SHARED"),
}
PMSET = """System-wide power settings:
Currently in use:
 standby              1
 Sleep On Power Button 1
 hibernatefile        /var/vm/sleepimage
 powernap             1
 networkoversleep     0
 disksleep            10
 sleep                1 (sleep prevented by coreaudiod)
 hibernatemode        3
 displaysleep         2
 tcpkeepalive         1
{line}
 womp                 0
"""
IOREG = """+-o J314sAP  <class IOPlatformExpertDevice, id 0x100000245, registered, matched, active>
    {
      "IOPlatformSerialNumber" = "C02ABCDEFGHI"
      "IOPlatformUUID" = "9F3C1B52-0C1D-5A59-9E0F-AAAAAAAAAAAA"
      "model" = <"MacBookPro18,3">
    }
"""


# --- flags


@given(st.sets(st.sampled_from(list(SPOILED))))
def test_flags_name_exactly_what_would_spoil(spoiled):
    now = {**CALM, **{name: SPOILED[name][0] for name in spoiled}}
    assert set(machine.flags(now)) == {SPOILED[name][1] for name in spoiled}


def test_limits_themselves_are_no_flags():
    now = {**CALM, "busy_fraction": 0.10, "thermal_pressure": 0, "swap_used_fraction": 0.5}
    assert machine.flags(now) == []


def test_the_state_of_this_machine_has_every_field():
    now = machine.state(seconds=0.01)
    assert set(now) == set(CALM)
    assert isinstance(machine.flags(now), list)
    assert 0 <= now["busy_fraction"] <= 1 and 0 <= now["swap_used_fraction"] <= 1


def test_a_battery_that_is_plugged_in_is_no_flag(monkeypatch):
    for battery, flag in (
        (None, False),
        (SimpleNamespace(power_plugged=True), False),
        (SimpleNamespace(power_plugged=False), True),
    ):
        monkeypatch.setattr(machine.psutil, "sensors_battery", lambda b=battery: b, raising=False)
        assert machine.state(seconds=0.01)["on_battery"] is flag


# --- who it is


def test_the_fingerprint_is_stable_and_without_the_host_name(monkeypatch):
    name = machine.fingerprint()
    assert re.fullmatch(r"[a-z]+-[A-Za-z0-9_]+-\d+c-[0-9a-f]{6}", name)
    assert name == machine.fingerprint()
    assert platform.node().lower() not in name.lower()
    if machine._identity() != platform.node():  # a machine id is there
        monkeypatch.setattr(machine.platform, "node", lambda: "another-name")
        assert machine.fingerprint() == name


def test_another_identity_is_another_fingerprint(monkeypatch):
    names = set()
    for host in ("a", "b", "secret-host"):
        monkeypatch.setattr(machine, "_identity", lambda i=host: i)
        names.add(machine.fingerprint())
        assert host not in machine.fingerprint().split("-")
    assert len(names) == 3


def test_a_container_is_told_which_machine_it_is_on(monkeypatch):
    plain = machine.fingerprint()
    found = {}
    for node in ("cluster/node-1", "cluster/node-2", " "):
        monkeypatch.setenv(machine.IDENTITY, node)
        found[node] = machine.fingerprint()
    assert len(set(found.values())) == 3 and found[" "] == plain
    assert "node" not in found["cluster/node-1"]


def test_rented_machines_of_one_name_are_one_whatever_memory_is_left_to_them(monkeypatch):
    for name, one in ((" ", False), ("rented-h200", True)):
        monkeypatch.setenv(machine.IDENTITY, name)
        found = set()
        for size in (2**37, 2**37 - 4096):
            memory = SimpleNamespace(total=size)
            monkeypatch.setattr(machine.psutil, "virtual_memory", lambda memory=memory: memory)
            found.add((machine.fingerprint(), machine.identity()))
        assert (len(found) == 1) is one


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "400000 100000\n"}, 4),
        ({"cpu.max": "150000 100000\n"}, 1),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_a_containers_limit_of_cores_counts(monkeypatch, tmp_path, files, cores):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    assert machine.core_quota() == cores
    assert machine.physical_cores() <= (cores or machine.physical_cores())


def test_facts_are_strings_without_a_persons_or_hosts_name():
    facts = machine.facts()
    assert all(isinstance(value, str) and value for value in facts.values())
    assert platform.node() not in " ".join(facts.values())
    assert int(facts["machine_cores"]) >= 1 and float(facts["machine_memory_gib"]) > 0


def test_cores_never_exceed_what_the_process_may_use(monkeypatch):
    assert machine.physical_cores() >= 1
    monkeypatch.setattr(machine.psutil, "cpu_count", lambda logical=True: 64)
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda pid: {0, 1, 2}, raising=False)
    assert machine.physical_cores() == 3
    monkeypatch.setattr(machine.psutil, "cpu_count", lambda logical=True: None)
    assert machine.physical_cores() == 3


# --- macOS: recorded outputs; not run on a Mac


@pytest.fixture
def mac(monkeypatch):
    """Answers of macOS commands by their last word."""
    answers = {
        "machdep.cpu.brand_string": "Apple M1 Pro",
        "sysctl.proc_translated": "0",
        "-g": PMSET.format(line=" lowpowermode         0"),
        "IOPlatformExpertDevice": IOREG,
    }
    monkeypatch.setattr(machine.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(machine, "_command", lambda *words: answers.get(words[-1], ""))
    return answers


def test_a_macs_start_is_its_boot_session_whatever_its_clock_says(mac, monkeypatch):
    monkeypatch.setattr(identity, "_BOOT", Path("/nowhere"))
    mac["kern.bootsessionuuid"] = "0B6B7B0E-BBBB-4C3A-A0A5-BBBBBBBBBBBB"
    found = []
    for seconds in (1.0, 2.0):
        monkeypatch.setattr(identity.psutil, "boot_time", lambda seconds=seconds: seconds)
        found.append(identity.boot())
    mac["kern.bootsessionuuid"] = ""
    assert found[0] == found[1] != identity.boot()
    assert "0B6B" not in found[0]


def test_mac_identity_is_the_platform_uuid_and_stays_secret(mac):
    assert machine.cpu_name() == "Apple M1 Pro"
    assert machine._identity() == "9F3C1B52-0C1D-5A59-9E0F-AAAAAAAAAAAA"
    name = machine.fingerprint()
    assert name.startswith("mac-") and "9F3C" not in name
    mac["IOPlatformExpertDevice"] = ""
    assert machine._identity() == platform.node()


@pytest.mark.parametrize(
    ("line", "low"),
    [
        (" lowpowermode         1", True),
        (" lowpowermode 1", True),
        ("\tlowpowermode\t1", True),
        (" lowpowermode         0", False),
        (" lowpowermode         10", False),
        (" powermode            1", True),  # machines that have a high-power mode (2) too
        (" powermode            2", False),
        (" powermode            0", False),
        ("", False),
    ],
)
def test_low_power_mode_on_a_mac(mac, line, low):
    mac["-g"] = PMSET.format(line=line)
    assert machine.low_power_mode() is low


def test_rosetta_is_told_by_the_kernel(mac):
    assert machine._rosetta() is False
    mac["sysctl.proc_translated"] = "1"
    assert machine._rosetta() is True
    mac["sysctl.proc_translated"] = ""  # an Intel Mac does not know the name
    assert machine._rosetta() is False


@pytest.mark.parametrize(("registered", "level"), [(0, 2), (0, 0), (1, None)])
def test_thermal_pressure_on_a_mac(mac, monkeypatch, registered, level):
    calls = []

    class Library:
        def notify_register_check(self, name, token):
            assert name == b"com.apple.system.thermalpressurelevel"
            token._obj.value = 5
            return registered

        def notify_get_state(self, token, state):
            assert token.value == 5
            state._obj.value = level

        def notify_cancel(self, token):
            calls.append(token.value)

    monkeypatch.setattr(machine.ctypes, "CDLL", lambda name: Library())
    assert machine.thermal_pressure() == level
    assert calls == ([5] if registered == 0 else [])


def test_other_systems_have_no_mac_states(monkeypatch):
    monkeypatch.setattr(machine.platform, "system", lambda: "Linux")
    monkeypatch.setattr(machine, "_command", lambda *words: pytest.fail("no command on Linux"))
    assert machine.thermal_pressure() is None
    assert machine.low_power_mode() is False and machine._rosetta() is False


# --- load of others, commit, commands


def test_the_load_window_leaves_the_workers_own_time_out(monkeypatch):
    def times(user, steal):
        return SimpleNamespace(user=user, nice=0, system=0, irq=0, softirq=0, steal=steal)

    readings, moments = iter([times(100, 1), times(108, 3)]), iter([50.0, 60.0])
    monkeypatch.setattr(machine.psutil, "cpu_times", lambda: next(readings))
    monkeypatch.setattr(machine.psutil, "cpu_count", lambda: 4)
    monkeypatch.setattr(machine.time, "monotonic", lambda: next(moments))
    others, stolen = machine.LoadWindow().stop(worker_cpu_seconds=6.0)
    assert others == pytest.approx(2 / 40) and stolen == pytest.approx(2 / 40)


def test_the_load_window_is_never_negative():
    assert machine.LoadWindow().stop(worker_cpu_seconds=1e6)[0] == 0.0
    time.sleep(0.01)


def test_the_commit_tells_a_changed_tree(tmp_path):
    assert machine.commit(tmp_path) == ("", False)

    def git(*words):
        subprocess.run(
            ["git", "-C", tmp_path, "-c", "user.name=n", "-c", "user.email=e", *words],
            check=True,
            capture_output=True,
        )

    git("init", "-q")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-qm", "a")
    head, dirty = machine.commit(tmp_path)
    assert re.fullmatch("[0-9a-f]{40}", head) and dirty is False
    (tmp_path / "a").write_text("2")
    assert machine.commit(tmp_path) == (head, True)


@pytest.mark.parametrize(
    "words",
    [("no-such-command-here",), ("false",), ("printf", "\\377\\376")],
)
def test_a_command_that_fails_says_nothing(words):
    assert machine._command(*words) in ("", "\ufffd\ufffd")


def test_a_command_that_hangs_is_given_up(monkeypatch):
    def hang(words, **options):
        raise subprocess.TimeoutExpired(words, options["timeout"])

    monkeypatch.setattr(machine.subprocess, "run", hang)
    assert machine._command("sysctl") == ""


def test_the_longer_digest_names_the_machine_as_the_short_one_does(monkeypatch):
    monkeypatch.setenv(machine.IDENTITY, "a machine")
    before = machine.identity()
    assert before == machine.identity() and re.fullmatch(r"[0-9a-f]{16}", before)
    monkeypatch.setenv(machine.IDENTITY, "another machine")
    assert machine.identity() != before

"""What this machine is and what state it is in: facts for the record, and flags that would spoil a
measurement."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import re
import subprocess
import time
from functools import cache
from pathlib import Path
from typing import Any

import psutil

BUSY_FRACTION = 0.10  # of all cores, by other processes
GPU_BUSY_FRACTION = 0.30
"""Of a Mac's GPU, before the worker: drawing the desktop takes up to about a fifth."""
IDENTITY = "MACHINE_IDENTITY"
"""Variable that says which machine this is where the system's own files do not: in a container they
are the container's, a new one every time or one for all."""

_PROFILE = Path("/sys/firmware/acpi/platform_profile")
_CGROUP = Path("/sys/fs/cgroup")  # of this process, as a container sees it


def facts() -> dict[str, str]:
    """Hardware and system, all strings; nothing that names a person or a host."""
    return {
        "machine_cpu": cpu_name(),
        "machine_cores": str(physical_cores()),
        "machine_memory_gib": f"{psutil.virtual_memory().total / 2**30:.1f}",
        "machine_os": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
        "machine_arch": platform.machine(),
        "version_python": platform.python_version(),
    }


def fingerprint() -> str:
    """Readable and stable name of this machine: system, architecture, cores and a salted hash of
    its identity, so that the same machine is known again and its name is not."""
    digest = hashlib.sha256(b"framework-study:" + _known_by().encode()).hexdigest()[:6]
    system = {"Darwin": "mac"}.get(platform.system(), platform.system().lower())
    return f"{system}-{platform.machine()}-{physical_cores()}c-{digest}"


def identity() -> str:
    """64 bits of what `fingerprint` has 24 of, so that two machines of one name are found out: of a
    thousand equal ones two share a name with a probability of 3 %, this with one of 3e-14. The hash
    is slow, because an identity may be a host's name, which can be guessed; a system's own is random."""
    return _slow_hash(_known_by())


@cache
def _slow_hash(text: str) -> str:
    return hashlib.scrypt(
        text.encode(), salt=b"framework-study:identity", n=1 << 14, r=8, p=1, dklen=8
    ).hex()


def _known_by() -> str:
    if given := os.environ.get(IDENTITY, "").strip():
        # Two rented machines of one kind differ by a few bytes of memory.
        return given + cpu_name()
    return _identity() + cpu_name() + str(psutil.virtual_memory().total)


def cpu_name() -> str:
    """The chip's marketing name."""
    if platform.system() == "Darwin":
        return _command("sysctl", "-n", "machdep.cpu.brand_string") or platform.processor()
    try:
        match = re.search(
            r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE
        )
    except OSError:
        match = None
    return match.group(1).strip() if match else platform.processor() or "unknown"


def physical_cores() -> int:
    """Cores this process may use, hyper-threads not counted; a container's limit counts."""
    usable = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return min(psutil.cpu_count(logical=False) or usable, usable, core_quota() or usable)


def core_quota() -> int | None:
    """Cores' worth of time that a container's limit allows, at least 1; None without a limit."""
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            words = " ".join((_CGROUP / file).read_text() for file in files).split()
        except OSError:  # no Linux, or the other version of control groups
            continue
        if len(words) == 2 and all(word.isdecimal() for word in words):
            return max(1, int(words[0]) // int(words[1]))
    return None


def state(seconds: float = 0.3) -> dict[str, Any]:
    """Load by others, power source, thermal pressure, swap, as they are now."""
    return {
        "busy_fraction": psutil.cpu_percent(interval=seconds) / 100,
        "on_battery": on_battery(),
        "low_power_mode": low_power_mode(),
        "thermal_pressure": thermal_pressure(),
        "swap_used_fraction": _swap_used(),
        "rosetta": _rosetta(),
        "gpu_busy_fraction": gpu_busy(),
    }


def flags(now: dict[str, Any]) -> list[str]:
    """Names of what in a state would spoil a measurement."""
    found = []
    if now["busy_fraction"] > BUSY_FRACTION:
        found.append("LOAD")
    if now["on_battery"]:
        found.append("BATTERY")
    if now["low_power_mode"]:
        found.append("LOW-POWER")
    if (now["thermal_pressure"] or 0) > 0:
        found.append("THERMAL")
    if now["swap_used_fraction"] > 0.5:
        found.append("SWAP")
    if now["rosetta"]:
        found.append("ROSETTA")
    if (now.get("gpu_busy_fraction") or 0) > GPU_BUSY_FRACTION:
        found.append("GPU-SHARED")
    return found


class LoadWindow:
    """Share of all cores used by others, and stolen by the hypervisor, between two moments."""

    def __init__(self) -> None:
        self._start = psutil.cpu_times(), time.monotonic()

    def stop(self, worker_cpu_seconds: float) -> tuple[float, float]:
        """(fraction of all cores used by other processes, fraction stolen)."""
        before, now = self._start[0], psutil.cpu_times()
        elapsed = max(time.monotonic() - self._start[1], 1e-9) * (psutil.cpu_count() or 1)
        busy = sum(
            getattr(now, name, 0.0) - getattr(before, name, 0.0)
            for name in ("user", "nice", "system", "irq", "softirq")
        )
        stolen = getattr(now, "steal", 0.0) - getattr(before, "steal", 0.0)
        return max(busy - worker_cpu_seconds, 0.0) / elapsed, max(stolen, 0.0) / elapsed


def thermal_pressure() -> int | None:
    """macOS thermal pressure level, 0 (nominal) to 4, without sudo; None elsewhere.

    The notification `com.apple.system.thermalpressurelevel` read by notify_get_state(3).
    """
    if platform.system() != "Darwin":
        return None
    library, token, level = ctypes.CDLL(None), ctypes.c_int(), ctypes.c_uint64()
    name = b"com.apple.system.thermalpressurelevel"
    if library.notify_register_check(name, ctypes.byref(token)) != 0:
        return None
    library.notify_get_state(token, ctypes.byref(level))
    library.notify_cancel(token)
    return int(level.value)


def memory_kills() -> int:
    """How many processes this Linux has killed for lack of memory since it started; 0 where that is
    not counted."""
    try:
        match = re.search(r"^oom_kill (\d+)$", Path("/proc/vmstat").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(match.group(1)) if match else 0


def commit(folder: Path) -> tuple[str, bool]:
    """(git commit, whether the tree differs from it) of the project's folder; ("", False) outside
    a checkout. Reports that a study wrote are no difference."""
    head = _command("git", "-C", str(folder), "rev-parse", "HEAD")
    status = ("status", "--porcelain", "--", ".", ":(exclude)results")
    dirty = bool(head and _command("git", "-C", str(folder), *status))
    return head, dirty


def _swap_used() -> float:
    """Of all swap; of the memory on macOS, which makes its swap files as large as they need be, so
    that of them much is always used."""
    swap = psutil.swap_memory()
    if platform.system() == "Darwin":
        return float(swap.used / max(swap.total, psutil.virtual_memory().total))
    return float(swap.percent / 100)


def gpu_busy() -> float | None:
    """Share of a Mac's GPU that is in use now, by whomever; None elsewhere (see measurement.gpus)."""
    if platform.system() != "Darwin":
        return None
    text = _command("ioreg", "-r", "-d", "1", "-w", "0", "-c", "IOAccelerator")
    found = re.findall(r'"Device Utilization %"=(\d+)', text)
    return max(map(int, found)) / 100 if found else None


def on_battery() -> bool:
    battery = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
    return bool(battery and not battery.power_plugged)


def low_power_mode() -> bool:
    """macOS's mode, or Linux's platform profile of that name."""
    if platform.system() != "Darwin":
        try:
            return _PROFILE.read_text().strip() in ("low-power", "quiet")
        except OSError:  # most machines have none
            return False
    # Machines with a high-power mode write `powermode`: 0 automatic, 1 low, 2 high.
    return bool(re.search(r"^\s*(low)?powermode\s+1\s*$", _command("pmset", "-g"), re.MULTILINE))


def _rosetta() -> bool:
    return (
        platform.system() == "Darwin" and _command("sysctl", "-n", "sysctl.proc_translated") == "1"
    )


def boot_session() -> str:
    """A Mac's word for its present start, "" elsewhere."""
    return _command("sysctl", "-n", "kern.bootsessionuuid") if platform.system() == "Darwin" else ""


def _identity() -> str:
    if platform.system() == "Darwin":
        text = _command("ioreg", "-rd1", "-c", "IOPlatformExpertDevice")
        match = re.search(r'"IOPlatformUUID" = "([^"]+)"', text)
        return match.group(1) if match else platform.node()
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        try:
            if text := Path(path).read_text().strip():
                return text
        except OSError:
            continue
    return platform.node()


def _command(*words: str) -> str:
    """Standard output of a short command, "" when it does not exist or fails."""
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, errors="replace", timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""

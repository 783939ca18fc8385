"""Waits for a quiet machine, by the limits that a trial is judged by, and no longer than is allowed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping

import psutil

from measurement import limits, machine
from measurement.gpus import Cards
from measurement.readings import Reader, Reading

QUIET_SECONDS = 2.0
"""In one go: what was asked for by a person or a timer comes in shorter breaths."""
SAY_SECONDS = 10.0
_STEP_SECONDS = 1.0
_SHOWN, _SHOWN_SHARE = 3, 0.05
_STAY = ("BATTERY", "LOW-POWER", "CPU-QUOTA")  # waiting cures none of them; trials carry the flag


def wait(
    seconds: float,
    say: Callable[[str], None],
    on_gpu: bool = False,
    read: Callable[[bool], Reading] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, str]:
    """Returns what still disturbs, by flag, empty when the machine is quiet; at once for 0 seconds.
    on_gpu: whether a GPU that others use disturbs. `say` gets a line now and then on who keeps it busy: names of programs, nothing else of them."""
    if seconds <= 0:
        return {}
    read = Reader(Cards(int(on_gpu))) if read is None else read
    first = last = read(False)
    quiet, spoken = 0.0, -SAY_SECONDS
    disturbing: dict[str, str] = {}
    used = _used()
    while last.seconds - first.seconds < seconds:
        sleep(min(_STEP_SECONDS, seconds - (last.seconds - first.seconds)))
        now = read(False)
        found = _disturbing(last, now, on_gpu)
        step, waited = now.seconds - last.seconds, now.seconds - first.seconds
        quiet, last = (0.0 if found else quiet + step), now
        if not found and quiet >= QUIET_SECONDS:
            return {}
        if not found:
            continue
        disturbing, before = found, used
        used = _used()
        names = busiest(before, used, step)
        if waited - spoken >= SAY_SECONDS:
            reasons = "; ".join(f"{flag}, {what}" for flag, what in found.items())
            say(
                f"waiting for a quiet machine, {waited:.0f} of {seconds:.0f} s: {reasons} ({names})"
            )
            spoken = waited
    if disturbing:
        say(
            f"not quiet after {seconds:g} s ({', '.join(disturbing)}): goes on, and the trial is flagged "
            "where that lasts"
        )
    return disturbing


def _disturbing(before: Reading, now: Reading, on_gpu: bool) -> dict[str, str]:
    found = limits.said(limits.between(before, now, "quiet"))
    if on_gpu:
        found |= limits.said_before(now.cards)
        if (busy := machine.gpu_busy() or 0) > machine.GPU_BUSY_FRACTION:  # a Mac's
            found["GPU-SHARED"] = f"others used {busy:.0%} of the GPU"
    return {flag: what for flag, what in found.items() if flag not in _STAY}


def who(seconds: float = 1.0) -> str:
    """The programs that compute most now."""
    before = _used()
    time.sleep(seconds)
    return busiest(before, _used(), seconds)


Used = Mapping[int, tuple[str, float]]  # process -> name and processor seconds so far


def _used() -> Used:
    found = {}
    psutil.process_iter.cache_clear()  # of a number that is in use again it has the name before
    for process in psutil.process_iter(["name", "cpu_times"]):
        times = process.info["cpu_times"]
        if times is not None:  # denied
            found[process.pid] = process.info["name"] or "?", times.user + times.system
    return found


def busiest(before: Used, now: Used, seconds: float) -> str:
    """The programs that computed most, with their share of one core; this one is left out."""
    own = psutil.Process()
    family = {own.pid, *(child.pid for child in own.children(recursive=True))}
    spent: Counter[str] = Counter()
    for pid, (name, used) in now.items():
        if pid not in family:
            spent[name] += used - before.get(pid, (name, 0.0 if before else used))[1]  # type: ignore[assignment]
    top = [(name, s / seconds) for name, s in spent.most_common(_SHOWN)]
    listed = [f"{name} {share:.0%} of a core" for name, share in top if share >= _SHOWN_SHARE]
    return ", ".join(listed) or "by nothing that can be seen from here"

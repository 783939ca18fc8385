"""What a trial's own numbers give away: names of flags under which its times are not to be believed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

UNFINISHED_SHARE = 0.1
"""Of a clock's time, by work that lay before or after it."""

# What the supervisor's clock may see more, or less, of a timed stretch than the trial says: a busy
# machine delivers the two messages late, by milliseconds.
UNTIMED_SHARE, UNTIMED_SECONDS = 0.25, 0.1
CLOCK_RATE = 1.5
# Of the CPU's time in the epochs of one process, over their duration: a core does the step's work
# and a thread more may help a framework submit it. Helpers that spin do not make up for a core that
# sleeps, so idle is judged by the threads that do the work.
IDLE_SHARE, MORE_THREADS = 0.5, 1.5
SHORTEST_SECONDS = 0.2
"""Of all epochs, below which the processor's time says nothing."""

ABOVE_CEILING = 2.0
"""How many times the fastest matrix product of the same process a rate of counted products may be:
that one may have met a busy moment, and a kernel may leave out what a mask hides."""

UNTRUSTED = ("AUDIT", "IN-CLOCK", "UNFINISHED", "UNTIMED", "THREADS", "ABOVE-CEILING", "SWITCHED")
"""Flags of a trial whose times are of something else than they claim."""


def flags(trial: Mapping[str, Any], conditions: Mapping[str, Any], threads: int) -> list[str]:
    """Names, from what a worker returned. threads: those that it was given."""
    found = []
    if trial.get("strays"):
        found.append("IN-CLOCK")
    if trial.get("unfinished_share", 0.0) > UNFINISHED_SHARE:
        found.append("UNFINISHED")
    numerics = conditions["numerics"]
    on_cpu = conditions["device"] == "cpu"
    if on_cpu and numerics.get("pool_threads", str(threads)) != str(threads):
        found.append("THREADS")
    if numerics.get("switched"):
        found.append("SWITCHED")
    if conditions["dtype"] == "float32" and numerics.get("float32_products") == "reduced":
        found.append("REDUCED-PRECISION")
    return found + _cpu_time(trial, on_cpu, threads)


TIMED = {  # call that is counted -> where its samples are
    "step": "step_seconds",
    "answer": "latency_seconds",
    "pass over the test set": "inference_seconds",
    "prompt": "begin_seconds",
    "token": "token_seconds",
}


def above_ceiling(trial: Mapping[str, Any], counted: Mapping[str, Any] | None) -> list[str]:
    """The calls that are said to compute faster than this machine can. counted: of the evidence, see
    measurement.operations.Counted.summary. Ranks share a step, so their ceilings add up to more than
    is known here: nothing is said of a job."""
    ceiling = trial.get("ceiling_flops_per_second", 0.0)
    if not counted or not ceiling or trial.get("reduce_bytes"):
        return []
    found = []
    for call, products in counted["products"].items():
        samples = trial.get(TIMED.get(call, ""))
        if samples and sum(products.values()) > ABOVE_CEILING * ceiling * float(np.median(samples)):
            found.append(call)
    return found


def _cpu_time(trial: Mapping[str, Any], on_cpu: bool, threads: int) -> list[str]:
    seconds, cpu = trial.get("epoch_seconds"), trial.get("epoch_cpu_seconds")
    if not on_cpu or not seconds or not cpu or trial.get("reduce_bytes"):
        return []  # ranks wait for each other
    if sum(seconds) < SHORTEST_SECONDS:
        return []
    used, worked = (
        float(np.median(np.asarray(values) / np.asarray(seconds)))
        for values in (cpu, trial.get("epoch_work_seconds") or cpu)
    )
    if used > threads + MORE_THREADS:
        return ["OVER-THREADS"]
    return ["IDLE"] if worked < IDLE_SHARE else []


class Stopwatch:
    """The supervisor's own clock over the stretches that a worker says it timed."""

    def __init__(self) -> None:
        self.seen_seconds = self.said_seconds = 0.0
        self.rates: list[float] = []  # of the worker's clock to this one, over a sleep
        self._start: float | None = None

    def see(self, event: Mapping[str, Any], now: float) -> None:
        """now: seconds (time.monotonic, one clock for all processes of a machine) when the event was
        heard; `at` in it says when it was sent, because a supervisor that is at something else hears
        it late."""
        now = min(now, float(event.get("at", now)))
        if event["event"] in ("timing", "clock_begin"):
            self._start = now
        elif event["event"] == "clock_end" and self._start is not None:
            self.rates.append(event["seconds"] / max(now - self._start, 1e-9))
            self._start = None
        elif event["event"] == "timed" and self._start is not None:
            self.seen_seconds += now - self._start
            self.said_seconds += event["seconds"]
            self._start = None

    def untimed(self) -> bool:
        """Whether the two clocks contradict each other: over a sleep, the best of a few, because either
        may be held up; or over the timed stretches."""
        if self.rates and not any(1 / CLOCK_RATE < rate < CLOCK_RATE for rate in self.rates):
            return True
        apart = abs(self.seen_seconds - self.said_seconds)
        return apart > UNTIMED_SECONDS + UNTIMED_SHARE * min(self.seen_seconds, self.said_seconds)

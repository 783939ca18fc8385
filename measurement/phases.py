"""Phases that every kind of trial shares. A phase times calls and knows nothing of what they do."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from measurement.framework import Framework

Clock = Callable[[], float]
Report = Callable[[str, dict[str, Any]], None]


def elapsed(clock: Clock, start: float, slowdown: float) -> float:
    """Seconds since `start`, drawn out by `slowdown` of themselves. The wait is real, so that the
    machine and everything that watches it see a slower framework, not an altered number."""
    now = clock()
    if slowdown:
        until = now + slowdown * (now - start)
        while now < until:
            now = clock()
    return now - start


def end_warmup(report: Report, values: dict[str, Any]) -> None:
    """Reports `warm`, after a collection of all of Python's objects. Imports and compilation leave
    hundreds of thousands, and the one that is due some time after takes 0.15 to 0.3 s. On an H200 a
    pause of that length came in the first timed item of whisper_tiny, in PyTorch's trials alone.
    What the timed work itself leaves is collected when its turn comes, on either side."""
    _collect()
    report("warm", values)


_collect = gc.collect


def check_clock(clock: Clock, report: Report) -> None:
    """Says what `clock` makes of a short sleep, three times: who listens has a clock of his own, and a
    processor's time, or another unit, is found however busy the work is. First threads come to rest
    that spin while they wait for more work (Intel's OpenMP does for 0.2 s): beside them a processor's
    time passes for the wall's."""
    time.sleep(_REST_SECONDS)
    for _ in range(3):
        report("clock_begin", {})
        start = clock()
        time.sleep(_SLEEP_SECONDS)
        report("clock_end", {"seconds": clock() - start})


_REST_SECONDS, _SLEEP_SECONDS = 0.3, 0.02


def latency(
    predict_one: Callable[[int], Any],
    items: int,
    warmup_calls: int,
    calls: int,
    clock: Clock,
    slowdown: float,
) -> tuple[list[float], list[Any]]:
    """(seconds, answer) of each call with one item, from NumPy to NumPy, as a caller meets it."""
    for call in range(warmup_calls):
        predict_one(call % items)
    samples, answers = [], []
    for call in range(calls):
        start = clock()
        answer = predict_one(call % items)
        samples.append(elapsed(clock, start, slowdown))
        answers.append(answer)
    return samples, answers


def passes(
    predict_all: Callable[[], Any],
    framework: Framework,
    seconds: float,
    clock: Clock,
    slowdown: float,
) -> tuple[list[float], Any]:
    """(seconds of each pass over the whole resident test set, the last one's output), for `seconds`;
    five passes at least."""
    framework.wait(predict_all())
    samples: list[float] = []
    total, output = 0.0, None
    while len(samples) < 5 or total < seconds:
        output = None  # two of them at once are memory that no caller would take
        start = clock()
        output = predict_all()
        framework.wait(output)
        samples.append(elapsed(clock, start, slowdown))
        total += samples[-1]
    return samples, output


def throughput(
    predict_batch: Mapping[int, Callable[[], Any]],
    framework: Framework,
    seconds: float,
    clock: Clock,
    slowdown: float,
) -> dict[str, list[float]]:
    """`passes` of one batch of each size: size, as text, -> seconds of each pass."""
    return {
        str(size): passes(predict, framework, seconds, clock, slowdown)[0]
        for size, predict in predict_batch.items()
    }


def matmul_ceiling(framework: Framework, seconds: float, clock: Clock = time.perf_counter) -> float:
    """FLOP/s of the fastest square matrix product found within about `seconds` per size.

    Sizes double while the next one is expected to take less than that for one call, so that
    neither the reference BLAS nor a large GPU gets sizes that are not for it.
    """
    best, size, fastest = 0.0, 256, 0.0
    while size <= 8192 and 8 * fastest <= seconds:
        multiply = framework.matmul(size)
        multiply()
        calls, total, fastest = 0, 0.0, math.inf
        while calls < 5 or total < seconds / 3:
            start = clock()
            multiply()
            taken = clock() - start
            calls, total, fastest = calls + 1, total + taken, min(fastest, taken)
        best = max(best, 2 * size**3 / fastest)
        size *= 2
    return best


def energy_window(
    once: Callable[[], Any],
    seconds: float,
    clock: Clock,
    report: Report,
    agree: Callable[[float], float] = lambda seconds: seconds,
) -> int:
    """Calls `once`, which waits for its own end, for at least `seconds`, because meters advance in
    batches of up to a third of a second: returns how often. 0 seconds: the machine has no meter.
    agree: makes the time that has passed that of all ranks."""
    if seconds <= 0:
        return 0
    report("energy_begin", {})
    start, calls = clock(), 0
    while agree(clock() - start) < seconds:
        once()
        calls += 1
    report("energy_end", {"epochs": calls, "seconds": clock() - start})
    return calls


def as_json(value: Any) -> dict[str, Any]:
    """The fields of a dataclass of samples by name, a receipt as a dictionary; without arrays,
    which are saved as safetensors."""
    fields = {k: v for k, v in vars(value).items() if k != "parameters"}
    return fields | {"receipt": dict(vars(value.receipt))}

"""From which state of the machine on a number is not to be believed without a word, and why from there."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from measurement.gpus import Card
from measurement.readings import Reading

BUSY_SHARE = 0.10
"""Of all processors, by others. What is idle anyway is free to take, so a tenth costs the work less
than the 5 % within which two arms are called the same."""
BUSY_PROCESSORS = 0.75
"""Used by others, where the work leaves no room beside it (FULL_SHARE): one program that computes all
the time then has a thread of the work wait, and with it all the threads that wait for that one."""
FULL_SHARE = 0.95
STOLEN_SHARE = 0.05
"""Of all processors, by the hypervisor: that time is lost whatever the work does, so the limit is the
margin within which two arms are called the same."""
SWAPPED_BYTES_PER_SECOND = 2**20
"""In and out: 256 pages a second, each of which keeps a thread waiting for about 0.1 ms: 2.6 %."""
STALLED_SHARE = 0.02
"""Of the time, in which some process waited for memory: the kernel searched for pages to give."""
THROTTLED_SHARE = 0.02
"""Of the time, in which a control group's limit held the work back. As many threads as the limit has
cores, and the little that the supervisor takes, come to 1 %."""
HOT_SHARE = 0.02
"""Of the time, in which the processor slowed itself for heat, where the kernel times that. Where it
counts events, one is enough."""
CLOCK_SHARE = 0.8
"""Of the clock that the maker promises under any load. A burst above it ends in minutes, and wide
vector instructions lower it by up to a fifth; under that something else holds it down."""
OWN_CLOCK_SHARE = 0.5
"""Of the highest clock of the same trial. One busy core of a laptop runs up to twice as fast as all."""
GPU_CLOCK_SHARE = 0.5
"""Of the highest, on a GPU that is at work (GPU_BUSY_SHARE): power limits take a third at the most."""
GPU_BUSY_SHARE = 0.3
GPU_SLOWED_SHARE = 0.05  # of the samples that say so
GPU_OTHERS_SHARE = 0.05
"""Of a GPU's time, by processes of others: the margin again, since a GPU runs one after the other."""
GPU_IDLE_SHARE = 0.10
"""Of a GPU's time before the worker began: a desktop needs a few per cent, and the driver rounds."""
GPU_OTHERS_BYTES = 2**30
"""Of a GPU's memory: a desktop, or a program that has only opened the GPU, holds less."""
GPU_OPENED_BYTES = 64 * 2**20
"""Of a GPU's memory: a program that opens it takes several times that."""
SLEPT_SECONDS = 2.0
JUDGED_SECONDS = 1.0
"""A stretch that is shorter is judged with what lies beside it: the kernel counts processor time in
steps of up to 10 ms."""

START, END = "start", "end"
UNTIMED = frozenset({START, "evidence", END})


@dataclass(frozen=True)
class Sample:
    """What happened between two readings, or in several such stretches together. Shares are of 1: of
    all processors' time, or of the time."""

    start: float
    seconds: float
    phase: str
    cpus: int
    others_share: float
    own_share: float  # of the supervisor
    worker_share: float
    stolen_share: float
    slept_seconds: float
    swapped_bytes: int | None = None
    swap_used_bytes: int = 0
    memory_stalled_share: float | None = None
    throttled_share: float | None = None
    heat: float | None = None
    heat_unit: str = "s"
    thermal_pressure: int | None = None
    clock_share: float | None = None
    clock_floor: float | None = None
    on_battery: bool = False
    low_power: bool = False
    gpu_busy_share: float | None = None
    gpu_used_bytes: int | None = None
    gpu_clock_share: float | None = None
    gpu_hot_share: float = 0.0
    gpu_slowed_share: float = 0.0
    gpu_others: int | None = None
    gpu_others_bytes: int | None = None
    gpu_others_share: float | None = None


def between(before: Reading, after: Reading, phase: str) -> Sample:
    """Of several GPUs the one that others disturb most."""
    seconds = max(after.seconds - before.seconds, 1e-9)
    whole = seconds * after.cpus

    def share(name: str, of: float) -> float | None:
        first, last = getattr(before, name), getattr(after, name)
        return None if first is None or last is None else max(0.0, (last - first) / of)

    busy, own, worker, stolen = (
        share(f"{name}_seconds", whole) or 0.0 for name in ("busy", "own", "worker", "stolen")
    )
    swapped, heat, cards = share("swapped_bytes", 1), share("heat", 1), after.cards
    return Sample(
        start=before.seconds,
        seconds=seconds,
        phase=phase,
        cpus=after.cpus,
        others_share=min(1.0, max(0.0, busy - own - worker)),
        own_share=own,
        worker_share=worker,
        stolen_share=stolen,
        slept_seconds=max(0.0, after.wall_seconds - before.wall_seconds - seconds),
        swapped_bytes=None if swapped is None else int(swapped),
        swap_used_bytes=after.swap_used_bytes,
        memory_stalled_share=share("memory_stalled_seconds", seconds),
        throttled_share=share("throttled_seconds", seconds),
        heat=heat,
        heat_unit=after.heat_unit,
        thermal_pressure=after.thermal_pressure,
        clock_share=after.clock_share,
        clock_floor=after.clock_floor,
        on_battery=after.on_battery,
        low_power=after.low_power,
        gpu_busy_share=_most(card.busy_share for card in cards),
        gpu_used_bytes=_most(card.used_bytes for card in cards),
        gpu_clock_share=min((c.clock_share for c in cards if _works(c)), default=None),  # type: ignore[type-var]
        gpu_hot_share=float(any(card.hot for card in cards)),
        gpu_slowed_share=float(any(card.slowed for card in cards)),
        gpu_others=_most(card.others for card in cards),
        gpu_others_bytes=_most(card.others_bytes for card in cards),
        gpu_others_share=_most(card.others_busy_share for card in cards),
    )  # fmt: skip


def _works(card: Card) -> bool:
    """An idle GPU lowers its clock."""
    return card.clock_share is not None and (card.busy_share or 0) > GPU_BUSY_SHARE


def _most(values: Iterable[Any]) -> Any:
    return max((value for value in values if value is not None), default=None)


_SUMS = ("slept_seconds", "swapped_bytes", "heat")
_MOST = (
    "thermal_pressure", "swap_used_bytes", "on_battery", "low_power", "gpu_used_bytes", "gpu_others",
    "gpu_others_bytes",
)  # fmt: skip


def merged(samples: Sequence[Sample], phase: str) -> Sample:
    """Several stretches as one: shares are means over the time."""
    whole = sum(sample.seconds for sample in samples)
    found: dict[str, Any] = {"phase": phase, "seconds": whole}
    for name in (field.name for field in fields(Sample)):
        values = [(getattr(s, name), s.seconds) for s in samples if getattr(s, name) is not None]
        if not values or name in ("start", "phase", "seconds", "cpus", "heat_unit"):
            continue
        if name in _SUMS:
            found[name] = sum(value for value, _ in values)
        elif name in _MOST:
            found[name] = max(value for value, _ in values)
        else:
            found[name] = sum(v * w for v, w in values) / sum(w for _, w in values)
    return replace(samples[0], **found)


def during(samples: Sequence[Sample], phase: str) -> Sample | None:
    """A phase as a whole, with what lies beside it where it is too short to be judged; None where
    there is none, or too little to say anything."""
    numbers = [number for number, sample in enumerate(samples) if sample.phase == phase]
    if not numbers:
        return None
    first, last = numbers[0], numbers[-1]

    def chosen() -> list[Sample]:
        inner = {*numbers}
        ends = [*range(first, numbers[0]), *range(numbers[-1] + 1, last + 1)]
        return [samples[number] for number in sorted(inner | {*ends})]

    while sum(s.seconds for s in chosen()) < JUDGED_SECONDS:
        if first == 0 and last == len(samples) - 1:
            return None
        first, last = max(0, first - 1), min(len(samples) - 1, last + 1)
    return merged(chosen(), phase)


def said(now: Sample, highest_clock: float | None = None, on_gpu: bool = False) -> dict[str, str]:
    """Flag -> what was seen, of a stretch in which the work was timed. highest_clock: of the trial."""
    found: dict[str, str] = {}

    def say(flag: str, sentence: str) -> None:
        found[flag] = f"{found[flag]}; {sentence}" if flag in found else sentence

    for who, share in (("others", now.others_share), ("the supervisor", now.own_share)):
        full = now.worker_share + now.others_share + now.own_share + now.stolen_share > FULL_SHARE
        if share > BUSY_SHARE or (full and share * now.cpus > BUSY_PROCESSORS):
            say("LOAD", f"{who} used {share:.0%} of the processors")
    if now.stolen_share > STOLEN_SHARE:
        say("STOLEN-CPU", f"the hypervisor took {now.stolen_share:.0%} of the processors")
    if (now.swapped_bytes or 0) > SWAPPED_BYTES_PER_SECOND * now.seconds:
        say("SWAP", f"{(now.swapped_bytes or 0) / 2**20:,.0f} MiB were swapped")
    if (now.memory_stalled_share or 0) > STALLED_SHARE:
        say("SWAP", f"processes waited for memory {now.memory_stalled_share:.0%} of the time")
    if (now.throttled_share or 0) > THROTTLED_SHARE:
        say("CPU-QUOTA", f"the limit held the work back {now.throttled_share:.0%} of the time")
    if (now.thermal_pressure or 0) > 0:
        say("THERMAL", f"thermal pressure {now.thermal_pressure}")
    if (now.heat or 0) > (HOT_SHARE * now.seconds if now.heat_unit == "s" else 0):
        say("THERMAL", f"the processor was slowed for heat ({now.heat:.3g} {now.heat_unit})")
    if now.clock_share is not None and now.clock_floor is not None:
        if now.clock_share < CLOCK_SHARE * now.clock_floor:
            say("CLOCK", f"the clock was at {now.clock_share:.0%} of the highest, promised are "
                         f"{now.clock_floor:.0%}")  # fmt: skip
        elif highest_clock and now.clock_share < OWN_CLOCK_SHARE * highest_clock:
            say("CLOCK", f"the clock was at {now.clock_share / highest_clock:.0%} of what it was "
                         "in the same trial")  # fmt: skip
    if now.on_battery:
        say("BATTERY", "on battery")
    if now.low_power:
        say("LOW-POWER", "low power mode")
    if now.slept_seconds > SLEPT_SECONDS:
        say("SUSPENDED", f"the machine slept, or its clock was set, by {now.slept_seconds:.0f} s")
    return found | (_said_of_gpu(now) if on_gpu else {})


def _said_of_gpu(now: Sample) -> dict[str, str]:
    found: dict[str, str] = {}
    if (now.gpu_others_share or 0) > GPU_OTHERS_SHARE:
        found["GPU-SHARED"] = f"others used {now.gpu_others_share:.0%} of the GPU"
    elif (now.gpu_others_bytes or 0) > GPU_OTHERS_BYTES:
        held = (now.gpu_others_bytes or 0) / 2**30
        found["GPU-SHARED"] = f"others held {held:.1f} GiB of the GPU's memory"
    if now.gpu_hot_share > GPU_SLOWED_SHARE:
        found["THERMAL"] = f"the GPU was slowed for heat in {now.gpu_hot_share:.0%} of the samples"
    if now.gpu_slowed_share > GPU_SLOWED_SHARE:
        found["CLOCK"] = "the GPU was slowed by its hardware"
    elif now.gpu_clock_share is not None and now.gpu_clock_share < GPU_CLOCK_SHARE:
        found["CLOCK"] = f"the GPU's clock was at {now.gpu_clock_share:.0%} of the highest"
    return found


def said_before(cards: Sequence[Card]) -> dict[str, str]:
    """Of the GPUs before the worker began: what is used then is used by others, whatever a driver shows
    of processes."""
    busy, held = _most(card.busy_share for card in cards), _most(card.used_bytes for card in cards)
    found = []
    if (busy or 0) > GPU_IDLE_SHARE:
        found.append(f"others used {busy:.0%} of the GPU")
    if (held or 0) > GPU_OTHERS_BYTES:
        found.append(f"others held {held / 2**30:.1f} GiB of the GPU's memory")
    return {"GPU-SHARED": "; ".join(found)} if found else {}


def did_nothing(cards: Sequence[Card], samples: Sequence[Sample]) -> bool:
    """Whether GPUs that were watched from `cards` on show no trace of a program that worked on them."""
    held = _most(card.used_bytes for card in cards)
    most = _most(sample.gpu_used_bytes for sample in samples)
    if held is None or most is None or any(s.gpu_busy_share is None for s in samples):
        return False  # they do not tell
    busy = max(s.gpu_busy_share or 0 for s in samples if s.phase not in UNTIMED)
    return most - held < GPU_OPENED_BYTES and busy == 0.0


def highest_clock(samples: Sequence[Sample]) -> float | None:
    clocks = [s.clock_share for s in samples if s.clock_share is not None]
    return max(clocks) if clocks and math.isfinite(max(clocks)) else None

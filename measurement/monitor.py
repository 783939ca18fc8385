"""Watches the machine through a whole trial, from the supervisor: once a second, and at the beginning
of every phase, which the worker's events tell. It takes no more than COST_SHARE of one core."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from measurement import limits, memory
from measurement.gpus import Cards
from measurement.limits import END, START, UNTIMED, Sample
from measurement.readings import Reader, Reading

PERIOD_SECONDS = 1.0
COST_SHARE = 0.002  # of a core: after a reading that was dear the next one waits longer
_REGULAR = 0.5  # of it is for the regular readings, the rest for the beginnings of phases
_TIMED = {"infer": "inference", "generate": "generation", "stream": "updates", "switch": "loops"}
_PHASES = {  # event -> the phase that it begins
    "ready": "warm-up",
    "trained": "audit",
    "audit": "audit",
    "steps": "steps",
    "latency": "latency",
    "inference": "inference",
    "ceiling": "ceiling",
    "energy_begin": "energy",
    "energy_end": END,
    "evidence": "evidence",
    "result": END,
}
_AFTER_PEAK = (
    "ceiling",
    "energy_begin",
    "evidence",
)  # a worker has read its peak just before these
_LATE_SECONDS = 0.25  # events of a job are read ten times a second


@dataclass(frozen=True)
class Seen:
    """What was seen of a trial. phases: each as a whole; found: flag -> phase -> what was seen there;
    peak_before, peak_after: of the worker's memory, seen from outside just before and after it read
    its own; missing: why the watch ended early, "" where it did not."""

    samples: tuple[Sample, ...] = ()
    phases: Mapping[str, Sample] = field(default_factory=dict)
    found: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    peak_before: int | None = None
    peak_after: int | None = None
    cost_share: float = 0.0
    missing: str = ""
    gpu_idle: bool = False  # the work was on a GPU, and those that are watched did none

    def as_json(self) -> dict[str, Any]:
        """Samples as columns; those of which this machine tells nothing are left out."""
        columns = {one.name: [getattr(s, one.name) for s in self.samples] for one in fields(Sample)}
        return {
            "flags": self.found,
            "phases": {name: asdict(sample) for name, sample in self.phases.items()},
            "samples": {k: v for k, v in columns.items() if any(x is not None for x in v)},
            "monitor_cost_share": self.cost_share,
            "missing": self.missing,
            "worker_peak_bytes": [self.peak_before, self.peak_after],
        }

    def values(self) -> dict[str, float]:
        """Run-level metrics: the worst phase that was timed, and the worst second of it."""
        timed = [sample for name, sample in self.phases.items() if name not in UNTIMED]
        if not timed:
            return {}
        inner = [s for s in self.samples if s.phase not in UNTIMED]
        seconds = [s for s in inner if s.seconds >= limits.JUDGED_SECONDS / 2] or timed
        found = {
            "machine/others_cpu_share_max": max(s.others_share for s in seconds),
            "machine/others_cpu_share_phase": max(s.others_share for s in timed),
            "machine/stolen_cpu_share_phase": max(s.stolen_share for s in timed),
            "machine/monitor_cpu_share": self.cost_share,
        }
        for metric, name, worst in (
            ("machine/memory_stalled_share_phase", "memory_stalled_share", max),
            ("machine/cpu_throttled_share_phase", "throttled_share", max),
            ("machine/clock_share_min", "clock_share", min),
            ("machine/gpu_clock_share_min", "gpu_clock_share", min),
            ("machine/gpu_others_share_phase", "gpu_others_share", max),
            ("machine/thermal_pressure_max", "thermal_pressure", max),
        ):
            values = [getattr(s, name) for s in timed if getattr(s, name) is not None]
            if values:
                found[metric] = float(worst(values))
        swapped = [s.swapped_bytes for s in inner if s.swapped_bytes is not None]
        return found | ({"machine/swapped_bytes": float(sum(swapped))} if swapped else {})

    def series(self) -> dict[str, list[float]]:
        """Of the samples, for the table of all samples: seconds since the first, length, the number of
        the phase in the order in which they came, and shares of all processors."""
        numbers = {name: n for n, name in enumerate(dict.fromkeys(s.phase for s in self.samples))}
        first = self.samples[0].start if self.samples else 0.0
        return {
            "machine/start_seconds": [s.start - first for s in self.samples],
            "machine/seconds": [s.seconds for s in self.samples],
            "machine/phase": [float(numbers[s.phase]) for s in self.samples],
            "machine/others_cpu_share": [s.others_share for s in self.samples],
            "machine/worker_cpu_share": [s.worker_share for s in self.samples],
        }


class Monitor:
    """From `with` to its end. mode: of the trial; ranks: of this host, which may use as many GPUs."""

    def __init__(
        self, mode: str = "train", ranks: int = 1, read: Callable[[bool], Reading] | None = None
    ) -> None:
        self._cards = Cards(0 if read else ranks)
        self._read = Reader(self._cards) if read is None else read
        self._timed = _TIMED.get(mode, "training")
        self._phase, self._on_gpu = START, False
        self._samples: list[Sample] = []
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._cost, self._missing = 0.0, ""
        self._seen_peaks: list[tuple[float, int | None]] = []
        self._peaks: tuple[int | None, int | None] = None, None

    def __enter__(self) -> Monitor:
        begin = time.thread_time()
        self._last = self._first = self._read(False)
        self._period = self._wait(time.thread_time() - begin)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._take(quick=True)

    def see(self, event: Mapping[str, Any]) -> None:
        """An event of the worker, as it comes."""
        kind = event["event"]
        phase = self._timed if kind == "epoch_begin" else _PHASES.get(kind)
        if kind == "ready":
            self._on_gpu = "gpu" in event["device"]
            if not self._on_gpu:  # they are none of this trial's, and dear to read
                self._cards.forget()
        if phase is None or phase == self._phase:
            return
        self._take(quick=True)
        self._phase = phase
        self._see_peak(kind, event)

    def _see_peak(self, kind: str, event: Mapping[str, Any]) -> None:
        peaks = [
            memory.peak_bytes(pid) for pid in event.get("pids", [])[1:] or [event.get("pid", -1)]
        ]
        now, peak = time.monotonic(), None if None in peaks else sum(p or 0 for p in peaks)
        if kind in _AFTER_PEAK and self._peaks == (None, None):
            # What was read just before may be read late, when the worker had gone on already.
            early = [seen for moment, seen in self._seen_peaks if moment < now - _LATE_SECONDS]
            self._peaks = (early[-1] if early else None), peak
        self._seen_peaks.append((now, peak))

    def _loop(self) -> None:
        while not self._stop.wait(self._period):
            begin = time.thread_time()
            self._take(quick=False)
            self._period = self._wait(time.thread_time() - begin)

    def _wait(self, cost: float) -> float:
        return max(PERIOD_SECONDS, cost / (_REGULAR * COST_SHARE))

    def _take(self, quick: bool) -> None:
        """A watch that fails must not cost the trial: the flag UNWATCHED says it."""
        with self._lock:
            if self._missing:
                return
            begin = time.thread_time()
            try:
                now = self._read(quick)
            except Exception as error:  # noqa: BLE001 a system may deny any of its files
                self._missing = f"{type(error).__name__}: {error}"
                return
            self._samples.append(limits.between(self._last, now, self._phase))
            self._last = now
            self._cost += time.thread_time() - begin

    def seen(self) -> Seen:
        """After the end."""
        samples = self._samples
        phases = {
            name: stretch
            for name in dict.fromkeys(sample.phase for sample in samples)
            if (stretch := limits.during(samples, name)) is not None
        }
        found: dict[str, dict[str, str]] = {}
        highest = limits.highest_clock(samples)
        said = {
            name: limits.said(stretch, highest, self._on_gpu)
            for name, stretch in phases.items()
            if name not in UNTIMED
        }
        if self._on_gpu:
            said[START] = limits.said_before(self._first.cards)
        if self._missing:
            said[self._phase] = {"UNWATCHED": f"the watch failed ({self._missing})"}
        for name, flags in said.items():
            for flag, sentence in flags.items():
                found.setdefault(flag, {})[name] = sentence
        whole = self._last.seconds - self._first.seconds
        return Seen(
            samples=tuple(samples),
            phases=phases,
            found=found,
            peak_before=self._peaks[0],
            peak_after=self._peaks[1],
            cost_share=self._cost / whole if whole else 0.0,
            missing=self._missing,
            gpu_idle=self._on_gpu and limits.did_nothing(self._first.cards, samples),
        )

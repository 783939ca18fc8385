"""A scaling study's trials as two kinds of record that no table and no figure mixes.

`Job` holds what a whole job did, `Share` what one of its ranks did with its own part of every batch.
A rank's part beside the time of a whole data set reads as a speed-up by the number of ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from analysis.flags import MINIMUM_PAIRS
from analysis.statistics.limits import of_quantile
from measurement.job import SHARED
from tracking.names import COMMUNICATION, RANKED

if TYPE_CHECKING:
    from analysis.table import Table

RANK = "rank/"
"""Prefix of the metrics of one rank."""

WHOLE = (
    "train/total_seconds",
    "train/items_per_second",
    "train/step_seconds_p50",
    "memory/process_peak_bytes",
    "memory/device_peak_bytes",
    "energy/joules",
    "eval/accuracy",
    "eval/perplexity",
    "train/loss",
    *COMMUNICATION,
)
"""Metrics of a job that the report shows."""

_TAIL = 0.025


_WHOLE_OF = {
    "rank/energy_joules": "energy/joules",
    "rank/device_peak_bytes": "memory/device_peak_bytes",
    "rank/process_peak_bytes": "memory/process_peak_bytes",
}


@dataclass(frozen=True)
class Spread:
    """Values of one arm's trials: median, least, most, and the median's 95 % interval, None under six
    trials. It takes the trials as independent; ratios of pairs do not need that."""

    median: float
    least: float
    most: float
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """
        >>> Spread.of([0.1, 0.3, 0.2])
        Spread(median=0.2, least=0.1, most=0.3, low=None, high=None)
        """
        low = high = None
        if len(values) >= MINIMUM_PAIRS:
            limits = of_quantile(np.asarray(values, np.float64), 0.5)[1].at(_TAIL)
            low, high = limits if all(map(isfinite, limits)) else (None, None)
        return cls(median(values), min(values), max(values), low, high)


@dataclass(frozen=True)
class Job:
    """The trials of one arm, each a whole job on all its ranks. ValueError on a value of one rank.

    framework: the arm without its ranks. kind: single (one rank), strong or weak. batch_size: the
    global one. steps: optimiser steps of a trial, all epochs; None where no receipt states them.
    """

    framework: str
    kind: str
    ranks: int
    arm: str
    trials: int
    batch_size: int
    steps: int | None
    backend: str
    values: Mapping[str, Spread]
    not_measured: Mapping[str, str]

    def __post_init__(self) -> None:
        if wrong := [name for name in self.values if name.startswith(RANK)]:
            raise ValueError(f"{wrong[0]} is of one rank; a Job holds values of the whole job")

    @property
    def parts(self) -> tuple[float, float] | None:
        """Seconds of the median step: all-reduce, and the rest. None where one is not measured."""
        share, step = (
            self.values.get(name)
            for name in ("communication/step_share", "train/step_seconds_p50")
        )  # fmt: skip
        if step is None or (share is None and self.ranks > 1):
            return None
        part = min(share.median, 1.0) * step.median if share is not None else 0.0
        return part, step.median - part


@dataclass(frozen=True)
class Share:
    """One rank's own part, over the trials of its arm. ValueError on a value of the whole job."""

    framework: str
    kind: str
    ranks: int
    arm: str
    rank: int
    trials: int
    values: Mapping[str, Spread]
    not_measured: Mapping[str, str]

    def __post_init__(self) -> None:
        if wrong := [name for name in self.values if not name.startswith(RANK)]:
            raise ValueError(f"{wrong[0]} is of a whole job; a Share holds values of one rank")


@dataclass(frozen=True)
class Arm:
    """An arm as it was designed; batch_size: the global one."""

    framework: str
    kind: str
    ranks: int
    batch_size: int
    name: str


def job(table: Table, arm: Arm) -> Job | None:
    """The whole job of an arm; None where no trial finished."""
    rows = list(table.arms[arm.name].values())
    if not rows:
        return None
    values, reasons = {}, {}
    for metric in table.known(WHOLE):
        have = [row.metrics[metric] for row in rows if metric in row.metrics]
        if have:
            values[metric] = Spread.of(have)
        else:
            reasons[metric] = rows[0].not_measured.get(metric, "no reason recorded")
    steps = (rows[0].receipt or {}).get("steps")
    return Job(
        framework=arm.framework,
        kind=arm.kind,
        ranks=arm.ranks,
        arm=arm.name,
        trials=len(rows),
        batch_size=int(rows[0].cell.get("batch_size", "0")),
        steps=steps if isinstance(steps, int) else None,
        backend=rows[0].cell.get("backend", "none"),
        values=values,
        not_measured=reasons,
    )


def shares(table: Table, arm: Arm) -> tuple[Share, ...]:
    """The ranks of an arm; none for a single process, or where nothing was recorded by rank."""
    rows = list(table.arms[arm.name].values())
    if arm.ranks < 2 or not any(row.ranks for row in rows):
        return ()
    found = []
    for rank in range(arm.ranks):
        values, reasons = {}, {}
        for metric in RANKED:
            recorded = [row.ranks.get(metric, {}) for row in rows]
            have = [by_rank[rank] for by_rank in recorded if rank in by_rank]
            if have:
                values[metric] = Spread.of(have)
            else:
                reasons[metric] = SHARED if any(recorded) else _reason(table, arm, metric)
        found.append(
            Share(
                framework=arm.framework,
                kind=arm.kind,
                ranks=arm.ranks,
                arm=arm.name,
                rank=rank,
                trials=len(rows),
                values=values,
                not_measured=reasons,
            )
        )
    return tuple(found)


def _reason(table: Table, arm: Arm, metric: str) -> str:
    """Why no rank has a value, in the trials' own words: of the rank, or of the job."""
    for row in table.arms[arm.name].values():
        for name in (metric, _WHOLE_OF.get(metric, "")):
            if name in row.not_measured:
                return row.not_measured[name]
    return "no reason recorded"

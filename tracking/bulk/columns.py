"""What a bulk read asks for and gives: plain values, and columns for the many."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Wanted:
    """Which runs: those with all these tags and this status; run_ids None = any. deleted: those that
    were deleted too, as long as the store still has them."""

    tags: Mapping[str, str]
    status: str | None
    run_ids: tuple[str, ...] | None
    deleted: bool = False

    def condition(self) -> str:
        """All but the run ids, in MLflow's filter language."""
        parts = [f"tags.`{key}` = '{value}'" for key, value in self.tags.items()]
        if self.status:
            parts.append(f"attributes.status = '{self.status}'")
        return " and ".join(parts)


@dataclass(frozen=True, slots=True)
class Found:
    """One run as the store holds it; metrics are the last values."""

    run_id: str
    name: str
    status: str
    start_milliseconds: int
    params: dict[str, str]
    tags: dict[str, str]
    metrics: dict[str, float]
    deleted: bool = False


class Part(NamedTuple):
    """Some points. run and metric are positions in the lists that were asked for."""

    run: Array
    metric: Array
    step: Array
    value: Array
    timestamp_milliseconds: Array

    @classmethod
    def of(
        cls,
        run: Iterable[int],
        metric: Iterable[int],
        step: Iterable[int],
        value: Iterable[float],
        timestamp_milliseconds: Iterable[int],
    ) -> Part:
        return cls(
            np.fromiter(run, np.int32),
            np.fromiter(metric, np.int32),
            np.fromiter(step, np.int64),
            np.fromiter(value, np.float64),
            np.fromiter(timestamp_milliseconds, np.int64),
        )


Points = Iterable[Part]


@dataclass(frozen=True, eq=False)
class Histories:
    """Points of many metrics of many runs as five columns of one length (32 bytes a point).

    Ordered by run, metric, step, then time. `run` and `metric` are positions in `run_ids` and
    `metrics`.
    """

    run_ids: tuple[str, ...]
    metrics: tuple[str, ...]
    run: Array
    metric: Array
    step: Array
    value: Array
    timestamp_milliseconds: Array

    @classmethod
    def of(cls, run_ids: Sequence[str], metrics: Sequence[str], points: Points) -> Histories:
        """Joins the parts and puts them in order."""
        parts = [*points] or [Part.of((), (), (), (), ())]
        joined = Part(*map(np.concatenate, zip(*parts, strict=True)))
        del parts
        order = np.lexsort((joined.timestamp_milliseconds, joined.step, joined.metric, joined.run))
        return cls(tuple(run_ids), tuple(metrics), *(column[order] for column in joined))

    def __len__(self) -> int:
        return len(self.value)

    def series(self, run_id: str, metric: str) -> tuple[Array, Array]:
        """(steps, values) of one metric of one run; empty when it was never logged.

        Raises KeyError for a run or a metric that was not asked for.
        """
        within = self.within(run_id, metric)
        return self.step[within], self.value[within]

    def within(self, run_id: str, metric: str) -> slice:
        """Where the points of one metric of one run stand in the columns. Raises KeyError as `series`."""
        cell = self._run_places[run_id] * len(self.metrics) + self._metric_places[metric]
        return slice(self._starts[cell], self._starts[cell + 1])

    @cached_property
    def _starts(self) -> Array:
        """Position of the first point of every (run, metric), and the end."""
        cells = self.run.astype(np.int64) * len(self.metrics) + self.metric
        return np.searchsorted(cells, np.arange(len(self.run_ids) * len(self.metrics) + 1))

    @cached_property
    def _run_places(self) -> dict[str, int]:
        return places(self.run_ids)

    @cached_property
    def _metric_places(self) -> dict[str, int]:
        return places(self.metrics)


def places(names: Sequence[str]) -> dict[str, int]:
    """name -> position."""
    return {name: place for place, name in enumerate(names)}


def chunks(items: Sequence[str], size: int) -> list[Sequence[str]]:
    """Consecutive pieces of at most `size`."""
    return [items[start : start + size] for start in range(0, len(items), size)]

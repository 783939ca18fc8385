"""Time to the target quality of a study's arms, in seconds and in epochs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from analysis import fairness
from analysis.findings import Target
from analysis.statistics.survival import Arrival, arrival, log_rank
from analysis.table import Table

if TYPE_CHECKING:
    from tracking.read import Row

TARGET_UNITS = {"s": ("target/seconds", "train/total_seconds"), "epochs": ("target/epochs", None)}


def _time_and_budget(row: Row, unit: str) -> tuple[float, float]:
    """(time to the target, infinity = never; time at which the run stopped) of one trial."""
    metric, budget = TARGET_UNITS[unit]
    stop = row.metrics[budget] if budget else float(row.cell["epochs"])
    return row.metrics.get(metric, float("inf")), stop


def arrivals(table: Table) -> dict[tuple[str, str], Arrival]:
    """When the runs of each arm reached the target, by (arm, unit); empty without a target or
    without training."""
    found: dict[tuple[str, str], Arrival] = {}
    if table.study.target <= 0 or table.study.mode != "train":
        return found
    for arm, by_pair in table.arms.items():
        for unit in TARGET_UNITS:
            if by_pair:
                data = [_time_and_budget(row, unit) for row in by_pair.values()]
                found[arm, unit] = arrival([t for t, _ in data], [b for _, b in data])
    return found


def targets(
    table: Table,
    arrived: dict[tuple[str, str], Arrival],
    rng: np.random.Generator,
    unfair: Callable[[str, fairness.Pairs], str | None],
) -> tuple[Target, ...]:
    """Time to the target of every fair pairing, in seconds and in epochs. unfair: `fairness.refusal`."""
    found = []
    for pairing in table.study.comparisons:
        pairs = table.pairs(pairing.numerator, pairing.denominator)
        if not pairs or not arrived or unfair(pairing.role, pairs):
            continue
        for unit in TARGET_UNITS:
            first = [_time_and_budget(a, unit) for _, a, _ in pairs]
            second = [_time_and_budget(b, unit) for _, _, b in pairs]
            test = log_rank(
                [t for t, _ in first],
                [t for t, _ in second],
                [b for _, b in first],
                [b for _, b in second],
                rng,
            )
            one, other = arrived[pairing.numerator, unit], arrived[pairing.denominator, unit]
            found.append(
                Target(pairing.numerator, pairing.denominator, pairing.role, unit, one, other, test)
            )
    return tuple(found)

"""Rows of one study -> a table of arms and pairs, or a refusal that names what is wrong.

Only FINISHED trials enter; a trial killed half way is as good as never started.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from measurement.errors import InputError

if TYPE_CHECKING:  # the types only: reading a table must not import a tracking client
    from tracking.read import Row, Study

ZERO_ALLOWED = frozenset(
    {"hardware/cpu_percent_mean", "hardware/gpu_percent_mean", "eval/accuracy", "cost/usd"}
)


@dataclass(frozen=True)
class Table:
    """The trials of one study. arms: arm -> pair -> row; left_out: sentences on unused rows."""

    study: Study
    arms: Mapping[str, Mapping[int, Row]]
    left_out: tuple[str, ...]

    def pairs(self, numerator: str, denominator: str) -> list[tuple[int, Row, Row]]:
        """(pair, row, row) of every pair in which both arms finished, in order of the pairs."""
        first, second = self.arms.get(numerator, {}), self.arms.get(denominator, {})
        return [(pair, first[pair], second[pair]) for pair in sorted(first.keys() & second.keys())]

    def halves(self, numerator: str, denominator: str) -> int:
        """Pairs of which only one of the two arms finished."""
        return len(self.arms.get(numerator, {}).keys() ^ self.arms.get(denominator, {}).keys())

    def trials(self) -> list[Row]:
        """All used rows in the order in which they ran."""
        rows = [row for by_pair in self.arms.values() for row in by_pair.values()]
        return sorted(rows, key=lambda row: row.start_seconds)


def build(study: Study, rows: Iterable[Row]) -> Table:
    """The table of a study.

    Raises InputError: no finished trial; the same arm and pair twice; conditions mixed within an
    arm (names the key); two machines; a metric that is NaN, infinite or negative; mixed units.
    """
    rows = list(rows)
    finished = [row for row in rows if row.status == "FINISHED"]
    arms: dict[str, dict[int, Row]] = {arm: {} for arm in study.arms}
    unpaired = 0
    for row in sorted(finished, key=lambda row: row.start_seconds):
        if row.pair is None or row.arm not in arms:
            unpaired += 1
            continue
        if row.pair in arms[row.arm]:
            raise InputError(
                f"study {study.name}: arm '{row.arm}' has pair {row.pair} twice "
                f"(runs {arms[row.arm][row.pair].run_id} and {row.run_id}); "
                "delete the run that does not belong to it"
            )
        check_values(row)
        check_units(row)
        arms[row.arm][row.pair] = row
    for arm, by_pair in arms.items():
        _check_one_condition(study.name, arm, list(by_pair.values()))
    if not any(arms.values()):
        raise InputError(
            f"study {study.name} has no finished trial; run the study again, it resumes where it "
            "stopped"
        )
    machines = sorted({row.machine for by_pair in arms.values() for row in by_pair.values()})
    if len(machines) > 1:
        raise InputError(
            f"study {study.name} mixes the machines {', '.join(machines)}; "
            "give each machine a study name of its own"
        )
    left_out = []
    if len(rows) > len(finished):
        left_out.append(f"{len(rows) - len(finished)} trials did not finish and are left out.")
    if unpaired:
        left_out.append(f"{unpaired} trials belong to no pair of this study and are left out.")
    return Table(study, arms, tuple(left_out))


def check_values(row: Row) -> None:
    """InputError when a metric is no measurement; a metric that is absent is 'not measured'."""
    for name, value in row.metrics.items():
        if (
            not math.isfinite(value) and name != "train/loss"
        ):  # a loss may diverge: that is a result
            kind = "not a number" if math.isnan(value) else "infinite"
            raise InputError(
                f"run {row.run_id} ({row.name}): {name} is {kind}; expected a finite number, or "
                "no value where nothing was measured"
            )
        if value < 0 or (value == 0 and name not in ZERO_ALLOWED and _is_amount(name)):
            raise InputError(
                f"run {row.run_id} ({row.name}): {name} is {value:g}; expected a number above 0"
            )


def check_units(row: Row) -> None:
    """InputError when time, throughput and items contradict each other, as they do when one of them
    is in another unit (milliseconds, or a rate per batch)."""
    seconds, rate = (row.metrics.get(f"train/{n}") for n in ("total_seconds", "items_per_second"))
    items = row.receipt.get("items") if row.receipt else None
    if not seconds or not rate or not isinstance(items, int | float) or not items:
        return
    if not 0.5 < seconds * rate / items < 2:  # any two units are further apart
        raise InputError(
            f"run {row.run_id} ({row.name}): {seconds:g} s at {rate:g} items/s are "
            f"{seconds * rate:.4g} items, the receipt says {items:.4g}; expected seconds and items "
            "per second: units are mixed"
        )


def _is_amount(name: str) -> bool:
    return name.split("/")[0] in {"train", "inference", "memory", "target"} and name != "train/loss"


def _check_one_condition(study: str, arm: str, rows: list[Row]) -> None:
    for row in rows[1:]:
        for key in sorted(rows[0].cell.keys() | row.cell.keys()):
            one, other = rows[0].cell.get(key), row.cell.get(key)
            if one != other:
                raise InputError(
                    f"study {study}: arm '{arm}' mixes conditions: {key} is '{one}' in run "
                    f"{rows[0].run_id} and '{other}' in run {row.run_id}; "
                    "start a new study for the changed condition"
                )


def records(table: Table, metrics: Iterable[str]) -> list[dict[str, Any]]:
    """One flat record a trial: identity, condition, evidence, metrics (None = not measured).

    Records are in the order in which the trials ran.
    """
    names = list(metrics)
    return [
        {
            "study": row.study,
            "run_id": row.run_id,
            "run": row.name,
            "arm": row.arm,
            "pair": row.pair,
            "order": row.order,
            "seed": row.seed,
            "machine": row.machine,
            "start_seconds": row.start_seconds,
            "source": row.source,
            "flags": " ".join(row.flags),
            "evidence": row.parity is not None and row.receipt is not None,
            **{f"condition/{key}": value for key, value in sorted(row.cell.items())},
            **{name: row.metrics.get(name) for name in names},
        }
        for row in table.trials()
    ]

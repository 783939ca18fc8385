"""Arithmetic achieved, against the fastest matrix product that the same framework did here.

The roof is flat: a trial measures the rate of products, and nobody measured the memory's bandwidth. The
bytes that a call moves are not measured either; those of the arrays that it must read (and, where it
learns, write) once are counted, so that FLOP per byte is known as an upper limit only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from analysis.curves import middle
from analysis.findings import Roof
from measurement.memory import ITEM_BYTES
from tracking.names import METRICS

if TYPE_CHECKING:
    from analysis.table import Table
    from tracking.read import Row

ACHIEVED, CEILING = "hardware/flops_per_second", "hardware/ceiling_flops_per_second"


class _Call(NamedTuple):
    """names: of the counted calls that are timed together; seconds: their metric; moves: how often
    what is stored passes at least: read, or read and written."""

    names: tuple[str, ...]
    seconds: str
    moves: int


_CALLS = {
    "train": _Call(("step",), "train/step_seconds_p50", 2),
    "stream": _Call(("step",), "stream/update_seconds_p50", 2),
    "generate": _Call(("token",), "inference/token_seconds_p50", 1),
    "infer": _Call(("answer",), "inference/latency_seconds_p50", 1),
    "switch": _Call(("first half", "second half"), "switch/loop_seconds_p50", 2),
}


def trace(table: Table) -> tuple[Roof, ...]:
    """One an arm, in the order of the study."""
    return tuple(
        _roof(arm, table.study.mode, list(by_pair.values()))
        for arm, by_pair in table.arms.items()
        if by_pair
    )


def _roof(arm: str, mode: str, rows: list[Row]) -> Roof:
    call, cell = _CALLS.get(mode), rows[0].cell
    rates = [value for row in rows if call and (value := _counted(row, call))]
    if call and len(rates) == len(rows):
        how = f"counted FLOPs of {_what(call)} over {METRICS[call.seconds].label}"
    else:
        rates = [row.metrics[ACHIEVED] for row in rows if row.metrics.get(ACHIEVED)]
        how = "FLOPs by the sizes of the layers over the timed seconds"
    roof = Roof(arm, cell.get("framework", arm), cell.get("dtype", ""), how)
    if len(rates) < len(rows):
        return replace(roof, how="", missing="not every trial recorded its FLOPs")
    roof = replace(roof, achieved=middle(rates), intensity=_intensity(rows[0], call))
    ceilings = [row.metrics[CEILING] for row in rows if row.metrics.get(CEILING)]
    if len(ceilings) < len(rows):
        return replace(roof, missing="no ceiling: not every trial measured a matrix product")
    return replace(
        roof,
        ceiling=middle(ceilings),
        fraction=middle(a / b for a, b in zip(rates, ceilings, strict=True)),
    )


def _what(call: _Call) -> str:
    return "a loop" if len(call.names) > 1 else f"one {call.names[0]}"


def _counted(row: Row, call: _Call) -> float | None:
    """FLOP/s by what the framework ran; None where nobody counted it, or nobody timed it."""
    flops, seconds = _flops(row, call), row.metrics.get(call.seconds)
    return flops / seconds if flops and seconds else None


def _flops(row: Row, call: _Call) -> int:
    products = _summary(row).get("products")
    if not isinstance(products, dict):
        return 0
    return sum(_total(products.get(name)) for name in call.names)


def _summary(row: Row) -> Mapping[str, Any]:
    counted = (row.parity or {}).get("counted")
    return counted if isinstance(counted, dict) else {}


def _total(values: Any) -> int:
    """A tag may hold anything."""
    if not isinstance(values, dict):
        return 0
    return sum(value for value in values.values() if isinstance(value, int) and value > 0)


def _intensity(row: Row, call: _Call | None) -> float | None:
    """FLOP per byte at most: more bytes than those that are stored may pass, never fewer."""
    if call is None:
        return None
    stored, flops = _summary(row).get("stored"), _flops(row, call)
    if not isinstance(stored, dict) or not flops or set(stored) - set(ITEM_BYTES):
        return None
    size = sum(ITEM_BYTES[dtype] * _total({dtype: count}) for dtype, count in stored.items())
    return flops / (call.moves * size) if size else None

"""Ratios that published tables imply: MLX over PyTorch of one machine, workload and metric."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.published.sources import Cell, Line, Source, Table

LOWER_IS_BETTER = ("s", "B", "W")
"""Units that a ratio below 1 is good news in; other columns repeat these or are derived."""


@dataclass(frozen=True)
class TableRatio:
    """low, high: from the bounds that were stated; equal where each side is one number. devices:
    'mlx gpu / pytorch cpu'. faults: ids known for either side, the table or the source."""

    source: str
    table: str
    machine: str
    workload: str
    metric: str
    unit: str
    devices: str
    low: float
    high: float
    faults: tuple[str, ...]


def table_ratios(source: Source) -> list[TableRatio]:
    """Every MLX / PyTorch pair of a source's tables, as stated; no more precise than the digits.

    >>> from analysis.published.sources import load
    >>> ratio = table_ratios(load("mnist_mlx_ddp"))[0]
    >>> ratio.devices, round(ratio.low), round(ratio.high), ratio.faults
    ('mlx gpu / pytorch cpu', 35, 40, ('S0a', 'S0b'))
    """
    found = []
    for table in source.tables:
        pairs = [
            (first, second)
            for first in table.lines
            for second in table.lines
            if (first.framework, second.framework) == ("mlx", "pytorch")
            and (first.machine, first.workload) == (second.machine, second.workload)
        ]
        alike = [pair for pair in pairs if pair[0].device == pair[1].device]
        for first, second in alike or pairs:  # across devices only where there is nothing else
            found += _ratios(source, table, first, second)
    return found


def _ratios(source: Source, table: Table, first: Line, second: Line) -> list[TableRatio]:
    others = {cell.metric: cell for cell in second.cells}
    return [
        _ratio(source, table, (first, cell), (second, others[cell.metric]))
        for cell in first.cells
        if cell.metric in others and cell.unit in LOWER_IS_BETTER and others[cell.metric].bounds[0]
    ]


def _ratio(
    source: Source, table: Table, first: tuple[Line, Cell], second: tuple[Line, Cell]
) -> TableRatio:
    (a, cell), (b, other) = first, second
    (low, high), (least, greatest) = cell.bounds, other.bounds
    ids = (*source.faults, *table.faults, *a.faults, *b.faults, *cell.faults, *other.faults)
    return TableRatio(
        source=source.name,
        table=table.title,
        machine=a.machine,
        workload=a.workload,
        metric=cell.metric,
        unit=cell.unit,
        devices=f"{a.framework} {a.device} / {b.framework} {b.device}",
        low=low / greatest,
        high=high / least,
        faults=tuple(dict.fromkeys(ids)),
    )

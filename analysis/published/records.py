"""Published results as flat records for CSV, in full precision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from analysis.published.reanalysis import Reanalysis
from analysis.published.sources import Source


def fault_ids(sources: Sequence[Source]) -> list[str]:
    """Every fault id that a source, its files, tables, lines or cells carry."""
    found: list[str] = []
    for source in sources:
        found += source.faults
        found += [fault for file in source.files for fault in file.faults]
        for table in source.tables:
            found += table.faults
            for line in table.lines:
                found += [*line.faults, *(fault for cell in line.cells for fault in cell.faults)]
    return found


def ratio_records(found: Sequence[Reanalysis]) -> list[dict[str, Any]]:
    """One flat record a contrast (and batch size), full precision, for CSV."""
    records: list[dict[str, Any]] = []
    for reading in (reading for analysed in found for reading in analysed.readings):
        base: dict[str, Any] = {
            "numerator": reading.contrast.numerator,
            "denominator": reading.contrast.denominator,
            "role": reading.contrast.role,
            "faults": " ".join(
                dict.fromkeys((*reading.first.file.faults, *reading.second.file.faults))
            ),
            "flags": " ".join(dict.fromkeys(flag.name for flag in reading.flags)),
            "refused": reading.refused or "",
        }
        if reading.sweep:
            records += [base | {"batch_size": s, "typical": ratio} for s, ratio in reading.sweep]
            continue
        for name in ("typical", "average", "tail", "run_p90", "blocks"):
            result = getattr(reading, name)
            if result is not None:
                base |= {name: result.estimate, f"{name}_low": result.low}
                base |= {f"{name}_high": result.high, f"{name}_p": result.p}
        if reading.blocks is not None:
            base |= {"block_least": reading.blocks.least, "block_greatest": reading.blocks.greatest}
        records.append(base | {"holm": reading.holm})
    return records


def table_records(sources: Sequence[Source]) -> list[dict[str, Any]]:
    """One flat record a cell of every table, for CSV."""
    return [
        {
            "source": source.name,
            "table": table.title,
            "location": table.location,
            "machine": line.machine,
            "workload": line.workload,
            "framework": line.framework,
            "device": line.device,
            "metric": cell.metric,
            "unit": cell.unit,
            "value": cell.value,
            "low": cell.low,
            "high": cell.high,
            "approximate": cell.approximate,
            "statistic": cell.statistic,
            "derived": cell.derived,
            "stated": cell.stated,
            "missing": " ".join(source.missing(table)),
            "faults": " ".join(
                dict.fromkeys((*source.faults, *table.faults, *line.faults, *cell.faults))
            ),
            "licence": source.licence,
            "url": source.url,
            "commit": source.commit,
        }
        for source in sources
        for table in source.tables
        for line in table.lines
        for cell in line.cells
    ]

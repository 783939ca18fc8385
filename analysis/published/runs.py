"""A source as the runs that tracking writes: one group a file or table, one entry a row."""

from __future__ import annotations

import hashlib
import json

from analysis.published.sources import File, Line, Source, Table
from tracking.groups import Entry, Group


def groups(source: Source) -> list[Group]:
    """Every file and table of a source. A plan without results gives none."""
    return [_file(source, file) for file in source.files] + [
        _table(source, table) for table in source.tables
    ]


def _provenance(source: Source) -> dict[str, str]:
    return {
        "published_source": source.name,
        "provenance_title": source.title,
        "provenance_author": source.author,
        "provenance_url": source.url,
        "provenance_commit": source.commit,
        "provenance_date": source.date,
        "licence": source.licence,
    }


def _file(source: Source, file: File) -> Group:
    recording = file.recording
    common = {
        **_provenance(source),
        "provenance_file": recording.file,
        "arm": recording.arm,
        "framework": recording.framework,
        "device": recording.device,
        "device_as_written": recording.device_as_written,
        "machine": source.machine,
        "workload": file.workload,
        "phase": recording.phase,
        "epochs": str(recording.epochs or ""),
        "items_per_epoch": str(file.items or ""),
        "unit": "s",
        "faults": ",".join(dict.fromkeys((*source.faults, *file.faults))),
        "given": _json(source.given),
        "missing": ",".join(source.missing()),
    }
    stem = recording.file.removesuffix(".csv")
    rows = []
    for i, total in enumerate(recording.total_seconds):
        batch = {"batch_size": str(recording.batch_sizes[i])} if recording.sweep else {}
        if recording.epochs:
            epochs = recording.epoch_seconds[i]
            metrics = [("train/epoch_seconds", seconds, e) for e, seconds in enumerate(epochs)]
            metrics.append(("train/total_seconds", total, 0))
        else:
            metrics = [("published/pass_seconds", total, 0)]
        rows.append(Entry(f"{stem} run {i + 1}", common | batch, tuple(metrics)))
    texts = {recording.file: recording.text}
    if source.licence_text:
        texts["LICENSE"] = source.licence_text
    note = (
        f"**{source.title}**: {recording.runs} runs of {recording.arm} on {source.machine}, "
        f"{file.workload}. Seconds; {file.work}. {source.url} at {source.commit}, "
        f"{source.licence}. Known faults: {common['faults'] or 'none recorded'}."
    )
    return Group(
        name=stem,
        kind="published file",
        entry_kind="published trial",
        tags=common,
        note=note,
        sha256=recording.sha256,
        entries=tuple(rows),
        files=texts,
    )


def _table(source: Source, table: Table) -> Group:
    common = {
        **_provenance(source),
        "location": table.location,
        "given": _json(source.given | table.given),
        "missing": ",".join(source.missing(table)),
    }
    rows = tuple(_row(source, table, line, common) for line in table.lines)
    every = sorted({fault for row in rows for fault in row.tags["faults"].split(",") if fault})
    note = (
        f"**{source.title}**, {table.title} ({table.location}). {source.url} at {source.commit}, "
        f"licence {source.licence}. Known faults: {', '.join(every) or 'none recorded'}. "
        f"Not stated: {', '.join(source.missing(table)) or 'nothing of the list'}."
    )
    digest = json.dumps([source.name, table.id, [(row.tags, row.metrics) for row in rows]])
    return Group(
        name=f"{source.name}: {table.title}",
        kind="published table",
        entry_kind="published row",
        tags=common | {"faults": ",".join(every)},
        note=note,
        sha256=hashlib.sha256(digest.encode()).hexdigest(),
        entries=rows,
        files={"LICENSE": source.licence_text} if source.licence_text else {},
    )


def _row(source: Source, table: Table, line: Line, common: dict[str, str]) -> Entry:
    """A value is the metric of its name; a range has `.low` and `.high` and no value of its own."""
    metrics = []
    for cell in line.cells:
        values = {"": cell.value, ".low": cell.low, ".high": cell.high}
        metrics += [(cell.metric + k, v, 0) for k, v in values.items() if v is not None]
    faults = [*source.faults, *table.faults, *line.faults]
    faults += [fault for cell in line.cells for fault in cell.faults]
    tags = common | {
        "arm": f"{line.framework} {line.device}",
        "framework": line.framework,
        "device": line.device,
        "machine": line.machine,
        "workload": line.workload,
        **{key: str(value) for key, value in line.configuration.items()},
        "faults": ",".join(dict.fromkeys(faults)),
        "stated": _json({cell.metric: cell.stated for cell in line.cells}),
        "units": _json({cell.metric: cell.unit for cell in line.cells}),
        "statistics": _json({cell.metric: cell.statistic for cell in line.cells}),
        "approximate": ",".join(cell.metric for cell in line.cells if cell.approximate),
        "derived": ",".join(cell.metric for cell in line.cells if cell.derived),
    }
    return Entry(f"{line.framework} {line.workload}, {line.machine}", tags, tuple(metrics))


def _json(values: dict[str, str]) -> str:
    """For people too: '6–7 s' stays as it is written."""
    return json.dumps(values, ensure_ascii=False)

"""What a trial recorded, changed: as an editor of the store would, or as a trial would that went wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tracking import digest, read
from tracking.bulk import Found
from tracking.read import Row, Study
from tracking.registry import DOUBTFUL_TIMES
from tracking.write import Point

Changed = tuple[Study, list[Row]]


def edited(
    row: Row, tags: Mapping[str, str] | None = None, metrics: Mapping[str, float] | None = None
) -> Row:
    """The row of a run whose tags or metrics somebody changed afterwards; a tag that is "" is gone."""
    kept = {k: v for k, v in {**row.tags, **(tags or {})}.items() if v != ""}
    start = int(1000 * row.start_seconds)
    values = {**row.metrics, **(metrics or {})}
    found = Found(row.run_id, row.name, row.status, start, {}, kept, values, row.deleted)
    return replace(read.row_of(found), ranks=row.ranks)


def again(
    row: Row, tags: Mapping[str, str] | None = None, metrics: Mapping[str, float] | None = None
) -> Row:
    """The row of a run that recorded this from the start, digest and all."""
    changed = edited(row, tags, metrics)
    own = {k: v for k, v in changed.tags.items() if k not in (digest.TAG, digest.PARTS)}
    own.setdefault("flags", "")  # a store keeps no empty tag
    points = [Point(name, value, 0, 0.0) for name, value in changed.metrics.items()]
    return edited(changed, digest.sign(own, points))


def without_doubts(row: Row) -> Row:
    """The row of a run whose times nothing spoilt."""
    kept = [flag for flag in row.flags if flag not in DOUBTFUL_TIMES]
    return row if len(kept) == len(row.flags) else again(row, {"flags": ",".join(kept)})


def arms_of(study: Study) -> tuple[str, str]:
    """Of the question that the study was made for."""
    return study.comparisons[0].numerator, study.comparisons[0].denominator


def of_arm(rows: Sequence[Row], arm: str) -> list[Row]:
    return sorted((row for row in rows if row.arm == arm), key=lambda row: row.pair or 0)

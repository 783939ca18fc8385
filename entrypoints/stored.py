"""The studies of a workload with their trials, read from the store at once."""

from __future__ import annotations

from measurement.errors import InputError
from tracking import read
from tracking.read import Row, Study


def studies_of(workload: str, named: tuple[str, ...] = ()) -> list[tuple[Study, list[Row]]]:
    """(study, its rows) of every study of a workload, newest first; `named` only, if given.

    Raises InputError when there is none, or when a named one does not exist or is of another
    workload.
    """
    by_study: dict[str, list[Row]] = {}
    for row in read.trials(finished=False):
        if row.cell.get("workload") == workload:
            by_study.setdefault(row.study, []).append(row)
    designs = [study for study in read.studies() if study.name in by_study]
    known = ", ".join(study.name for study in designs[:10]) or "none yet; start one with `study`"
    for name in named:
        if name not in {study.name for study in designs}:
            raise InputError(f"no study '{name}' of {workload} in this store; there are: {known}")
    if not designs:
        raise InputError(f"no study of {workload} in this store; start one with `study`")
    wanted = [study for study in designs if not named or study.name in named]
    return [(study, by_study[study.name]) for study in wanted]

"""The studies of a workload with their trials, read from the store at once."""

from __future__ import annotations

from measurement.errors import InputError
from tracking import read
from tracking.read import Row, Study


def studies_of(workload: str, named: tuple[str, ...] = ()) -> list[tuple[Study, list[Row]]]:
    """(study, its rows) of every study of a workload, newest first, once for each machine that it
    runs on; `named` only, if given.

    Raises InputError when there is none, or when a named one does not exist or is of another
    workload.
    """
    by_study: dict[str, list[Row]] = {}
    for row in read.trials(finished=False, deleted=True):
        if row.cell.get("workload") == workload:
            by_study.setdefault(row.study, []).append(row)
    found = [
        (study, rows)
        for study in read.studies()
        if (rows := read.belonging(study, by_study.get(study.name, ())))
    ]
    names = list(dict.fromkeys(study.name for study, _ in found))
    known = ", ".join(names[:10]) or "none yet; start one with `study`"
    for name in named:
        if name not in names:
            raise InputError(f"no study '{name}' of {workload} in this store; there are: {known}")
    if not found:
        raise InputError(f"no study of {workload} in this store; start one with `study`")
    return [(study, rows) for study, rows in found if not named or study.name in named]

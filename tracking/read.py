"""Runs of any tracking store as plain rows, read in bulk; samples on demand."""

from __future__ import annotations

import logging
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from measurement.errors import InputError
from measurement.schedule import part
from measurement.untrusted import shown
from tracking import bulk, digest, names, stated
from tracking.bulk import Found
from tracking.store import away, reachable

_log = logging.getLogger(__name__)
# Of the samples of one trial: the longest of ours has some 100,000 rows.
_MOST_SAMPLES, _MOST_BYTES, _MOST_GROUPS = 20_000_000, 1 << 30, 10_000


@dataclass(frozen=True)
class Row:
    """One trial. `metrics` holds the run-level values; `cell` the condition as it ran."""

    run_id: str
    name: str
    status: str
    start_seconds: float
    study: str
    arm: str
    pair: int | None
    order: int | None
    machine: str
    seed: int
    cell: dict[str, str]
    parity: dict[str, Any] | None
    receipt: dict[str, Any] | None
    flags: tuple[str, ...]
    metrics: dict[str, float]
    not_measured: dict[str, str]
    source: str
    facts: dict[str, str] = field(default_factory=dict)  # of the machine, as recorded
    parent: str = ""  # the run of the study that started it
    # metric of a rank -> rank -> value, of a job: parts that are never values of the whole
    ranks: dict[str, dict[int, float]] = field(default_factory=dict)
    end_seconds: float | None = None  # when the trial had measured; None where it did not say
    deleted: bool = False  # in the store, as long as that keeps what was deleted
    # Names of what is not as the trial recorded it; None of a run without a digest.
    altered: tuple[str, ...] | None = None
    tags: dict[str, str] = field(default_factory=dict, repr=False)  # all of them, as stored


@dataclass(frozen=True)
class Pairing:
    """Two arms to compare. role: headline, resolution (A/A), wheel, as shipped."""

    numerator: str
    denominator: str
    role: str


@dataclass(frozen=True)
class Study:
    """The design, as it was written before the first trial. A name and a machine make a study: the
    same name on another machine is another study, whose trials are never mixed with these."""

    name: str
    run_id: str
    pairs: int
    margin: float
    metric: str
    target: float
    family: tuple[str, ...]
    arms: tuple[str, ...]
    comparisons: tuple[Pairing, ...]
    design: dict[str, Any] = field(default_factory=dict)  # everything, as recorded
    machine: str = ""  # fingerprint; "" where the design names none
    blocks: tuple[range, ...] = ()  # that were to be run, where not all were: one for each part
    parts: tuple[str, ...] = ()  # runs of its other parts, which ran the other blocks

    @property
    def runs(self) -> tuple[str, ...]:
        """Its own run and those of its further parts: what its trials are below."""
        return self.run_id, *self.parts

    @property
    def anytime(self) -> bool:
        """Looked at after every block, so that only an interval valid at any time may speak."""
        return self.design.get("stopping") == "anytime"

    @property
    def mode(self) -> str:
        """train, infer or generate."""
        return str(self.design.get("mode", names.ABSENT["mode"]))

    @property
    def quality(self) -> str:
        """The metric that the target is a value of; no metric where nothing is trained."""
        return str(self.design.get("quality") or "eval/accuracy")


def trials(
    study: str | None = None,
    run_ids: Sequence[str] | None = None,
    finished: bool = True,
    where: Mapping[str, str] | None = None,
    deleted: bool = False,
) -> list[Row]:
    """Trials of a study, or the named ones, oldest first. where: further tags that they carry.
    deleted: those too that were deleted since, which say so.

    Raises InputError for a run id that does not exist or is no trial, and when the server does not
    answer. Runs that were cut off keep the status RUNNING and are left out unless asked for.
    """
    if run_ids is not None:
        return _named(run_ids)
    tags = {names.KIND: "trial", **({} if study is None else {"study": study}), **(where or {})}
    found = bulk.runs(tags, "FINISHED" if finished else None, deleted=deleted)
    rows = [row_of(run) for run in found]
    return _with_ranks([row for row in rows if row.status == "FINISHED" or not finished])


def trials_of(study: Study, finished: bool = False) -> list[Row]:
    """Trials of a study on its own machine, oldest first; the same name elsewhere is left out. The
    finished ones, or every one that ever began: those too that were deleted since, which say so."""
    return belonging(study, trials(study.name, finished=finished, deleted=not finished))


def belonging(study: Study, rows: Iterable[Row]) -> list[Row]:
    """Those of the rows that are of this study and of its machine. A trial that was cut off may
    carry no fingerprint: then the run that started it says where it belongs. Raises InputError where
    two machines have one name."""
    found = [
        row
        for row in rows
        if row.study == study.name
        and (study.machine in ("", row.machine) or (not row.machine and row.parent in study.runs))
    ]
    digests = sorted({row.tags.get(names.IDENTITY, "") for row in found if row.machine} - {""})
    if study.machine and len(digests) > 1:
        raise InputError(
            f"study '{study.name}': {len(digests)} machines have the name {study.machine} by chance "
            f"(digests {', '.join(map(shown, digests[:3]))}); expected a name for each: set "
            "MACHINE_IDENTITY on one of them, and repeat its part under another name of the study"
        )
    return found


def samples(run_id: str) -> dict[str, np.ndarray]:
    """Every sample of one trial: series name -> float64 array (seconds, accuracies, losses). Raises
    InputError where they are no table, or not where the store says."""
    with tempfile.TemporaryDirectory() as folder, reachable():
        client = MlflowClient()
        try:
            path = client.download_artifacts(run_id, names.SAMPLES, folder)
        except MlflowException as error:
            if away(error):
                raise
            raise InputError(
                f"run '{run_id}' has no {names.SAMPLES} in {client.get_run(run_id).info.artifact_uri}; "
                "expected its files where they were written: put that folder back there, or copy the "
                "store with `mlflow run . -e publish`"
            ) from None
        try:
            return series(Path(path))
        except InputError as error:
            raise InputError(f"run '{run_id}': {error}") from error


def series(path: Path) -> dict[str, np.ndarray]:
    """`samples` out of a file that write.write_samples wrote, or that says it did. Raises InputError;
    nothing is unpacked that its own description does not announce."""
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise ValueError("no plain file")
        with pyarrow.parquet.ParquetFile(path, read_dictionary=["series"]) as file:
            _check_samples(file)
            table = file.read(["series", "value"])
        if table.num_rows == 0:
            return {}
        if table["series"].null_count or table["value"].null_count:
            raise ValueError("it has holes")
        named = table["series"].unify_dictionaries().combine_chunks()
        keys, codes = named.dictionary.to_pylist(), named.indices.to_numpy()
        values = table["value"].to_numpy().astype(np.float64)
    except (
        pyarrow.ArrowException, OSError, ValueError, TypeError, LookupError, NotImplementedError,
    ) as error:  # fmt: skip
        raise InputError(
            f"{names.SAMPLES} is not the table of a trial ({shown(str(error))}); expected the file as"
            " it was written: delete that run, or repeat it"
        ) from error
    order = np.argsort(codes, kind="stable")
    ends = np.searchsorted(codes[order], np.arange(len(keys) + 1))
    found = [(key, order[ends[k] : ends[k + 1]]) for k, key in enumerate(keys)]
    present = sorted(
        (rows[0], key, rows) for key, rows in found if len(rows)
    )  # as they stand there
    return {key: values[rows] for _, key, rows in present}


def _check_samples(file: pyarrow.parquet.ParquetFile) -> None:
    """Before anything is unpacked. Raises ValueError."""
    about = file.metadata
    groups = [about.row_group(i) for i in range(min(about.num_row_groups, _MOST_GROUPS + 1))]
    if about.num_rows > _MOST_SAMPLES or len(groups) > _MOST_GROUPS:
        raise ValueError(f"it announces {about.num_rows:,} rows")
    if sum(group.total_byte_size for group in groups) > _MOST_BYTES:
        raise ValueError("it announces more bytes than its rows take")
    schema = file.schema_arrow
    kinds = {name: schema.field(name).type for name in ("series", "value") if name in schema.names}
    if len(kinds) < 2 or not pyarrow.types.is_floating(kinds["value"]):
        raise ValueError(f"its columns are {', '.join(schema.names[:5])}")
    if not pyarrow.types.is_dictionary(kinds["series"]):
        raise ValueError(f"its series are {kinds['series']}")


def samples_of(run_ids: Sequence[str]) -> dict[str, dict[str, np.ndarray]]:
    """`samples` of many trials: run id -> series name -> values, in the order asked for.

    What lies on this machine's disk is read there. Else eight downloads at a time: each waits for a
    server far longer than it computes.
    """
    near = bulk.folders(run_ids)
    far = [run_id for run_id in run_ids if run_id not in near]
    with ThreadPoolExecutor(8) as pool:
        found = dict(zip(far, pool.map(samples, far), strict=True))
    found |= {run_id: _here(run_id, folder) for run_id, folder in near.items()}
    return {run_id: found[run_id] for run_id in run_ids}


def _here(run_id: str, folder: Path) -> dict[str, np.ndarray]:
    if not (folder / names.SAMPLES).exists():
        return samples(run_id)  # which says what is wrong
    try:
        return series(folder / names.SAMPLES)
    except InputError as error:
        raise InputError(f"run '{run_id}': {error}") from error


def every_study() -> list[Study]:
    """The designs of all studies that were ever started here and are still in the store, the deleted
    ones too, oldest first. One whose blocks were run in parts is there once."""
    runs = [*bulk.runs({names.KIND: "study"}, deleted=True)]
    deleted = {run.run_id for run in runs if run.deleted}
    every = [*_readable(runs)]
    joined = {one.run_id: one for one in _one_each(s for s in every if s.run_id not in deleted)}
    further = {run_id for study in joined.values() for run_id in study.parts}
    return [joined.get(one.run_id, one) for one in every if one.run_id not in further]


def studies() -> list[Study]:
    """The designs of every study of the store, newest first: one for each machine that it runs on;
    a resumed study is listed once, and so is one whose blocks were run in parts."""
    return _one_each(_readable(bulk.runs({names.KIND: "study"})))[::-1]


def _one_each(found: Iterable[Study]) -> list[Study]:
    """Of each name and machine one, the oldest, with the parts that it was run in."""
    first: dict[tuple[str, str], Study] = {}
    for one in found:
        known = first.setdefault((one.name, one.machine), one)
        if known is not one:
            first[one.name, one.machine] = _joined(known, one)
    return [*first.values()]


def _joined(known: Study, found: Study) -> Study:
    """A study with a further part of it, which ran other blocks of the same design; else as it is."""
    if not (known.blocks and found.blocks) or _same_but(known) != _same_but(found):
        return known
    (more,) = found.blocks
    if any(range(max(r.start, more.start), min(r.stop, more.stop)) for r in known.blocks):
        return known
    return replace(known, blocks=(*known.blocks, more), parts=(*known.parts, found.run_id))


def _same_but(study: Study) -> dict[str, Any]:
    """The design without how long a part waits for a quiet machine."""
    return {key: value for key, value in study.design.items() if key != "wait_quiet"}


def machines_of(name: str | None, machine: str | None = None) -> list[Study]:
    """A study on every machine that runs it, newest first; name None is the newest study. machine:
    this one only. Raises InputError listing the studies, or the machines, that there are."""
    known = studies()
    if name is None and known:
        name = known[0].name
    found = [study for study in known if study.name == name]
    if not found:
        listed = ", ".join(dict.fromkeys(study.name for study in known[:10]))
        raise InputError(
            f"no study named '{'latest' if name is None else name}' in this store; there are: "
            + (listed or "none yet; start one with 'mlflow run .'")
        )
    here = [study for study in found if machine in (None, study.machine)]
    if not here:
        raise InputError(
            f"study '{name}' has not run on the machine '{machine}'; there are: {_machines(found)}"
        )
    return here


def study(name: str | None, machine: str | None = None) -> Study:
    """A study's design by name, on one machine; name None is the newest. Raises InputError as
    `machines_of` does, and where it ran on several machines and none is named."""
    found = machines_of(name, machine)
    if len(found) > 1:
        raise InputError(
            f"study '{found[0].name}' ran on {len(found)} machines, which are not mixed; name one of "
            f"them as machine: {_machines(found)}"
        )
    return found[0]


def _machines(found: Sequence[Study]) -> str:
    return ", ".join(study.machine or "a machine without a fingerprint" for study in found)


def _readable(runs: Iterable[Found]) -> Iterator[Study]:
    """The studies among runs that say they are; a warning names what is none. On a store that others
    write to, one such run must not stop everybody."""
    for run in runs:
        try:
            yield _study(run)
        except InputError as error:
            _log.warning("run %s is left out, it is no study: %s", run.run_id, error)


def _study(run: Found) -> Study:
    design = stated.design(run.tags.get("design", ""))
    machine = str(design.get("machine", ""))
    return Study(
        name=stated.name(run.tags.get("study", ""), "a study is named"),
        run_id=run.run_id,
        pairs=design["pairs"],
        margin=design["margin"],
        metric=design["metric"],
        target=float(design.get("target") or 0),  # what does not train has none
        family=tuple(design["family"]),
        arms=tuple(design["arms"]),
        comparisons=tuple(Pairing(**pairing) for pairing in design["comparisons"]),
        design=design,
        machine=machine and stated.name(machine, "its machine is named"),
        blocks=(part(run.tags[names.BLOCKS], design["pairs"]),) if names.BLOCKS in run.tags else (),
    )


def _named(run_ids: Sequence[str]) -> list[Row]:
    """In the order asked for."""
    found = {run.run_id: run for run in bulk.runs(run_ids=run_ids)}
    for run_id in run_ids:
        if run_id not in found:
            raise InputError(
                f"no run '{run_id}' in this store; expected the id of a trial (32 characters), as in the UI"
            )
        if found[run_id].tags.get(names.KIND) != "trial":
            raise InputError(
                f"run '{run_id}' is no trial; expected one made by <workload>_<framework> or by study"
            )
    return _with_ranks([row_of(found[run_id]) for run_id in run_ids])


def _with_ranks(rows: list[Row]) -> list[Row]:
    """The rows of jobs with what each of their ranks recorded: the step of these metrics is the rank."""
    jobs = [row.run_id for row in rows if row.cell.get("ranks", "1") != "1"]
    if not jobs:
        return rows
    found = bulk.histories(jobs, names.RANKED)

    def recorded(run_id: str) -> dict[str, dict[int, float]]:
        series = {metric: found.series(run_id, metric) for metric in names.RANKED}
        return {
            metric: dict(zip(steps.tolist(), values.tolist(), strict=True))
            for metric, (steps, values) in series.items()
            if len(steps)
        }

    return [
        replace(row, ranks=recorded(row.run_id)) if row.run_id in found.run_ids else row
        for row in rows
    ]


def _status(run: Found) -> str:
    """A run that its delivery has not completed still runs, whatever `mlflow run` closed it as."""
    whole = names.RECORD not in run.tags or names.DELIVERED in run.tags
    return run.status if whole else "RUNNING"


def row_of(run: Found) -> Row:
    """One trial as its run says it, and whether that is what was recorded. Raises InputError for a run
    whose tags are not as a trial writes them."""
    try:
        return _row(run)
    except InputError as error:
        raise InputError(
            f"run '{run.run_id}': {error}; correct its tag, or delete the run and repeat it"
        ) from error


def _row(run: Found) -> Row:
    tags, params, line = run.tags, run.params, stated.line
    cell = stated.cell(tags, params)
    flags, machine = line(tags.get("flags", "")), tags.get("machine", "")
    return Row(
        run_id=run.run_id,
        name=line(run.name),
        status=_status(run),
        # Of the trial where it says so: its run may be written later, and be moved in time.
        start_seconds=stated.seconds(tags.get("started")) or run.start_milliseconds / 1000,
        study=line(tags.get("study", "")),
        arm=line(tags.get("arm", cell["framework"])),
        pair=stated.whole(tags.get("pair")),
        order=stated.whole(tags.get("order")),
        machine=machine and stated.name(machine, "machine is"),
        seed=stated.seed(tags.get("seed", params.get("seed", "0"))),
        cell=cell,
        parity=stated.evidence(tags.get("parity")),
        receipt=stated.evidence(tags.get("receipt")),
        flags=tuple(flag for flag in flags.split(",") if flag),
        metrics={  # a rank's part is no value of the run
            k: v for k, v in run.metrics.items() if not k.startswith(("system/", "rank/"))
        },
        not_measured=stated.reasons(tags.get("not_measured")),
        source=line(tags.get("source", "measured")),
        facts={line(key): line(value) for key, value in tags.items() if key.startswith("machine_")},
        parent=tags.get("mlflow.parentRunId", ""),
        end_seconds=stated.seconds(tags.get("ended")),
        deleted=run.deleted,
        altered=digest.altered(tags, run.metrics) if digest.TAG in tags else None,
        tags=tags,
    )

"""What a killed study must leave as it was: processes, the store's finished trials, pairs, files."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet

from analysis import comparison
from measurement.errors import InputError
from tracking import names, outbox, read

MARK = "KILL_SOAK_MARK"
# Of MLflow's own tables, what belongs to a run.
_TABLES = ("runs", "params", "tags", "metrics", "latest_metrics")


def marked(mark: str) -> list[psutil.Process]:
    """The processes whose environment carries the mark and that still run."""
    found = []
    psutil.process_iter.cache_clear()  # of a number that is in use again it has the process before
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue  # it has ended, or is another user's
    return found


def cleared(mark: str, limit: float, but: int | None = None) -> tuple[float, list[str]]:
    """(seconds until no marked process was left, the command lines of those that still are after
    `limit`, which are ended). but: one that may stay, with its children."""
    start = time.monotonic()
    while True:
        left = marked(mark)
        if but is not None:
            stays = {but} | _descendants(but)
            left = [process for process in left if process.pid not in stays]
        seconds = time.monotonic() - start
        if not left or seconds > limit:
            break
        time.sleep(0.02)
    lines = []
    for process in left:
        try:
            lines.append(" ".join(process.cmdline())[:160])
            process.kill()
        except psutil.NoSuchProcess:
            continue
    return seconds, lines


def _descendants(pid: int) -> set[int]:
    try:
        return {child.pid for child in psutil.Process(pid).children(recursive=True)}
    except psutil.NoSuchProcess:
        return set()


def finished(store: Path) -> dict[str, str]:
    """Run id -> a digest of every row and artifact of each finished trial."""
    if not store.exists():
        return {}
    found: dict[str, Any] = {}
    folders: dict[str, Path] = {}
    with closing(sqlite3.connect(store, timeout=60)) as database:
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'tags'").fetchone():
            return {}
        runs = database.execute(
            "SELECT r.run_uuid, r.artifact_uri FROM runs r JOIN tags t ON t.run_uuid = r.run_uuid "
            "WHERE r.status = 'FINISHED' AND t.key = ? AND t.value = 'trial'",
            (names.KIND,),
        ).fetchall()
        for run_id, uri in runs:
            folders[run_id] = store.parent / str(uri).removeprefix("file://").removeprefix("./")
            found[run_id] = hashlib.sha256()
            for table in _TABLES:
                rows = database.execute(f"SELECT * FROM {table} WHERE run_uuid = ?", (run_id,))
                for line in sorted(repr(row) for row in rows):
                    found[run_id].update(line.encode())
    for run_id, folder in folders.items():
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            found[run_id].update(str(file.relative_to(folder)).encode() + file.read_bytes())
    return {run_id: digest.hexdigest() for run_id, digest in found.items()}


def half_pairs(study: str) -> list[str]:
    """What an analysis of the study as it is now compares without both halves of a pair: nothing."""
    if study not in {known.name for known in read.studies()}:
        return []
    design = read.study(study)
    rows = read.trials_of(design)
    have = {(row.pair, row.arm) for row in rows if row.status == "FINISHED"}
    try:
        found = comparison.analyse(design, rows, np.random.default_rng(0))
    except InputError as error:
        # Nothing is compared, and it says so.
        return [] if len({arm for _, arm in have}) < len(design.arms) else [f"refused: {error}"]
    problems = [
        f"pair {point.pair} of {c.numerator} / {c.denominator} is compared without both halves"
        for c in found.comparisons
        for point in c.points
        if {(point.pair, c.numerator), (point.pair, c.denominator)} - have
    ]
    for arm, trials in Counter(row.arm for row in rows if row.status == "FINISHED").items():
        if trials > len({pair for pair, of in have if of == arm}):
            problems.append(f"{arm}: a slot has finished twice")
    return problems


def whole(study: str, folder: Path) -> list[str]:
    """What a finished study has too much of, or too little. folder: it ran in."""
    design = read.study(study)
    rows = read.trials_of(design)
    problems = []
    slots = Counter((row.pair, row.arm) for row in rows if row.status == "FINISHED")
    wanted = {(pair, arm) for pair in range(design.pairs) for arm in design.arms}
    if set(slots) != wanted or set(slots.values()) != {1}:
        twice = [slot for slot, count in slots.items() if count > 1]
        problems.append(f"slots missing: {wanted - set(slots)}, twice: {twice}")
    for row in rows:
        if row.status == "FINISHED":
            problems += [f"run {row.run_id} ({row.arm}): {p}" for p in incomplete(row)]
    problems += [f"{name} run left over" for name in unfinished(folder / "mlflow.db")]
    problems += [f"left in {folder.name}: {name}" for name in leftovers(folder)]
    report = folder / "results" / study
    for name in ("report.html", "report.md", "comparisons.csv", "trials.csv"):
        if not (report / name).is_file() or not (report / name).stat().st_size:
            problems.append(f"the report has no {name}")
    return problems + records(folder) + half_pairs(study)


def incomplete(row: read.Row) -> list[str]:
    """What a finished run does not hold of its own measurement."""
    from mlflow.tracking import MlflowClient  # the check's own way to the artifacts

    client, problems = MlflowClient(), []
    run = client.get_run(row.run_id)
    folder = Path(run.info.artifact_uri.removeprefix("file://"))
    try:
        said = json.loads((folder / "trial.json").read_text())["trial"]
        table = pyarrow.parquet.read_table(folder / names.SAMPLES).to_pydict()
    except (OSError, ValueError) as error:
        return [f"artifacts: {error}"]
    series: dict[str, list[float]] = {}
    for name, value in zip(table["series"], table["value"], strict=True):
        series.setdefault(name, []).append(value)
    for name, values in said.items():
        if isinstance(values, list) and values and series.get(name) != [float(v) for v in values]:
            problems.append(f"samples of {name} are not those of trial.json")
    history = client.get_metric_history(row.run_id, "train/epoch_seconds")
    points = [m.value for m in sorted(history, key=lambda m: m.step)]
    if points != said["epoch_seconds"]:
        problems.append(f"epochs {points} are not {said['epoch_seconds']}")
    total = row.metrics.get("train/total_seconds", 0.0)
    if not np.isclose(total, sum(said["epoch_seconds"]), rtol=1e-9):
        problems.append(f"train/total_seconds is {total}")
    if row.receipt != said["receipt"] or row.parity is None:
        problems.append("receipt or evidence is missing")
    models = client.search_logged_models(
        [run.info.experiment_id], filter_string=f"source_run_id = '{row.run_id}'"
    )
    ready = [model for model in models if str(model.status).endswith("READY")]
    if len(ready) != 1:
        problems.append(f"{len(ready)} models are ready of {len(models)}")
    elif not (Path(ready[0].artifact_location.removeprefix("file://")) / "MLmodel").is_file():
        problems.append("its model has no MLmodel")
    return problems


def records(folder: Path) -> list[str]:
    """Local records that are not exactly one run of the same status."""
    found: dict[str, list[str]] = {}
    with closing(sqlite3.connect(folder / "mlflow.db", timeout=60)) as database:
        for record, status in database.execute(
            "SELECT t.value, r.status FROM runs r JOIN tags t ON t.run_uuid = r.run_uuid "
            "WHERE t.key = ?",
            (names.RECORD,),
        ):
            found.setdefault(record, []).append(status)
    kept = [outbox.read(path) for path in outbox.folders(folder / outbox.RECORDS)]
    return [
        f"record {one.folder.name} ({one.record.status}) has the runs {found.get(one.id, [])}"
        for one in kept
        if found.get(one.id, []) != [one.record.status]
    ]


def unfinished(store: Path) -> list[str]:
    """Runs and models that nobody is at work on any more but that say so."""
    with closing(sqlite3.connect(store, timeout=60)) as database:
        runs = database.execute("SELECT name FROM runs WHERE status = 'RUNNING'").fetchall()
        # 1 is pending.
        models = database.execute("SELECT name FROM logged_models WHERE status = 1").fetchall()
    return [f"RUNNING: {name}" for (name,) in runs] + [
        f"pending model: {name}" for (name,) in models
    ]


def leftovers(folder: Path) -> list[str]:
    """Files beside the store and in mlruns that are nobody's any more."""
    found = []
    for path, folders, files in os.walk(folder):
        if Path(path) == folder:
            folders[:] = [name for name in folders if name == "mlruns"]
        for name in files:
            known = (".tmp", ".lock", ".part", ".new", "-journal", "-wal", "-shm")
            if name.endswith(known) or name.startswith(("tmp", ".tmp", "reserve")):
                found.append(os.path.relpath(os.path.join(path, name), folder))
    return found

"""Many studies at once on one store: does each get all of its own, and nothing of another's?

    python -m benchmarks.concurrency --output results/concurrency

8 studies start together on one SQLite file, which none has made yet; then 16 on one `mlflow server`
with PostgreSQL behind it and artifacts through the server. Each is `python -m entrypoints.study` with
a name and a seed of its own. At the end every run must be FINISHED and every slot there once; each
run's name, parameters, tags, metrics, samples, files and weights must be those of its own local
record; nothing may carry another study's name; and `analyze` must say the same of each study again.
Exit code 1 if anything was wrong. With `--measured recorded` (seconds instead of minutes) no worker
is started: a trial measured once is recorded again and again, its times changed every time.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlflow
import pyarrow.parquet
from mlflow.tracking import MlflowClient

from analysis.report import write_csv
from benchmarks.common import say, whole
from benchmarks.postgres import missing, postgres
from benchmarks.stores import server
from entrypoints import installed, study, study_plan, supervisor, trial
from entrypoints.analyze import Analysis, analyze
from entrypoints.processes import ROOT, Listener
from entrypoints.supervisor import Measured, TrialSpec
from measurement import machine
from measurement.errors import InputError
from tracking import names, outbox, read

ARMS = "mlx, mlx threads=1"
WORDS = (
    "--arms", ARMS, "--epochs", "2", "--preset", "smoke", "--dataset", "synthetic", "--device", "cpu",
    "--gap_seconds", "0",
)  # fmt: skip
SECONDS = 1800.0
SAME = ("report.md", "comparisons.csv", "trials.csv")


@dataclass(frozen=True)
class Place:
    """Where studies run. uri: of the store. folder: the working folder that all of them share."""

    kind: str
    uri: str
    folder: Path


@contextmanager
def stores(kind: str, folder: Path) -> Iterator[Place]:
    """A store of its own while the block runs. kind: sqlite or postgresql. Raises InputError."""
    work = folder / "work"
    work.mkdir()
    with ExitStack() as stack:
        if kind == "sqlite":
            uri = f"sqlite:///{work / 'mlflow.db'}"
        else:
            uri = stack.enter_context(server(stack.enter_context(postgres()), folder, workers=2))
        stack.enter_context(using(work, uri))
        yield Place(kind, uri, work)


@contextmanager
def using(folder: Path, uri: str) -> Iterator[None]:
    """In `folder`, with that store, as a user's command would be."""
    before, was = Path.cwd(), os.environ.get("MLFLOW_TRACKING_URI")
    os.chdir(folder)
    os.environ["MLFLOW_TRACKING_URI"] = uri
    try:
        yield
    finally:
        os.chdir(before)
        os.environ.pop("MLFLOW_TRACKING_URI")
        if was is not None:
            os.environ["MLFLOW_TRACKING_URI"] = was


def words(number: int, pairs: int) -> list[str]:
    named = ["--name", f"together-{number}", "--seed", str(100 * number), "--pairs", str(pairs)]
    return [*named, *WORDS]


# --- how the studies run


def with_workers(place: Place, count: int, pairs: int) -> list[str]:
    """`count` commands at once, as typed; returns what went wrong."""
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    processes = []
    for number in range(count):
        with (place.folder / f"log-{number}").open("w") as log:
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "entrypoints.study", *words(number, pairs)],
                    cwd=place.folder,
                    env={**kept, "PYTHONPATH": str(ROOT)},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            )
    try:
        return _ends([(process.wait, process.kill) for process in processes], place)
    finally:
        for process in processes:
            process.kill()


def recorded(place: Place, count: int, pairs: int) -> list[str]:
    """`count` processes at once that do everything but measure and draw; returns what went wrong."""
    measured = _measured(place.folder.parent)
    # Read once for all of them; nothing is installed meanwhile.
    installed.packages = functools.cache(installed.packages)
    installed.packages(Path(sys.executable), None)
    context = multiprocessing.get_context("fork")  # the imports take longer than the studies
    processes = [
        context.Process(target=_study, args=(number, pairs, measured, place))
        for number in range(count)
    ]
    for process in processes:
        process.start()

    def waiter(process: Any) -> Callable[[float], int]:
        def wait(seconds: float) -> int:
            process.join(seconds)
            if process.exitcode is None:
                raise subprocess.TimeoutExpired("study", seconds)
            return int(process.exitcode)

        return wait

    try:
        return _ends([(waiter(process), process.kill) for process in processes], place)
    finally:
        for process in processes:
            process.kill()


def _ends(
    processes: Sequence[tuple[Callable[[float], int], Callable[[], None]]], place: Place
) -> list[str]:
    until, problems = time.monotonic() + SECONDS, []
    for number, (wait, kill) in enumerate(processes):
        try:
            code = wait(max(1.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            kill()
            code = -9
        if code:
            lines = (place.folder / f"log-{number}").read_text().splitlines()
            problems.append(f"together-{number} ended with exit code {code}: {lines[-3:]}")
    return problems


def _measured(folder: Path) -> Measured:
    """One real trial, in a folder that belongs to no study."""
    found, base = study_plan.complete({"workload": "mnist", **_STUDY})
    plan = study_plan.design(found, base)
    spec = study_plan.specifications(plan, study_plan.sources_of(found))["mlx threads=1"]
    with using(folder, "sqlite:///never.db"):
        return supervisor.measure(spec)


_STUDY: dict[str, Any] = {
    option.name: option.default for option in study.main.params if option.name != "workload"
} | {
    "arms": ARMS, "epochs": 2, "preset": "smoke", "dataset": "synthetic", "device": "cpu",
    "gap_seconds": 0.0, "pairs": 1,
}  # fmt: skip


def _study(number: int, pairs: int, measured: Measured, place: Place) -> None:
    """One study in a process of its own, whose trials take no time."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    rng = random.Random(number)

    def measure(
        spec: TrialSpec, listen: Listener = lambda event: None, folder: Path | None = None, **_: Any
    ) -> Measured:
        return again(measured, folder or supervisor.new_folder("mlx-mnist"), rng)

    def compared(name: str, *_: Any, **__: Any) -> Analysis:
        return Analysis(Path("results") / name, "", f"{len(read.trials(name))} trials")

    # Its own names: this process ends with the study.
    trial.measure = measure  # type: ignore[attr-defined]
    study.analyze = compared  # type: ignore[attr-defined,assignment]
    log = (place.folder / f"log-{number}").open("w")
    with log, redirect_stdout(log), redirect_stderr(log):
        study.main.main(words(number, pairs))


def again(measured: Measured, folder: Path, rng: random.Random) -> Measured:
    """A trial that was measured as one of other times, its files in `folder`."""
    factor = rng.uniform(0.5, 2)
    result = json.loads(json.dumps(measured.result))
    times = result["trial"]["epoch_seconds"]
    result["trial"]["epoch_seconds"] = [seconds * factor for seconds in times]
    events = [dict(event) for event in measured.events if event["event"] != "result"]
    for event in events:
        if event["event"] == "epoch":
            event["seconds"] *= factor
    with (folder / outbox.EVENTS).open("w") as file:
        for event in [*events, result]:
            file.write(json.dumps(event) + "\n")
    shutil.copy(measured.folder / "weights.safetensors", folder)
    return replace(measured, folder=folder, result=result, events=[*events, result])


# --- what they must have left


def check(
    place: Place, count: int, pairs: int, drawn: bool
) -> tuple[list[dict[str, Any]], list[str]]:
    """(a row for each study, what is wrong over all)."""
    client, problems = MlflowClient(), []
    kept: dict[str, outbox.Kept] = {}  # run -> the record that says it is its
    for folder in outbox.folders(place.folder / outbox.RECORDS):
        for receipt in outbox.receipts(folder).values():
            if receipt["run_id"] in kept:
                problems.append(f"run {receipt['run_id']} has two records")
            kept[receipt["run_id"]] = outbox.read(folder)
    pages, found = "", list[Any]()
    while True:
        page = client.search_runs(["0"], max_results=1000, page_token=pages or None)
        found += page
        if not (pages := page.token or ""):
            break
    states = Counter(run.info.status for run in found)
    if set(states) != {"FINISHED"}:
        problems.append(f"runs by status: {dict(states)}")
    # A study's own run, and three trials in each block: the second arm comes twice.
    if len(found) != count * (1 + 3 * pairs):
        problems.append(f"{len(found)} runs in the store, expected {count * (1 + 3 * pairs)}")
    if set(kept) != {run.info.run_id for run in found}:
        problems.append(f"{len(kept)} runs have a record, of {len(found)}")
    by_study: dict[str, list[Any]] = {}
    for run in found:
        by_study.setdefault(run.data.tags.get("study", ""), []).append(run)
    rows = []
    for number in range(count):
        name = f"together-{number}"
        rows.append(_check_study(client, place, name, pairs, by_study.pop(name, []), kept, drawn))
    if by_study:
        problems.append(f"runs of no study: {[len(runs) for runs in by_study.values()]}")
    left = [str(p.relative_to(place.folder)) for p in place.folder.rglob("*.new")]
    return rows, problems + [f"left over: {name}" for name in left]


def _check_study(
    client: MlflowClient,
    place: Place,
    name: str,
    pairs: int,
    runs: list[Any],
    kept: dict[str, outbox.Kept],
    drawn: bool,
) -> dict[str, Any]:
    problems: list[str] = []
    row: dict[str, Any] = {"store": place.kind, "study": name, "trials": 0, "metrics": 0, "values": 0, "params": 0, "tags": 0, "files": 0}  # fmt: skip
    design = read.study(name)
    seed = int(design.design["seed"])
    slots = Counter(
        (int(run.data.tags["pair"]), run.data.tags["arm"])
        for run in runs
        if run.data.tags[names.KIND] == "trial"
    )
    wanted = {(pair, arm): 1 for pair in range(pairs) for arm in design.arms}
    if slots != wanted:
        problems.append(f"slots {dict(slots)}")
    for run in runs:
        if run.info.run_id not in kept:
            continue
        is_trial = run.data.tags[names.KIND] == "trial"
        if is_trial and run.data.tags.get("mlflow.parentRunId") != design.run_id:
            problems.append(f"{run.info.run_name} is below another study's run")
        if is_trial and int(run.data.tags["seed"]) != seed + int(run.data.tags["pair"]):
            problems.append(f"{run.info.run_name} has the seed {run.data.tags['seed']}")
        row["trials"] += is_trial
        problems += _check_run(client, run, kept[run.info.run_id], row)
    if drawn:
        folder = place.folder / "results" / name
        with tempfile.TemporaryDirectory() as scratch:
            second = analyze(name, Path(scratch) / "report").folder
            for file in SAME:
                first = folder / file
                if not first.exists() or first.read_text() != (second / file).read_text():
                    problems.append(f"analyze says another {file}")
    return row | {"problems": problems}


_AT_ONCE = 8  # histories asked for


def _check_run(client: MlflowClient, run: Any, kept: outbox.Kept, row: dict[str, Any]) -> list[str]:
    """What of a run is not its record's; counts what is."""
    record, who = kept.record, f"{run.info.run_name} ({run.info.run_id})"
    problems = [] if run.info.run_name == record.name else [f"{who} is named {record.name}"]
    for what, values, there in (
        ("params", record.params, run.data.params),
        ("tags", record.tags, run.data.tags),
    ):
        other = [k for k, v in values.items() if str(v) != "" and there.get(k) != str(v)]
        problems += [f"{who}: {what} {other} are not the record's"] if other else []
        row[what] += len(values)
    points = kept.points()
    metrics = sorted({point.name for point in points})
    with ThreadPoolExecutor(_AT_ONCE) as pool:  # each answer of a server waits 40 ms for itself
        there_now = [
            *pool.map(lambda name: client.get_metric_history(run.info.run_id, name), metrics)
        ]
    for metric, values_there in zip(metrics, there_now, strict=True):
        own = {(p.step, int(p.seconds * 1000), p.value) for p in points if p.name == metric}
        history = {(m.step, m.timestamp, m.value) for m in values_there}
        if own != history:
            problems.append(f"{who}: {metric} is not the record's")
        row["metrics"] += 1
        row["values"] += len(own)
    if extra := set(run.data.metrics) - {point.name for point in points}:
        problems.append(f"{who} has metrics of nobody: {sorted(extra)}")
    if run.data.tags[names.KIND] != "trial":
        return problems
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(client.download_artifacts(run.info.run_id, "", scratch))
        own_files = files(kept.folder / outbox.ARTIFACTS)
        if files(folder) != own_files:
            problems.append(f"{who}: its files are not the record's")
        row["files"] += len(own_files)
        said = json.loads((folder / "trial.json").read_text())["trial"]["epoch_seconds"]
        table = pyarrow.parquet.read_table(folder / names.SAMPLES).to_pydict()
        pairs_ = zip(table["series"], table["value"], strict=True)
        if [value for series, value in pairs_ if series == "epoch_seconds"] != said:
            problems.append(f"{who}: samples are not those of trial.json")
        models = client.search_logged_models(
            [run.info.experiment_id], filter_string=f"source_run_id = '{run.info.run_id}'"
        )
        if len(models) != 1 or not str(models[0].status).endswith("READY"):
            problems.append(f"{who} has {len(models)} models")
        else:
            model = Path(mlflow.artifacts.download_artifacts(models[0].model_uri, dst_path=scratch))
            weights = {digest(path) for path in model.rglob("*.safetensors")}
            if digest(kept.folder / "weights.safetensors") not in weights:
                problems.append(f"{who}: its model has other weights")
    return problems


def files(folder: Path) -> dict[str, str]:
    """Relative path -> digest."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): digest(path) for path in found}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# --- the command


def run(
    kind: str, count: int, pairs: int, how: str
) -> tuple[list[dict[str, Any]], list[str], float]:
    """(a row for each study, what is wrong over all, seconds)."""
    folder = Path(tempfile.mkdtemp(prefix=f"concurrency-{kind}-"))
    rows: list[dict[str, Any]] = []
    wrong = True
    try:
        with stores(kind, folder) as place:
            start = time.monotonic()
            problems = (recorded if how == "recorded" else with_workers)(place, count, pairs)
            seconds = time.monotonic() - start
            say(f"{kind}: {count} studies in {seconds:.0f} s; checking ...")
            if not problems:
                rows, problems = check(place, count, pairs, drawn=how != "recorded")
            locked = sum(
                "database is locked" in log.read_text() for log in place.folder.glob("log-*")
            )
            if locked:
                say(f"{locked} of {count} logs tell of a locked database")
        wrong = bool(problems or any(row["problems"] for row in rows))
        return rows, problems, seconds
    except KeyboardInterrupt:
        wrong = False
        raise
    finally:
        if wrong:
            say(f"the folder is kept: {folder}")
        else:
            shutil.rmtree(folder)


def text(tables: dict[str, tuple[list[dict[str, Any]], list[str], float]], how: str) -> str:
    """Counts, Markdown."""
    counted = ("trials", "params", "tags", "metrics", "values", "files")
    lines = [
        f"# Studies at once ({'real workers' if how == 'workers' else 'recorded measurements'})",
        "",
        f"| store | studies | {' | '.join(counted)} | seconds | wrong |",
        f"|---|{'---:|' * (len(counted) + 3)}",
    ]
    for kind, (rows, problems, seconds) in tables.items():
        sums = [f"{sum(row[key] for row in rows):,}" for key in counted]
        wrong = len(problems) + sum(len(row["problems"]) for row in rows)
        lines.append(f"| {kind} | {len(rows)} | {' | '.join(sums)} | {seconds:.0f} | {wrong} |")
    lines += ["", "Each counted value was compared with the local record of its own trial."]
    for kind, (rows, problems, _) in tables.items():
        said = problems + [f"{row['study']}: {p}" for row in rows for p in row["problems"]]
        lines += [f"- {kind}: {problem}" for problem in said]
    return "\n".join(lines) + "\n"


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--sqlite", type=int, default=8, help="studies on one SQLite file; 0: none")
    add("--postgresql", type=int, default=16, help="studies on one server; 0: none")
    add("--pairs", type=whole, default=1)
    add("--measured", choices=("workers", "recorded"), default="workers")
    add("--output", type=Path, help="folder of counts and report")
    options = parser.parse_args(given)
    # As Ctrl-C: servers and folders are gone afterwards.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if options.postgresql and (reason := missing()):
        print(f"Error: {reason}; install it, or use --postgresql 0", file=sys.stderr)
        return 2
    tables = {}
    try:
        for kind in ("sqlite", "postgresql"):
            if count := getattr(options, kind):
                tables[kind] = run(kind, count, options.pairs, options.measured)
    except InputError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped; nothing is left running", file=sys.stderr)
        return 130
    said = text(tables, options.measured)
    print(said)
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "report.md").write_text(said)
        rows = [
            row | {"problems": "; ".join(row["problems"])} for t in tables.values() for row in t[0]
        ]
        write_csv(options.output / "studies.csv", rows)
        facts = {"machine": machine.facts(), "commit": machine.commit(ROOT)[0]}
        (options.output / "conditions.json").write_text(json.dumps(facts, indent=1) + "\n")
    wrong = any(
        problems or any(r["problems"] for r in rows) for rows, problems, _ in tables.values()
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

"""How fast runs are read in bulk: ours against `mlflow.search_runs` and `get_metric_history`.

    python -m benchmarks.read_speed --output read_speed

From nothing to all runs (parameters, tags, last metrics) and all metric histories in memory, each
side in a fresh process; imports are outside the clock. Stores hold trials like ours, 10 metrics of
20 epochs, 30 parameters and 60 tags a run, in SQLite: read as a file, and through `mlflow server`.
Both sides' content is compared run by run, and no ratio is given unless it is equal.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from benchmarks import read_speed_report, stores
from benchmarks.common import say, whole
from benchmarks.read_speed_report import Reading
from measurement import machine, memory
from measurement.errors import InputError

STORES = ("sqlite", "http")
CONDITION = "tags.kind = 'trial' and attributes.status = 'FINISHED'"
Content = dict[str, str]  # run id -> digest of all that was read of it


def ours(uri: str, limit: int) -> tuple[Reading, Content, Content]:
    """This project's reader, every history. Runs in a process of its own."""
    import mlflow

    from tracking import bulk

    mlflow.set_tracking_uri(uri)
    start = perf_counter()
    runs = bulk.runs({"kind": "trial"}, "FINISHED")
    searched = perf_counter()
    metrics = sorted({name for run in runs for name in run.metrics})
    found = bulk.histories([run.run_id for run in runs], metrics)
    stop = perf_counter()
    peak = memory.process_peak_bytes()
    heads = {
        run.run_id: digest((run.params, run.tags, run.metrics, run.status, run.start_milliseconds))
        for run in runs
    }
    edges = found.run.searchsorted(range(len(runs) + 1))
    histories = {}
    for place, run_id in enumerate(found.run_ids):
        within = slice(edges[place], edges[place + 1])
        columns = (found.step, found.timestamp_milliseconds, found.value)
        names = [metrics[i] for i in found.metric[within]]
        histories[run_id] = digest_points(
            zip(names, *(column[within].tolist() for column in columns), strict=True)
        )
    reading = Reading(len(runs), len(runs), len(found), searched - start, stop - searched, peak)
    return reading, heads, histories


def baseline(uri: str, limit: int) -> tuple[Reading, Content, Content]:
    """MLflow's own calls; histories of the first `limit` runs. Runs in a process of its own."""
    # MLflow's defaults: a page of its search takes longer than this project's shorter timeout.
    for name in ("MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
        os.environ.pop(name, None)
    import mlflow

    mlflow.set_tracking_uri(uri)
    client = mlflow.MlflowClient()
    start = perf_counter()
    frame = mlflow.search_runs(["0"], CONDITION)
    searched = perf_counter()
    metrics = [name.removeprefix("metrics.") for name in frame if name.startswith("metrics.")]
    found = {
        run_id: {metric: client.get_metric_history(run_id, metric) for metric in metrics}
        for run_id in frame["run_id"][:limit]
    }
    stop = perf_counter()
    peak = memory.process_peak_bytes()
    heads = {}
    for record in frame.to_dict("records"):

        def part(prefix: str, of: Mapping[Any, Any] = record) -> dict[str, Any]:
            return {k.removeprefix(prefix): v for k, v in of.items() if k.startswith(prefix)}

        start_milliseconds = int(record["start_time"].timestamp() * 1000)
        values = (part("params."), part("tags."), part("metrics."))
        heads[record["run_id"]] = digest((*values, record["status"], start_milliseconds))
    histories = {
        run_id: digest_points(
            (name, point.step, point.timestamp, point.value)
            for name, points in series.items()
            for point in points
        )
        for run_id, series in found.items()
    }
    points = sum(len(history) for series in found.values() for history in series.values())
    reading = Reading(len(frame), len(found), points, searched - start, stop - searched, peak)
    return reading, heads, histories


def digest_points(points: Iterable[tuple[str, int, int, float]]) -> str:
    """Of one run's points (metric, step, time, value), in whatever order they were read."""
    return digest(sorted(points, key=lambda point: point[:3]))


def digest(value: Any) -> str:
    """Equal for equal content; every bit of a float counts, NaN equals NaN."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def differences(ours: tuple[Content, Content], theirs: tuple[Content, Content]) -> str:
    """What the two sides did not read alike; empty when all that both read is equal."""
    if ours[0].keys() != theirs[0].keys():
        return f"{len(ours[0].keys() ^ theirs[0].keys())} runs were read by one side only"
    for what, mine, other in zip(("run", "metric history"), ours, theirs, strict=True):
        if unlike := [run_id for run_id in other if mine.get(run_id) != other[run_id]]:
            return f"{len(unlike)} of {len(other)} differ in their {what}, first {unlike[0]}"
    return ""


def measure(options: argparse.Namespace, folder: Path) -> list[read_speed_report.Compared]:
    """Every size and store; one process per reading."""
    results = []
    for runs in options.runs:
        say(f"{runs:,} runs: writing the store")
        path = folder / f"{runs}.db"
        uri = stores.fill(path, runs, options.epochs)
        for store in options.stores:
            with ExitStack() as stack:
                address = uri
                if store == "http":
                    address = stack.enter_context(stores.server(uri, folder, options.workers))
                with_baseline = runs in (min(options.runs), max(options.runs))
                results.append(_compared(store, address, runs, with_baseline, options))
        path.unlink()
    return results


def _compared(
    store: str, uri: str, runs: int, with_baseline: bool, options: argparse.Namespace
) -> read_speed_report.Compared:
    readings: list[Reading] = []
    for _ in range(options.repeats):
        reading, *content = _in_process(ours, uri, runs)
        readings.append(reading)
        say(f"{store}, {runs:,} runs, ours: {reading.seconds:.2f} s")
    if readings[0].runs != runs:
        raise InputError(f"{store}: {readings[0].runs:,} of {runs:,} runs were read")
    theirs = None
    if with_baseline:
        limit = runs if options.baseline_runs == "all" else min(runs, options.baseline_runs)
        say(f"{store}, {runs:,} runs, MLflow's calls (histories of {limit:,} runs)")
        theirs, *expected = _in_process(baseline, uri, limit)
        say(f"{store}, {runs:,} runs, MLflow's calls: {theirs.seconds:.2f} s")
        if unlike := differences((content[0], content[1]), (expected[0], expected[1])):
            raise InputError(f"{store}, {runs:,} runs: {unlike}; no ratio of unequal work")
    typical = median(reading.seconds for reading in readings)
    return read_speed_report.Compared(store, runs, typical, readings, theirs)


def _in_process(
    read: Callable[[str, int], tuple[Reading, Content, Content]], uri: str, limit: int
) -> tuple[Reading, Content, Content]:
    """A fresh interpreter: nothing cached, and its peak memory is of this reading."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(read, uri, limit).result()


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    add = found.add_argument
    add("--runs", type=_sizes, default=[1000, 3000, 10000], help="sizes, as 1000,3000,10000")
    add("--epochs", type=whole, default=stores.EPOCHS, help="points of each of the ten metrics")
    add("--stores", type=_stores, default=list(STORES), help="sqlite,http")
    add("--workers", type=whole, default=4, help="of the server; 4 is its own default")
    add("--repeats", type=whole, default=3, help="readings of ours; the median counts")
    add(
        "--baseline_runs",
        type=lambda text: text if text == "all" else whole(text),
        default=1000,
        help="MLflow's side reads the histories of so many runs and is extrapolated; all = no "
        "extrapolation",
    )
    add("--output", type=Path, help="folder for read_speed.json, .md, .png and _dark.png")
    return found


def _sizes(text: str) -> list[int]:
    return sorted({whole(part) for part in text.split(",")})


def _stores(text: str) -> list[str]:
    chosen = text.split(",")
    if unknown := set(chosen) - set(STORES):
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: expected sqlite, http or both")
    return chosen


def main() -> int:
    options = parser().parse_args()
    try:
        if options.output:
            try:
                options.output.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(
                    f"--output {options.output}: {error.strerror}; expected a folder to write to"
                ) from None
        with tempfile.TemporaryDirectory() as folder:
            results = measure(options, Path(folder))
    except InputError as error:
        print("Error: " + " ".join(str(error).split()), file=sys.stderr)
        return 2
    print(read_speed_report.markdown(results, options.workers))
    if options.output:
        facts = {"options": {k: str(v) for k, v in vars(options).items() if k != "output"}}
        facts |= {"machine": machine.facts()}
        document = facts | {"results": [asdict(result) for result in results]}
        text = json.dumps(document, indent=1) + "\n"
        (options.output / "read_speed.json").write_text(text)
        read_speed_report.write(results, options.workers, options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())

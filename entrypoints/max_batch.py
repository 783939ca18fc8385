"""`max_batch`: the largest batch that fits into memory, by bisection in fresh processes that may die
of it; a watch ends them before the machine is short of memory.

    python -m entrypoints.max_batch --workload mnist --framework all --memory_limit_gib 2
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import click

import models
from analysis import page
from analysis.max_batch import GIB, Searched, draw, gib, records, sentence
from analysis.max_batch import page as report
from entrypoints import environment, keeping, terminal
from entrypoints.deliver import Courier
from entrypoints.folder import write_report
from entrypoints.options import Command, Or, whole
from entrypoints.probe import probe as devices_of
from entrypoints.processes import OutOfMemory, TrialFailed, run_worker
from entrypoints.supervisor import (
    TrialSpec,
    new_folder,
    prepare_data,
    preset_for,
    resolve,
    worker_spec,
)
from entrypoints.terminal import UNDELIVERED
from measurement import blas, disk, machine
from measurement.bisection import Probe, search, slope
from measurement.errors import InputError
from measurement.memory import available_bytes
from measurement.schedule import Condition, parse_arm
from measurement.watch import Watch
from tracking import outbox, write
from tracking.outbox import ARTIFACTS

SPARE_BYTES = GIB // 2  # what a process may take between two looks of the watch, many times over
# How a process ends that could not have memory and had no chance to say so.
_ABORTED_FOR_MEMORY = ("bad_alloc", "unable to allocate", "out of memory", "can't allocate memory")


@dataclass(frozen=True)
class Limits:
    """process_bytes: the watch ends a worker that holds more; device_bytes: the most that the
    allocator of a GPU may have had at its peak, None: what the device has; shared: whether the
    process's memory is the one in question (on a CPU, and where a GPU shares it)."""

    process_bytes: int
    device_bytes: int | None
    shared: bool
    seconds: float

    @property
    def shown_bytes(self) -> int | None:
        return self.process_bytes if self.shared else self.device_bytes


def limits(asked: str | float, device: str, seconds: float) -> Limits:
    """The limits on a device. Raises InputError for more memory than this machine can give."""
    available = available_bytes()
    shared = device == "cpu" or sys.platform == "darwin"
    most = available - SPARE_BYTES
    wanted = None if isinstance(asked, str) else int(asked * GIB)
    if shared and wanted is not None and wanted > most:
        raise InputError(
            f"memory_limit_gib={asked:g}: this machine has {gib(available)} available now; expected at most "
            f"{max(most, 0) / GIB:.2f}, so that it is not harmed: choose less, or end other programs"
        )
    half = available // 2
    on_host = wanted if shared and wanted is not None else half
    return Limits(on_host, None if device == "cpu" else wanted, shared, seconds)


def attempt(spec: TrialSpec, items: int, given: Limits, base: Path) -> tuple[Probe, dict[str, Any]]:
    """(one batch size tried in a process of its own, what the worker said of itself, {} where it
    died before). Raises InputError or TrialFailed where it ended for another reason than memory."""
    if available_bytes() < given.process_bytes and given.shared:
        raise InputError(
            f"only {gib(available_bytes())} of memory are available now, less than the limit of "
            f"{gib(given.process_bytes)}; end what else has started, or choose a lower memory_limit_gib"
        )
    config = models.load(spec.workload, "config")
    sizes = spec.sizes | {
        "batch_size": items,
        "train_items": min(items, max(preset.train_items for preset in config.PRESETS.values())),
        "test_items": 1,
    }
    for name, counted in models.setting(spec.workload, "NO_MORE_THAN").items():
        sizes[name] = min(sizes[name], sizes[counted])
    config.Config(**sizes).check()
    folder = base / f"{len(list(base.iterdir())):02d}-batch-{items}"
    folder.mkdir()
    watch = Watch(given.process_bytes, given.seconds)
    said: dict[str, Any] = {}
    start = time.monotonic()

    def listen(event: dict[str, Any]) -> None:
        said.update({"ready": event} if event["event"] == "ready" else {})

    def answer(outcome: Any, reason: str, peak: int | None) -> tuple[Probe, dict[str, Any]]:
        taken = time.monotonic() - start
        return Probe(items, outcome, reason, peak, taken), said.get("ready", {})

    try:
        result = run_worker(
            worker_spec(replace(spec, sizes=sizes), "fits"), folder, listen, guard=watch
        )
    except TrialFailed as error:
        seen = watch.peak_bytes if given.shared else None
        if watch.stopped == "time":
            return answer("no answer", f"it took longer than {given.seconds:g} s", seen)
        if watch.stopped == "memory" and not given.shared:
            raise TrialFailed(
                f"the worker held more than {gib(given.process_bytes)} of the machine's own memory, half "
                "of what was available, before the GPU's was full; end other programs"
            ) from None
        reason = "ended by the watch" if watch.stopped else died_of_memory(error, folder)
        if not reason:
            raise
        return answer("too large", reason, seen)
    peak = result["process_peak_bytes" if given.shared else "device_peak_bytes"]
    if given.shared and sys.platform == "darwin" and result["device_peak_bytes"]:
        peak = max(peak, result["device_peak_bytes"])
    if given.shown_bytes is not None and peak > given.shown_bytes:
        return answer("too large", "its peak is above the limit", peak)
    return answer("fits", "", peak)


def died_of_memory(error: TrialFailed, folder: Path) -> str:
    """Why a worker that failed must have been short of memory; "" where nothing says that."""
    if isinstance(error, OutOfMemory):
        killed = error.code == -signal.SIGKILL
        return "killed by the system, out of memory" if killed else "the framework: out of memory"
    if error.code == -signal.SIGSEGV:  # MLX 0.32.4 on a CPU when an allocation fails
        return "SIGSEGV, as when an allocation fails"
    log = (folder / "worker.log").read_text(errors="replace").lower()
    if error.code == -signal.SIGABRT and any(words in log for words in _ABORTED_FOR_MEMORY):
        return "SIGABRT after an allocation that failed"
    return ""


def look(
    spec: TrialSpec,
    given: Limits,
    options: dict[str, Any],
    tell: Callable[[str], None],
    base: Path,
) -> Searched:
    """The search of one framework, a folder in `base` for each probe. tell: is given a line of progress
    after each."""
    condition: dict[str, str] = {}
    taken: list[float] = []
    known: list[int | None] = [None]

    def one(items: int) -> Probe:
        found, ready = attempt(spec, items, given, base)
        taken.append(found.seconds)
        condition.update(_condition(spec, ready))
        left = ""
        if known[0] is not None:
            more = known[0] - 1
            left = f"; at most {more} more, {more * sum(taken[-4:]) / len(taken[-4:]):.0f} s left"
        tell(
            f"{spec.condition.framework}, batch {items}: {found.outcome}"
            f"{f' ({found.reason})' if found.reason else ''}, {gib(found.peak_bytes)}, "
            f"{found.seconds:.1f} s{left}"
        )
        return found

    def left(probes: int | None) -> None:
        known[0] = probes

    found = search(one, options["resolution"], options["most"], options["confirm"], left)
    return Searched(spec.condition.framework, found, given.shown_bytes, condition)


def _condition(spec: TrialSpec, ready: dict[str, Any]) -> dict[str, str]:
    """The condition as it ran, by the names of a trial's tags; {} from a worker that died first."""
    if not ready:
        return {}
    inference = spec.mode == "infer"
    return {
        "device": ready["device"],
        "dtype": ready["dtype"],
        "compile": ready["compile_inference" if inference else "compile"],
        "blas_loaded": ready["numerics"]["blas_loaded"],
        "version_framework": ready["versions"]["framework"],
    }


def chosen(options: dict[str, Any]) -> list[TrialSpec]:
    """The specification of each framework's probes; all on one device. Raises InputError."""
    workload = options["workload"]
    known = [n for n in models.names() if models.load(n, "config").KIND == "train"]
    models.load(workload, "config")
    if workload not in known:
        raise InputError(
            f"workload '{workload}' has no batch_size; choose one of: {', '.join(known)}"
        )
    has = models.frameworks(workload)
    if options["framework"] == "all":
        names = [name for name in has if environment.ready(name)]
    else:
        names = [word.strip() for word in options["framework"].split(",")]
    for name in names:
        if name not in has:
            raise InputError(
                f"workload '{workload}' has no twin in '{name}'; it has: {', '.join(has)}"
            )
    device = options["device"]
    if device == "auto":
        for name in names:
            environment.python(name)  # made now, if it is missing
        gpus = ["missing" not in devices_of(name)["devices"][1] for name in names]
        device = "gpu" if gpus and all(gpus) else "cpu"
    preset = preset_for(workload, options["preset"], device)
    datasets = models.load(workload, "config").DATASETS
    dataset = "synthetic" if "synthetic" in datasets else datasets[0]
    words = "" if options["sizes"] == "preset" else options["sizes"]
    specs = []
    for name in names:
        base = Condition(
            name, device, options["dtype"], options["compile"], "shipped", options["threads"]
        )
        base = replace(base, blas=_blas(options["blas"], name, device))
        condition, sizes = parse_arm(f"{name} {words}", base, models.options(workload))
        if condition != base or "batch_size" in sizes:
            raise InputError(
                f"sizes='{words}': expected sizes of {workload} but batch_size, as in 'layers=2'"
            )
        resolved = resolve(workload, preset, sizes, dataset, condition)
        specs.append(
            TrialSpec(workload, condition, preset, resolved, 0, 0, dataset, "auto", 0.0,
                      mode=options["mode"])
        )  # fmt: skip
    if not specs:
        raise InputError(
            f"no framework of workload '{workload}' is installed; it has: {', '.join(has)}"
        )
    prepare_data(workload, dataset, "auto")
    return specs


def _blas(asked: str, framework: str, device: str) -> str:
    """`auto`: for MLX on a Linux CPU the better one, or the probes would take many times as long."""
    if asked != "auto":
        return asked
    slow = framework == "mlx" and device == "cpu" and sys.platform == "linux"
    return (blas.better() if slow else None) or "shipped"


def record(
    name: str,
    tags: Mapping[str, str],
    spec: TrialSpec,
    searched: Searched,
    when: float,
    folder: Path | None,
) -> write.Record:
    """One framework's search as what its run says. folder: for its file, None: no disk has room.
    Raises OSError."""
    found, line = searched.found, slope(searched.found)
    best = found.at(found.largest)
    values: dict[str, float | None] = {
        "memory/max_batch_items": found.largest,
        "memory/too_large_items": found.first,
        "memory/max_batch_peak_bytes": best.peak_bytes if best else None,
        "memory/bytes_per_item": line[0] if line else None,
        "memory/limit_bytes": searched.limit_bytes,
    }
    peaks = {p.items: p.peak_bytes for p in found.probes if p.outcome == "fits" and p.peak_bytes}
    if folder:
        probes = json.dumps([asdict(probe) for probe in found.probes], indent=1)
        (folder / ARTIFACTS).mkdir(exist_ok=True)
        disk.write(folder / ARTIFACTS / "probes.json", probes + "\n")
    return write.Record(
        name=name,
        note="",
        params={
            "preset": spec.preset,
            "mode": spec.mode,
            "blas": Path(spec.condition.blas).name,
            **searched.condition,
        },
        tags={
            **tags,
            "censored": found.censored[:500] or "no",
            "conflicts": "; ".join(found.conflicts)[:500] or "none",
            "size": json.dumps({k: v for k, v in spec.sizes.items() if not k.endswith("_items")}),
        },
        points=[
            *(write.Point(k, float(v), 0, when) for k, v in values.items() if v is not None),
            *(
                write.Point("memory/batch_peak_bytes", float(v), n, when)
                for n, v in sorted(peaks.items())
            ),
        ],
        dataset={},
        kind="max_batch part",
        files=folder is not None,
    )


@click.command(cls=Command, help=__doc__, example="mlflow run . -e max_batch -P workload=mnist")
@click.option("--workload", default="mnist", show_default=True, help="one with a batch_size")
@click.option("--framework", default="all", show_default=True, help="all, or names with commas")
@click.option("--mode", type=click.Choice(("train", "infer")), default="train", show_default=True)
@click.option("--preset", default="auto", show_default=True, help="auto: by workload and device")
@click.option("--sizes", default="preset", show_default=True, help="as in 'layers=2 heads=4'")
@click.option(
    "--device", default="auto", show_default=True, help="cpu | gpu | auto (gpu if all have one)"
)
@click.option("--dtype", default="float32", show_default=True)
@click.option(
    "--compile", default="auto", show_default=True, help="on | off | auto; it changes the peak"
)
@click.option(
    "--blas", default="auto", show_default=True, help="as of a trial; auto: one that is fast"
)
@click.option(
    "--threads", type=whole(0), default=0, show_default=True, help="number; 0: every core"
)
@click.option(
    "--memory_limit_gib",
    type=Or("auto", click.FloatRange(min=0, min_open=True)),
    default="auto",
    show_default=True,
    help="GiB; auto: half of what is available on a CPU; what the device has on a GPU",
)
@click.option(
    "--resolution",
    type=click.FloatRange(0, 1),
    default=0.02,
    show_default=True,
    help="the smallest that does not fit is within this share of the largest that does; 0: exact",
)
@click.option(
    "--most", type=whole(1), default=65536, show_default=True, help="no larger batch is tried"
)
@click.option(
    "--confirm", type=bool, default=True, show_default=True, help="try both ends once more"
)
@click.option(
    "--seconds_per_probe",
    type=click.FloatRange(min=0, min_open=True),
    default=300.0,
    show_default=True,
    help="seconds: a probe that takes longer ends the search: at least N",
)
@click.option(
    "--output", default="auto", show_default=True, help="auto = results/max-batch-WORKLOAD"
)
def main(**options: Any) -> None:
    workload = options["workload"]
    specs = chosen(options)
    device = specs[0].condition.device
    given = limits(options["memory_limit_gib"], device, options["seconds_per_probe"])
    name = f"largest batch of {workload}"
    tags = {"workload": workload, "machine": machine.fingerprint(), **machine.facts()}
    courier = Courier()
    whole = write.Record(name, "", {}, tags, [], {}, kind="max_batch")
    run = outbox.given_run()
    parent = keeping.begin(new_folder(f"max_batch-{workload}"), whole, run_id=run)
    failed: list[str] = []
    searched: list[Searched] = []

    def every() -> Path | None:
        above = parent.id, courier.send(parent)
        done = searched
        for spec in specs:
            try:
                done.append(_one(spec, given, options, name, tags, above, courier))
            except TrialFailed as error:
                failed.append(f"{spec.condition.framework}: {error}")
        courier.retry()
        return _report(done, options) if done else None

    def ended(report: Path | None, folder: Path | None) -> write.Record:
        return _with(replace(whole, status="FAILED" if failed else "FINISHED"), report, folder)

    with courier.holding(parent.folder, locked=True):
        folder, _, run_id = keeping.measured(parent, every, ended, courier)
    for line in failed:
        terminal.error(line)
    if folder:
        also = f", also an artifact of run {run_id}" if run_id else ""
        click.echo(f"Report: {folder / 'report.html'}{also}")
    terminal.result(searched=searched, folder=folder, run_id=run_id, failed=failed)
    if failed:
        sys.exit(1)
    sys.exit(UNDELIVERED if courier.waiting else 0)


def _one(
    spec: TrialSpec,
    given: Limits,
    options: dict[str, Any],
    name: str,
    tags: Mapping[str, str],
    parent: tuple[str, str],
    courier: Courier,
) -> Searched:
    """One framework's search, to its run. parent: the id of the record above it, and its run."""
    framework = spec.condition.framework
    title, own = f"{framework} {name}", {**tags, "framework": framework}
    folder = new_folder(f"max_batch-{spec.workload}-{framework}")
    said = write.Record(title, "", {}, own, [], {}, kind="max_batch part")
    opened = keeping.begin(folder, said, parent=parent[0])
    (folder / "probes").mkdir()
    tell = partial(click.echo, err=True)
    searched, _, _ = keeping.measured(
        opened,
        lambda: look(spec, given, options, tell, folder / "probes"),
        lambda found, place: record(title, own, spec, found, time.time(), place),
        courier,
        parent[1],
    )
    click.echo(sentence(searched))  # now: a report that cannot be written loses nothing
    for conflict in searched.found.conflicts:
        click.echo(f"  ! {conflict}")
    return searched


def _with(whole: write.Record, report: Path | None, folder: Path | None) -> write.Record:
    """The record with the report as its files. Raises OSError."""
    if report is None or folder is None:
        return whole
    shutil.copytree(report, folder / ARTIFACTS / "report", dirs_exist_ok=True)
    return replace(whole, files=True)


def _report(done: list[Searched], options: dict[str, Any]) -> Path:
    workload, output = options["workload"], options["output"]
    folder = Path(f"results/max-batch-{workload}") if output == "auto" else Path(output)
    drawings = draw(done)
    shown = report(f"The largest batch of {workload}, {options['mode']}", done, drawings)
    texts = {"report.md": page.markdown(shown), "report.html": page.html(shown)}
    write_report(folder, None, texts, {"probes.csv": records(done)}, drawings)
    return folder


if __name__ == "__main__":
    main()

"""Starts the worker, watches machine and meters while it measures, keeps the local record, and only
then writes the MLflow run."""

from __future__ import annotations

import json
import math
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import frameworks
import models
from entrypoints import faults, overlay
from entrypoints.environment import python
from entrypoints.hostfile import Hosts
from entrypoints.launch import run_job
from entrypoints.processes import Listener, run_worker
from measurement import blas, energy, machine
from measurement.doubts import Stopwatch
from measurement.errors import InputError
from measurement.job import SHARED
from measurement.monitor import Monitor, Seen
from measurement.schedule import Condition
from models.download import directory
from serving import trained
from tracking.names import METRICS

ENERGY_SECONDS = 10.0


@dataclass(frozen=True)
class TrialSpec:
    """One trial as asked for. `sizes`: fields of the workload's Config, complete. mode: one of
    models.modes; only training has epochs and a target, else they are 0. checkpoint: where weights
    come from, "random" for the seed."""

    workload: str
    condition: Condition
    preset: str
    sizes: dict[str, Any]
    seed: int
    epochs: int
    dataset: str
    data_dir: str
    target: float
    price_per_hour: float = 0.0
    mode: str = "train"
    checkpoint: str = "random"
    inference: bool = True  # of a training: latency and batched inference too
    hostfile: str = ""  # of a job on several hosts
    max_restarts: int = 0  # of all ranks, from the last epoch, when one has ended before its time
    timeout_seconds: float = 180.0  # that a rank waits for one that says nothing


@dataclass(frozen=True)
class Measured:
    """What a worker said and what the supervisor saw meanwhile."""

    folder: Path
    start_seconds: float
    events: list[dict[str, Any]]
    result: dict[str, Any]
    before: dict[str, Any]
    energy: energy.Energy
    train_window: tuple[float, float]
    seen: Seen = Seen()
    untimed: bool = False  # the supervisor's clock contradicts the worker's


def resolve(
    workload: str,
    preset: str,
    sizes: dict[str, Any],
    dataset: str,
    condition: Condition,
    checkpoint: str = "random",
    data_dir: str = "auto",
) -> dict[str, Any]:
    """Checks names and sizes against the registries; returns the complete sizes: the preset's, over
    them what a checkpoint fixes, over them `sizes`.

    Raises InputError with what is known where a name is not.
    """
    config = models.load(workload, "config")
    devices = models.setting(workload, "DEVICES")
    if condition.device not in devices:
        raise InputError(
            f"unknown device '{condition.device}'; choose one of: {', '.join(devices)}"
        )
    if preset not in config.PRESETS:
        raise InputError(f"unknown preset '{preset}'; choose one of: {', '.join(config.PRESETS)}")
    known = ", ".join(models.frameworks(workload))
    if condition.framework not in models.frameworks(workload):
        raise InputError(
            f"workload '{workload}' has no twin in '{condition.framework}'; it has: {known}"
        )
    own = bool(config.OWN_DATA) and dataset.endswith(config.OWN_DATA)
    for name, value, choices in (
        ("dataset", config.DATASETS[0] if own else dataset, config.DATASETS),
        ("dtype", condition.dtype, config.DTYPES),
        ("compile", condition.compile, ("auto", "on", "off", "graphs")),
    ):
        if value not in choices:
            ending = (
                f", or a file *{config.OWN_DATA}" if name == "dataset" and config.OWN_DATA else ""
            )
            raise InputError(
                f"unknown {name} '{value}'; choose one of: {', '.join(choices)}{ending}"
            )
    _check_ranks(workload, condition)
    if condition.threads < 0:
        raise InputError(f"threads={condition.threads}: expected 0 (every core) or more")
    if condition.blas != "shipped" and (
        own_products := frameworks.OWN_PRODUCTS.get(condition.framework)
    ):
        raise InputError(
            f"blas={condition.blas}: {condition.framework} multiplies with {own_products} of its own, "
            "which no library can replace; use blas=shipped"
        )
    faults.check(condition.fault, condition.framework)
    blas.find(condition.blas)
    overlay.folder(condition.framework, condition.version)  # now, not between two trials
    stored = stored_sizes(workload, checkpoint, data_dir)
    values = asdict(replace(config.PRESETS[preset], **(stored | sizes)))
    zero = models.setting(workload, "MAY_BE_ZERO")
    for name, value in values.items():
        if not (0 <= value < math.inf and (value or name in zero)):
            least = "of 0 or more" if name in zero else "above 0"
            raise InputError(f"{name}={value}: expected a number {least}")
    config.Config(**values).check()
    python(condition.framework)  # now too; last, because it may take minutes
    return values


def _check_ranks(workload: str, condition: Condition) -> None:
    if condition.ranks < 1:
        raise InputError(f"ranks={condition.ranks}: expected a whole number above 0")
    if condition.ranks == 1:
        return
    frameworks.check_backend(condition.framework, condition.backend)
    if models.load(workload, "config").KIND != "train" or models.setting(workload, "STREAMS"):
        raise InputError(
            f"ranks={condition.ranks}: workload '{workload}' is not trained by several ranks here; use "
            "one that is, such as mnist or transformer_lm"
        )


def stored_sizes(workload: str, checkpoint: str, data_dir: str) -> dict[str, Any]:
    """The sizes that a checkpoint fixes: of a generation its architecture, of a training all that
    its trial had. Raises InputError."""
    if checkpoint == "random":
        return {}
    kind = models.load(workload, "config").KIND
    if kind == "switch":
        raise InputError(
            f"checkpoint={checkpoint}: workload '{workload}' has no weights; leave it out"
        )
    if kind == "generate":
        found: dict[str, Any] = models.load(workload, "checkpoint").sizes(checkpoint, data_dir)
        return found
    return asdict(trained.read_of(workload, checkpoint).config)


def preset_for(workload: str, preset: str, device: str) -> str:
    """`auto` is the workload's size for a device; of two devices, for the faster one."""
    places = set(device.split("-"))
    if preset != "auto" or not places <= {"cpu", "gpu"}:
        return preset
    return str(models.load(workload, "config").DEFAULT_PRESET["gpu" if "gpu" in places else "cpu"])


def dataset_for(workload: str, dataset: str) -> str:
    """`auto` is the workload's real data."""
    return str(models.load(workload, "config").DATASETS[0]) if dataset == "auto" else dataset


def prepare_data(
    workload: str, dataset: str, data_dir: str, sizes: Iterable[dict[str, Any]] = ()
) -> None:
    """Fetches and verifies the data before anything is timed. sizes: all that will be asked for,
    for a workload that makes its data by them."""
    data = models.load(workload, "data")
    data.prepare(dataset, data_dir)
    if hasattr(data, "prepare_sizes"):
        config = models.load(workload, "config").Config
        for values in sizes:
            data.prepare_sizes(config(**values), dataset, data_dir)


def threads_of(condition: Condition, hostfile: str = "") -> int:
    """Of one process: what was asked for, or this machine's cores, shared among its ranks."""
    ranks = condition.ranks
    if hostfile:
        hosts = Hosts.read(hostfile)
        ranks = hosts.hosts[hosts.own()].ranks
    return condition.threads or max(1, machine.physical_cores() // ranks)


def new_folder(name: str) -> Path:
    """A folder for one local record; git ignores it, nothing deletes it."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    folder = Path("mlruns/records").resolve() / f"{stamp}-{name}-{secrets.token_hex(3)}"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise InputError(
            f"cannot write the local record ({error}); expected a writable folder: "
            "run from a folder that you may write to"
        ) from None
    return folder


def measure(
    spec: TrialSpec, listen: Listener = lambda event: None, folder: Path | None = None
) -> Measured:
    """One trial from start to the worker's end. Knows nothing of MLflow. folder: of the local record,
    a new one if none is given; after the measuring nothing is written here, because a full disk must
    not take with it what was measured."""
    with faults.around(spec.condition.fault):
        return _measure(
            spec, listen, folder or new_folder(f"{spec.condition.framework}-{spec.workload}")
        )


def _measure(spec: TrialSpec, listen: Listener, folder: Path) -> Measured:
    meters = {device: energy.find(device) for device in ("cpu", "gpu", "cpu-cpu", "cpu-gpu")}
    window = energy.Window(None, "no window")
    events: list[dict[str, Any]] = []
    watch, stopwatch = _Watch(), Stopwatch()
    start = time.time()

    def on_event(event: dict[str, Any]) -> None:
        nonlocal window
        monitor.see(event)
        events.append(event)
        watch.see(event)
        stopwatch.see(event, time.monotonic())
        if event["event"] == "ready":
            device = event["device"]
            window = energy.Window(*meters[device], idle_watts=idle.get(device))
        elif event["event"] == "energy_begin":
            window.start()
        elif event["event"] == "energy_end":
            watch.energy = window.stop()
        listen(event)

    before = machine.state()
    given = worker_spec(spec, "measure", any(m for m, _ in meters.values()))
    idle = _idle_watts(meters)
    try:
        with Monitor(spec.mode, spec.condition.ranks) as monitor:
            if spec.condition.ranks > 1:
                found = run_job(given, spec.hostfile, spec.max_restarts, folder, on_event)
                if found is None:
                    raise Joined(
                        f"this host's ranks have ended; the run is on the first host ({folder})"
                    )
                result = found
                _whole_job(result, events)
                watch.energy = _job_energy(result["ranks"])
            else:
                result = run_worker(given, folder, on_event)
    finally:
        window.close()
    return Measured(
        folder=folder,
        start_seconds=start,
        events=events,
        result=result,
        before=before,
        energy=_seen_by_meter(watch.energy or window.stop(), monitor.seen()),
        train_window=(watch.train_start, watch.train_stop),
        seen=monitor.seen(),
        untimed=spec.condition.ranks == 1 and stopwatch.untimed(),
    )


def machine_file(measured: Measured) -> str:
    """The artifact `machine.json`: this machine, and its state around the measurement."""
    values = {
        "facts": machine.facts(),
        "before": measured.before,
        "energy": asdict(measured.energy),
        **measured.seen.as_json(),
    }
    return json.dumps(values, indent=1)


def _idle_watts(meters: Mapping[str, tuple[energy.Meter | None, str]]) -> dict[str, float]:
    """Device -> watts before the worker begins; of none while others compute. Not of NVIDIA's GPUs,
    which take for seconds after a trial nearly what a small one takes: see Seen.gpu_idle."""
    load = machine.LoadWindow()
    settled = {d: m for d, m in meters.items() if m[0] and energy.NVML not in m[0].source}
    found = energy.idle(settled)
    return found if load.stop(0.0)[0] <= machine.BUSY_FRACTION else {}


def _seen_by_meter(found: energy.Energy, seen: Seen) -> energy.Energy:
    if found.joules is None or energy.NVML not in found.source or not seen.gpu_idle:
        return found
    return replace(
        found,
        joules=None,
        watts_mean=None,
        status="not measured: the GPU that has the meter did no work meanwhile; set "
        "CUDA_DEVICE_ORDER=PCI_BUS_ID, so that all count several GPUs alike",
    )


class Joined(Exception):
    """A job has ended well whose first host is another one, where its run is."""


def _whole_job(result: dict[str, Any], events: list[dict[str, Any]]) -> None:
    """Makes rank 0's epochs those of the job: the slowest rank's time, every rank's items. Of an epoch
    that a restart repeated the last one counts."""
    trial = result["trial"]
    last = {event["epoch"]: event for event in events if event["event"] == "epoch"}
    events[:] = [e for e in events if e["event"] != "epoch" or e is last[e["epoch"]]]
    for number, event in last.items():
        event |= {"seconds": trial["epoch_seconds"][number], "items": trial["epoch_items"]}


def _job_energy(ranks: list[dict[str, Any]]) -> energy.Energy:
    """The sum over the ranks; one that could not measure leaves none."""
    own = [rank for rank in ranks if SHARED not in rank["energy_status"]]
    for rank in own:
        if rank["energy_joules"] is None:
            return energy.Energy(None, None, 0.0, "", rank["energy_status"])
    joules = sum(rank["energy_joules"] for rank in own)
    seconds = max(rank["energy_seconds"] for rank in own)
    return energy.Energy(joules, joules / seconds, seconds, own[0]["energy_source"], "measured")


def worker_spec(spec: TrialSpec, action: str, metered: bool = False) -> dict[str, Any]:
    """What the worker reads."""
    condition = spec.condition
    packages = overlay.folder(condition.framework, condition.version)
    return {
        "action": action,
        "python": str(python(condition.framework)),
        "workload": spec.workload,
        "framework": condition.framework,
        "device": condition.device,
        "dtype": condition.dtype,
        "compile": condition.compile,
        "blas": condition.blas,
        "threads": threads_of(condition, spec.hostfile),
        "ranks": condition.ranks,
        "backend": condition.backend,
        "timeout_seconds": spec.timeout_seconds,
        "sizes": spec.sizes,
        "seed": spec.seed,
        "dataset": _absolute(spec.dataset),
        "data_dir": str(directory(spec.data_dir)),
        "mode": spec.mode,
        "checkpoint": _absolute(spec.checkpoint),
        "packages": str(packages) if packages else None,
        "plan": _plan(spec, metered),
        "fault": condition.fault,
    }


def _absolute(word: str) -> str:
    """A file or folder by its whole path: the worker runs elsewhere. Other words as they are."""
    path = Path(word).expanduser()
    return str(path.absolute()) if path.exists() else word


def _plan(spec: TrialSpec, metered: bool) -> dict[str, Any]:
    """The fields of the mode's plan that differ from its defaults."""
    config = models.load(spec.workload, "config")
    found = dict(config.PLANS.get(spec.preset, {}))
    found |= {
        "energy_seconds": ENERGY_SECONDS if metered else 0.0,
        "slowdown": spec.condition.slowdown_percent / 100,
    }
    if spec.mode not in ("train", "infer", "stream"):
        return found
    if not spec.inference or spec.condition.ranks > 1:
        found |= {"inference": False}
    floor = METRICS[config.QUALITY].better == "higher"
    return found | {"epochs": spec.epochs, "target": spec.target, "target_is_floor": floor}


class _Watch:
    """When training began and ended, and the energy of the window after it."""

    def __init__(self) -> None:
        self.train_start = self.train_stop = 0.0
        self.energy: energy.Energy | None = None

    def see(self, event: dict[str, Any]) -> None:
        if event["event"] == "epoch_begin" and not self.train_start:
            self.train_start = time.time()
        elif event["event"] == "trained" and self.train_start:
            self.train_stop = time.time()

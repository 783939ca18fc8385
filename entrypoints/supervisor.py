"""Starts the worker, watches machine and meters while it measures, keeps the local record, and only
then writes the MLflow run."""

from __future__ import annotations

import json
import math
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil

import frameworks
import models
from entrypoints import overlay
from entrypoints.environment import python
from measurement import blas, energy, machine
from measurement.errors import InputError
from measurement.schedule import Condition
from measurement.watch import end_with_children
from models.download import directory
from serving import trained
from tracking.names import METRICS

ROOT = Path(__file__).resolve().parent.parent
ENERGY_SECONDS = 10.0
Listener = Callable[[dict[str, Any]], None]


class TrialFailed(RuntimeError):
    """The worker ended without a result; the message says how and where its log is. `flags`: what
    its run carries, names separated by commas. code: its exit code, minus the signal's number."""

    flags = "CRASHED"

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


class OutOfMemory(TrialFailed):
    """The worker ended for lack of memory; the message names the batch and the device."""

    flags = "CRASHED,OUT-OF-MEMORY"


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


@dataclass(frozen=True)
class Measured:
    """What a worker said and what the supervisor saw meanwhile."""

    folder: Path
    start_seconds: float
    events: list[dict[str, Any]]
    result: dict[str, Any]
    before: dict[str, Any]
    others_fraction: float
    stolen_fraction: float
    energy: energy.Energy
    train_window: tuple[float, float]


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
        ("compile", condition.compile, ("auto", "on", "off")),
    ):
        if value not in choices:
            ending = (
                f", or a file *{config.OWN_DATA}" if name == "dataset" and config.OWN_DATA else ""
            )
            raise InputError(
                f"unknown {name} '{value}'; choose one of: {', '.join(choices)}{ending}"
            )
    if condition.threads < 0:
        raise InputError(f"threads={condition.threads}: expected 0 (every core) or more")
    if condition.blas != "shipped" and (
        own_products := frameworks.OWN_PRODUCTS.get(condition.framework)
    ):
        raise InputError(
            f"blas={condition.blas}: {condition.framework} multiplies with {own_products} of its own, "
            "which no library can replace; use blas=shipped"
        )
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


def threads_of(condition: Condition) -> int:
    return condition.threads or machine.physical_cores()


def environment(threads: int, packages: str | None = None) -> dict[str, str]:
    """The worker's environment variables: the same thread counts for every library, float32 as IEEE
    float32 in MLX too, and nothing of MLflow. packages: a folder that Python searches first."""
    values = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    counts = ("OMP", "MKL", "OPENBLAS")
    values |= {f"{name}_NUM_THREADS": str(threads) for name in counts}
    values |= {"VECLIB_MAXIMUM_THREADS": str(threads), "MLX_ENABLE_TF32": "0"}
    values |= {"TF_CPP_MIN_LOG_LEVEL": "2"}  # errors stay
    if packages:
        found = (packages, os.environ.get("PYTHONPATH", ""))
        values["PYTHONPATH"] = os.pathsep.join(filter(None, found))
    return values


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


def run_worker(
    spec: dict[str, Any],
    folder: Path,
    listen: Listener = lambda event: None,
    guard: Callable[[subprocess.Popen[bytes]], AbstractContextManager[Any]] = nullcontext,
) -> dict[str, Any]:
    """Runs the worker to its end, appending each of its events to `events.jsonl` as it comes, and
    returns the result. guard: is open while the worker lives, and may end it. Raises InputError when
    it refused, TrialFailed when it died."""
    (folder / "spec.json").write_text(json.dumps(spec, indent=1))
    reader, writer = os.pipe()
    log = folder / "worker.log"
    result: dict[str, Any] | None = None
    kills = machine.memory_kills()
    with log.open("w") as log_file, (folder / "events.jsonl").open("a") as record:
        process = subprocess.Popen(
            [spec["python"], "-m", "entrypoints.worker", str(folder / "spec.json"), str(writer)],
            cwd=ROOT,
            env=environment(spec["threads"], spec.get("packages")),
            stdout=log_file,
            stderr=subprocess.STDOUT,
            pass_fds=(writer,),
        )
        os.close(writer)
        try:
            with guard(process), os.fdopen(reader) as lines:
                for line in lines:
                    record.write(line)
                    record.flush()
                    event = json.loads(line)
                    event["pid"] = process.pid
                    if event["event"] == "refused":
                        process.wait()
                        raise InputError(event["message"])
                    if event["event"] == "out_of_memory":
                        process.wait()
                        raise OutOfMemory(f"{_out_of_memory(spec)}: {event['message']}")
                    if event["event"] == "result":
                        result = event
                    listen(event)
                process.wait()
        finally:
            if process.poll() is None:
                end_with_children(process)
                process.wait()
    if process.returncode == -signal.SIGKILL and machine.memory_kills() > kills:
        raise OutOfMemory(
            f"{_out_of_memory(spec)}: the system killed the worker; its log is {log}",
            process.returncode,
        )
    if result is None or process.returncode != 0:
        raise TrialFailed(how_it_died(process.returncode, log, spec), process.returncode)
    return result


def measure(spec: TrialSpec, listen: Listener = lambda event: None) -> Measured:
    """One trial from start to local record. Knows nothing of MLflow."""
    folder = new_folder(f"{spec.condition.framework}-{spec.workload}")
    meters = {device: energy.find(device) for device in ("cpu", "gpu", "cpu-cpu", "cpu-gpu")}
    window = energy.Window(None, "no window")
    events: list[dict[str, Any]] = []
    watch = _Watch()
    start = time.time()

    def on_event(event: dict[str, Any]) -> None:
        nonlocal window
        events.append(event)
        watch.see(event)
        if event["event"] == "ready":
            window = energy.Window(*meters[event["device"]])
        elif event["event"] == "energy_begin":
            window.start()
        elif event["event"] == "energy_end":
            watch.energy = window.stop()
        listen(event)

    before = machine.state()
    result = run_worker(
        worker_spec(spec, "measure", any(m for m, _ in meters.values())), folder, on_event
    )
    measured = Measured(
        folder=folder,
        start_seconds=start,
        events=events,
        result=result,
        before=before,
        others_fraction=watch.others,
        stolen_fraction=watch.stolen,
        energy=watch.energy or window.stop(),
        train_window=(watch.train_start, watch.train_stop),
    )
    (folder / "config.json").write_text(
        json.dumps({"workload": spec.workload, "framework": spec.condition.framework, **spec.sizes})
    )
    (folder / "machine.json").write_text(
        json.dumps(
            {
                "facts": machine.facts(),
                "before": before,
                "others_fraction": watch.others,
                "stolen_fraction": watch.stolen,
                "energy": asdict(measured.energy),
            },
            indent=1,
        )
    )
    return measured


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
        "threads": threads_of(condition),
        "sizes": spec.sizes,
        "seed": spec.seed,
        "dataset": _absolute(spec.dataset),
        "data_dir": str(directory(spec.data_dir)),
        "mode": spec.mode,
        "checkpoint": _absolute(spec.checkpoint),
        "packages": str(packages) if packages else None,
        "plan": _plan(spec, metered),
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
    floor = METRICS[config.QUALITY].better == "higher"
    return found | {"epochs": spec.epochs, "target": spec.target, "target_is_floor": floor}


def _out_of_memory(spec: dict[str, Any]) -> str:
    """What to say of a worker that had too little memory, with what can be done."""
    return f"out of memory {_where(spec)}; use a smaller batch or preset"


def _where(spec: dict[str, Any]) -> str:
    sizes = spec.get("sizes", {})
    batch = next((f"{n}={sizes[n]}" for n in ("batch_size", "size") if n in sizes), "a batch of 1")
    return (
        f"on device={spec.get('device')} with {batch} of {spec.get('workload')} in "
        f"{spec.get('framework')}"
    )


class _Watch:
    """What others did to the machine between the first epoch and the end of training."""

    def __init__(self) -> None:
        self.others = self.stolen = self.train_start = self.train_stop = 0.0
        self.energy: energy.Energy | None = None
        self._load: machine.LoadWindow | None = None
        self._cpu = 0.0

    def see(self, event: dict[str, Any]) -> None:
        if event["event"] == "epoch_begin" and self._load is None:
            self.train_start = time.time()
            self._load, self._cpu = machine.LoadWindow(), _cpu_seconds(event["pid"])
        elif event["event"] == "trained" and self._load is not None:
            self.train_stop = time.time()
            self.others, self.stolen = self._load.stop(_cpu_seconds(event["pid"]) - self._cpu)


def _cpu_seconds(pid: int) -> float:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def how_it_died(code: int, log: Path, spec: dict[str, Any]) -> str:
    """The end of a worker in a sentence."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    last = lines[-1][:300] if lines else "no output"
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    if code == -signal.SIGKILL:
        how += f" (killed: often the system, out of memory) {_where(spec)}"
    elif code == -signal.SIGSEGV:  # seen with MLX 0.32.4 on the CPU when an allocation fails
        how += f" (often memory that could not be had) {_where(spec)}"
    return f"the worker ended with {how}: {last}; its log is {log}"

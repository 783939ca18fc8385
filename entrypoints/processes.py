"""The worker's process: what it is given, what it says until it ends, and how it ended."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from measurement import machine
from measurement.disk import Appender
from measurement.errors import InputError
from measurement.schedule import SOUND
from measurement.watch import end_with_children

ROOT = Path(__file__).resolve().parent.parent
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


def thread_counts(threads: int, dtype: str = "float32") -> dict[str, str]:
    """Of every library, and what else all frameworks must have in common."""
    values = {f"{name}_NUM_THREADS": str(threads) for name in ("OMP", "MKL", "OPENBLAS")}
    values |= {"VECLIB_MAXIMUM_THREADS": str(threads), "MLX_ENABLE_TF32": str(int(dtype == "tf32"))}
    values |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}  # as the meters count them
    return values | {"TF_CPP_MIN_LOG_LEVEL": "2"}  # errors stay


def environment(
    threads: int, packages: str | None = None, dtype: str = "float32"
) -> dict[str, str]:
    """The worker's environment variables: the same thread counts for every library, float32 as IEEE
    float32 in MLX too unless `dtype` is tf32, and nothing of MLflow. packages: a folder that Python
    searches first."""
    values = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    values |= thread_counts(threads, dtype)
    if packages:
        found = (packages, os.environ.get("PYTHONPATH", ""))
        values["PYTHONPATH"] = os.pathsep.join(filter(None, found))
    return values


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
    record = Appender(folder / "events.jsonl")
    with log.open("w") as log_file:
        process = subprocess.Popen(
            [spec["python"], "-m", _worker(spec), str(folder / "spec.json"), str(writer)],
            cwd=ROOT,
            env=environment(spec["threads"], spec.get("packages"), spec.get("dtype", "float32")),
            stdout=log_file,
            stderr=subprocess.STDOUT,
            pass_fds=(writer,),
            preexec_fn=ends_with_parent(),
        )
        os.close(writer)
        try:
            with guard(process), os.fdopen(reader) as lines:
                for line in lines:
                    record(line)
                    event = json.loads(line)
                    event["pid"] = process.pid
                    if event["event"] == "refused":
                        process.wait()
                        raise InputError(event["message"])
                    if event["event"] == "out_of_memory":
                        process.wait()
                        raise OutOfMemory(f"{out_of_memory_of(spec)}: {event['message']}")
                    if event["event"] == "result":
                        result = event
                    listen(event)
                process.wait()
        finally:
            if process.poll() is None:
                end_with_children(process)
                process.wait()
            # Only now: on the disk itself while the worker is timed would be work beside it.
            if not record.close():
                print(f"the disk is full: {folder} lacks events, kept in memory", file=sys.stderr)
    if process.returncode == -signal.SIGKILL and machine.memory_kills() > kills:
        raise OutOfMemory(
            f"{out_of_memory_of(spec)}: the system killed the worker; its log is {log}",
            process.returncode,
        )
    # 120: Python could not print its last words, as on a full disk; the result came before.
    if result is None or process.returncode not in (0, 120):
        raise TrialFailed(how_it_died(process.returncode, log, spec), process.returncode)
    return result


def ends_with_parent() -> Callable[[], None] | None:
    """For a new process on Linux, before its program begins: it ends with this one, even if this one is
    killed, now or while the other one is still importing."""
    if sys.platform != "linux":
        return None
    parent = os.getpid()

    def follow() -> None:
        _LIBC.prctl(1, signal.SIGKILL)
        if os.getppid() != parent:  # it has been killed just now
            os._exit(1)

    return follow


_LIBC = ctypes.CDLL(None)  # loaded now: between fork and exec nothing may be


def _worker(spec: dict[str, Any]) -> str:
    """The module of the worker: for an arm that is broken on purpose one that breaks it first."""
    sound = spec.get("fault", SOUND) == SOUND
    return "entrypoints.worker" if sound else "entrypoints.faults.worker"


def out_of_memory_of(spec: dict[str, Any]) -> str:
    """What to say of a worker that had too little memory, with what can be done."""
    return f"out of memory {where(spec)}; use a smaller batch or preset"


def where(spec: dict[str, Any]) -> str:
    sizes = spec.get("sizes", {})
    batch = next((f"{n}={sizes[n]}" for n in ("batch_size", "size") if n in sizes), "a batch of 1")
    return (
        f"on device={spec.get('device')} with {batch} of {spec.get('workload')} in "
        f"{spec.get('framework')}"
    )


def how_it_died(code: int, log: Path, spec: dict[str, Any]) -> str:
    """The end of a worker in a sentence."""
    last = last_line(log)
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    if code == -signal.SIGKILL:
        how += f" (killed: often the system, out of memory) {where(spec)}"
    elif code == -signal.SIGSEGV:  # seen with MLX 0.32.4 on the CPU when an allocation fails
        how += f" (often memory that could not be had) {where(spec)}"
    return f"the worker ended with {how}: {last}; its log is {log}"


def last_line(log: Path) -> str:
    """Of what a process printed."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no output"

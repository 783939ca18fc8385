"""A study as the harness records it, of trials that nobody ran: what is drawn here is only what a worker
would say. Everything after it is the project's own: records, runs, notes, views, models, the report."""

from __future__ import annotations

import hashlib
import math
import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from safetensors.numpy import save_file

import models
from entrypoints import record, study, study_plan, trial
from entrypoints.supervisor import Measured, TrialSpec
from measurement.energy import Energy
from measurement.errors import InputError
from measurement.schedule import Condition
from models import parameters
from serving.trained import WEIGHTS_FILE
from tracking import outbox
from tracking.system import Sampler
from tracking.write import Point

WORKLOAD, EPOCHS = "mnist", 5
ARMS = ("mlx", "pytorch")
SECONDS = {"mlx": 0.8, "pytorch": 1.0}  # of an epoch
_IDLE_SECONDS = 4.0  # before and after the epochs
_NO_METER = Energy(None, None, 0.0, "", "not measured: no meter on this machine")
_STATE = {
    "busy_fraction": 0.01, "on_battery": False, "low_power_mode": False, "thermal_pressure": None,
    "swap_used_fraction": 0.0, "rosetta": False, "gpu_busy_fraction": None,
}  # fmt: skip


class Clock:
    """The moment that records are written at: it goes on by what a trial would have taken."""

    def __init__(self, start: float) -> None:
        self._now = start

    def time(self) -> float:
        self._now += 0.01
        return self._now

    def advance(self, seconds: float) -> float:
        """The moment before it."""
        before, self._now = self._now, self._now + seconds
        return before


class Sampled(Sampler):
    """System metrics of a trial that was not run, one a second."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock, self._start, self._end = clock, 0.0, 0.0

    def __enter__(self) -> Sampled:
        self._start = self._clock.time()
        return self

    def __exit__(self, *_: object) -> None:
        self._end = self._clock.time()

    def points(self) -> list[Point]:
        seconds = np.arange(self._start, self._end)
        rng = np.random.default_rng(int(self._start))
        busy = np.clip((seconds - self._start) / 3, 0, 1) * 92 + rng.uniform(0, 6, len(seconds))
        memory = 2100 + 400 * np.clip((seconds - self._start) / 5, 0, 1)
        return [
            Point(f"system/{name}", float(value), step, float(when))
            for name, values in (
                ("cpu_utilization_percentage", busy),
                ("system_memory_usage_megabytes", memory),
                ("system_memory_usage_percentage", memory / 160),
            )
            for step, (value, when) in enumerate(zip(values, seconds, strict=True))
        ]


def write(name: str, pairs: int, models_of: int = 0, start: float | None = None) -> None:
    """Records a study of `pairs` blocks in the store in use and below the working folder, and its report.

    models_of: blocks whose MLX trials leave a trained model too. start: of its first trial, an hour ago
    if not given.
    """
    clock = Clock(time.time() - 3600 if start is None else start)
    options = {
        "workload": WORKLOAD, "mode": "train", "preset": "cpu", "checkpoint": "random", "pairs": pairs,
        "epochs": EPOCHS, "seed": 0, "dataset": "mnist", "target": 0.94, "price_per_hour": 0.0,
        "gap_seconds": 0.0, "margin": 0.05,
    }  # fmt: skip
    base = Condition("pytorch", "cpu", "float32", "auto", "shipped", 2)
    arms, comparisons = study_plan.given_arms(", ".join(ARMS), base, models.options(WORKLOAD))
    plan = study_plan.fixed(options | {"by_machine": []}, base, arms, comparisons)
    with _instead(clock, models_of) as said:
        code = study.conduct(name, plan, study_plan.Sources("auto", "mnist"))
    if code:
        raise InputError(f"the study was not recorded: {said.getvalue()[-500:]}")


@contextmanager
def _instead(clock: Clock, models_of: int) -> Iterator[StringIO]:
    """Puts what is drawn in the place of what is measured; yields what is said meanwhile."""

    def measure(spec: TrialSpec, listen: object, folder: Path) -> Measured:
        return measured(spec, folder, clock, spec.seed < models_of)

    with ExitStack() as stack:
        for where, what, made in (
            (trial, "measure", measure),
            (trial, "Sampler", lambda: Sampled(clock)),
            (trial, "weight_bytes", lambda spec: 0),
            (study, "prepare_data", lambda *given: None),
            (record, "time", clock),
            (outbox, "time", clock),
        ):
            stack.enter_context(mock.patch.object(where, what, made))
        said = StringIO()
        stack.enter_context(redirect_stdout(said))
        stack.enter_context(redirect_stderr(said))
        yield said


def measured(spec: TrialSpec, folder: Path, clock: Clock, trained: bool) -> Measured:
    """What a worker would say of a trial, drawn from its seed and its place."""
    framework = spec.condition.framework
    rng = np.random.default_rng([spec.seed, len(framework), int(clock.time()) % 9973])
    config = models.load(spec.workload, "config").Config(**spec.sizes)
    seconds = SECONDS[framework] * np.exp(rng.normal(0, 0.03, spec.epochs))
    start = clock.advance(2 * _IDLE_SECONDS + float(seconds.sum()))
    ends = start + _IDLE_SECONDS + np.cumsum(seconds)
    epochs = np.arange(1, spec.epochs + 1)
    loss = 0.12 + 0.9 * np.exp(-0.9 * epochs) + rng.normal(0, 0.002, spec.epochs)
    quality = 0.968 - 0.12 * np.exp(-0.9 * epochs) + rng.normal(0, 0.001, spec.epochs)
    events: list[dict[str, Any]] = [
        {
            "event": "epoch", "epoch": number, "seconds": float(seconds[number]),
            "items": config.train_items, "loss": float(loss[number]),
            "quality": float(quality[number]), "time": float(ends[number]),
        }
        for number in range(spec.epochs)
    ]  # fmt: skip
    if trained and framework == "mlx":
        save_file(parameters.draw(config.parameters(), spec.seed), folder / WEIGHTS_FILE)
    else:
        events.append({"event": "unsaved", "reason": "this trial was drawn, not trained"})
    steps = math.ceil(config.train_items / config.batch_size)
    reached = int(np.argmax(quality >= spec.target))
    result = {
        "trial": {
            "epoch_seconds": seconds.tolist(),
            "epoch_cpu_seconds": (1.9 * seconds).tolist(),
            "epoch_loss": loss.tolist(),
            "epoch_quality": quality.tolist(),
            "quality": float(quality[-1]),
            "first_step_seconds": float(0.1 * SECONDS[framework]),
            "step_seconds": (seconds[0] / steps * np.exp(rng.normal(0, 0.05, 100))).tolist(),
            "latency_seconds": (4e-5 * seconds[0] * np.exp(rng.normal(0, 0.1, 200))).tolist(),
            "inference_seconds": (0.02 * SECONDS[framework] * np.ones(5)).tolist(),
            "inference_items": config.test_items,
            "process_peak_bytes": 300 << 20 if framework == "mlx" else 600 << 20,
            "device_peak_bytes": None,
            "flops_per_second": 4e9 / SECONDS[framework],
            "ceiling_flops_per_second": 6e10,
            "completion_ratio": 2.0,
            "target_seconds": float(seconds[: reached + 1].sum()),
            "target_epochs": reached + 1,
            "energy_window_items": config.train_items,
            "details": {},
            "receipt": _receipt(spec, config, steps),
        },
        "conditions": _conditions(spec, config),
        "completed": True,
        "parity": {
            "work": _digest(spec.workload)[:16], "dtype": "float32", "optimiser": "sgd",
            "parameters": sum(math.prod(shape) for shape, _ in config.parameters().values()),
            "output": [1.0, 0.5], "gradient": [2.0, 0.1], "update": [0.3, 0.01],
            "losses": [2.3 - 0.1 * step for step in range(10)],
        },
        "imported": ["numpy", {"mlx": "mlx", "pytorch": "torch"}[framework]],
    }  # fmt: skip
    window = float(ends[0] - seconds[0]), float(ends[-1])
    return Measured(folder, start, events, result, _STATE, _NO_METER, window)


def _receipt(spec: TrialSpec, config: Any, steps: int) -> dict[str, Any]:
    rng = np.random.default_rng(spec.seed)
    apart = 1 + 1e-6 * len(spec.condition.framework)  # as rounding puts them
    norms = [float(value) for value in rng.uniform(1, 2, 3)]
    return {
        "items": spec.epochs * config.train_items, "steps": spec.epochs * steps,
        "flops": spec.epochs * config.train_items * config.train_flops_per_item(),
        "eval_items": spec.epochs * config.test_items, "inference_items": config.test_items,
        "latency_calls": 200, "weight_change_norm": norms[0] * apart, "check_value": norms[1] * apart,
        "warmup_calls": 10, "order": _digest(f"order {spec.seed}"), "initial": norms, "answers": norms,
        "single_answers": norms, "kind": "train",
    }  # fmt: skip


def _conditions(spec: TrialSpec, config: Any) -> dict[str, Any]:
    framework = spec.condition.framework
    return {
        "device": "cpu",
        "dtype": "float32",
        "compile": "on",
        "compile_inference": "on",
        "settings": "none",
        "numerics": {
            "blas_name": "mkl", "blas_loaded": "mkl 2026.1", "blas_threads": "2", "tf32": "off",
            "pool_threads": "2",
        },
        "versions": {"framework": {"mlx": "0.32.4", "pytorch": "2.13.0"}[framework], "numpy": "2.4.6"},
        "data": {
            "name": "mnist", "source": "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "sha256": _digest("mnist"), "train_items": config.train_items,
            "test_items": config.test_items,
        },
        "weights": {"source": "drawn from the seed", "sha256": ""},
        "process": secrets.token_hex(8),
    }  # fmt: skip


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

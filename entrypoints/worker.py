"""The clean process: imports one framework and no MLflow, measures, emits JSON lines.

Started by entrypoints.supervisor with a specification file and the number of a pipe; standard
output stays free for whatever a library prints.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from safetensors.numpy import save_file

import frameworks
import models
from measurement import blas
from measurement.audit import completed
from measurement.errors import InputError
from measurement.evidence import PROBE_SEED, PROBE_STEPS, Evidence, collect, work_digest
from measurement.framework import Framework
from measurement.trial import Plan, Work, matmul_ceiling, run
from models.batches import epoch_rows
from models.parameters import draw


class Emitter:
    """Writes one JSON object a line. When the supervisor is gone the worker ends too."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, event: str, values: dict[str, Any]) -> None:
        self._stream.write(json.dumps({"event": event, **values}) + "\n")
        self._stream.flush()


class Session:
    """One workload's twin, bound to its data on the device of one framework."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        module = models.load(spec["workload"], "config")
        self.config = module.Config(**spec["sizes"])
        self.twin = models.load(spec["workload"], spec["framework"])
        self.framework: Framework = frameworks.load(
            spec["framework"], spec["device"], spec["dtype"], spec["threads"]
        )
        self.data = models.load(spec["workload"], "data").load(
            self.config, spec["dataset"], spec["data_dir"]
        )
        self.compiled, self.compiled_inference = self._compile_modes(spec["compile"])
        put = self.framework.put
        self.train = [put(array) for array in self.data.train.values()]
        self.test = put(next(iter(self.data.test.values())))
        self.test_labels = list(self.data.test.values())[1]
        self.model = self.twin.Model(self.config)
        self.initial = draw(self.config.parameters(), spec["seed"])
        self.framework.write_parameters(self.model, self.initial)
        step, self.state = self.twin.training(self.model, self.config)
        submit = self.framework.compile_step(step, self.state, self.compiled)
        self.step = functools.partial(submit, *self.train)
        self.predict = self.framework.compile_predict(
            self.twin.predict, self.model, self.compiled_inference
        )

    def _compile_modes(self, asked: str) -> tuple[bool, bool]:
        """(training, inference). `auto` is the mode that was measured faster in this framework."""
        reason = self.framework.can_compile()
        if asked == "on" and reason:
            raise InputError(f"compile=on: {reason}; install one or use compile=off")
        if asked == "auto" and reason is None:
            return self.twin.FASTER_COMPILED
        return (asked == "on",) * 2

    def batches(self, epoch: int, seed: int | None = None) -> list[tuple[Any, int]]:
        seed = self.spec["seed"] if seed is None else seed
        rows = epoch_rows(len(self.data.train["labels"]), self.config.batch_size, seed, epoch)
        return [(self.framework.put(batch), len(batch)) for batch in rows]

    def evaluate(self) -> float:
        answers = self.framework.read(self.predict(self.test))
        return float(np.mean(answers == self.test_labels))

    def work(self) -> Work:
        items = next(iter(self.data.test.values()))
        framework, predict = self.framework, self.predict
        return Work(
            step=self.step,
            state=self.state,
            batches=self.batches,
            reset=lambda: framework.write_parameters(self.model, self.initial),
            evaluate=self.evaluate,
            predict_one=lambda i: framework.read(predict(framework.put(items[i : i + 1]))),
            predict_all=lambda: predict(self.test),
            read_parameters=lambda: framework.read_parameters(self.model),
            test_items=len(items),
            flops_per_item=self.config.train_flops_per_item(),
        )

    def evidence(self) -> Evidence:
        rows: list[Any] = []
        while len(rows) < PROBE_STEPS:  # a small preset has fewer batches in an epoch
            rows += [batch for batch, _ in self.batches(len(rows), PROBE_SEED)]
        rows = rows[:PROBE_STEPS]
        first = self.framework.read(rows[0]).astype(np.int64)
        batch = [self.framework.put(array[first]) for array in self.data.train.values()]
        return collect(
            self.framework,
            self.model,
            self.twin.loss,
            self.step,
            draw(self.config.parameters(), PROBE_SEED),
            batch[:1],
            batch,
            rows,
            work_digest(self.spec["workload"], asdict(self.config), self.data.sha256),
        )

    def conditions(self) -> dict[str, Any]:
        """The condition as it is, read after the work from the libraries that did it."""
        on = {True: "on", False: "off"}
        return {
            "device": self.framework.device,
            "dtype": self.framework.dtype,
            "compile": on[self.compiled],
            "compile_inference": on[self.compiled_inference],
            "numerics": self.framework.numerics(),
            "versions": self.framework.versions(),
            "data": {
                "name": self.data.name,
                "source": self.data.source,
                "sha256": self.data.sha256,
                "train_items": len(self.data.train["labels"]),
                "test_items": len(self.test_labels),
            },
        }


def measure(spec: dict[str, Any], folder: Path, emit: Emitter) -> None:
    """A whole trial; the weights go to `folder`, everything else through `emit`."""
    session = Session(spec)
    emit("ready", session.conditions())
    trial = run(session.work(), session.framework, Plan(**spec["plan"]), report=emit)
    evidence = session.evidence()
    save_file(trial.parameters, folder / "weights.safetensors")
    emit(
        "result",
        {
            "trial": trial.as_json(),
            "completed": completed(trial.completion_ratio, trial.completion_residue),
            "conditions": session.conditions(),
            "parity": evidence.summary(),
            "imported": [m for m in ("torch", "mlx", "tensorflow", "mlflow") if m in sys.modules],
        },
    )


def trace(spec: dict[str, Any], folder: Path, emit: Emitter) -> None:
    """The evidence in full, for `verify`: arrays as NPZ files, one per kind, in order."""
    session = Session(spec)
    evidence = session.evidence()
    for kind in ("outputs", "gradients", "updates"):
        np.savez(
            folder / f"{kind}.npz", **{f"{k or '.'}": v for k, v in getattr(evidence, kind).items()}
        )
    emit("result", {"parity": evidence.summary(), "conditions": session.conditions()})


def probe(spec: dict[str, Any], folder: Path, emit: Emitter) -> None:
    """Which devices a framework has here, its numerics and its matrix-product rate on each."""
    found: list[dict[str, Any]] = []
    for device in ("cpu", "gpu"):
        try:
            framework = frameworks.load(spec["framework"], device, "float32", spec["threads"])
        except InputError as error:
            found.append({"device": device, "missing": str(error)})
            continue
        seconds = spec.get("ceiling_seconds", 0)
        found.append(
            {
                "device": device,
                "compile": framework.can_compile(),
                "numerics": framework.numerics(),
                "versions": framework.versions(),
                "flops_per_second": matmul_ceiling(framework, seconds) if seconds else None,
            }
        )
    emit("result", {"devices": found})


def main() -> int:
    spec = json.loads(Path(sys.argv[1]).read_text())
    if sys.platform == "linux":  # end with the supervisor, even if it is killed
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    with os.fdopen(int(sys.argv[2]), "w") as stream:
        emit = Emitter(stream)
        try:
            blas.load(spec["blas"])
            actions = {"measure": measure, "trace": trace, "probe": probe}
            actions[spec["action"]](spec, Path(sys.argv[1]).parent, emit)
        except InputError as error:
            emit("refused", {"message": str(error)})
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

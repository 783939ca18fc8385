"""The clean process: imports one framework and no MLflow, measures, emits JSON lines.

Started by entrypoints.supervisor with a specification file and the number of a pipe; standard
output stays free for whatever a library prints.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

import frameworks
from entrypoints.session import GenerationSession, Session, open_session
from entrypoints.switch_session import SwitchSession
from measurement import blas, generation, inference, streaming, switching
from measurement.audit import completed
from measurement.disk import Appender, give_back
from measurement.errors import InputError
from measurement.evidence import Evidence
from measurement.generation import Generation
from measurement.inference import Inference
from measurement.memory import process_peak_bytes
from measurement.phases import matmul_ceiling
from measurement.streaming import Stream
from measurement.switching import Switching
from measurement.trial import Plan, Trial, run
from serving import predictions

TEXT = "text.md"


class Emitter:
    """Writes one JSON object a line, with the moment at which it was said. When the supervisor is gone
    the worker ends too."""

    def __init__(self, stream: TextIO | Appender) -> None:
        self._stream = stream

    def __call__(self, event: str, values: dict[str, Any]) -> None:
        said = {"event": event, "at": time.monotonic(), **values}
        self._stream.write(json.dumps(said) + "\n")
        self._stream.flush()


def measure(spec: dict[str, Any], folder: Path, emit: Emitter) -> None:
    """A whole trial; weights and text go to `folder`, everything else through `emit`."""
    session = open_session(spec)
    # What is counted afterwards is the very work that was timed, with whatever it has kept by then.
    session.work = functools.cache(session.work)  # type: ignore[method-assign, assignment]
    emit("ready", session.conditions())
    trial = _run(session, spec, folder, emit)
    emit("evidence", {})
    evidence = session.evidence()
    if isinstance(session, GenerationSession) and (text := session.text()) is not None:
        keep(lambda: (folder / TEXT).write_text(text, encoding="utf-8"), folder / TEXT, emit)
    emit(
        "result",
        {
            "mode": spec["mode"],
            "trial": trial.as_json(),
            "completed": completed(trial.completion_ratio, trial.completion_residue),
            "conditions": session.conditions(),
            "parity": evidence.summary(),
            "imported": [m for m in (*frameworks.packages(), "mlflow") if m in sys.modules],
        },
    )


def _run(
    session: Session | GenerationSession | SwitchSession,
    spec: dict[str, Any],
    folder: Path,
    emit: Emitter,
) -> Trial | Inference | Generation | Stream | Switching:
    plan, framework = spec["plan"], session.framework
    if isinstance(session, SwitchSession):
        return switching.run(session.work(), switching.Plan(**plan), report=emit)
    if isinstance(session, GenerationSession):
        return generation.run(session.work(), framework, generation.Plan(**plan), report=emit)
    if spec["mode"] == "infer":
        flops = session.config.infer_flops_per_item()
        return inference.run(session.work(), framework, Plan(**plan), flops, report=emit)
    trial: Trial | Stream
    if spec["mode"] == "stream":
        trial = streaming.run(session.stream(), framework, Plan(**plan), report=emit)
    else:
        trial = run(session.work(), framework, Plan(**plan), report=emit)
    weights = folder / "weights.safetensors"
    keep(lambda: save_file(trial.parameters, weights), weights, emit)
    answered = folder / predictions.FILE
    keep(lambda: predictions.save(answered, session.predictions(trial.parameters)), answered, emit)
    return trial


def keep(save: Callable[[], Any], path: Path, emit: Callable[[str, dict[str, Any]], None]) -> None:
    """Saves a file, if need be in the space that was set aside for it. A disk that is full all the
    same takes the file, and not what was measured: the event `unsaved` says so."""
    for last in (False, True):
        try:
            save()
        except (OSError, SafetensorError) as error:
            path.unlink(missing_ok=True)  # half of it is none of it
            if last or not give_back(path.parent):
                emit("unsaved", {"name": path.name, "reason": f"{path.name}: {error}"[:300]})
                return
        else:
            return


def trace(spec: dict[str, Any], folder: Path, emit: Emitter) -> None:
    """The evidence in full, for `verify`: arrays as NPZ files, one per kind, in order."""
    session = open_session(spec)
    evidence = session.evidence()
    save_trace(evidence, folder)
    emit("result", {"parity": evidence.summary(), "conditions": session.conditions()})


def save_trace(evidence: Evidence, folder: Path) -> None:
    """Every array, one file per kind."""
    for kind in ("outputs", "gradients", "updates"):
        np.savez(
            folder / f"{kind}.npz", **{f"{k or '.'}": v for k, v in getattr(evidence, kind).items()}
        )


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


def fits(spec: dict[str, Any], folder: Path, emit: Emitter) -> None:
    """Two steps (or answers, with mode infer) at the batch size of `spec`, and the memory that they
    took. What ends it for lack of memory is the supervisor's to see."""
    if sys.platform == "linux":  # if the system must kill somebody, then this process
        Path("/proc/self/oom_score_adj").write_text("1000")
    session = open_session(spec)
    assert isinstance(session, Session)
    framework, train = session.framework, session.data.train
    # Rows repeat where the data set has fewer items than the batch.
    rows = np.arange(session.config.batch_size, dtype=np.int32) % len(train["labels"])
    if spec["mode"] == "infer":
        batch = framework.put(next(iter(train.values()))[rows])
        call: Callable[[Any], Any] = session.predict
    else:
        batch, call = framework.put(rows), session.step
    emit("ready", session.conditions())
    for _ in range(2):  # the first one also compiles, and makes the optimiser's state
        framework.wait(call(batch), session.state)
    emit(
        "result",
        {
            "conditions": session.conditions(),
            "resident_items": len(train["labels"]),
            "process_peak_bytes": process_peak_bytes(),
            "device_peak_bytes": framework.device_peak_bytes(),
        },
    )


def main() -> int:
    spec = json.loads(Path(sys.argv[1]).read_text())
    # What a worker starts, such as a compiler, must not keep the pipe open when the worker is gone.
    os.set_inheritable(int(sys.argv[2]), False)
    with os.fdopen(int(sys.argv[2]), "w") as stream:
        emit = Emitter(stream)
        try:
            blas.load(spec["blas"])
            actions = {"measure": measure, "trace": trace, "probe": probe, "fits": fits}
            actions[spec["action"]](spec, Path(sys.argv[1]).parent, emit)
        except InputError as error:
            emit("refused", {"message": str(error)})
            return 2
        except Exception as error:  # TensorFlow's is no RuntimeError
            if not frameworks.out_of_memory(error):
                raise
            emit("out_of_memory", {"message": " ".join(str(error).split())[:300]})
            return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())

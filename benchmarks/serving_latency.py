"""How long does a request wait for `mlflow models serve`, in MLX and in PyTorch, at a stated load?

    python -m benchmarks.serving_latency --rate 50 --output results/serving-mnist

One trial trains the model; its weights are served in both frameworks, one server at a time, each block in
a server process of its own, in random order. Requests come at a stated rate (Poisson or constant), and
a latency counts from the moment at which the request was meant to be sent. Before any load both servers
answer what the training process was asked, and must say the same; every answer under load must too.
Writes serving_latency.json (every latency), serving_latency.md and the figure.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import frameworks
import models
from benchmarks import served, serving_latency_report
from benchmarks.common import FRAMEWORKS, say, whole
from benchmarks.served import ARRIVALS, Answered
from benchmarks.serving_latency_report import Block
from entrypoints.processes import ROOT, environment, thread_counts
from measurement import blas, machine, schedule
from measurement.digest import digest
from measurement.errors import InputError
from serving import log, predictions, trained
from serving.predictions import Predictions

_LEAST_BLOCKS = 6  # for an interval


def main(words: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(words)
    try:
        _check(options)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            source = options.trained or _train(options, folder / "training")
            blocks, facts = _measure(options, source, folder)
        report = serving_latency_report.compare(blocks, options.frameworks, options.seed)
        serving_latency_report.write(report, blocks, facts, options.output)
    except InputError as error:
        print("Error: " + " ".join(str(error).split()), file=sys.stderr)
        return 2
    print(serving_latency_report.markdown(report, facts))
    return 0


def _parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = found.add_argument
    add("--workload", default="mnist", help="one that trains a model")
    add("--frameworks", default=",".join(FRAMEWORKS), help="two; the ratio is first over second")
    add("--trained", type=Path, help="local record of a trial; default: one trains now")
    add("--preset", default="auto", help="of that training")
    add("--dataset", default="auto")
    add("--data_dir", default="auto", help="folder of the data files")
    add("--rate", type=float, default=50.0, help="requests a second")
    add("--arrivals", choices=ARRIVALS, default="poisson")
    add("--items", type=whole, default=1, help="items in a request")
    add(
        "--blocks",
        type=whole,
        default=10,
        help=f"pairs of server processes, {_LEAST_BLOCKS} or more",
    )
    add("--seconds", type=float, default=20.0, help="of load in a block, after the warm-up")
    add("--warmup_seconds", type=float, default=3.0, help="of load that is not counted")
    add("--connections", type=whole, default=32, help="that stay open")
    add("--threads", type=whole, default=1, help="of every library in the server")
    add("--seed", type=int, default=0, help="of the order of the blocks and the arrivals")
    add("--output", type=Path, required=True, help="folder of the report")
    return found


def _check(options: argparse.Namespace) -> None:
    """Raises InputError before anything is trained."""
    if models.load(options.workload, "config").KIND != "train":
        raise InputError(f"--workload {options.workload} trains no model; choose one that does")
    if options.blocks < _LEAST_BLOCKS:
        raise InputError(
            f"--blocks {options.blocks}: expected {_LEAST_BLOCKS} or more, for an interval"
        )
    for name in ("rate", "seconds"):
        if not 0 < getattr(options, name) < 1e6:
            raise InputError(f"--{name} {getattr(options, name)}: expected a number above 0")
    if not 0 <= options.warmup_seconds < 1e6:
        raise InputError(f"--warmup_seconds {options.warmup_seconds}: expected 0 or more")
    options.frameworks = tuple(options.frameworks.split(","))
    if len(options.frameworks) != 2 or len(set(options.frameworks)) != 2:
        raise InputError(
            f"--frameworks {','.join(options.frameworks)}: expected two, as mlx,pytorch"
        )
    for name in options.frameworks:
        if name not in trained.SERVED or name not in models.frameworks(options.workload):
            raise InputError(f"{name} is not served; choose of: {', '.join(trained.SERVED)}")
        if not frameworks.available(name):
            raise InputError(f"{name} is not installed; install it")
    try:
        options.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"--output {options.output}: {error.strerror}; expected a folder"
        ) from None


def _train(options: argparse.Namespace, folder: Path) -> Path:
    """The local record of a trial that is measured now, in a store of its own."""
    folder.mkdir()
    say(f"training {options.workload} in {options.frameworks[1]}")
    words = [options.workload, options.frameworks[1], "--preset", options.preset, "--device", "cpu"]
    words += ["--data_dir", options.data_dir, "--threads", str(options.threads)]
    words += ["--dataset", options.dataset] if options.dataset != "auto" else []
    done = subprocess.run(
        [sys.executable, "-m", "entrypoints.trial", *words],
        cwd=folder,
        env=environment(options.threads)
        | {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}"},
        capture_output=True,
        text=True,
    )
    found = sorted(folder.glob(f"mlruns/records/*/{trained.WEIGHTS_FILE}"))
    if done.returncode or not found:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise InputError(f"the training failed: {last}")
    return found[-1].parent


def _measure(
    options: argparse.Namespace, source: Path, folder: Path
) -> tuple[list[Block], dict[str, Any]]:
    """Every block, in the order in which they ran, and what they ran on."""
    spec = trained.read(source)
    if spec.workload != options.workload:
        raise InputError(
            f"{source} holds a model of '{spec.workload}', expected {options.workload}"
        )
    recorded = predictions.read(_recorded(source))
    saved = {name: _saved(source, name, folder / name) for name in options.frameworks}
    requests, expected = _requests(recorded, options.items)
    told = _told(options, spec, recorded)
    before = machine.state()
    for name, model in saved.items():
        with served.served(model, folder / name, environment(options.threads)) as address:
            _same(name, address, recorded)
    say(f"both servers answer {len(recorded.answers)} items as the training process did")
    blocks = []
    for slot in schedule.blocks(options.frameworks, options.blocks, options.seed):
        with served.served(
            saved[slot.arm], folder / slot.arm, environment(options.threads)
        ) as address:
            found = _block(options, address, requests, expected, slot.pair)
        if found.wrong:
            raise InputError(
                f"{slot.arm} gave {found.wrong} wrong answers under load; latencies of other predictions "
                "are not compared"
            )
        blocks.append(Block(slot.arm, slot.pair, slot.order, found))
        say(
            f"block {slot.pair + 1} of {options.blocks}, {slot.arm}: p50 "
            f"{1e3 * np.quantile(found.latencies, 0.5):.2f} ms, {found.rate:.1f} requests/s"
        )
    told |= {"machine_flags": sorted({*machine.flags(before), *machine.flags(machine.state())})}
    return blocks, told


def _recorded(source: Path) -> Path:
    """The file of predictions of a local record."""
    return next(source.rglob(predictions.FILE), source / predictions.FILE)


def _saved(source: Path, framework: str, folder: Path) -> Path:
    """One trial's weights as an MLflow model of any framework: their names are the same in all."""
    copied = folder / "trained"
    copied.mkdir(parents=True)
    spec = json.loads((source / trained.CONFIG_FILE).read_text())
    (copied / trained.CONFIG_FILE).write_text(json.dumps(spec | {"framework": framework}))
    shutil.copy(source / trained.WEIGHTS_FILE, copied)
    log.save_model(copied, folder / "model")
    return folder / "model"


def _requests(recorded: Predictions, items: int) -> tuple[list[bytes], list[Any]]:
    """Bodies and the answers to them, in turn through the recorded items."""
    count = len(recorded.inputs)
    rows = [(first + np.arange(items)) % count for first in range(0, count * items, items)][:count]
    return (
        [served.body(recorded.inputs[row]) for row in rows],
        [recorded.answers[row].tolist() for row in rows],
    )


def _same(name: str, address: str, recorded: Predictions) -> None:
    """Raises InputError where a server does not answer as the training process did."""
    found = np.asarray(served.ask(address, served.body(recorded.inputs)), np.int64)
    if said := predictions.difference(recorded.answers, found, "float32"):
        raise InputError(f"{name}: {said}; latencies of different predictions are not compared")


def _block(
    options: argparse.Namespace, address: str, requests: list[bytes], expected: list[Any], pair: int
) -> Answered:
    """Both arms of a pair are offered the same arrivals."""
    if options.warmup_seconds:
        seed = [options.seed, pair, 1]
        times = served.arrivals(options.rate, options.warmup_seconds, options.arrivals, seed)
        served.offer(address, requests, expected, times, options.connections)
    times = served.arrivals(
        options.rate, options.seconds, options.arrivals, [options.seed, pair, 0]
    )
    return served.offer(address, requests, expected, times, options.connections)


def _told(
    options: argparse.Namespace, spec: trained.Trained, recorded: Predictions
) -> dict[str, Any]:
    """What was run on what, without a path of this machine."""
    names = ("workload", "rate", "arrivals", "items", "blocks", "seconds", "warmup_seconds")
    return {
        **{name: getattr(options, name) for name in (*names, "connections", "threads", "seed")},
        "trained_in": spec.framework,
        "weights_sha256": digest(spec.weights),
        "items_checked": len(recorded.answers),
        "request_bytes": len(served.body(recorded.inputs[: options.items])),
        "blas": {
            name: (blas.better() or "shipped")
            if name == "mlx" and sys.platform == "linux"
            else "own"
            for name in options.frameworks
        },
        "variables": thread_counts(options.threads),
        "machine": machine.facts(),
    }


if __name__ == "__main__":
    sys.exit(main())

"""The training step of a job against the plain loops of the frameworks' own documentation.

    python -m benchmarks.distributed_peers mnist
    python -m benchmarks.distributed_peers transformer_lm --framework pytorch

Peers: in PyTorch the loop of its DistributedDataParallel tutorial (DDP(model), zero_grad, backward,
optimizer step), eager and with torch.compile around the wrapped model; in MLX the data-parallel loop of
its documentation (value_and_grad, average_gradients, optimizer update, mx.eval), eager and compiled
with its state as mlx-examples do. Model, weights, data, parts of batches and rates are ours; optimiser
and loss are the frameworks' own (AdamW fused in PyTorch, with bias correction in MLX).

Both run in the same ranks of one job of torchrun or mlx.launch. Before anything is timed, ten steps
from the same weights on the same batches must have our losses on every rank and end in our weights,
within measurement.comparison's tolerances. A sample is the seconds of a step: of the slowest rank, median of
some bursts of steps, every step with its loss computed, from the row numbers of a rank's part. Only
batches that the ranks can share evenly are used: the peers' loops do not weigh uneven ones.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import frameworks
import models
from benchmarks import common
from benchmarks.common import default, versus_peer
from benchmarks.distributed_rank import PEERS
from entrypoints import distributed
from entrypoints.launch import run_job
from entrypoints.supervisor import worker_spec
from measurement.errors import InputError

WORKLOADS = ("mnist", "transformer_lm")
MODULE = "benchmarks.distributed_rank"


def specification(framework: str, options: argparse.Namespace) -> dict[str, Any]:
    """What every rank reads. Raises InputError for options that cannot be."""
    if framework not in PEERS:
        raise InputError(f"--framework {framework}: expected {' or '.join(PEERS)}")
    frameworks.check_backend(framework, options.backend)
    if options.ranks < 2:
        raise InputError(f"--ranks {options.ranks}: expected 2 or more, which have to talk")
    names = (
        "ranks",
        "backend",
        "threads",
        "device",
        "blas",
        "preset",
        "dataset",
        "data_dir",
        "seed",
    )
    words = [word for name in names for word in (f"--{name}", str(getattr(options, name)))]
    command = distributed.command(options.workload, framework)
    context = command.make_context("job", words)
    spec = distributed.job_specification(options.workload, framework, context.params)
    if (batch := spec.sizes["batch_size"]) % spec.condition.ranks:
        raise InputError(
            f"--ranks {options.ranks}: the global batch of {batch} cannot be shared evenly, which the "
            "peers' loops need; choose a divisor"
        )
    more = {"pairs": options.pairs, "burst_seconds": options.burst_seconds}
    return worker_spec(spec, "measure") | more


def measure(framework: str, options: argparse.Namespace, module: str = MODULE) -> common.Measured:
    """One job. Its folder stays where it ends badly, for its log."""
    folder = Path(tempfile.mkdtemp(prefix="distributed-peers-"))
    common.say(f"{framework}: starting {options.ranks} ranks")
    found = run_job(specification(framework, options), "", 0, folder, _progress, module)
    assert found is not None  # every rank is on this machine
    shutil.rmtree(folder)
    row = partial(common.compare, framework, found["samples"])
    own, (peer, _) = found["own"], PEERS[framework]
    rows = [
        row(own, name, f"step: ours ({own}) / {name}", versus_peer)
        for name in (peer, f"{peer}, compiled")
        if name in found["samples"]
    ]
    if {"compiled", "eager"} <= set(found["samples"]):
        verdict = default(own == "compiled")
        rows.append(row("compiled", "eager", "step: ours compiled / eager", verdict))
    return common.Measured(framework, found["conditions"], found["samples"], rows, found["notes"])


def _progress(event: dict[str, Any]) -> None:
    if event["event"] == "progress":
        common.say(event["line"])


def parser() -> argparse.ArgumentParser:
    found = common.parser(str(__doc__).splitlines()[0], pairs=24, dataset="auto", preset="cpu")
    found.add_argument("workload", choices=WORKLOADS)
    found.add_argument("--ranks", type=common.whole, default=2, help="all on this machine")
    found.add_argument("--backend", default="auto", help="as for the entry points")
    found.add_argument("--burst_seconds", type=float, default=0.05, help="about; one step at least")
    return found


def main() -> int:
    options = parser().parse_args()
    if options.dataset == "auto":
        options.dataset = models.load(options.workload, "config").DATASETS[0]
    title = f"{options.workload}, {options.ranks} ranks: our step and the documentation's"
    return common.main(options, title, measure, specification, options.workload)


if __name__ == "__main__":
    sys.exit(main())

"""`<workload>_pytorch_ddp`, `<workload>_mlx_distributed`: one training by several ranks, one run.

    python -m entrypoints.distributed mnist pytorch --ranks 2

On several hosts (docs/DISTRIBUTED.md) torchrun is started on each of them, by this same command; the run
is the first host's. mlx.launch starts the others itself.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import click

import frameworks
from entrypoints import terminal
from entrypoints.deliver import Courier
from entrypoints.hostfile import Hosts
from entrypoints.options import Command, Or, whole
from entrypoints.processes import TrialFailed
from entrypoints.supervisor import Joined, TrialSpec, measure, prepare_data
from entrypoints.trial import execute, leave, options, progress, run_named, specification, summary
from measurement.errors import InputError
from tracking import write

GLOBAL = "global_batch_size"
NAMES = {
    "pytorch": "pytorch_ddp",
    "mlx": "mlx_distributed",
}  # of entry points, after the workload's
_NOT_HERE = ("mode", "checkpoint", "batch_size")
DEFAULT_RANKS = 2


def distributed_options(workload: str, framework: str) -> list[click.Parameter]:
    """Those of a trial that trains, and those of a job."""
    known = ("auto", *frameworks.BACKENDS.get(framework, ()))
    own = [o for o in options(workload) if o.name not in _NOT_HERE]
    listed = (
        ("ranks", "auto", f"number of processes; auto: the hostfile's, else {DEFAULT_RANKS}", Or("auto", whole(1))),
        ("backend", "auto", " | ".join(known), click.Choice(known)),
        ("hostfile", "none", "JSON, see docs/DISTRIBUTED.md; none: this machine", click.STRING),
        (GLOBAL, "preset", "items of a batch, over all ranks", Or("preset", whole(1))),
        ("max_restarts", 0, "number of restarts of all ranks from the last epoch (torchrun)", whole(0)),
        ("timeout_seconds", 180.0, "seconds that a rank waits for a silent one", click.FloatRange(min=1)),
    )  # fmt: skip
    return own + [
        click.Option([f"--{name}"], type=kind, default=default, show_default=True, help=help)
        for name, default, help, kind in listed
    ]


def job_specification(workload: str, framework: str, values: dict[str, Any]) -> TrialSpec:
    """Options -> a checked specification. Raises InputError."""
    frameworks.check_backend(framework, values["backend"])
    hostfile = "" if values["hostfile"] == "none" else values["hostfile"]
    ranks = values["ranks"]
    if hostfile:
        have = Hosts.read(hostfile).ranks
        if ranks not in ("auto", have):
            raise InputError(
                f"ranks={ranks}: the hostfile has {have}; leave ranks out, or correct it"
            )
        ranks = have
    ranks = DEFAULT_RANKS if ranks == "auto" else ranks
    if values["max_restarts"] and framework != "pytorch":
        raise InputError(
            f"max_restarts={values['max_restarts']}: mlx.launch restarts nothing; leave it out, or use "
            "PyTorch, whose torchrun does"
        )
    given = values | {"mode": "train", "checkpoint": "random", "batch_size": values[GLOBAL]}
    spec = specification(workload, framework, given, ranks=ranks, backend=values["backend"])
    if spec.sizes["batch_size"] < ranks:
        raise InputError(
            f"{GLOBAL}={spec.sizes['batch_size']}: {ranks} ranks would leave one without an item in "
            f"every batch; expected {ranks} or more"
        )
    return replace(
        spec,
        inference=False,
        hostfile=hostfile,
        max_restarts=values["max_restarts"],
        timeout_seconds=values["timeout_seconds"],
    )


def perform(workload: str, framework: str, values: dict[str, Any]) -> None:
    """One job, to its run. Ends the process with exit code 1 where a rank failed."""
    spec = job_specification(workload, framework, values)
    prepare_data(workload, spec.dataset, spec.data_dir, [spec.sizes])
    if spec.hostfile and (own := Hosts.read(spec.hostfile).own()):
        _join(spec, own)
        return
    name = f"{framework} {workload} {spec.condition.ranks} ranks"
    try:
        done = execute(spec, name, {"arm": framework}, progress(spec), Courier())
    except TrialFailed as error:
        terminal.error(str(error))
        sys.exit(1)
    summary(done, spec)
    for line in rank_lines(done.measured.result.get("ranks", [])):
        click.echo(line)
    leave(done)


def _join(spec: TrialSpec, own: int) -> None:
    """The ranks of a host that is not the first one, whose run is that of the job."""
    write.adopt("node", f"host {own} of {spec.condition.framework} {spec.workload}")
    try:
        measure(spec)
    except Joined as ended:
        click.echo(str(ended))
    except TrialFailed as error:
        terminal.error(str(error))
        sys.exit(1)


def rank_lines(ranks: list[dict[str, Any]]) -> list[str]:
    """A line for each rank: its share, never set beside the whole's."""
    return [
        f"  rank {rank['rank']}: its {rank['items']:,} items at {_rate(rank['items_per_second'])} a second, "
        f"peak {rank['process_peak_bytes'] / 2**20:,.0f} MiB"
        for rank in ranks
    ]


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def command(workload: str, framework: str) -> click.Command:
    """The command of one entry point."""

    def callback(**values: Any) -> None:
        perform(workload, framework, values)

    params = distributed_options(workload, framework)
    name = f"{workload}_{NAMES.get(framework, framework)}"
    example = f"mlflow run . -e {name} -P ranks=2 -P preset=smoke"
    return Command(name, params=params, callback=callback, help=__doc__, example=example)


def main() -> None:
    run_named(command, "mnist pytorch", lambda name: frameworks.check_backend(name, "auto"))


if __name__ == "__main__":
    main()

"""`verify`: the same parameters and batches into every twin of a workload; the first tensor that
differs ends it with exit code 1.

    python -m entrypoints.verify --workload mnist
    python -m entrypoints.verify --workload mnist --ranks 1,2,4
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

import frameworks
import models
from entrypoints import environment, terminal
from entrypoints.launch import run_job
from entrypoints.options import Command, Or, whole
from entrypoints.probe import missing
from entrypoints.processes import TrialFailed, run_worker
from entrypoints.supervisor import (
    TrialSpec,
    dataset_for,
    new_folder,
    prepare_data,
    resolve,
    worker_spec,
)
from measurement.audit import NO_OPTIMISER
from measurement.comparison import (
    TOLERANCES,
    UPDATE_TOLERANCES,
    first_difference,
    gradient_difference,
    largest_difference,
    largest_gradient,
    largest_update,
    update_difference,
)
from measurement.errors import InputError
from measurement.operations import TOLERANCE as COUNTED
from measurement.operations import counted_difference
from measurement.schedule import Condition
from tracking import write

REFERENCE = "pytorch"
Difference = Callable[[dict[str, Any], dict[str, Any]], str | None]
Largest = Callable[[dict[str, Any], dict[str, Any]], float]


@dataclass(frozen=True)
class Check:
    """One line of the verdict. `difference` is None when it passed."""

    workload: str
    framework: str
    what: str
    tolerance: float
    difference: str | None
    largest: float | None = None  # what was compared with the tolerance, where that is one number


def compare(
    workload: str, framework: str, ours: Path, reference: Path, a: dict[str, Any], b: dict[str, Any]
) -> list[Check]:
    """Parameter count, every layer's output (or product), losses, and of a training every gradient
    and ten updates."""
    outputs, gradients, losses = TOLERANCES[a["dtype"]]
    does = models.load(workload, "config").KIND
    checks: list[Check] = []

    def add(
        what: str, tolerance: float, difference: str | None, largest: float | None = None
    ) -> None:
        said = largest if largest is not None and math.isfinite(largest) else None
        checks.append(Check(workload, framework, what, tolerance, difference, said))

    count = (
        None
        if a["parameters"] == b["parameters"]
        else f"{a['parameters']} against {b['parameters']}"
    )
    add("parameter count", 0.0, count)
    compared: list[tuple[str, str, float, Difference, Largest]] = [
        (
            "outputs",
            "every product of a loop" if does == "switch" else "output of every layer",
            outputs,
            lambda x, y: first_difference(x, y, outputs),
            largest_difference,
        )
    ]
    trained = a["optimiser"] != NO_OPTIMISER
    steps = {4: "four", 10: "ten"}.get(len(a["losses"]), str(len(a["losses"])))
    if trained:
        optimiser, dtype = a["optimiser"], a["dtype"]
        compared += [
            (
                "gradients",
                "every gradient",
                gradients,
                lambda x, y: gradient_difference(x, y, dtype),
                lambda x, y: largest_gradient(x, y, dtype),
            ),
            (
                "updates",
                f"every parameter's update after {steps} steps",
                UPDATE_TOLERANCES[optimiser][dtype],
                lambda x, y: update_difference(x, y, optimiser, dtype),
                lambda x, y: largest_update(x, y, optimiser, dtype),
            ),
        ]
    for kind, what, tolerance, difference, largest in compared:
        with np.load(ours / f"{kind}.npz") as x, np.load(reference / f"{kind}.npz") as y:
            arrays = dict(y), dict(x)
            add(what, tolerance, difference(*arrays), largest(*arrays))
    ours_losses, reference_losses = (
        {f"loss {i}": np.float64(value) for i, value in enumerate(e["losses"])} for e in (a, b)
    )
    what = {
        "train": f"the losses of {steps} steps",
        "generate": "the losses of ten given tokens, with the cache",
        "switch": "the mean of every matrix after each of ten loops",
    }[does]
    both = reference_losses, ours_losses
    add(what, losses, first_difference(*both, losses), largest_difference(*both))
    counted = {
        "train": "counted products of a step and of answers, and stored elements by dtype",
        "generate": "counted products of a prompt and of a token, and stored elements by dtype",
        "switch": "counted products of each half, and stored elements by dtype",
    }[does]
    add(counted, COUNTED, counted_difference(b, a))
    return checks


def asked_for(frameworks_option: str) -> list[str] | None:
    """The frameworks that a user names, None for `auto`. Raises InputError for an unknown one."""
    if frameworks_option == "auto":
        return None
    found = [name.strip() for name in frameworks_option.split(",")]
    for name in found:
        if name not in frameworks.names():
            known = ", ".join(frameworks.names())
            raise InputError(f"unknown framework '{name}'; choose one or more of: {known}")
    return found


def twins_of(
    workload: str, asked: list[str] | None, dtype: str = "float32"
) -> tuple[list[str], list[str]]:
    """(twins to trace, twins left out because their framework is not here). Those asked for are all
    traced, and PyTorch's: an environment that is missing is made. Not asked for, none that has no
    TF32 is, where that is the dtype."""
    twins = [
        f
        for f in models.frameworks(workload)
        if asked is not None or dtype != "tf32" or frameworks.about(f).tf32
    ]
    if asked is not None:
        return [f for f in twins if f in (*asked, REFERENCE)], []
    here = [f for f in twins if environment.ready(f)]
    return here, [f for f in twins if f not in here]


def verify(
    workload: str,
    twins: list[str],
    preset: str,
    device: str,
    dtype: str,
    dataset: str,
    data_dir: str,
    compile: str = "auto",
    checkpoint: str = "random",
    ranks: tuple[int, ...] = (1,),
    global_batch_size: int | str = "preset",
    traced: Callable[[str], None] = lambda name: None,
) -> list[Check]:
    """Runs each of the twins in its own process, or with each number of ranks in as many, and compares
    it with PyTorch's in one process. traced: is told of each that has run."""
    config = models.load(workload, "config")
    two = {"cpu": "cpu-cpu", "gpu": "cpu-gpu"}  # of a workload that takes them two at a time
    if device not in models.setting(workload, "DEVICES") and device in two:
        device = two[device]
        click.echo(f"{workload}: device={device}, as it computes on two devices", err=True)
    dataset = dataset_for(workload, dataset)
    if REFERENCE not in twins or (len(twins) < 2 and ranks == (1,)):
        raise InputError(f"verify needs PyTorch and one more framework installed; found: {twins}")
    chosen = {} if global_batch_size == "preset" else {"batch_size": global_batch_size}
    cases = [(f, n) for f in twins for n in ranks if n == 1 or f in frameworks.BACKENDS]
    found: dict[tuple[str, int], tuple[Path, dict[str, Any]]] = {}
    for framework, count in dict.fromkeys([(REFERENCE, 1), *cases]):
        condition = Condition(framework, device=device, dtype=dtype, compile=compile, ranks=count)
        sizes = resolve(workload, preset, chosen, dataset, condition, checkpoint, data_dir)
        prepare_data(workload, dataset, data_dir, [sizes])
        spec = TrialSpec(
            workload,
            condition,
            preset,
            sizes,
            seed=0,
            epochs=1,
            dataset=dataset,
            data_dir=data_dir,
            target=1.0,
            mode=config.KIND,
            checkpoint=checkpoint,
        )
        folder = new_folder(f"verify-{framework}-{workload}")
        click.echo(f"{workload}: tracing {_named(framework, count)} ...", err=True)
        given = worker_spec(spec, "trace")
        result = run_job(given, "", 0, folder) if count > 1 else run_worker(given, folder)
        assert result is not None  # there is one host
        traced(f"{workload} {_named(framework, count)}")
        found[framework, count] = folder, result["parity"]
    folder, summary = found.pop((REFERENCE, 1))
    checks = []
    for (framework, count), (own, parity) in found.items():
        checks += compare(workload, _named(framework, count), own, folder, parity, summary)
    return checks


def _named(framework: str, ranks: int) -> str:
    return framework if ranks == 1 else f"{framework} with {ranks} ranks"


def ranks_of(text: str) -> tuple[int, ...]:
    """`1,2,4` as numbers. Raises InputError."""
    try:
        found = tuple(int(word) for word in text.split(","))
    except ValueError:
        found = ()
    if not found or min(found) < 1:
        raise InputError(f"ranks='{text}': expected numbers above 0, as in 1,2,4")
    return found


@click.command(cls=Command, help=__doc__, example="mlflow run . -e verify -P workload=mnist")
@click.option("--workload", default="all", show_default=True, help="a workload's name, or all")
@click.option(
    "--frameworks",
    default="auto",
    show_default=True,
    help="as in tensorflow,mlx; auto: every one that is here",
)
@click.option("--preset", default="smoke", show_default=True)
@click.option("--device", default="cpu", show_default=True, help="cpu | gpu | auto")
@click.option("--dtype", default="float32", show_default=True)
@click.option("--dataset", default="auto", show_default=True, help="auto: the workload's real data")
@click.option("--data_dir", default="auto", show_default=True)
@click.option(
    "--compile", default="auto", show_default=True, help="on | off | graphs (CUDA) | auto"
)
@click.option(
    "--checkpoint", default="random", show_default=True, help="of a workload that generates"
)
@click.option("--ranks", default="1", show_default=True, help="as in 1,2,4, of one global batch")
@click.option(
    "--global_batch_size", type=Or("preset", whole(1)), default="preset", show_default=True
)
def main(workload: str, frameworks: str, ranks: str, dtype: str, **options: Any) -> None:
    asked, numbers = asked_for(frameworks), ranks_of(ranks)
    if numbers != (1,) and workload == "all":
        raise InputError(f"ranks={ranks}: give a workload too, as in workload=mnist")
    run_id = write.adopt("verify", f"verify {workload}")
    failed, said, found = False, [], []

    def say(line: str) -> None:
        said.append(line)
        click.echo(line)

    names = models.names() if workload == "all" else [workload]
    chosen = {name: twins_of(name, asked, dtype) for name in names}
    with terminal.progress(
        sum(len(twins) * len({1, *numbers}) for twins, _ in chosen.values()), "twins traced"
    ) as step:
        for name, (twins, left_out) in chosen.items():
            if workload == "all" and asked and not set(asked) & set(twins):
                step(name, len(twins))
                continue
            if workload == "all" and dtype not in models.load(name, "config").DTYPES:
                say(f"left out  {name}: it has no dtype {dtype}")
                step(name, len(twins))  # `all` has no numbers of ranks
                continue
            for framework in left_out:
                say(
                    f"left out  {name}: {framework}, {missing(framework)}, or by -P frameworks={framework}"
                )
            try:
                checks = verify(name, twins, ranks=numbers, traced=step, dtype=dtype, **options)
            except TrialFailed as error:
                say(f"FAILED  {name}: {error}")
                failed = True
                continue
            found += checks
            failed |= _told(checks, say)
    terminal.result(failed=failed, checks=found)
    write.attach_text(run_id, "\n".join(said) + "\n", "verify.txt")
    sys.exit(1 if failed else 0)


def _told(checks: list[Check], say: Callable[[str], None]) -> bool:
    """A line for each check; whether one found a difference."""
    for check in checks:
        verdict = "FAILED" if check.difference else "equal "
        say(
            f"{verdict}  {check.workload}: {check.framework} against {REFERENCE}, {check.what} "
            f"(relative tolerance {check.tolerance:.2g}"
            + ("" if check.largest is None else f", largest {check.largest:.2g}")
            + ")"
            + (f": {check.difference}" if check.difference else "")
        )
    return any(check.difference is not None for check in checks)


if __name__ == "__main__":
    main()

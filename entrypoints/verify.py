"""`verify`: the same parameters and batches into every twin of a workload; the first tensor that
differs ends it with exit code 1.

    python -m entrypoints.verify --workload mnist
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

import frameworks
import models
from entrypoints.options import Command
from entrypoints.supervisor import (
    TrialFailed,
    TrialSpec,
    new_folder,
    prepare_data,
    resolve,
    run_worker,
    worker_spec,
)
from measurement.audit import TOLERANCES, UPDATE_TOLERANCES, first_difference
from measurement.errors import InputError
from measurement.schedule import Condition
from tracking import write

REFERENCE = "pytorch"


@dataclass(frozen=True)
class Check:
    """One line of the verdict. `difference` is None when it passed."""

    workload: str
    framework: str
    what: str
    tolerance: float
    difference: str | None


def compare(
    workload: str, framework: str, ours: Path, reference: Path, a: dict[str, Any], b: dict[str, Any]
) -> list[Check]:
    """Parameter count, every layer's output, losses, every gradient, ten updates."""
    outputs, gradients, losses = TOLERANCES[a["dtype"]]
    checks = []

    def add(what: str, tolerance: float, difference: str | None) -> None:
        checks.append(Check(workload, framework, what, tolerance, difference))

    count = (
        None
        if a["parameters"] == b["parameters"]
        else f"{a['parameters']} against {b['parameters']}"
    )
    add("parameter count", 0.0, count)
    for kind, what, tolerance in (
        ("outputs", "output of every layer", outputs),
        ("gradients", "every gradient", gradients),
        ("updates", "every parameter's update after ten steps", UPDATE_TOLERANCES[a["dtype"]]),
    ):
        with np.load(ours / f"{kind}.npz") as x, np.load(reference / f"{kind}.npz") as y:
            add(what, tolerance, first_difference(dict(y), dict(x), tolerance))
    ours_losses, reference_losses = (
        {f"loss of step {i}": np.float64(value) for i, value in enumerate(e["losses"])}
        for e in (a, b)
    )
    add("the losses of ten steps", losses, first_difference(reference_losses, ours_losses, losses))
    return checks


def verify(
    workload: str, preset: str, device: str, dtype: str, dataset: str, data_dir: str
) -> list[Check]:
    """Runs each installed twin in its own process and compares it with PyTorch's."""
    config = models.load(workload, "config")
    dataset = config.DATASETS[0] if dataset == "auto" else dataset
    twins = [f for f in models.frameworks(workload) if frameworks.available(f)]
    if REFERENCE not in twins or len(twins) < 2:
        raise InputError(f"verify needs PyTorch and one more framework installed; found: {twins}")
    folders, summaries = {}, {}
    for framework in twins:
        condition = Condition(framework, device=device, dtype=dtype)
        sizes = resolve(workload, preset, {}, dataset, condition)
        prepare_data(workload, dataset, data_dir)
        spec = TrialSpec(workload, condition, preset, sizes, 0, 1, dataset, data_dir, config.TARGET)
        folders[framework] = new_folder(f"verify-{framework}-{workload}")
        click.echo(f"{workload}: tracing {framework} ...", err=True)
        result = run_worker(worker_spec(spec, "trace"), folders[framework])
        summaries[framework] = result["parity"]
    checks = []
    for framework in twins:
        if framework != REFERENCE:
            checks += compare(
                workload,
                framework,
                folders[framework],
                folders[REFERENCE],
                summaries[framework],
                summaries[REFERENCE],
            )
    return checks


@click.command(cls=Command, help=__doc__)
@click.option("--workload", default="all", show_default=True, help="a workload's name, or all")
@click.option("--preset", default="smoke", show_default=True)
@click.option("--device", default="cpu", show_default=True, help="cpu | gpu | auto")
@click.option("--dtype", default="float32", show_default=True)
@click.option("--dataset", default="auto", show_default=True, help="auto: the workload's real data")
@click.option("--data_dir", default="auto", show_default=True)
def main(workload: str, preset: str, device: str, dtype: str, dataset: str, data_dir: str) -> None:
    run_id = write.adopt("verify", f"verify {workload}")
    failed, said = False, []

    def say(line: str) -> None:
        said.append(line)
        click.echo(line)

    for name in models.names() if workload == "all" else [workload]:
        try:
            checks = verify(name, preset, device, dtype, dataset, data_dir)
        except TrialFailed as error:
            say(f"FAILED  {name}: {error}")
            failed = True
            continue
        for check in checks:
            verdict = "FAILED" if check.difference else "equal "
            say(
                f"{verdict}  {check.workload}: {check.framework} against {REFERENCE}, {check.what} "
                f"(relative tolerance {check.tolerance:.0e})"
                + (f": {check.difference}" if check.difference else "")
            )
            failed |= check.difference is not None
    write.attach_text(run_id, "\n".join(said) + "\n", "verify.txt")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

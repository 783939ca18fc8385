"""`<workload>_<framework>`: one trial, one run.

python -m entrypoints.trial mnist mlx --epochs 10
"""

from __future__ import annotations

import sys
from typing import Any

import click

import models
from analysis.flags import meaning
from entrypoints import record
from entrypoints.options import TARGET, Command, whole
from entrypoints.supervisor import (
    Listener,
    Measured,
    TrialFailed,
    TrialSpec,
    measure,
    prepare_data,
    resolve,
)
from measurement.errors import InputError
from measurement.schedule import Condition
from serving.log import log_model
from tracking import write
from tracking.system import Sampler


def execute(spec: TrialSpec, run_id: str, place: record.Place, listen: Listener) -> Measured:
    """Measures, keeps the local record, then writes the run and closes it. A trial that dies closes
    its run as FAILED; nothing that was measured is lost with it."""
    try:
        with Sampler() as sampler:
            measured = measure(spec, listen)
    except BaseException as error:
        killed = isinstance(error, KeyboardInterrupt)
        write.set_tags(run_id, {**place, "flags": "CRASHED", "crash": str(error)[:500]})
        write.finish(run_id, "KILLED" if killed else "FAILED")
        raise
    try:
        write.log_trial(run_id, record.build(measured, spec, place, sampler))
        log_model(run_id, spec.condition.framework, spec.workload, measured.folder)
        write.finish(run_id)
    except InputError as error:
        raise InputError(f"{error}. The measurement is kept in {measured.folder}") from None
    return measured


def options(workload: str) -> list[click.Parameter]:
    """The options of a trial; sizes come from the workload's Config."""
    config = models.load(workload, "config")
    option = click.Option
    listed: list[click.Parameter] = [
        option(["--preset"], default="study", show_default=True, help=" | ".join(config.PRESETS)),
        option(["--device"], default="auto", show_default=True, help="cpu | gpu | auto"),
        option(["--seed"], type=whole(0), default=0, show_default=True),
        option(["--epochs"], type=whole(1), default=10, show_default=True),
        option(
            ["--dataset"],
            default=config.DATASETS[0],
            show_default=True,
            help=" | ".join(config.DATASETS),
        ),
        option(["--data_dir"], default="auto", show_default=True, help="folder of the data files"),
        option(["--dtype"], default="float32", show_default=True, help=" | ".join(config.DTYPES)),
        option(
            ["--compile"], default="auto", show_default=True, help="on | off | auto (the faster)"
        ),
        option(
            ["--blas"], default="shipped", show_default=True, help="shipped | mkl | openblas | PATH"
        ),
        option(["--threads"], type=whole(0), default=0, show_default=True, help="0: every core"),
        option(
            ["--target"],
            type=TARGET,
            default=config.TARGET,
            show_default=True,
            help="test accuracy",
        ),
        option(
            ["--price_per_hour"],
            type=click.FloatRange(min=0),
            default=0.0,
            show_default=True,
            help="USD",
        ),
    ]
    for name, kind in models.options(workload).items():
        default = getattr(config.Config, name)
        listed.append(option([f"--{name}"], type=kind, default=default, show_default=True))
    return listed


def specification(workload: str, framework: str, values: dict[str, Any]) -> TrialSpec:
    """Options -> a checked specification. Raises InputError."""
    condition = Condition(
        framework, *(values[k] for k in ("device", "dtype", "compile", "blas", "threads"))
    )
    sizes = {name: values[name] for name in models.options(workload)}
    return TrialSpec(
        workload=workload,
        condition=condition,
        preset=values["preset"],
        sizes=resolve(workload, values["preset"], sizes, values["dataset"], condition),
        **{
            k: values[k]
            for k in ("seed", "epochs", "dataset", "data_dir", "target", "price_per_hour")
        },
    )


def command(workload: str, framework: str) -> click.Command:
    """The command of one entry point."""

    def callback(**values: Any) -> None:
        spec = specification(workload, framework, values)
        prepare_data(workload, spec.dataset, spec.data_dir)
        run_id = write.begin("trial", f"{framework} {workload}", {"arm": framework})
        try:
            measured = execute(spec, run_id, {"arm": framework}, _progress(spec.epochs))
        except TrialFailed as error:
            click.echo(f"Error: {error}", err=True)
            sys.exit(1)
        _summary(measured, spec, run_id)

    return Command(
        f"{workload}_{framework}", params=options(workload), callback=callback, help=__doc__
    )


def _progress(epochs: int) -> Listener:
    seconds: list[float] = []

    def show(event: dict[str, Any]) -> None:
        if event["event"] == "ready":
            click.echo(f"device {event['device']}, {event['numerics']['blas_loaded']}", err=True)
        if event["event"] == "warm":
            click.echo(f"first step {event['first_step_seconds']:.3f} s", err=True)
        if event["event"] == "epoch":
            seconds.append(event["seconds"])
            left = (epochs - len(seconds)) * sum(seconds) / len(seconds)
            click.echo(
                f"epoch {len(seconds)}/{epochs}  {event['seconds']:.3f} s  loss {event['loss']:.4f}  "
                f"accuracy {event['accuracy']:.2%}  {left:.0f} s left",
                err=True,
            )
        if event["event"] == "trained":
            click.echo("audit, latency, throughput, ceiling ...", err=True)

    return show


def _summary(measured: Measured, spec: TrialSpec, run_id: str) -> None:
    values, missing = record.values(measured, spec, None)
    conditions = measured.result["conditions"]
    click.echo(
        f"{spec.condition.framework} {conditions['versions']['framework']} on {conditions['device']}: "
        f"{values['train/total_seconds']:.3f} s for {spec.epochs} epochs "
        f"({values['train/items_per_second']:,.0f} items/s), "
        f"accuracy {measured.result['trial']['epoch_accuracy'][-1]:.2%}"
    )
    click.echo(
        f"one item {values['inference/latency_seconds_p50'] * 1e6:.0f} us (p90 "
        f"{values['inference/latency_seconds_p90'] * 1e6:.0f} us), batched "
        f"{values['inference/items_per_second']:,.0f} items/s, process peak "
        f"{values['memory/process_peak_bytes'] / 2**20:.0f} MiB, "
        f"{values['hardware/ceiling_fraction']:.0%} of the matrix-product ceiling"
    )
    for flag in record.flags(measured, spec.dataset):
        click.echo(f"  {meaning(flag)}")
    if "energy/joules" in missing:
        click.echo(f"  energy not measured: {missing['energy/joules']}")
    click.echo(f"run {run_id}; local record {measured.folder}; look: mlflow ui")


def main() -> None:
    """Entry point: the first two words name workload and framework."""
    if len(sys.argv) < 3:
        click.echo("Error: expected a workload and a framework, as in 'mnist mlx'", err=True)
        sys.exit(2)
    workload, framework, rest = sys.argv[1], sys.argv[2], sys.argv[3:]
    try:
        models.load(workload, "config")
    except InputError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)
    command(workload, framework).main(rest)


if __name__ == "__main__":
    main()

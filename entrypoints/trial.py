"""`<workload>_<framework>`: one trial, one run. Framework `auto`: what is best here, and why.

python -m entrypoints.trial mnist mlx --epochs 10
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

import models
from analysis import throughput
from analysis.flags import meaning
from entrypoints import environment, keeping, prices, record, terminal
from entrypoints.choice import AUTO, choose
from entrypoints.deliver import LATER, Courier
from entrypoints.options import TARGET, Command, Or, tidy, whole
from entrypoints.probe import probe
from entrypoints.processes import Listener, TrialFailed
from entrypoints.record import quality_name
from entrypoints.supervisor import (
    Measured,
    TrialSpec,
    measure,
    new_folder,
    prepare_data,
    preset_for,
    resolve,
)
from entrypoints.terminal import UNDELIVERED
from entrypoints.worker import TEXT
from measurement import generation, switching
from measurement.errors import InputError
from measurement.schedule import Condition
from tracking import outbox, write
from tracking.names import METRICS
from tracking.system import Sampler


@dataclass(frozen=True)
class Done:
    """A trial that was measured. run_id: "" where its record still waits for the store."""

    measured: Measured
    folder: Path
    run_id: str


def execute(
    spec: TrialSpec,
    name: str,
    place: record.Place,
    listen: Listener,
    courier: Courier,
    parent: tuple[str, str] = ("", ""),
    tags: Mapping[str, str] | None = None,
) -> Done:
    """Measures, keeps the local record, then sends it: the one way from a trial to its run.

    parent: the id of the record above it, and its run as far as it is known. tags: what else the run
    says. Raises InputError before anything is measured where there is no room for a record, and what
    `measure` raises.
    """
    folder = new_folder(f"{spec.condition.framework}-{spec.workload}")
    said = {**place, **(tags or {})}
    opened = keeping.begin(
        folder,
        write.Record(name, "", {}, said, [], {}),
        parent=parent[0],
        run_id="" if parent[0] else outbox.given_run(),
        more_bytes=weight_bytes(spec),
    )
    sampler = Sampler()

    def sampled() -> Measured:
        with sampler:
            return measure(spec, listen, folder)

    found, kept, run_id = keeping.measured(
        opened,
        sampled,
        lambda found, place: record.build(found, spec, said, sampler, place),
        courier,
        parent[1],
    )
    return Done(found, kept.folder, run_id)


def weight_bytes(spec: TrialSpec) -> int:
    """Of what a trial saves: float32, where it learns anything."""
    if spec.mode not in ("train", "stream"):
        return 0
    parameters = models.load(spec.workload, "config").Config(**spec.sizes).parameters()
    return sum(4 * math.prod(shape) for shape, _ in parameters.values())


def options(workload: str) -> list[click.Parameter]:
    """The options of a trial; sizes come from the workload's Config."""
    config, modes = models.load(workload, "config"), models.modes(workload)
    own = f" | PATH{config.OWN_DATA}" if config.OWN_DATA else ""
    listed = [
        _option("preset", "auto", " | ".join(config.PRESETS) + " | auto (by device)"),
        _option("device", "auto", " | ".join(models.setting(workload, "DEVICES"))),
        _option("seed", 0, kind=whole(0)),
        _option("dataset", config.DATASETS[0], " | ".join(config.DATASETS) + own),
        _option("data_dir", "auto", "folder of the data files"),
        _option("dtype", "float32", " | ".join(config.DTYPES)),
        _option("compile", "auto", "on | off | graphs (CUDA) | auto (the faster)"),
        _option("blas", "shipped", "shipped | mkl | openblas | PATH"),
        _option("threads", 0, "number of threads; 0: every core", whole(0)),
        _option(
            "price_per_hour",
            0.0,
            "USD an hour of this machine; 0: no cost is given",
            click.FloatRange(min=0),
        ),
        _option("price_table", prices.NONE, "CSV file with the columns chip, usd_per_hour"),
    ]
    if config.KIND == "train":
        known = "random, or a folder that a trial saved: it starts from those weights"
        listed += [
            _option("mode", "train", " | ".join(modes), click.Choice(modes)),
            _epochs(workload),
            _option("target", config.TARGET, f"{METRICS[config.QUALITY].label} to reach", TARGET),
        ]
    else:
        known = "random, a folder or file of safetensors, or a hub id"
    if config.KIND != "switch":  # which has no weights
        listed.append(_option("checkpoint", "random", known))
    for name, kind in models.options(workload).items():
        default = getattr(config.PRESETS[config.DEFAULT_PRESET["gpu"]], name)
        help = f"size; preset: by --preset, {default:g} on a GPU"
        listed.append(_option(name, "preset", help, Or("preset", _TYPES[kind])))
    return listed


_TYPES: dict[type, click.ParamType] = {int: click.INT, float: click.FLOAT}


def _option(
    name: str, default: Any, help: str | None = None, kind: click.ParamType | None = None
) -> click.Parameter:
    return click.Option([f"--{name}"], type=kind, default=default, show_default=True, help=help)


def _epochs(workload: str) -> click.Parameter:
    if not models.setting(workload, "EPOCHS_OF"):
        return _option("epochs", models.load(workload, "config").EPOCHS, kind=whole(1))
    return _option("epochs", "preset", "number; preset: by --preset", Or("preset", whole(1)))


def specification(
    workload: str, framework: str, values: dict[str, Any], **of_a_job: Any
) -> TrialSpec:
    """Options -> a checked specification. of_a_job: ranks and backend. Raises InputError."""
    values = {"checkpoint": "random", **values}
    names = ("device", "dtype", "compile", "blas", "threads")
    condition = Condition(framework, **{k: values[k] for k in names}, **of_a_job)
    preset = values["preset"]
    if preset == "auto":
        preset = preset_for(workload, preset, _device(workload, framework, condition.device))
    chosen = {n: values[n] for n in models.options(workload) if values[n] != "preset"}
    places = values["checkpoint"], values["data_dir"]
    sizes = resolve(workload, preset, chosen, values["dataset"], condition, *places)
    config = models.load(workload, "config")
    mode = values.get("mode", config.KIND)
    trains = mode == "train"
    if mode in ("train", "stream") and values["checkpoint"] != "random":
        raise InputError(
            f"checkpoint={values['checkpoint']}: a training starts from random weights, so that every"
            " trial does the same work; use it with mode=infer"
        )
    epochs = values["epochs"] if trains else 0
    return TrialSpec(
        workload=workload,
        condition=condition,
        preset=preset,
        sizes=sizes,
        epochs=models.epochs(workload, preset) if epochs == "preset" else epochs,
        target=checked_target(workload, values["target"]) if trains else 0.0,
        mode=mode,
        price_per_hour=prices.per_hour(
            values["price_per_hour"], values["price_table"], framework, condition.device
        ),
        **{k: values[k] for k in ("seed", "dataset", "data_dir", "checkpoint")},
    )


def checked_target(workload: str, target: float) -> float:
    """Raises InputError for an accuracy above 1."""
    config = models.load(workload, "config")
    if config.QUALITY == "eval/accuracy" and target > 1:
        raise InputError(f"target={target:g}: expected an accuracy of at most 1, as in 0.9")
    return target


def _device(workload: str, framework: str, asked: str) -> str:
    """Where `auto` leads for one framework."""
    device = models.device(workload, asked)
    if device != "auto":
        return device
    environment.python(framework)  # made now, if it has one of its own
    return "cpu" if "missing" in probe(framework)["devices"][1] else "gpu"


def command(workload: str, framework: str) -> click.Command:
    """The command of one entry point."""

    def callback(**values: Any) -> None:
        if framework == AUTO:
            perform_best(workload, AUTO, values)
        else:
            perform(workload, framework, values, {})

    params = options(workload)
    for option in params:
        if framework == AUTO and option.name == "blas":
            option.default = AUTO
    name = f"{workload}_{framework}"
    example = f"mlflow run . -e {name} -P preset=smoke"
    if framework == AUTO:
        example = f"python -m entrypoints.trial {workload} auto --preset smoke"
    return Command(name, params=params, callback=callback, help=__doc__, example=example)


def perform_best(workload: str, framework: str, values: dict[str, Any]) -> None:
    """The trial that is best here, and why. framework: `auto`, or the only one to choose from."""
    decision = choose(workload, framework, values)
    click.echo("\n".join(decision.lines))
    terminal.result(chosen=decision.tags)
    perform(workload, decision.framework, decision.values, decision.tags)


def perform(workload: str, framework: str, values: dict[str, Any], tags: dict[str, str]) -> None:
    """One trial as asked for, to its run. tags: what else the run says. Ends the process with exit
    code 1 where the worker failed."""
    spec = specification(workload, framework, values)
    prepare_data(workload, spec.dataset, spec.data_dir, [spec.sizes])
    try:
        done = execute(
            spec,
            f"{framework} {workload}",
            {"arm": framework},
            progress(spec),
            Courier(),
            tags=tags,
        )
    except TrialFailed as error:
        terminal.error(str(error))
        sys.exit(1)
    summary(done, spec)
    leave(done)


def leave(done: Done) -> None:
    """Ends the process with exit code 75 where the store does not have the run."""
    if not done.run_id:
        sys.exit(UNDELIVERED)


def progress(spec: TrialSpec) -> Listener:
    seconds: list[float] = []
    config = models.load(spec.workload, "config")
    name = METRICS[quality_name(spec)].label if config.KIND == "train" else ""
    usual = {"generate": generation.Plan.passes, "switch": switching.Plan.passes}
    passes = config.PLANS.get(spec.preset, {}).get("passes", usual.get(spec.mode, 0))

    def passed(event: dict[str, Any], took: float, what: str) -> None:
        number = event["number"] + 1
        seconds.append(took)
        left = f", {(passes - number) * sum(seconds) / len(seconds):.0f} s left"
        click.echo(f"pass {number}/{passes}  {took:.3f} s for {what}{left}", err=True)

    def show(event: dict[str, Any]) -> None:
        if event["event"] == "ready":
            click.echo(
                f"{event['device']}, {event['numerics']['blas_loaded']}, preset {spec.preset}",
                err=True,
            )
        if event["event"] == "warm":
            click.echo(f"first step {event['first_step_seconds']:.3f} s", err=True)
        if event["event"] == "epoch":
            seconds.append(event["seconds"])
            left = (spec.epochs - len(seconds)) * sum(seconds) / len(seconds)
            click.echo(
                f"epoch {len(seconds)}/{spec.epochs}  {event['seconds']:.3f} s  loss "
                f"{event['loss']:.4f}  {name} {event['quality']:.4g}  {left:.0f} s left",
                err=True,
            )
        if event["event"] == "stream":
            click.echo(
                f"{event['updates']} updates in {event['seconds']:.2f} s  {name} "
                f"{event['before']:.4g} before, {event['after']:.4g} after",
                err=True,
            )
        if event["event"] == "pass":
            took = sum(event["begin_seconds"]) + sum(event["decode_seconds"])
            passed(event, took, f"{event['tokens']} tokens")
        if event["event"] == "loops":
            passed(event, event["seconds"], f"{event['loops']} loops")
        if event["event"] == "trained":
            rest = "latency, throughput, " if spec.inference else ""
            click.echo(f"audit, {rest}ceiling ...", err=True)
        if event["event"] == "evidence":
            click.echo("evidence of equal work ...", err=True)

    return show


def summary(done: Done, spec: TrialSpec) -> None:
    measured = done.measured
    found, missing = record.values(measured, spec, None)
    conditions = measured.result["conditions"]
    text = record.sentence(spec.mode, {"epochs": str(spec.epochs)}, found).replace("**", "")
    click.echo(
        f"{spec.condition.framework} {conditions['versions']['framework']} on "
        f"{conditions['device']}: {text}"
    )
    if models.load(spec.workload, "config").KIND == "train":
        quality = quality_name(spec)
        trial = measured.result["trial"]
        value = trial["epoch_quality"][-1] if spec.mode == "train" else trial["quality"]
        click.echo(f"{METRICS[quality].label} {value:.4g}")
    peak = found.get("memory/process_peak_bytes")
    held = missing.get("memory/process_peak_bytes") if peak is None else f"{peak / 2**20:,.0f} MiB"
    click.echo(
        f"process peak {held}, {found['hardware/ceiling_fraction']:.0%} of the matrix-product ceiling"
    )
    batched = measured.result["trial"].get("batch_seconds", {})
    for size, rate in throughput.by_batch(batched).items():
        click.echo(f"  batches of {size}: {rate:,.1f} items/s")
    for flag in record.flags(measured, spec):
        click.echo(f"  ! {meaning(flag)}")
        for phase, what in measured.seen.found.get(flag, {}).items():
            click.echo(f"    {phase}: {what}")
    if "energy/joules" in missing:
        click.echo(f"  energy not measured: {missing['energy/joules']}")
    if (text_file := measured.folder / TEXT).exists():
        click.echo(text_file.read_text(encoding="utf-8"))
    run = f"run {done.run_id}" if done.run_id else f"not delivered yet: {LATER}"
    click.echo(f"{run}; local record {done.folder}; look: mlflow ui")
    terminal.result(
        run_id=done.run_id,
        folder=done.folder,
        framework=spec.condition.framework,
        workload=spec.workload,
        conditions=conditions,
        metrics=found,
        not_measured=missing,
        flags=record.flags(measured, spec),
    )


def run_named(
    command: Callable[[str, str], click.Command],
    example: str,
    check: Callable[[str], None] = lambda framework: None,
) -> None:
    """Runs the command that the first two words name, a workload and a framework, on the other words;
    ends the process with one line and exit code 2 where they name none. check: of the framework."""
    words = sys.argv[1:]
    with terminal.speaking("trial", terminal.json_asked(words)) as said:
        try:
            if len(words) < 2:
                raise InputError(f"expected a workload and a framework, as in '{example}'")
            tidy()
            models.load(words[0], "config")
            check(words[1])
            wrong = False
        except InputError as error:
            terminal.error(str(error))
            wrong = True
    if wrong:
        terminal.finish(said, terminal.BAD_INPUT)
        sys.exit(terminal.BAD_INPUT)
    command(*words[:2]).main(words[2:])


def main() -> None:
    run_named(command, "mnist mlx")


if __name__ == "__main__":
    main()

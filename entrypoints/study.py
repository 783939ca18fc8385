"""`study` (also `main`): blocks of trials in random order, one process each, nested under one run,
to a verdict. Starting the same study name again runs only what is missing. On another machine the
same name is that machine's own part: `analyze` puts the parts together. Several GPUs of one machine can
each run some of the blocks, from a clone and into a store of its own, that `publish` joins.

    python -m entrypoints.study --name first
"""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import click

from analysis import stopping
from analysis.provenance import FIRST
from entrypoints import prices, so_far, study_plan, terminal
from entrypoints.analyze import analyze
from entrypoints.deliver import LATER, Courier
from entrypoints.opening import Opened, alone, open_study
from entrypoints.options import TARGET, Command, Or, whole
from entrypoints.processes import TrialFailed
from entrypoints.record import Place
from entrypoints.supervisor import (
    TrialSpec,
    prepare_data,
)
from entrypoints.terminal import UNDELIVERED
from entrypoints.trial import execute
from measurement import machine, quiet
from measurement.errors import InputError
from measurement.schedule import ALL, Slot, blocks, part
from tracking import digest, outbox, read, views
from tracking.store import StoreAway


def run_slots(
    plan: dict[str, Any],
    name: str,
    parent: tuple[str, str],
    specs: dict[str, TrialSpec],
    done: set[tuple[int, str]],
    courier: Courier,
    only: str = ALL,
) -> list[str]:
    """Runs every slot that is missing; returns one line for each that failed. parent: the id of the
    study's record, and its run; only: of these blocks, as `schedule.part` reads them. What the store did not
    take is tried again between blocks."""
    slots = blocks(tuple(plan["arms"]), plan["pairs"], plan["seed"])
    here = part(only, plan["pairs"])
    slots = [slot for slot in slots if slot.pair in here]
    missing = [slot for slot in slots if (slot.pair, slot.arm) not in done]
    if len(missing) < len(slots):
        click.echo(f"{len(slots) - len(missing)} of {len(slots)} trials are done already", err=True)
    failures, before = [], _last(name, plan["machine"])
    start, told = time.monotonic(), set[str]()
    with click.progressbar(
        length=len(missing), label=f"study {name}", file=sys.stderr, show_pos=True, width=30,
        item_show_func=lambda arm: arm or "",
    ) as bar:  # fmt: skip
        for number, slot in enumerate(missing):
            if courier.waiting and number and slot.pair != missing[number - 1].pair:
                courier.retry()
            if (
                plan["stopping"] == "anytime"
                and slot.order == 0
                and _resolved(slot, name, plan, courier)
            ):
                break
            bar.update(0, slot.arm)
            bar.render_progress()
            quiet.wait(
                plan.get("wait_quiet", 0.0),
                lambda said: click.echo(said, err=True),
                on_gpu="gpu" in plan["condition"]["device"],
            )
            own = {"trial": secrets.token_hex(8), "previous": before}
            line = _run_slot(slot, plan, name, parent, specs[slot.arm], courier, own)
            before = own["trial"]
            if line:
                failures.append(line)
            kept = outbox.of_study(name, plan["machine"])
            so_far.check_condition(name, kept, slot.arm)
            for pairing, sentence in so_far.unequal(kept, plan, slot):
                if pairing not in told:  # once is enough
                    told.add(pairing)
                    click.echo(f"! {sentence}", err=True)
            bar.update(1, slot.arm)
            if not sys.stderr.isatty():
                left = (time.monotonic() - start) / (number + 1) * (len(missing) - number - 1)
                most = "at most " if plan["stopping"] == "anytime" else ""
                click.echo(
                    f"{number + 1}/{len(missing)} {slot.arm}, {most}{left:.0f} s left", err=True
                )
            time.sleep(plan["gap_seconds"])
    return failures


def _last(name: str, machine: str) -> str:
    """The trial of a study that began last here, by what it is called in the tags of the next one: the
    analysis sees where one is missing."""
    begun = [kept for kept in outbox.of_study(name, machine) if "trial" in kept.record.tags]
    last = max(begun, key=lambda kept: kept.started_seconds, default=None)
    return last.record.tags["trial"] if last else FIRST


def _resolved(slot: Slot, name: str, plan: dict[str, Any], courier: Courier) -> bool:
    """Whether a look before this block decides the study. Without the store nobody looks: the interval
    is valid at any time, so a look that is left out costs trials and no truth."""
    if slot.pair < stopping.FIRST_LOOK or courier.waiting:
        return False
    try:
        own = read.study(name, plan["machine"])
        look = stopping.look(own, read.trials_of(own, finished=True))
    except StoreAway as error:
        courier.lost(error)
        return False
    click.echo(look.sentence, err=True)
    return look.resolved


def _run_slot(
    slot: Slot,
    plan: dict[str, Any],
    name: str,
    parent: tuple[str, str],
    spec: TrialSpec,
    courier: Courier,
    own: Mapping[str, str],
) -> str | None:
    # A new seed for every block, the same for every arm of it: the seed's share of the variation
    # is in the comparison, but never in one arm alone.
    spec = replace(spec, seed=plan["seed"] + slot.pair)
    place: Place = {
        "study": name,
        "arm": slot.arm,
        "pair": str(slot.pair),
        "order": str(slot.order),
        "design_sha256": digest.of_design(plan),
        "machine": plan["machine"],
        **own,
    }
    title = f"{slot.arm} block {slot.pair}"
    try:
        execute(spec, title, place, lambda event: None, courier, parent)
    except TrialFailed as error:
        return f"{slot.arm}, block {slot.pair}: {error}"
    return None


def conduct(name: str, plan: dict[str, Any], sources: study_plan.Sources, only: str = ALL) -> int:
    """Runs what is missing of a study, analyses it, says what was found. Returns the exit code: 0, 1
    where a trial failed, 75 where the store does not have all of it.

    name: "auto" takes workload, date and time; only: blocks, as `schedule.part` reads them. Raises
    InputError before anything is measured.
    """
    if name == "auto":
        name = f"{plan['workload']}-{time.strftime('%Y%m%d-%H%M%S')}"
    if not set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"):
        raise InputError(f"study name '{name}': use letters, digits, '.', '_' and '-'")
    specs = study_plan.specifications(plan, sources)
    sizes = [spec.sizes for spec in specs.values()]
    prepare_data(plan["workload"], sources.dataset, sources.data_dir, sizes)
    with alone(name):
        courier = Courier()
        with open_study(name, plan, courier, only) as opened:
            failures = _measured(name, plan, specs, opened, courier, only)
        run_id = outbox.delivered(opened.kept.folder, "FAILED" if failures else "FINISHED")
        for line in failures:
            click.echo(f"failed: {line}", err=True)
        if courier.waiting or not run_id:
            click.echo(_left(name, courier), err=True)
            terminal.result(study=name, waiting=len(set(courier.waiting)), failed=failures)
            return UNDELIVERED
        return _analysed(name, plan, run_id, failures)


def _measured(
    name: str,
    plan: dict[str, Any],
    specs: dict[str, TrialSpec],
    opened: Opened,
    courier: Courier,
    only: str,
) -> list[str]:
    """Runs the slots and closes the study's own record; returns a line for each that failed."""
    here = "" if only == ALL else f" (here {only})"
    click.echo(f"study {name}: {plan['pairs']} blocks{here} of {', '.join(plan['arms'])}", err=True)
    parent = opened.kept.id, opened.run_id
    try:
        failures = run_slots(plan, name, parent, specs, opened.done, courier, only)
    except BaseException:
        courier.send(outbox.with_status(opened.kept, "KILLED"))
        click.echo(f"Stopped; go on with the same options and --name {name}", err=True)
        raise
    if courier.waiting:
        courier.retry()
    courier.send(outbox.with_status(opened.kept, "FAILED" if failures else "FINISHED"))
    return failures


def _left(name: str, courier: Courier) -> str:
    why = courier.away or "see above"
    return (
        f"Everything is measured and kept in {outbox.RECORDS}; {len(set(courier.waiting))} records are not in "
        f"the store yet ({why}). {LATER.capitalize()}; then `mlflow run . -e analyze -P study={name}` "
        "says what differs"
    )


def _analysed(name: str, plan: dict[str, Any], run_id: str, failures: list[str]) -> int:
    """Says what differs; returns the exit code."""
    try:
        analysis = analyze(name, None, machine=plan["machine"])
        others = [s.machine for s in read.machines_of(name) if s.run_id != run_id]
        shown = views.link(run_id, name)
    except StoreAway as error:
        click.echo(
            f"Everything is measured and in the store, which is away now ({error}): "
            f"`mlflow run . -e analyze -P study={name}` says what differs",
            err=True,
        )
        return UNDELIVERED
    click.echo(analysis.text)
    click.echo(f"report: {analysis.folder / 'report.html'}, also an artifact of run {run_id}")
    click.echo(f"in MLflow's pages: {shown}")
    analysis.tell(study=name, run_id=run_id, failed=failures)
    if others:
        click.echo(f"study {name} also runs on {', '.join(others)}: `analyze` puts them together")
    if failures:
        click.echo(f"{len(failures)} trials failed; repeat them with --name {name}", err=True)
    return 1 if failures else 0


@click.command(
    cls=Command,
    help=__doc__,
    example="mlflow run . -e study -P name=first -P workload=mnist -P pairs=6",
)
@click.option("--name", default="auto", show_default=True, help="auto: workload, date and time")
@click.option(
    "--workload", default="mnist", show_default=True, help="or several: one study each, one report"
)
@click.option("--mode", default="auto", show_default=True, help="as of a trial, or auto")
@click.option("--preset", default="auto", show_default=True, help="auto: by workload and device")
@click.option("--arms", default="auto", show_default=True, help="as in 'mlx blas=mkl, pytorch'")
@click.option(
    "--pairs",
    type=whole(1),
    default=6,
    show_default=True,
    help="number of blocks; 6 is the least for a verdict",
)
@click.option("--epochs", type=Or("auto", whole(1)), default="auto", show_default=True,
              help="number; auto: the workload's own")  # fmt: skip
@click.option(
    "--device",
    default="auto",
    show_default=True,
    help="as of a trial; auto: gpu if both have one",
)
@click.option("--dtype", default="float32", show_default=True)
@click.option(
    "--threads",
    type=whole(0),
    default=0,
    show_default=True,
    help="number of threads; 0: every core",
)
@click.option("--dataset", default="auto", show_default=True, help="auto: the workload's real data")
@click.option("--checkpoint", default="random", show_default=True, help="for mode infer, generate")
@click.option("--data_dir", default="auto", show_default=True)
@click.option("--seed", type=whole(0), default=0, show_default=True)
@click.option("--target", type=Or("auto", TARGET), default="auto", show_default=True,
              help="accuracy or perplexity to reach; auto: the workload's own")  # fmt: skip
@click.option("--margin", type=click.FloatRange(0, 1, min_open=True), default=0.05, show_default=True,
              help="share: two arms within it are the same")  # fmt: skip
@click.option(
    "--price_per_hour",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="USD an hour of this machine; 0: no cost is given",
)
@click.option("--price_table", default=prices.NONE, show_default=True,
              help="CSV file with the columns chip, usd_per_hour")  # fmt: skip
@click.option(
    "--slowdown_percent",
    type=click.FloatRange(0, 1000),
    default=0.0,
    show_default=True,
    help="percent: adds an arm that is the reference slowed by so much: is it found?",
)
@click.option(
    "--until_resolved",
    type=bool,
    default=False,
    show_default=True,
    help="look after every block, stop when decided; pairs is then the most that are run",
)
@click.option("--blocks", default=ALL, show_default=True,
              help="numbers of blocks, as in 5-9: those only, as one GPU's part of the study")  # fmt: skip
@click.option("--gap_seconds", type=click.FloatRange(min=0), default=0.5, show_default=True)
@click.option(
    "--wait_quiet",
    "--wait-quiet",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="seconds, before every trial, to wait at most for a quiet machine; 0: do not wait",
)
def main(**options: Any) -> None:
    only = options["blocks"]
    if len(part(only, options["pairs"])) == options["pairs"]:
        only = ALL
    if only != ALL and options["until_resolved"]:
        raise InputError(
            f"blocks={only} with until_resolved: expected all, because every look is at the "
            "blocks so far, in their order"
        )
    workloads = [word.strip() for word in options["workload"].split(",")]
    plans, sources = {}, {}
    for workload in workloads:  # every one is checked before the first trial
        found, base = study_plan.complete(options | {"workload": workload})
        plans[workload], sources[workload] = (
            study_plan.design(found, base),
            study_plan.sources_of(found),
        )
        study_plan.specifications(plans[workload], sources[workload])
    if len(workloads) == 1:
        sys.exit(conduct(options["name"], plans[workloads[0]], sources[workloads[0]], only))
    name = time.strftime("%Y%m%d-%H%M%S") if options["name"] == "auto" else options["name"]
    studies = {f"{workload}-{name}": workload for workload in workloads}
    codes = [conduct(study, plans[w], sources[w], only) for study, w in studies.items()]
    if UNDELIVERED in codes:
        click.echo(f"one report over all, later: analyze -P study={','.join(studies)}", err=True)
        sys.exit(UNDELIVERED)
    analysis = analyze(",".join(studies), None, machine=machine.fingerprint())
    click.echo(analysis.text)
    click.echo(f"report over all workloads: {analysis.folder / 'report.html'}")
    analysis.tell(studies=[*studies])
    sys.exit(max(codes))


if __name__ == "__main__":
    main()

"""`plan`: a pilot's pairs -> how many pairs the next study needs, and how long that takes."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from analysis import comparison, planning, planning_report
from analysis.findings import Comparison, Findings
from analysis.planning_report import Pilot
from entrypoints import terminal
from entrypoints.folder import writable, write_page
from entrypoints.options import Command, whole
from measurement.errors import InputError
from tracking import read, write


def choose(findings: Findings, pairing: str, metric: str) -> Comparison:
    """The comparison of a pairing (a role such as headline, or 'A over B') in a metric."""
    named = {f"{c.numerator} over {c.denominator}": c.role for c in findings.comparisons}
    found = [
        c
        for c in findings.comparisons
        if pairing in (c.role, f"{c.numerator} over {c.denominator}")
    ]
    if not found:
        known = ", ".join(f"{role} ('{names}')" for names, role in named.items())
        raise InputError(f"pairing '{pairing}': study {findings.study.name} has {known}")
    for c in found:
        if c.metric == metric:
            if c.ratio is None:
                raise InputError(
                    f"study {findings.study.name}: no ratio of {metric} for {c.numerator} over "
                    f"{c.denominator} ({c.refused or c.not_measured}); choose another metric, "
                    "pairing or study"
                )
            return c
    known = ", ".join(dict.fromkeys(c.metric for c in found))
    raise InputError(f"metric '{metric}' is not compared in a study; choose one of: {known}")


def margin_of(text: str, study: read.Study) -> float:
    """The margin asked for, or the study's own."""
    if text == "auto":
        return study.margin
    try:
        return float(text)
    except ValueError:
        raise InputError(f"margin '{text}': expected auto or a share such as 0.05") from None


@click.command(cls=Command, example="mlflow run . -e plan -P study=first -P difference=0.03")
@click.option("--study", default="latest", show_default=True, help="The pilot: a name, or latest.")
@click.option("--machine", default="only", show_default=True, help="One, if it ran on several.")
@click.option(
    "--pairing", default="headline", show_default=True, help="A role, or 'ARM over OTHER ARM'."
)
@click.option("--metric", default="auto", show_default=True, help="auto: the study's own.")
@click.option(
    "--difference",
    type=float,
    default=0.05,
    show_default=True,
    help="Share to be seen, 0.05 is 5 %.",
)
@click.option("--margin", default="auto", show_default=True, help="Share; auto: the study's own.")
@click.option("--power", type=float, default=0.8, show_default=True)
@click.option(
    "--family", type=whole(1), default=1, show_default=True, help="Number of rows tested together."
)
@click.option("--seed", type=whole(0), default=0, show_default=True)
@click.option("--output", default="auto", show_default=True, help="auto = results/plan-STUDY")
def main(
    study: str,
    machine: str,
    pairing: str,
    metric: str,
    difference: float,
    margin: str,
    power: float,
    family: int,
    seed: int,
    output: str,
) -> None:
    """Say how many pairs the next study needs, from the pairs of a finished one."""
    pilot = read.study(None if study == "latest" else study, None if machine == "only" else machine)
    rng = np.random.default_rng(seed)
    rows = read.trials_of(pilot)
    chosen = choose(
        comparison.analyse(pilot, rows, rng), pairing, pilot.metric if metric == "auto" else metric
    )
    within = margin_of(margin, pilot)
    folder = Path("results") / f"plan-{pilot.name}" if output == "auto" else Path(output)
    with terminal.progress(planning.STEPS, "drawing studies") as step:
        found = planning.plan(
            [point.ratio for point in chosen.points],
            rng,
            difference=difference,
            margin=within,
            power=power,
            family=family,
            progress=lambda: step(""),
        )
    pace = planning_report.pace(
        [(row.pair, row.arm, row.start_seconds) for row in rows if row.pair is not None],
        (chosen.numerator, chosen.denominator),
    )
    source = Pilot(
        study=pilot.name,
        numerator=chosen.numerator,
        denominator=chosen.denominator,
        metric=chosen.metric,
        label=chosen.label,
        arms=len(pilot.arms),
    )
    page = planning_report.page(found, source, pace)
    writable(folder)
    write_page(page, {"power": planning_report.records(found)}, folder)
    run_id = write.begin("plan", f"plan {pilot.name}", {"study_planned_from": pilot.name})
    write.log_params(
        run_id,
        {
            "pilot": pilot.name,
            "difference": f"{difference:g}",
            "margin": f"{within:g}",
            "power": f"{power:g}",
            "family": str(family),
            "seed": str(seed),
        },
    )
    write.log_metrics(run_id, planning_report.metrics(found))
    write.attach(run_id, folder, "report")
    write.finish(run_id)
    for line in page.verdict:
        click.echo(line)
    click.echo(f"Report: {folder / 'report.html'}, also an artifact of run {run_id}")
    terminal.result(
        verdict=page.verdict, folder=folder, run_id=run_id, pairs=planning_report.metrics(found)
    )


if __name__ == "__main__":
    main()

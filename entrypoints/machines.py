"""`machines`: does a result hold on other machines? Reads every study of the store, analyses each
alone, and compares machines within each condition."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from analysis import machines_report, page
from analysis.machines import Across, Asked, across
from analysis.page import Page
from analysis.sessions import Session, session
from entrypoints import terminal
from entrypoints.folder import write_report
from entrypoints.options import Command
from entrypoints.stored import studies_of
from measurement.errors import InputError
from tracking import write

ANY = "any"


def measured(workload: str, named: tuple[str, ...]) -> list[Session]:
    """The studies of a workload, each analysed alone, newest first."""
    found = [
        session(study, rows)
        for study, rows in terminal.each(
            studies_of(workload, named), "studies analysed", lambda item: item[0].name
        )
    ]
    return sorted(found, key=lambda s: s.start_seconds, reverse=True)


def write_comparison(
    found: Across, folder: Path, run_id: str | None, links: Mapping[str, str] | None = None
) -> Page:
    """The report over machines: machines.csv, pooled.csv, report.md, report.html and figures in
    `folder`, attached to the run. links: machine -> address of its own report."""
    report = machines_report.page(found, links or {})
    write_report(
        folder,
        run_id,
        {"report.md": page.markdown(report), "report.html": page.html(report)},
        {
            "machines.csv": machines_report.machine_records(found),
            "pooled.csv": machines_report.pooled_records(found),
        },
        report.drawings,
    )
    return report


@click.command(cls=Command, help=__doc__, example="mlflow run . -e machines -P workload=mnist")
@click.option("--workload", default="mnist", show_default=True)
@click.option(
    "--metric",
    default="declared",
    show_default=True,
    help="As train/total_seconds; declared: each study's own.",
)
@click.option(
    "--role", default="headline", show_default=True, help="Which pairings of the studies."
)
@click.option("--numerator", default=ANY, show_default=True, help="An arm, in place of a role.")
@click.option("--denominator", default=ANY, show_default=True, help="An arm, in place of a role.")
@click.option(
    "--studies",
    default="all",
    show_default=True,
    help="Names with commas: pool these, or say which condition differs.",
)
@click.option(
    "--output", default="auto", show_default=True, help="auto = results/machines-WORKLOAD."
)
def main(
    workload: str,
    metric: str,
    role: str,
    numerator: str,
    denominator: str,
    studies: str,
    output: str,
) -> None:
    if (numerator == ANY) != (denominator == ANY):
        raise InputError("numerator and denominator: expected both or neither; name the other arm")
    names = () if studies == "all" else tuple(name.strip() for name in studies.split(","))
    asked = Asked(
        metric=None if metric == "declared" else metric,
        role=role,
        numerator=None if numerator == ANY else numerator,
        denominator=None if denominator == ANY else denominator,
        studies=names,
    )
    run_id = write.adopt("machines", f"machines {workload}")
    folder = Path(output) if output != "auto" else Path("results") / f"machines-{workload}"
    found = across(workload, measured(workload, asked.studies), asked)
    report = write_comparison(found, folder, run_id)
    click.echo(machines_report.terminal(found))
    click.echo(f"Report: {folder / 'report.html'}")
    terminal.result(
        verdict=report.verdict,
        folder=folder,
        machines=machines_report.machine_records(found),
        pooled=machines_report.pooled_records(found),
    )


if __name__ == "__main__":
    main()

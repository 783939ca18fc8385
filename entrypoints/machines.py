"""`machines`: does a result hold on other machines? Reads every study of the store, analyses each
alone, and compares machines within each condition."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from analysis import machines_report, page
from analysis.machines import Across, Asked, across
from analysis.sessions import Session, session
from entrypoints.folder import write_report
from entrypoints.options import Command
from measurement.errors import InputError
from tracking import read, write

ANY = "any"


def measured(workload: str, named: tuple[str, ...] = ()) -> list[Session]:
    """The studies of a workload, each analysed alone, newest first; `named` only, if given.

    Raises InputError when there is none, when a named one does not exist, or is of another workload.
    """
    rows = [row for row in read.trials(finished=False) if row.cell.get("workload") == workload]
    by_study: dict[str, list[read.Row]] = {}
    for row in rows:
        by_study.setdefault(row.study, []).append(row)
    designs = [study for study in read.studies() if study.name in by_study]
    known = ", ".join(study.name for study in designs[:10]) or "none yet; start one with `study`"
    for name in named:
        if name not in {study.name for study in designs}:
            raise InputError(f"no study '{name}' of {workload} in this store; there are: {known}")
    if not designs:
        raise InputError(f"no study of {workload} in this store; start one with `study`")
    wanted = [study for study in designs if not named or study.name in named]
    found = []
    with click.progressbar(wanted, label="studies", file=sys.stderr) as bar:
        for study in bar:
            found.append(session(study, by_study[study.name]))
    return sorted(found, key=lambda s: s.start_seconds, reverse=True)


def compare(workload: str, asked: Asked, folder: Path, run_id: str | None) -> Across:
    """Compare machines and write the report: machines.csv, pooled.csv, report.md, report.html and
    figures into `folder`, attached to the run."""
    found = across(workload, measured(workload, asked.studies), asked)
    report = machines_report.page(found)
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
    return found


@click.command(cls=Command, help=__doc__)
@click.option("--workload", default="mnist", show_default=True)
@click.option("--metric", default="declared", show_default=True, help="declared: each study's own.")
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
    found = compare(workload, asked, folder, run_id)
    click.echo(machines_report.terminal(found))
    click.echo(f"Report: {folder / 'report.html'}")


if __name__ == "__main__":
    main()

"""`versions`: what changed from one version of a framework to the next, under one condition on one
machine."""

from __future__ import annotations

from pathlib import Path

import click

from analysis import page, versions_report
from analysis.versions import Asked, history
from entrypoints import terminal
from entrypoints.folder import write_report
from entrypoints.options import Command
from entrypoints.stored import studies_of
from tracking import write

NEWEST = "newest"


@click.command(
    cls=Command,
    help=__doc__,
    example="mlflow run . -e versions -P workload=mnist -P framework=mlx",
)
@click.option("--workload", default="mnist", show_default=True)
@click.option("--framework", default="mlx", show_default=True)
@click.option(
    "--old",
    default=NEWEST,
    show_default=True,
    help="A version; newest = every step between consecutive versions.",
)
@click.option("--new", default=NEWEST, show_default=True, help="A version, with --old.")
@click.option(
    "--metric", default="declared", show_default=True, help="declared: the newest study's own."
)
@click.option("--machine", default="all", show_default=True, help="A machine's fingerprint.")
@click.option(
    "--output",
    default="auto",
    show_default=True,
    help="auto = results/versions-WORKLOAD-FRAMEWORK.",
)
def main(
    workload: str, framework: str, old: str, new: str, metric: str, machine: str, output: str
) -> None:
    run_id = write.adopt("versions", f"versions {framework} {workload}")
    asked = Asked(
        framework=framework,
        old=None if old == NEWEST else old,
        new=None if new == NEWEST else new,
        metric=None if metric == "declared" else metric,
        machine=None if machine == "all" else machine,
    )
    named = terminal.each(studies_of(workload), "studies analysed", lambda item: item[0].name)
    found = history(workload, named, asked)
    report = versions_report.page(found)
    default = Path("results") / f"versions-{workload}-{framework}"
    folder = default if output == "auto" else Path(output)
    write_report(
        folder,
        run_id,
        {"report.md": page.markdown(report), "report.html": page.html(report)},
        {
            "changes.csv": versions_report.change_records(found),
            "versions.csv": versions_report.level_records(found),
        },
        report.drawings,
    )
    click.echo(versions_report.terminal(found))
    click.echo(f"Report: {folder / 'report.html'}")
    terminal.result(
        verdict=report.verdict,
        folder=folder,
        changes=versions_report.change_records(found),
        versions=versions_report.level_records(found),
    )


if __name__ == "__main__":
    main()

"""`analyze`: read studies back from the tracking server, say what differs, write the report."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np

from analysis import (
    comparison,
    figures,
    page,
    report,
    sweep,
    sweep_figures,
    sweep_report,
    workloads,
    workloads_figures,
    workloads_report,
)
from analysis.findings import Drawing, Findings
from analysis.sessions import SEED, session
from entrypoints.folder import write_report
from entrypoints.options import Command
from tracking import read, write


class Analysis(NamedTuple):
    """folder: where the report lies. verdict: the sentences. text: the whole terminal table."""

    folder: Path
    verdict: str
    text: str


def analyze(
    study_name: str | None = None,
    output: Path | None = None,
    every_metric: bool = False,
    run_id: str | None = None,
) -> Analysis:
    """Compare the arms of a study; write its report into a folder and attach it to the study's run.

    study_name: None = the newest; several with commas make one report, see `several`, attached to
    the run `run_id`, if given. output: None = results/<study>. Writes comparisons.csv,
    trials.csv, report.md, report.html, figures/*.png, and crossings.csv for a sweep. Raises
    InputError when there is no such study, when its rows cannot be compared at all, or when the
    folder cannot be written.
    """
    names = [name.strip() for name in (study_name or "").split(",")]
    if len(names) > 1:
        return several(names, output or Path("results/workloads"), run_id)
    study = read.study(study_name)
    rows = read.trials(study.name, finished=False)
    # One seed for all studies: the permutation tests give the same p when repeated.
    findings = comparison.analyse(study, rows, np.random.default_rng(SEED))
    folder = output if output is not None else Path("results") / study.name
    return _write(findings, folder, every_metric)


def several(names: Sequence[str], output: Path, run_id: str | None) -> Analysis:
    """One report over several studies, with the report of each in a folder of its own beside it.

    Writes workloads.csv, report.md, report.html, figures/*.png and <study>/... into `output`, and
    attaches them to the run, if there is one. Raises InputError when a study does not exist, is
    named twice, or the folder cannot be written; a study whose rows cannot be compared is a row
    that says so.
    """
    studies = [read.study(name) for name in names]
    with click.progressbar(studies, label="studies", file=sys.stderr) as bar:
        sessions = [session(study, read.trials(study.name, finished=False)) for study in bar]
    found = workloads.collect(sessions)
    links = {}
    for one in sessions:
        if one.findings is not None:
            _write(one.findings, output / one.study.name, every_metric=False)
            links[one.study.name] = f"{one.study.name}/report.html"
    drawings = workloads_figures.draw(found)
    shown = workloads_report.page(found, drawings, links)
    write_report(
        output,
        run_id,
        {"report.md": page.markdown(shown), "report.html": page.html(shown)},
        {"workloads.csv": workloads_report.records(found)},
        drawings,
    )
    return Analysis(output, "\n".join(shown.verdict), workloads_report.terminal(found))


def _write(findings: Findings, folder: Path, every_metric: bool) -> Analysis:
    """The report of one study, in a folder and attached to the study's run."""
    swept = sweep.trace(findings)
    # All of it before the first file, so that a report is whole or absent.
    written = _swept(findings, swept, every_metric) if swept else _compared(findings, every_metric)
    tables = {
        "comparisons.csv": report.comparison_records(findings),
        "trials.csv": list(findings.trials),
    } | ({"crossings.csv": sweep.records(findings, swept)} if swept else {})
    write_report(folder, findings.study.run_id, written.files, tables, written.drawings)
    return Analysis(folder, written.verdict, written.text)


class _Written(NamedTuple):
    """A report before it is on disk. files: name -> content."""

    files: dict[str, str]
    drawings: list[Drawing]
    verdict: str
    text: str


def _compared(findings: Findings, every_metric: bool) -> _Written:
    """The report of a study that compares a few arms."""
    samples = read.samples_of([trial["run_id"] for trial in findings.trials])
    drawings = figures.draw(findings, samples)
    files = {
        "report.md": report.markdown(findings),
        "report.html": report.html(findings, drawings),
    }
    return _Written(files, drawings, findings.headline, report.terminal(findings, every_metric))


def _swept(findings: Findings, swept: sweep.Sweep, every_metric: bool) -> _Written:
    """The report of a study over one parameter."""
    drawings = sweep_figures.draw(swept)
    shown = sweep_report.page(findings, swept, drawings)
    return _Written(
        {"report.md": page.markdown(shown), "report.html": page.html(shown)},
        drawings,
        "\n".join(shown.verdict),
        sweep_report.terminal(findings, swept, every_metric),
    )


@click.command(cls=Command)
@click.option(
    "--study",
    default="latest",
    show_default=True,
    help="Name of a study, or latest; several with commas make one report.",
)
@click.option(
    "--output",
    default="auto",
    show_default=True,
    help="Folder of the report; auto = results/STUDY, or results/workloads for several.",
)
@click.option(
    "--every_metric",
    type=bool,
    default=False,
    show_default=True,
    help="Print every metric of every pairing; the report always holds them.",
)
def main(study: str, output: str, every_metric: bool) -> None:
    """Say what differs between the arms of a study, by how much, and with what certainty."""
    run_id = write.adopt("analyze", f"analyze {study}")
    done = analyze(
        None if study == "latest" else study,
        None if output == "auto" else Path(output),
        every_metric,
        run_id,
    )
    click.echo(done.text)
    click.echo(f"Report: {done.folder / 'report.html'}")


if __name__ == "__main__":
    main()

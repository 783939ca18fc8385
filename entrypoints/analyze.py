"""`analyze`: read studies back from the tracking server, say what differs, write the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np

from analysis import (
    comparison,
    figures,
    machines_report,
    page,
    repeats,
    report,
    scaling,
    scaling_figures,
    scaling_report,
    study_page,
    sweep,
    sweep_figures,
    sweep_report,
    workloads,
    workloads_figures,
    workloads_report,
)
from analysis.findings import Drawing, Findings
from analysis.machines import Asked, across
from analysis.sessions import SEED, Session, session
from entrypoints import installed, terminal
from entrypoints.folder import write_report
from entrypoints.machines import write_comparison
from entrypoints.options import Command
from entrypoints.recipe import PINS
from measurement.errors import InputError
from tracking import read, views, write
from tracking.read import Study


class Analysis(NamedTuple):
    """folder: where the report lies. verdict: the sentences. text: the whole terminal table. records:
    the numbers, one a comparison."""

    folder: Path
    verdict: str
    text: str
    records: Sequence[dict[str, Any]] = ()

    def tell(self, **more: object) -> None:
        """Says it as --json has it, too."""
        terminal.result(
            verdict=self.verdict.splitlines(), folder=self.folder, comparisons=self.records, **more
        )


def analyze(
    study_name: str | None = None,
    output: Path | None = None,
    every_metric: bool = False,
    run_id: str | None = None,
    machine: str | None = None,
) -> Analysis:
    """Compare the arms of a study; write its report into a folder and attach it to the study's run.

    study_name: None = the newest; several with commas make one report, see `several`, attached to
    the run `run_id`, if given. machine: None = every one that ran the study; several are never
    mixed, see `together`. output: None = results/<study>. Writes comparisons.csv, trials.csv,
    report.md, report.html, figures/*.png, and crossings.csv for a sweep, scaling.csv and ranks.csv
    for a study of numbers of ranks. Raises InputError when there is no such study, when its rows
    cannot be compared at all, or when the folder cannot be written.
    """
    names = [name.strip() for name in (study_name or "").split(",")]
    if len(names) > 1:
        return several(names, output or Path("results/workloads"), run_id, machine)
    studies = read.machines_of(study_name, machine)
    folder = output if output is not None else Path("results") / studies[0].name
    if len(studies) > 1:
        return together(studies, folder, run_id)
    # One seed for all studies: the permutation tests give the same p when repeated.
    (one,) = analysed(studies, refuse=True)
    assert one.findings is not None
    return _write(one, folder, every_metric)


def together(studies: Sequence[Study], output: Path, run_id: str | None) -> Analysis:
    """One study of several machines: each by itself, then over machines as `machines` has it.

    Writes what `machines` writes into `output`, and the report of each machine into <machine>/...
    beside it. A machine whose rows cannot be compared is named with the reason. Raises InputError
    when none can be compared, or when the folder cannot be written.
    """
    sessions = analysed(studies)
    usable = [one for one in sessions if one.findings is not None]
    if not usable:
        raise InputError(
            f"no machine's part of study '{studies[0].name}' can be compared: {sessions[0].refused}"
        )
    workload = str(studies[0].design["workload"])
    role = studies[0].comparisons[0].role  # what the study was made for
    found = across(workload, sorted(sessions, key=lambda s: -s.start_seconds), Asked(role=role))
    links, verdicts = {}, []
    for one in usable:
        assert one.findings is not None
        name = one.study.machine
        _write(one, output / name, every_metric=False)
        links[name] = f"{name}/report.html"
        verdicts.append(f"{name}: {one.findings.headline}")
    page = write_comparison(found, output, run_id, links)
    text = [f"study {studies[0].name} on {len(studies)} machines, each by itself", *verdicts, ""]
    return Analysis(
        output,
        "\n".join((*verdicts, *page.verdict)),
        "\n".join(text) + "\n" + machines_report.terminal(found),
        machines_report.pooled_records(found),
    )


def analysed(studies: Sequence[Study], refuse: bool = False) -> list[Session]:
    """Each study by itself, with its samples and what else the store says to its question. refuse:
    raises InputError where the rows cannot be compared; else the session says so."""
    every = read.every_study()
    if len(studies) == 1:
        return [_session(studies[0], every, refuse)]
    named = terminal.each(studies, "studies analysed", lambda study: study.name)
    return [_session(study, every, refuse) for study in named]


def findings_of(study: Study) -> Findings:
    """A study's findings by themselves; nothing is written. Raises InputError where its rows cannot be
    compared."""
    found = _session(study, read.every_study(), refuse=True).findings
    assert found is not None
    return found


def _session(study: Study, every: Sequence[Study], refuse: bool) -> Session:
    rows = read.trials_of(study)
    measured = [row.run_id for row in rows if row.status == "FINISHED" and not row.deleted]
    # The trials of one start each: a deleted study may have had the name that another one has now.
    others = [
        (other, [row for row in read.trials_of(other) if row.parent in ("", *other.runs)])
        for other in repeats.candidates(study, every)
    ]
    around = comparison.Around(read.samples_of(measured), others)
    if refuse:
        findings = comparison.analyse(study, rows, np.random.default_rng(SEED), around)
        one = Session(study, tuple(rows), findings, around=around)
    else:
        one = session(study, rows, around)
    if one.findings and (old := _stale(rows)):
        one = replace(one, findings=replace(one.findings, notes=(*one.findings.notes, old)))
    return one


def _stale(rows: Sequence[read.Row]) -> str:
    """A note on trials that were made with other pins than those in use; '' where there are none."""
    pins = [row.tags.get(PINS, "") for row in rows if row.status == "FINISHED" and not row.deleted]
    old = sum(bool(one) and one != installed.pins_sha256() for one in pins)
    if not old:
        return ""
    return (
        f"{old} of {len(pins)} trials were made with other pinned packages than those in use now "
        "(STALE): they say what those versions did."
    )


def several(
    names: Sequence[str], output: Path, run_id: str | None, machine: str | None = None
) -> Analysis:
    """One report over several studies, with the report of each in a folder of its own beside it.

    Writes workloads.csv, report.md, report.html, figures/*.png and <study>/... into `output`, and
    attaches them to the run, if there is one. Raises InputError when a study does not exist, is
    named twice, ran on several machines of which `machine` names none, or the folder cannot be
    written; a study whose rows cannot be compared is a row that says so.
    """
    sessions = analysed([read.study(name, machine) for name in names])
    found = workloads.collect(sessions)
    links = {}
    for one in sessions:
        if one.findings is not None:
            _write(one, output / one.study.name, every_metric=False)
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
    numbers = workloads_report.records(found)
    return Analysis(output, "\n".join(shown.verdict), workloads_report.terminal(found), numbers)


def _write(one: Session, folder: Path, every_metric: bool) -> Analysis:
    """The report of one study, in a folder and attached to the study's run."""
    assert one.findings is not None
    findings, rows = one.findings, [row for row in one.rows if not row.deleted]
    tables = {
        "comparisons.csv": report.comparison_records(findings),
        "trials.csv": list(findings.trials),
    }
    # All of it before the first file, so that a report is whole or absent.
    if "scaling" in findings.study.design:
        scaled = scaling.trace(findings, rows)
        written = _scaled(findings, scaled)
        tables["scaling.csv"] = scaling.records(findings, scaled.whole)
        tables["ranks.csv"] = scaling.share_records(findings, scaled.parts)
    elif swept := sweep.trace(findings):
        written = _swept(findings, swept, every_metric)
        tables["crossings.csv"] = sweep.records(findings, swept)
    else:
        written = _compared(findings, every_metric)
    study = findings.study
    write_report(folder, study.run_id, written.files, tables, written.drawings)
    design = {
        **study.design,
        "arms": study.arms,
        "pairs": study.pairs,
        "metric": study.metric,
        "margin": study.margin,
    }
    views.conclude(study.run_id, study.name, design, written.verdict)
    return Analysis(folder, written.verdict, written.text, tables["comparisons.csv"])


class _Written(NamedTuple):
    """A report before it is on disk. files: name -> content."""

    files: dict[str, str]
    drawings: list[Drawing]
    verdict: str
    text: str


def _compared(findings: Findings, every_metric: bool) -> _Written:
    """The report of a study that compares a few arms."""
    drawings = figures.draw(findings)
    shown = study_page.page(findings, drawings)
    files = {"report.md": page.markdown(shown), "report.html": page.html(shown)}
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


def _scaled(findings: Findings, found: scaling.Scaling) -> _Written:
    """The report of a study over numbers of ranks."""
    drawings = scaling_figures.draw(found.whole)
    shown = scaling_report.page(findings, found, drawings)
    return _Written(
        {"report.md": page.markdown(shown), "report.html": page.html(shown)},
        drawings,
        "\n".join(shown.verdict),
        scaling_report.terminal(findings, found),
    )


@click.command(cls=Command, example="mlflow run . -e analyze -P study=first")
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
    "--machine",
    default="all",
    show_default=True,
    help="A machine's fingerprint; all: each by itself, then what holds over them.",
)
@click.option(
    "--every_metric",
    type=bool,
    default=False,
    show_default=True,
    help="Print every metric of every pairing; the report always holds them.",
)
def main(study: str, output: str, machine: str, every_metric: bool) -> None:
    """Say what differs between the arms of a study, by how much, and with what certainty."""
    run_id = write.adopt("analyze", f"analyze {study}")
    done = analyze(
        None if study == "latest" else study,
        None if output == "auto" else Path(output),
        every_metric,
        run_id,
        None if machine == "all" else machine,
    )
    if run_id:
        write.set_tags(run_id, {views.NOTE: done.verdict.replace("\n", "\n\n")})
    click.echo(done.text)
    click.echo(f"Report: {done.folder / 'report.html'}")
    done.tell(study=study, run_id=run_id)


if __name__ == "__main__":
    main()

"""`analyze`: read a study back from the tracking server, say what differs, write the report."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import click
import numpy as np

from analysis import comparison, figures, page, report, sweep, sweep_figures, sweep_report
from analysis.findings import Drawing, Findings
from entrypoints.options import Command
from measurement.errors import InputError
from tracking import read, write


class Analysis(NamedTuple):
    """folder: where the report lies. verdict: the sentences. text: the whole terminal table."""

    folder: Path
    verdict: str
    text: str


def analyze(
    study_name: str | None = None, output: Path | None = None, every_metric: bool = False
) -> Analysis:
    """Compare the arms of a study; write its report into a folder and attach it to the study's run.

    study_name: None = the newest. output: None = results/<study>. Writes comparisons.csv,
    trials.csv, report.md, report.html, figures/*.png, and crossings.csv for a sweep. Raises
    InputError when there is no such study, when its rows cannot be compared at all, or when the
    folder cannot be written.
    """
    study = read.study(study_name)
    rows = read.trials(study.name, finished=False)
    # One seed for all studies: the permutation tests give the same p when repeated.
    findings = comparison.analyse(study, rows, np.random.default_rng(20240229))
    swept = sweep.trace(findings)
    # All of it before the first file, so that a report is whole or absent.
    written = _swept(findings, swept, every_metric) if swept else _compared(findings, every_metric)
    folder = output if output is not None else Path("results") / study.name
    try:
        (folder / "figures").mkdir(parents=True, exist_ok=True)
        report.write_csv(folder / "comparisons.csv", report.comparison_records(findings))
        report.write_csv(folder / "trials.csv", list(findings.trials))
        if swept:
            report.write_csv(folder / "crossings.csv", sweep.records(findings, swept))
        for name, text in written.files.items():
            (folder / name).write_text(text, encoding="utf-8")
        for drawing in written.drawings:
            (folder / "figures" / f"{drawing.name}.png").write_bytes(drawing.light)
    except OSError as error:
        raise InputError(
            f"cannot write the report to '{folder}' ({error.strerror}); "
            "expected a folder that can be written, give another as output"
        ) from None
    write.attach(study.run_id, folder, "report")
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
@click.option("--study", default="latest", show_default=True, help="Name of a study, or latest.")
@click.option(
    "--output",
    default="auto",
    show_default=True,
    help="Folder of the report; auto = results/STUDY.",
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
    write.adopt("analyze", f"analyze {study}")
    done = analyze(
        None if study == "latest" else study,
        None if output == "auto" else Path(output),
        every_metric,
    )
    click.echo(done.text)
    click.echo(f"Report: {done.folder / 'report.html'}")


if __name__ == "__main__":
    main()

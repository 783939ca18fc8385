"""`import_results`: other people's results as runs marked `source=published`, read with our
statistics.

    python -m entrypoints.import_results                       # everything that is bundled
    python -m entrypoints.import_results --folder my_csvs      # a folder of CSVs in seed format
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np

from analysis import page as pages
from analysis.published import page as published_page
from analysis.published import records, runs, sources
from analysis.published.reanalysis import Reanalysis, reanalyse
from analysis.published.sources import Source
from analysis.report import write_csv
from entrypoints import terminal
from entrypoints.options import Command
from measurement.errors import InputError
from tracking import published, write
from tracking.groups import Group

NOT_STATED = "not stated"
SEED = 20240229  # one seed for all studies: permutation tests give the same p when repeated


class Done(NamedTuple):
    """folder: of the report. imported: what was written, group by group. text: the sentences."""

    folder: Path
    imported: list[published.Imported]
    text: str


def import_results(chosen: Sequence[Source], title: str, output: Path) -> Done:
    """Reads everything first, so that a refusal leaves nothing behind; then writes runs and report.

    Writes report.md, report.html, figures/*.png and, where there is something to say, ratios.csv
    and tables.csv into `output`, and attaches them to the run of this import. Raises InputError when the store or the folder cannot
    be written.
    """
    found = [reanalyse(source, np.random.default_rng(SEED)) for source in chosen]
    groups = [group for source in chosen for group in runs.groups(source)]
    page = published_page.build(title, found)
    _report(output, page, found, chosen)
    run_id = write.begin("import", f"import {title}", {})
    imported = _write(groups)
    write.attach(run_id, output, "report")
    write.finish(run_id)
    return Done(output, imported, published_page.terminal(page))


def _report(
    output: Path, page: pages.Page, found: Sequence[Reanalysis], chosen: Sequence[Source]
) -> None:
    texts = {"report.md": pages.markdown(page), "report.html": pages.html(page)}
    try:
        (output / "figures").mkdir(parents=True, exist_ok=True)
        for name, rows in (
            ("ratios.csv", records.ratio_records(found)),
            ("tables.csv", records.table_records(chosen)),
        ):
            if rows:
                write_csv(output / name, rows)
        for name, text in texts.items():
            (output / name).write_text(text, encoding="utf-8")
        for drawing in page.drawings:
            (output / "figures" / f"{drawing.name}.png").write_bytes(drawing.light)
    except OSError as error:
        raise InputError(
            f"cannot write the report to '{output}' ({error.strerror}); "
            "expected a folder that can be written, give another as output"
        ) from None


def _write(groups: Sequence[Group]) -> list[published.Imported]:
    total = sum(len(group.entries) for group in groups)
    with terminal.progress(total, "runs") as step:
        return [published.write(group, lambda n: step("", n)) for group in groups]


def summary(imported: Sequence[published.Imported]) -> str:
    """'965 runs in 32 files and tables; 0 were there already'."""
    written = sum(group.written for group in imported)
    present = sum(group.present for group in imported)
    return (
        f"{written} runs written from {len(imported)} files and tables; "
        f"{present} runs were there already and stay as they are."
    )


@click.command(cls=Command, example="mlflow run . -e import_results -P source=all")
@click.option(
    "--source",
    default="all",
    show_default=True,
    help="A bundled source by name, or all; not used with folder.",
)
@click.option(
    "--folder",
    default="none",
    show_default=True,
    help="A folder of CSV files in seed format to import instead of what is bundled.",
)
@click.option(
    "--workload",
    default=NOT_STATED,
    show_default=True,
    help="What the files of folder ran.",
)
@click.option(
    "--machine",
    default=NOT_STATED,
    show_default=True,
    help="Where the files of folder ran.",
)
@click.option(
    "--licence",
    default=NOT_STATED,
    show_default=True,
    help="Licence of the files of folder.",
)
@click.option(
    "--url",
    default=NOT_STATED,
    show_default=True,
    help="Where the files of folder were published.",
)
@click.option(
    "--output",
    default="auto",
    show_default=True,
    help="Folder of the report; auto = results/published, with the source's name below it.",
)
def main(
    source: str, folder: str, workload: str, machine: str, licence: str, url: str, output: str
) -> None:
    """Import published results as runs, and say what their numbers carry."""
    if folder == "none" and (workload, machine, licence, url) != (NOT_STATED,) * 4:
        raise InputError(
            "workload, machine, licence and url describe the files of folder; "
            "give folder=PATH, or leave them out"
        )
    if folder != "none" and source != "all":
        raise InputError(f"source={source} and folder={folder} exclude each other; give one")
    if folder != "none":
        chosen = [sources.from_folder(Path(folder), workload, machine, licence, url)]
    else:
        chosen = [sources.load(name) for name in (sources.names() if source == "all" else [source])]
    title = "Published results" if len(chosen) > 1 else f"Published results: {chosen[0].name}"
    auto = Path("results") / "published" / ("" if len(chosen) > 1 else chosen[0].name)
    done = import_results(chosen, title, auto if output == "auto" else Path(output))
    click.echo(done.text)
    click.echo(summary(done.imported))
    click.echo(f"Report: {done.folder / 'report.html'}")
    terminal.result(
        folder=done.folder,
        written=sum(group.written for group in done.imported),
        present=sum(group.present for group in done.imported),
    )


if __name__ == "__main__":
    main()

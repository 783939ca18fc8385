"""`export_results`: our runs as CSV files in seed format, one a study's arm and machine, or of single
runs.

python -m entrypoints.export_results --study NAME --output FOLDER
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np

from analysis.published import recordings
from entrypoints import terminal
from entrypoints.options import Command
from measurement.errors import InputError
from tracking import names, read, write
from tracking.read import Row

_EPOCHS, _PASSES = "epoch_seconds", "inference_seconds"  # series of the samples of a trial
_MODES = ("train", "infer", "generate")  # what the format has a place for
_CONDITION = ("framework", "device", "workload", "dtype", "batch_size")  # never mixed in a file


def export(rows: Sequence[Row], output: Path) -> list[Path]:
    """One training CSV an arm that trains, and one inference CSV: a run's median pass over the test
    set in a row, or all its timed generations.

    Rows in time order, every number in the digits that read back to the same double. Raises
    InputError: runs of another mode, runs of one arm with different epochs, two arms that would
    share a file name, a folder that cannot be written.
    """
    texts: dict[str, str] = {}
    arms: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        arms.setdefault((row.arm, row.machine, *(row.cell[key] for key in _CONDITION)), []).append(
            row
        )
    for arm in terminal.each(arms.values(), "arms"):
        for name, text in _arm(arm):
            if name in texts:
                raise InputError(
                    f"two arms would be written to {name}: they differ in machine, condition or "
                    "signs only; expected one file an arm, export them one by one with run_id"
                )
            texts[name] = text
    try:
        output.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (output / name).write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise InputError(
            f"cannot write to '{output}' ({error.strerror}); "
            "expected a folder that can be written, give another as output"
        ) from None
    return [output / name for name in texts]


def _arm(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """(file name, contents) of one arm."""
    samples = list(read.samples_of([row.run_id for row in rows]).values())
    first = rows[0]
    framework, device, mode = (first.cell[key] for key in ("framework", "device", "mode"))
    if mode not in _MODES:
        raise InputError(
            f"the runs of {first.arm} are of mode {mode}; the format has epochs and passes over test "
            f"data only, expected {', '.join(_MODES)}: their numbers are in trials.csv of analyze"
        )
    label = first.arm.removeprefix(framework).strip()
    found = []
    if mode == "train":
        epochs = [series[_EPOCHS].tolist() for series in samples]
        lengths = sorted({len(times) for times in epochs})
        if len(lengths) > 1:
            raise InputError(
                f"the runs of {first.arm} have {lengths[0]} to {lengths[-1]} epochs; expected the same "
                "number in all of them, as the format wants: export runs of one length by run_id"
            )
        totals = [row.metrics[names.PRIMARY["train"]] for row in rows]
        name = recordings.file_name(framework, "train", device, label, len(rows), lengths[0])
        found.append((name, recordings.text_of(epochs, totals)))
    if mode == "generate":
        passes = [row.metrics[names.PRIMARY["generate"]] for row in rows]
    else:
        passes = [float(np.median(series[_PASSES])) for series in samples if len(series[_PASSES])]
    if len(passes) == len(rows):
        name = recordings.file_name(framework, "test", device, label, len(rows), 0)
        found.append((name, recordings.text_of([], passes)))
    return found


@click.command(cls=Command, example="mlflow run . -e export_results -P study=first")
@click.option("--study", default="latest", show_default=True, help="Name of a study, or latest.")
@click.option(
    "--run_id",
    default="none",
    show_default=True,
    help="Ids of single trials, separated by commas, instead of a study.",
)
@click.option(
    "--output",
    default="auto",
    show_default=True,
    help="Folder of the CSV files; auto = results/STUDY/csv, or results/export for single trials.",
)
def main(study: str, run_id: str, output: str) -> None:
    """Write trials as CSV files in seed format."""
    if run_id != "none":
        rows = read.trials(run_ids=[text.strip() for text in run_id.split(",")])
        rows.sort(key=lambda row: row.start_seconds)
        folder, parts = Path("results") / "export", {"": rows}
    else:
        folder, parts = _parts(None if study == "latest" else study)
    kept = write.adopt("export", f"export {study if run_id == 'none' else 'of single trials'}")
    folder = folder if output == "auto" else Path(output)
    paths = [path for part, rows in parts.items() for path in export(rows, folder / part)]
    if kept:
        write.attach(kept, folder, "csv")
    for path in paths:
        click.echo(f"  {path.relative_to(folder)}")
    count = sum(map(len, parts.values()))
    click.echo(f"{count} trial{'s' * (count != 1)} in {len(paths)} files: {folder}")
    terminal.result(folder=folder, files=paths, trials=count)


def _parts(name: str | None) -> tuple[Path, dict[str, list[Row]]]:
    """(the usual folder, folder in it -> finished trials): a study that ran on several machines has a
    folder for each. Raises InputError where there is nothing to export."""
    studies = read.machines_of(name)
    several = len(studies) > 1
    found = {
        study.machine if several else "": rows
        for study in studies
        if (rows := read.trials_of(study, finished=True))
    }
    name = studies[0].name
    if not found:
        raise InputError(f"study '{name}' has no finished trial; run it to its end first")
    return Path("results") / name / "csv", found


if __name__ == "__main__":
    main()

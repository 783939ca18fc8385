"""`calibrate`: error rates of the shipped statistics by simulation, as a run with a report."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from analysis import calibration
from analysis.calibration import Rate, report
from analysis.calibration import figures as drawings
from entrypoints import terminal
from entrypoints.folder import writable, write_page
from entrypoints.options import Command, whole
from measurement import machine
from tracking import write


def simulate(preset: calibration.Preset, seed: int, processes: int) -> list[Rate]:
    """All rates of a preset; says on standard error how far it is."""
    found = []
    with terminal.progress(len(calibration.chosen(preset)), "rates") as step:
        for rate in calibration.measure_all(preset, seed, processes):
            found.append(rate)
            step("")
    return report.in_order(found)


@click.command(cls=Command, example="mlflow run . -e calibrate -P preset=quick")
@click.option(
    "--preset",
    type=click.Choice(list(calibration.PRESETS)),
    default="full",
    show_default=True,
    help="full: every size, minutes on two cores; quick: one size of every row, seconds.",
)
@click.option("--seed", type=whole(0), default=0, show_default=True)
@click.option(
    "--output", default="auto", show_default=True, help="auto = results/calibration-PRESET"
)
def main(preset: str, seed: int, output: str) -> None:
    """Simulate shapes, drifts and sizes; false positives, coverage and power of every function.

    Exit code 1 when a rate lies outside its band.
    """
    amount = calibration.PRESETS[preset]
    folder = Path("results") / f"calibration-{preset}" if output == "auto" else Path(output)
    writable(folder)
    run_id = write.begin("calibration", f"calibration {preset}", {})
    write.log_params(
        run_id,
        {
            "preset": preset,
            "seed": str(seed),
            "studies_per_rate": str(amount.replicates),
            "studies_per_dear_rate": str(amount.dear_replicates),
        },
    )
    try:
        # A few seconds are not worth starting processes for.
        processes = 1 if amount.one_size else machine.physical_cores()
        rates = simulate(amount, seed, processes)
        page = report.page(rates, preset, seed, drawings.draw(rates))
        write_page(page, {"calibration": report.records(rates, seed)}, folder)
        write.log_metrics(run_id, report.metrics(rates))
        write.attach(run_id, folder, "report")
    except BaseException:
        write.finish(run_id, "KILLED")
        raise
    outside = [rate for rate in rates if not rate.inside]
    write.finish(run_id, "FAILED" if outside else "FINISHED")
    for line in page.verdict:
        click.echo(line, err=bool(outside))
    click.echo(f"Report: {folder / 'report.html'}, also an artifact of run {run_id}")
    terminal.result(
        verdict=page.verdict,
        folder=folder,
        run_id=run_id,
        outside=len(outside),
        rates=report.records(rates, seed),
    )
    if outside:
        sys.exit(1)


if __name__ == "__main__":
    main()

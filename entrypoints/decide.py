"""`decide`: which framework, on which device, for what matters to you: from the measured studies of this
store, with what certainty, and what would change the answer.

Speed: the time of the same work. Latency: of a single item, p90. Memory: the peak. Energy: of a meter.
Cost: a price times measured time. Accuracy: who reaches the target first. What was not measured is
said, and never estimated; without a verdict the command that would settle it is given.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
import numpy as np

from analysis import decision, decision_report, page
from analysis.priorities import PRIORITIES, chip
from analysis.sessions import SEED, Session
from entrypoints import prices, terminal
from entrypoints.analyze import analysed
from entrypoints.folder import writable, write_report
from entrypoints.options import Command
from measurement.errors import InputError
from tracking import read, write
from tracking.read import Study

ALL = "all"


def chosen(study: str, workload: str) -> list[Study]:
    """The studies asked for, newest first; one that ran on several machines once for each. Raises
    InputError where there is none."""
    known = read.studies()
    named = None if study == ALL else [word.strip() for word in study.split(",")]
    workloads = None if workload == ALL else {word.strip() for word in workload.split(",")}
    if named is not None:
        for name in {*named} - {one.name for one in known}:
            read.machines_of(name)  # raises, and says which there are
        known = [one for one in known if one.name in named]
    if workloads is not None:
        there = {str(one.design.get("workload", "")) for one in known}
        if missing := sorted(workloads - there):
            raise InputError(
                f"workload={missing[0]}: no study of it; expected one of: "
                f"{', '.join(sorted(there)) or 'none yet'}; run one with 'mlflow run . -e study'"
            )
        known = [one for one in known if str(one.design.get("workload", "")) in workloads]
    if not known:
        raise InputError(
            "there is no study in this store to decide from; run one with 'mlflow run . -e study'"
        )
    return known


def given_prices(found: Sequence[Study], price: float, table: str) -> dict[str, float]:
    """Chip or machine -> USD an hour, as it was given; {} where it was not. Raises InputError."""
    if table != prices.NONE:
        if price:
            raise InputError(
                f"price_per_hour={price:g} and price_table={table} are both given; expected one of them"
            )
        return prices.read(table)
    machines = {study.machine for study in found}
    if price and len(machines) > 1:
        raise InputError(
            f"price_per_hour={price:g}: the studies ran on {len(machines)} machines, which one price "
            "does not fit; give price_table, or the studies of one machine"
        )
    return dict.fromkeys(machines, price) if price else {}


def without_price(found: Sequence[Session], table: str, given: Mapping[str, float]) -> list[str]:
    """Warnings: chips of the studies that the table lacks."""
    chips = {chip(session): None for session in found if chip(session) and table != prices.NONE}
    return [f"price_table={table} has no chip '{c}': add a row" for c in chips if c not in given]


@click.command(
    cls=Command,
    help=__doc__,
    example="mlflow run . -e decide -P priority=memory -P workload=mnist,transformer_lm",
)
@click.option(
    "--priority",
    type=click.Choice([*PRIORITIES]),
    default="speed",
    show_default=True,
    help="What matters most.",
)
@click.option(
    "--study", default=ALL, show_default=True, help="Names of studies with commas, or all."
)
@click.option(
    "--workload", default=ALL, show_default=True, help="Names of workloads with commas, or all."
)
@click.option(
    "--price_per_hour",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="USD an hour of the one machine, for studies that were run without a price; 0: none.",
)
@click.option(
    "--price_table",
    default=prices.NONE,
    show_default=True,
    help="CSV file with the columns chip, usd_per_hour, for several machines.",
)
@click.option(
    "--output", default="auto", show_default=True, help="Folder; auto = results/decision-PRIORITY."
)
def main(
    priority: str,
    study: str,
    workload: str,
    price_per_hour: float,
    price_table: str,
    output: str,
) -> None:
    studies = chosen(study, workload)
    given = given_prices(studies, price_per_hour, price_table)
    folder = Path("results") / f"decision-{priority}" if output == "auto" else Path(output)
    writable(folder)
    sessions = analysed(studies)
    found = decision.decide(
        priority,
        sessions,
        np.random.default_rng(SEED),
        given,
        lambda asked: terminal.each(asked, "answers", lambda one: one.place[0]),
    )
    shown, record = decision_report.page(found), terminal.plain(decision_report.record(found))
    texts = {
        "decision.md": page.markdown(shown),
        "decision.html": page.html(shown),
        "decision.json": json.dumps(record, indent=1, allow_nan=False, ensure_ascii=False) + "\n",
    }
    write_report(folder, None, texts, {}, [])
    run_id = write.begin("decision", f"decide {priority}", {"priority": priority})
    write.log_params(run_id, {"priority": priority, "study": study, "workload": workload})
    write.attach(run_id, folder, "decision")
    write.finish(run_id)
    click.echo(decision_report.terminal(found))
    for line in without_price(sessions, price_table, given):
        click.echo(f"! {line}")
    click.echo(f"Card: {folder / 'decision.html'}, also an artifact of run {run_id}")
    terminal.result(**record, folder=folder, run_id=run_id)


if __name__ == "__main__":
    main()

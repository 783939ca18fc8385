"""A repetition for people: a short page with one picture. Shows, computes nothing."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.findings import Drawing
from analysis.page import Grid, Page, Section
from analysis.reproduction import Ran, Timing, Verdict
from analysis.style import Theme, drawing

STEPS = {"train": "epoch", "stream": "update"}  # of the other modes: one of the ten of the evidence


def page(
    a: Ran,
    repeats: Sequence[Ran],
    verdicts: Sequence[Verdict],
    timed: Timing,
    around: Sequence[str],
) -> Page:
    """One row a repetition; around: what else differs or was left open."""
    rows = tuple(
        (run.run_id, verdict.word, verdict.first or "nothing", f"{run.seconds:.4g} s")
        for run, verdict in zip(repeats, verdicts, strict=True)
    )
    first = ((a.run_id, "the original", "", f"{a.seconds:.4g} s"),)
    return Page(
        title=f"Run {a.run_id} repeated",
        subtitle=f"Mode {a.mode}, code {a.commit[:12] or 'unknown'}, machine {a.machine or 'unknown'}.",
        verdict=(*dict.fromkeys(verdict.sentence for verdict in verdicts), timed.sentence),
        sections=(
            Section("Runs", grid=Grid(("run", "result", "differs first in", "timed work"), first + rows)),
            Section("Losses", drawings=(draw(a, repeats),)),
            Section("What was compared", points=verdicts[-1].reasons),
            Section("What else differs", points=tuple(around) or ("Nothing that a run records.",)),
        ),
    )  # fmt: skip


def draw(a: Ran, repeats: Sequence[Ran]) -> Drawing:
    """The losses of both over each other."""

    def plan(theme: Theme) -> Figure:
        figure, axes = plt.subplots(figsize=(7, 3.2))
        axes.plot(
            range(len(a.losses)), a.losses, "-", color=theme.arms[0], linewidth=6, alpha=0.35,
            label="original",
        )  # fmt: skip
        for number, run in enumerate(repeats):
            axes.plot(
                range(len(run.losses)), run.losses, "-o", color=theme.arms[1], linewidth=1.2,
                markersize=3, label="repetition" if number == 0 else None,
            )  # fmt: skip
        axes.set_xlabel(STEPS.get(a.mode, "loss of the evidence"))
        axes.set_ylabel("loss")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="y", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.legend()
        return figure

    alt = "Losses of the original run, and over them those of its repetition."
    return drawing("losses", "Losses of both runs", alt, plan)

"""Rates for people and for machines: a page with a summary and every row, and flat records."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from analysis.calibration.cell import Rate
from analysis.findings import Drawing
from analysis.page import Grid, Page, Section

COLUMNS = (6, 10, 30, 100)

QUESTIONS = {
    "Q1": "How much slower is a typical run, and is there a difference? (Q1, Q2)",
    "Q1'": "The same for runs that were not paired",
    "Q3": "Are two arms the same within a margin?",
    "Q4": "How do the averages compare?",
    "Q5": "Percentiles of the calls inside a run",
    "Q5'": "Percentiles over runs",
    "Q6": "Time to a target that some runs never reach",
    "Q7": "Does it hold on other machines? (n counts machines)",
    "Q8": "Many tests at once",
    "Q9": "Looking after every pair",
    "Q10": "Do runs depend on the run before, or on the order?",
    "Q11": "One number over several models",
    "sessions": "The change between two sessions",
    "parameter": "Where along a parameter two arms change places",
}


def verdict(rates: Sequence[Rate]) -> tuple[str, ...]:
    """Do the promises hold? One sentence, then one a rate outside its band."""
    outside = [rate for rate in rates if not rate.inside]
    studies = sum(rate.replicates for rate in rates)
    said = f"{len(rates) - len(outside)} of {len(rates)} rates lie in their bands ({studies:,} simulated studies)."
    return (said, *(f"Outside: {rate}." for rate in outside))


def in_order(rates: Iterable[Rate]) -> list[Rate]:
    """By question; the order of the cells inside a question."""
    order = list(QUESTIONS)
    return sorted(rates, key=lambda rate: order.index(rate.cell.question))


def page(rates: Sequence[Rate], preset: str, seed: int, drawings: Sequence[Drawing] = ()) -> Page:
    """The calibration as a page: verdict, summary, figures, every row with its band and source."""
    ordered = in_order(rates)
    summary = Section(
        "Summary",
        (
            "Percent of simulated studies; from lowest to highest where several shapes, drifts or "
            "shares were simulated. A counter-example shows what another design or rule would do, "
            "a limit what the function is known to miss.",
        ),
        grid=summary_grid(ordered),
        drawings=tuple(drawings),
    )
    details = [
        Section(
            f"{question}: {title}",
            grid=_details([rate for rate in ordered if rate.cell.question == question]),
            points=_sources([rate for rate in ordered if rate.cell.question == question]),
        )
        for question, title in QUESTIONS.items()
        if any(rate.cell.question == question for rate in ordered)
    ]
    return Page(
        title="Calibration of the statistics",
        subtitle=f"Simulated studies through the shipped functions; preset {preset}, seed {seed}. "
        "A rate must lie in its band, allowing for three Monte-Carlo standard errors.",
        verdict=verdict(rates),
        sections=(summary, *details),
    )


def _groups(rates: Iterable[Rate]) -> list[list[Rate]]:
    """Rates of one experiment together, whatever its variant and n."""
    groups: dict[tuple[str, ...], list[Rate]] = {}
    for rate in rates:
        c = rate.cell
        groups.setdefault((c.question, c.function, c.kind, c.setting), []).append(rate)
    return list(groups.values())


def summary_grid(rates: Sequence[Rate]) -> Grid:
    """One row an experiment; refusals are in the details."""
    rows = []
    for group in _groups(in_order(rates)):
        cell = group[0].cell
        if cell.kind == "refused":
            continue
        others = sorted({rate.cell.n for rate in group} - set(COLUMNS))
        elsewhere = ", ".join(f"{_range(group, n)} ({n})" for n in others)
        rows.append(
            (
                cell.question,
                f"`{cell.function}`",
                _what(group),
                *(_range(group, n) for n in COLUMNS),
                elsewhere,
                _bands(group),
                _inside(group),
            )
        )
    numbers = (f"n = {COLUMNS[0]}", *(str(n) for n in COLUMNS[1:]))
    header = ("", "function", "simulated, % counted", *numbers, "other n", "must be", "inside")
    return Grid(header, tuple(rows))


def _what(group: Sequence[Rate]) -> str:
    cell = group[0].cell
    role = "" if cell.role == "promise" else f" ({cell.role})"
    variants = len({rate.cell.variant for rate in group})
    several = f", {variants} variants" if variants > 1 else ""
    return f"{cell.kind}{role}: {cell.setting}{several}"


def _range(group: Sequence[Rate], n: int) -> str:
    """'4.8 to 5.5' over the variants of one n."""
    found = sorted(rate.percent for rate in group if rate.cell.n == n)
    if not found:
        return ""
    ends = [f"{found[0]:.1f}", f"{found[-1]:.1f}"]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def _bands(group: Sequence[Rate]) -> str:
    bands = list(dict.fromkeys(str(rate.cell.band) for rate in group))
    return bands[0] if len(bands) == 1 else "by shape and n"


def _inside(group: Sequence[Rate]) -> str:
    wrong = sum(not rate.inside for rate in group)
    return "yes" if not wrong else f"no: {wrong} of {len(group)}"


def _details(rates: Sequence[Rate]) -> Grid:
    rows = []
    for rate in rates:
        c = rate.cell
        low, high = c.band.widened(rate.replicates)
        rows.append(
            (
                f"{c.function}",
                c.kind + ("" if c.role == "promise" else f" ({c.role})"),
                ", ".join(text for text in (c.setting, c.variant) if text),
                str(c.n),
                f"{rate.percent:.1f} ± {rate.standard_error:.1f}",
                str(c.band),
                f"{low:.1f} to {high:.1f}",
                str(rate.replicates),
                "yes" if rate.inside else "NO",
            )
        )
    header = (
        "function", "counted", "simulated", "n", "%, standard error", "band",
        "widened", "studies", "inside",
    )  # fmt: skip
    return Grid(header, tuple(rows))


def _sources(rates: Sequence[Rate]) -> tuple[str, ...]:
    """Where each band comes from, equal ones once."""
    said = {f"Band {rate.cell.band}: {rate.cell.band.source}." for rate in rates}
    return tuple(sorted(said))


def records(rates: Sequence[Rate], seed: int) -> list[dict[str, Any]]:
    """One flat record a rate, for CSV."""
    found = []
    for rate in in_order(rates):
        c = rate.cell
        low, high = c.band.widened(rate.replicates)
        found.append(
            {
                "question": c.question,
                "function": c.function,
                "counted": c.kind,
                "setting": c.setting,
                "variant": c.variant,
                "n": c.n,
                "role": c.role,
                "studies": rate.replicates,
                "hits": rate.hits,
                "percent": rate.percent,
                "standard_error": rate.standard_error,
                "band_low": c.band.low,
                "band_high": c.band.high,
                "widened_low": low,
                "widened_high": high,
                "inside": rate.inside,
                "band_source": c.band.source,
                "seed": seed,
                "name": c.name,
            }
        )
    return found


def metrics(rates: Sequence[Rate]) -> dict[str, float]:
    """Name of an MLflow metric -> percent: calibration/false_positives_percent/Q1/..."""
    return {f"calibration/{name}": rate.percent for rate in rates for name in [_metric(rate)]}


def _metric(rate: Rate) -> str:
    kind, rest = rate.cell.name.split("/", 1)
    return f"{kind}_percent/{rest}"

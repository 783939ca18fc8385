"""A sweep for people: a page with table, crossings and figures, and a short text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from analysis import wording
from analysis.cells import conditions, outcome_word, ratio_cell, resolution_cell, target_line
from analysis.findings import Comparison, Drawing, Findings
from analysis.flags import Flag
from analysis.page import Grid, Page, Section
from analysis.sweep import Curve, Sweep, medians, number
from analysis.units import quantity

HOW_TO_READ = (
    "A ratio is the median over pairs of numerator / denominator with the interval of interpolated "
    "order statistics. The outcome is that of one value by itself, adjusted for their number (Holm). "
    "A crossing asks less, and is decided with fewer pairs: two values on opposite sides of 1. A "
    "value takes a side if its interval excludes 1 and so do those of all values between it and an "
    "end of the range, on the same side; or if its outcome is decided. Where the truth never passes "
    "1, a crossing is shown in at most 5 % of studies.",
    "The place of a crossing is read off straight lines between the measured values, over the "
    "logarithm of the parameter; its interval holds every place at which the limits, joined in the "
    "same way, hold 1. In simulations it holds the true place in 94 to 100 % of studies of 6 to 30 "
    "pairs. Where the true curve bends between two values, more values there are the remedy.",
)


def page(findings: Findings, sweep: Sweep, drawings: Sequence[Drawing]) -> Page:
    """The report of a sweep; drawings: of the curves with a ratio, in the curves' order."""
    study = findings.study
    drawn = [curve for curve in sweep.curves if curve.points]
    figures = {curve.metric: one for curve, one in zip(drawn, drawings, strict=True)}
    others = [curve for curve in drawn if curve is not sweep.primary]
    return Page(
        title=f"Study {study.name}: a sweep over {sweep.parameter}",
        subtitle=(
            f"{sweep.numerator} over {sweep.denominator} at {len(sweep.values)} values of "
            f"{sweep.parameter}; {sweep.pairs} blocks of fresh processes in random order; primary "
            f"metric {study.metric}; margin {wording.percent(study.margin)}. All fixed before the "
            "first trial."
        ),
        verdict=sweep.primary.sentences,
        sections=(
            _primary(sweep, figures),
            _everything(sweep, drawn),
            *(
                Section(
                    title=f"{curve.label[0].upper()}{curve.label[1:]}",
                    text=curve.sentences,
                    drawings=(figures[curve.metric],),
                    points=_missing(sweep, curve),
                )
                for curve in others
            ),
            *_targets(findings),
            _same_arm(sweep),
            Section(
                title="Conditions and notes",
                points=(
                    *conditions(findings),
                    *findings.notes,
                    *(s for c in sweep.curves if not c.points for s in c.sentences),
                ),
            ),
            Section(title="How to read this", text=HOW_TO_READ),
        ),
    )


def _targets(findings: Findings) -> tuple[Section, ...]:
    lines = tuple(
        target_line(findings, target)
        for target in findings.targets
        if target.role == "sweep" and target.unit == "s"
    )
    if not lines:  # as of work that has no quality to reach
        return ()
    title = f"Time to {wording.target(findings.study.quality, findings.study.target)}"
    return (Section(title=title, points=lines),)


def _primary(sweep: Sweep, figures: dict[str, Drawing]) -> Section:
    curve = sweep.primary
    return Section(
        title=f"{curve.label[0].upper()}{curve.label[1:]} over {sweep.parameter}",
        grid=Grid(
            (
                sweep.parameter,
                sweep.numerator,
                sweep.denominator,
                "ratio [95 %]",
                "p (Holm)",
                "pairs won",
                "outcome",
                "side of 1",
            ),
            tuple(
                (
                    number(value),
                    *_medians(c),
                    ratio_cell(c),
                    f"{c.p:.2g}" if c.p is not None else "",
                    f"{c.wins} of {c.ratio.n}" if c.ratio and c.wins is not None else "",
                    outcome_word(c),
                    side,
                )
                for (value, c), side in zip(curve.points, sides(curve), strict=True)
            ),
        ),
        drawings=tuple(figures[m] for m in (curve.metric,) if m in figures),
        points=_missing(sweep, curve),
        flags=shared_flags(sweep.parameter, curve),
    )


def sides(curve: Curve) -> list[str]:
    """For every point: the side of 1 that a crossing may rest on."""
    if curve.crossings is None:
        return [""] * len(curve.points)
    return [{-1: "below", 1: "above"}.get(sign, "open") for sign in curve.crossings.signs]


def shared_flags(parameter: str, curve: Curve) -> tuple[Flag, ...]:
    """Each flag of a curve once, with the values that carry it and the words of the first."""
    found: dict[str, list[tuple[float, Flag]]] = {}
    for value, c in curve.points:
        for flag in c.flags:
            if flag.name != "UNDECIDED":  # the table says so
                found.setdefault(flag.name, []).append((value, flag))
    flags = []
    for name, carried in found.items():
        values = list(dict.fromkeys(number(value) for value, _ in carried))
        first = carried[0][1]
        if len(values) == len(curve.points) and len({flag for _, flag in carried}) == 1:
            flags.append(first)
            continue
        at = "every value" if len(values) == len(curve.points) else ", ".join(values)
        flags.append(
            Flag(name, f"({parameter} {at}) First of them: {first.sentence}", first.remedy)
        )
    return tuple(flags)


def _medians(c: Comparison) -> tuple[str, str]:
    first, second = medians(c)
    return quantity(first, c.unit), quantity(second, c.unit)


def _missing(sweep: Sweep, curve: Curve) -> tuple[str, ...]:
    return tuple(f"{sweep.parameter} {number(v)}: {reason}" for v, reason in curve.missing)


def _everything(sweep: Sweep, curves: Sequence[Curve]) -> Section:
    rows = []
    for curve in curves:
        cells = {value: ratio_cell(c) for value, c in curve.points}
        better = f" ({curve.better} is better)" if curve.better else ""
        rows.append((curve.label + better, *(cells.get(value, "") for value in sweep.values)))
    return Section(
        title="Every metric",
        text=("Ratio [95 % interval]. Only the primary metric is a declared question.",),
        grid=Grid(("metric", *(number(value) for value in sweep.values)), tuple(rows)),
        points=tuple(
            sentence
            for curve in curves
            if curve is not sweep.primary and curve.crossings and curve.crossings.found
            for sentence in curve.sentences
        ),
    )


def _same_arm(sweep: Sweep) -> Section:
    divided = [c for c in sweep.same_arm if c.ratio is not None]
    return Section(
        title="The machine against itself",
        text=tuple(c.verdict for c in divided if c.metric == sweep.primary.metric),
        grid=Grid(
            ("metric", "ratio [95 %]", "resolution"),
            tuple((c.label, ratio_cell(c), resolution_cell(c)) for c in divided),
        )
        if divided
        else None,
    )


def terminal(findings: Findings, sweep: Sweep, every_metric: bool = False) -> str:
    """One line a value for the primary metric, the crossings, then warnings with their remedy.

    every_metric: the same lines for every metric; otherwise only where another one crosses.
    """
    study = findings.study
    lines = [
        f"Study {study.name}: {sweep.parameter} at {len(sweep.values)} values, {sweep.pairs} "
        f"pair{'s' * (sweep.pairs != 1)}, "
        f"primary metric {study.metric}",
        f"Ratio {sweep.numerator} / {sweep.denominator}",
    ]
    shown = [curve for curve in sweep.curves if curve.points] if every_metric else [sweep.primary]
    for curve in shown:
        better = f" ({curve.better} is better)" if curve.better else ""
        holm = f"; p after Holm over {len(sweep.values)} values" * (curve is sweep.primary)
        lines += ["", f"{curve.label}{better}: medians, ratio [95 %], side of 1, outcome{holm}"]
        width = max([len(sweep.parameter), *(len(number(value)) for value in sweep.values)])
        for (value, c), side in zip(curve.points, sides(curve), strict=True):
            first, second = _medians(c)
            lines.append(
                f"  {number(value):>{width}}  {first:>9} / {second:<9}  "
                f"{ratio_cell(c):<24}  {side:<6} {outcome_word(c)}"
                + (f", p {c.p:.2g}" if c.p is not None else "")
            )
        lines += [f"  {text}" for text in _missing(sweep, curve)]
        lines += [f"  ! {flag}" for flag in shared_flags(sweep.parameter, curve)]
        if curve is not sweep.primary:
            lines += [f"  {sentence}" for sentence in curve.sentences]
    if not every_metric:
        crossing = [
            sentence
            for curve in sweep.curves[1:]
            if curve.crossings and curve.crossings.found
            for sentence in curve.sentences
        ]
        lines += ["", "Other metrics that cross", *(f"  {line}" for line in crossing)] * bool(
            crossing
        )
    same = [c.verdict for c in sweep.same_arm if c.metric == study.metric]
    lines += ["", *(f"Note: {note}" for note in (*same, *findings.notes))]
    lines += ["", "Verdict", *sweep.primary.sentences]
    return "\n".join(lines) + "\n"

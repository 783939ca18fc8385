"""Several studies for people: one page with a figure and two tables, terminal text, CSV. No sums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analysis import wording
from analysis.cells import behind, outcome_word, ratio_cell
from analysis.findings import ArmSummary, Comparison, Drawing
from analysis.page import Grid, Page, Section
from analysis.units import quantity
from analysis.workloads import Headline, Workloads
from tracking.names import METRICS, QUALITIES

NUMBERS = (
    "train/total_seconds",
    "train/items_per_second",
    "train/tokens_per_second",
    "inference/total_seconds",
    "inference/first_token_seconds",
    "inference/prefill_tokens_per_second",
    "inference/encode_seconds",
    "inference/decode_tokens_per_second",
    "inference/token_seconds_p50",
    "inference/token_seconds_p90",
    "inference/real_time_factor",
    "inference/latency_seconds_p50",
    "inference/items_per_second",
    "memory/process_peak_bytes",
    *QUALITIES,
    "code/source_lines",
    "code/complexity",
)
"""Shown of every study that has them; a quality and the size of the code have no ratio."""

HOW_TO_READ = (
    "Each row is one study, analysed alone: the ratio is the median over its pairs of numerator / "
    "denominator with an interval of interpolated order statistics. p is Holm-adjusted over the "
    "rows (Holm 1979), since all of them are claimed at once: an outcome here may be undecided "
    "where the study alone decides it, and both are shown. A study that was refused stays in the "
    "family as p = 1.",
    "No average over workloads is formed: a mean of ratios would depend on which workloads were "
    "chosen, and no interval could say how much.",
)


def page(found: Workloads, drawings: Sequence[Drawing], links: Mapping[str, str]) -> Page:
    """The report; links: study -> address of its own report, for those that have one."""
    count = len(found.headlines)
    return Page(
        title=f"{count} studies: {', '.join(dict.fromkeys(h.workload for h in found.headlines))}",
        subtitle=(
            f"The question that each of {count} studies was made for; p adjusted over the {count}. "
            f"{found.needed_pairs} pairs are the fewest that can answer one of so many."
        ),
        verdict=verdicts(found),
        lead=tuple(drawings[:1]),
        sections=(
            Section(
                title="Headlines",
                grid=_headlines(found),
                points=found.notes,
            ),
            Section(
                title="Key numbers",
                text=(
                    "Medians over trials. The ratios of all but the primary metric were not declared "
                    "beforehand: read them as hints.",
                ),
                grid=_numbers(found),
                drawings=tuple(drawings[1:]),
            ),
            *(_study(headline, links) for headline in found.headlines),
            Section(title="How to read this", text=HOW_TO_READ),
        ),
    )


def verdicts(found: Workloads) -> tuple[str, ...]:
    """One sentence a study, then its pairs and flags."""
    return tuple(
        f"{_subject(h)}: {h.verdict}. {behind(h.comparison)}".rstrip() for h in found.headlines
    )


def _subject(h: Headline) -> str:
    text = wording.subject(h.mode, h.workload)
    return f"{text[0].upper()}{text[1:]}"


def _headlines(found: Workloads) -> Grid:
    family = len(found.headlines)
    header = (
        "workload", "mode", "preset", "dtype", "device", "arms", "primary metric", "pairs",
        "ratio [95 %]", f"p (Holm, {family})", "outcome", "in its study alone",
    )  # fmt: skip
    rows = []
    for h in found.headlines:
        c, get = h.comparison, h.condition.get
        rows.append(
            (
                h.workload,
                wording.MODES.get(h.mode, h.mode),
                get("preset", ""),
                get("dtype", ""),
                get("device", ""),
                f"{c.numerator} / {c.denominator}" if c else "",
                f"{c.label}{f' ({c.better} is better)' if c.better else ''}" if c else "",
                str(c.ratio.n) if c and c.ratio else "",
                (ratio_cell(c) if c else "") or "no ratio",
                f"{c.p:.2g}" if c and c.p is not None else "",
                _outcome(h),
                _alone(h),
            )
        )
    return Grid(header, tuple(rows))


def _outcome(h: Headline) -> str:
    c = h.comparison
    return outcome_word(c) if c and c.ratio else f"refused: {h.refused}"


def _alone(h: Headline) -> str:
    return h.alone if h.comparison and h.comparison.ratio and h.alone != "none" else ""


def _numbers(found: Workloads) -> Grid:
    rows = []
    for h in found.headlines:
        first = True
        for name in NUMBERS:
            if len(h.arms) == 2 and any(name in arm.values for arm in h.arms):
                c = next((c for c in h.numbers if c.metric == name), None)
                cells = tuple(_value(arm, name) for arm in h.arms)
                label = METRICS[name].label
                rows.append((h.workload if first else "", label, *cells, _ratio(c)))
                first = False
    sides = {tuple(arm.name for arm in h.arms) for h in found.headlines if len(h.arms) == 2}
    arms = sides.pop() if len(sides) == 1 else ("numerator", "denominator")
    return Grid(("workload", "median of", *arms, "ratio [95 %]"), tuple(rows))


def _value(arm: ArmSummary, name: str) -> str:
    if name not in arm.values:
        return "not measured"
    if METRICS[name].exact:
        return f"{arm.values[name][0]:.0f} {METRICS[name].unit}".strip()
    return quantity(arm.values[name][0], METRICS[name].unit)


def _ratio(c: Comparison | None) -> str:
    """'' for a quality, which is not divided."""
    return "" if c is None else ratio_cell(c) or "no ratio"


def _study(h: Headline, links: Mapping[str, str]) -> Section:
    c = h.comparison
    link = links.get(h.study)
    facts = [f"Study {h.study}", h.place, f"machine {h.machine}" if h.machine else ""]
    return Section(
        title=_subject(h),
        text=(f"{h.verdict}.", "; ".join(filter(None, facts)) + "."),
        links=((f"Report of study {h.study}", link),) if link else (),
        flags=c.flags if c else (),
    )


def terminal(found: Workloads) -> str:
    """Two lines a study, then the verdicts."""
    lines = [f"{len(found.headlines)} studies; p after Holm over all of them"]
    for h in found.headlines:
        c = h.comparison
        lines += ["", f"{_subject(h)} (study {h.study})"]
        if c is None or c.ratio is None:
            lines.append(f"    no ratio: {h.refused}")
            continue
        p = f"; p {c.p:.2g}" if c.p is not None else ""
        alone = f" ({_alone(h)} in its study alone)" if _alone(h) not in ("", c.outcome) else ""
        lines += [
            f"    {c.label}: {c.numerator} / {c.denominator}",
            f"    ratio {wording.interval_text(c)}{p}: {outcome_word(c)}{alone}",
            *(f"    ! {flag}" for flag in c.flags),
        ]
    lines += [""] * bool(found.notes) + [f"Note: {note}" for note in found.notes]
    lines += ["", "Verdict", *verdicts(found)]
    return "\n".join(lines) + "\n"


def records(found: Workloads) -> list[dict[str, Any]]:
    """One flat record a study and metric; p, family and outcome are those of the whole report, and
    stand with the primary metric only."""
    flat = []
    for h in found.headlines:
        asked = h.comparison
        for c in h.numbers or (None,):
            first = c is None or (asked is not None and c.metric == asked.metric)
            shown = asked if first else c
            ratio = shown.ratio if shown else None
            flat.append(
                {
                    "study": h.study,
                    "workload": h.workload,
                    "mode": h.mode,
                    "machine": h.machine,
                    "numerator": shown.numerator if shown else None,
                    "denominator": shown.denominator if shown else None,
                    "metric": shown.metric if shown else None,
                    "primary": first,
                    "unit": shown.unit if shown else None,
                    "better": shown.better if shown else None,
                    "pairs": ratio.n if ratio else 0,
                    "ratio": ratio.estimate if ratio else None,
                    "low": ratio.low if ratio else None,
                    "high": ratio.high if ratio else None,
                    "p": asked.p if first and asked else None,
                    "family": len(found.headlines) if first else None,
                    "outcome": asked.outcome if first and asked else None,
                    "outcome_alone": h.alone if first else None,
                    "verdict": h.verdict if first else shown.verdict if shown else None,
                    "flags": " ".join(flag.name for flag in shown.flags) if shown else "",
                    **{f"condition/{key}": value for key, value in sorted(h.condition.items())},
                }
            )
    return flat

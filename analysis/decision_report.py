"""A decision card for people and machines: one page, terminal text, JSON. Nothing is computed."""

from __future__ import annotations

from typing import Any

from analysis import wording
from analysis.answers import CERTAINTIES, SAME, Answer, Decision
from analysis.cells import limits_cell, outcome_word
from analysis.findings import Comparison
from analysis.page import Grid, Page, Section
from analysis.units import quantity
from tracking.names import METRICS

WORDS = {
    "speed": "what gets the same work done soonest",
    "latency": "what answers a single item soonest, nine times in ten",
    "memory": "what needs the least memory at its peak",
    "energy": "what needs the least energy for the same work",
    "cost": "what costs least for the same work",
    "accuracy": "what reaches the target first",
}
"""What a priority asks for."""

HOW_TO_READ = (
    "Each answer is one study's: the newest of its workload and device whose pairs are all there, "
    "analysed as its own report has it. Only its verdict chooses; nothing is scored, weighted or "
    "averaged, over metrics or over workloads.",
    "The interval is that of the median ratio over pairs. The same within a margin is a test of its own "
    "(the 90 % interval inside it), never the lack of a difference.",
    *(f"{word.capitalize()}: {meaning}." for word, meaning in CERTAINTIES.items()),
)


def page(found: Decision) -> Page:
    """The card."""
    return Page(
        title=f"Decision: {found.priority}",
        subtitle=f"Which framework, if what matters is {WORDS[found.priority]}. From "
        f"{len(found.answers)} workloads and devices.",
        verdict=tuple(f"{headline(answer)}: {answer.sentence}." for answer in found.answers),
        sections=(
            Section("Answers", grid=_grid(found), points=(*found.across, *found.notes)),
            *(_section(answer) for answer in found.answers),
            Section("How to read this", text=HOW_TO_READ),
        ),
    )


def headline(answer: Answer) -> str:
    """'Training of mnist on cpu of Apple M1: mlx (shown, study first)'."""
    how = f"{answer.certainty}, study {answer.study}"
    return f"{_subject(answer)} on {answer.place}: {taken(answer)} ({how})"


def _subject(answer: Answer) -> str:
    subject = wording.subject(answer.mode, answer.workload)
    return f"{subject[0].upper()}{subject[1:]}"


def taken(answer: Answer) -> str:
    """The arm, or that there is none."""
    if answer.choice:
        return answer.choice
    return f"either of {', '.join(answer.contenders)}" if answer.certainty == SAME else "no choice"


def _grid(found: Decision) -> Grid:
    header = (
        "workload", "device", "machine", "choice", "certainty", "metric", "arms", "medians",
        "ratio [95 %]", "pairs", f"p (Holm, {found.family})", "outcome over the card",
        "in its study",
    )  # fmt: skip
    rows = []
    for answer in found.answers:
        own: tuple[Comparison | None, ...] = answer.adjusted or (None,)
        for number, (c, alone) in enumerate(zip(own, answer.comparisons or (None,), strict=True)):
            first = number == 0
            rows.append(
                (
                    _subject(answer) if first else "",
                    answer.place if first else "",
                    answer.machine if first else "",
                    taken(answer) if first else "",
                    answer.certainty if first else "",
                    METRICS[answer.metric].label if answer.metric else "none",
                    f"{c.numerator} / {c.denominator}" if c else "",
                    _medians(answer, c) if c else "",
                    (limits_cell(c.ratio) if c else "") or "no ratio",
                    str(c.ratio.n) if c and c.ratio else "",
                    f"{c.p:.2g}" if c and c.p is not None else "",
                    outcome_word(c) if c and c.ratio else answer.certainty,
                    outcome_word(alone) if alone and alone.ratio else "",
                )
            )
    return Grid(header, tuple(rows))


def _medians(answer: Answer, c: Comparison) -> str:
    values = [answer.values.get(arm) for arm in (c.numerator, c.denominator)]
    return " / ".join(quantity(v[0], c.unit) if v else "not measured" for v in values)


def _section(answer: Answer) -> Section:
    what = "make it surer" if answer.choice else "settle it"
    settled = f"What would {what}: `{answer.settle}`" if answer.settle else ""
    return Section(
        title=f"{_subject(answer)} on {answer.place}",
        text=(f"{headline(answer)}: {answer.sentence}.", *filter(None, [settled])),
        points=answer.changes or ("What would change it is not known: there is no ratio.",),
        flags=answer.flags,
    )


def terminal(found: Decision) -> str:
    """Two lines an answer, then its warnings with their remedy."""
    lines = [f"Decision for {found.priority}: {WORDS[found.priority]}"]
    for answer in found.answers:
        lines += ["", headline(answer), f"    {answer.sentence}"]
        lines += [f"    ! {flag}" for flag in answer.flags if flag.name != "UNDECIDED"]
        if answer.settle:
            meaning = CERTAINTIES[answer.certainty]
            lines.append(f"    ! {answer.certainty.upper()}: {meaning}. {answer.settle}")
    lines += [""] * bool(found.across or found.notes)
    lines += [f"Note: {text}" for text in (*found.across, *found.notes)]
    return "\n".join(lines) + "\n"


def record(found: Decision) -> dict[str, Any]:
    """The card as plain values; what is absent is null."""
    return {
        "priority": found.priority,
        "family": found.family,
        "answers": [_answer(answer) for answer in found.answers],
        "across_devices": list(found.across),
        "notes": list(found.notes),
    }


def _answer(answer: Answer) -> dict[str, Any]:
    return {
        "workload": answer.workload,
        "mode": answer.mode,
        "machine": answer.machine,
        "chip": answer.chip,
        "device": answer.device,
        "study": answer.study,
        "choice": answer.choice or None,
        "framework": answer.framework or None,
        "contenders": list(answer.contenders),
        "certainty": answer.certainty,
        "decided": bool(answer.choice) or answer.certainty == SAME,
        "sentence": answer.sentence,
        "metric": answer.metric or None,
        "unit": METRICS[answer.metric].unit if answer.metric else None,
        "values": {
            arm: dict(zip(("median", "least", "most"), values, strict=True))
            for arm, values in answer.values.items()
        },
        "comparisons": [
            {**_comparison(c), "p_over_card": over.p, "outcome_over_card": over.outcome}
            for c, over in zip(answer.comparisons, answer.adjusted, strict=True)
        ],
        "would_change": list(answer.changes),
        "other_answers": [
            {"where": e.where, "choice": e.better, **_comparison(e.comparison)}
            for e in answer.elsewhere
        ],
        "settle": answer.settle or None,
        "condition": dict(answer.condition),
        "flags": [
            {"name": f.name, "sentence": f.sentence, "remedy": f.remedy} for f in answer.flags
        ],
    }


def _comparison(c: Comparison) -> dict[str, Any]:
    ratio = c.ratio
    return {
        "numerator": c.numerator,
        "denominator": c.denominator,
        "metric": c.metric,
        "better": c.better,
        "pairs": ratio.n if ratio else 0,
        "ratio": ratio.estimate if ratio else None,
        "low": ratio.low if ratio else None,
        "high": ratio.high if ratio else None,
        "p": c.p,
        "family": c.family,
        "margin": c.margin,
        "same": c.same.same if c.same else None,
        "outcome": c.outcome,
        "refused": c.refused,
        "not_measured": c.not_measured,
        "verdict": c.verdict,
    }

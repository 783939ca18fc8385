"""Forest plots over workloads: a row a study, and each study's machine against itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from analysis import forest, wording
from analysis.findings import Comparison, Drawing
from analysis.forest import Line
from analysis.vector import drawing
from analysis.workloads import Headline, Workloads

MEMORY = "memory/process_peak_bytes"


def draw(found: Workloads) -> list[Drawing]:
    """The first question of every study in one figure, and the same studies' peak memory."""
    count = len(found.headlines)
    asked = _lines(found.headlines, lambda headline: headline.comparison, itself=True)
    memory = _lines(found.headlines, _memory, itself=False)
    plans = (
        (
            "workloads",
            "What each study was made to ask: ratio of its primary metric",
            f"Forest plot: ratio and 95 % interval of each workload, p adjusted over {count} studies, and "
            "of the machine against itself. ",
            asked,
        ),
        (
            "workloads_memory",
            "Peak memory of the process, same studies (not declared beforehand: a hint)",
            "Forest plot: ratio and 95 % interval of the peak memory of each workload. ",
            memory,
        ),
    )
    return [
        drawing(
            name,
            title,
            alt + " ".join(f"{line.title}: {_said(line)}." for line in lines),
            lambda theme, lines=lines: forest.draw(lines, theme),  # type: ignore[misc]
            forest.grid(lines, "study"),
        )
        for name, title, alt, lines in plans
        if forest.drawable(lines)
    ]


def _memory(headline: Headline) -> Comparison | None:
    return next((c for c in headline.numbers if c.metric == MEMORY), None)


def _said(line: Line) -> str:
    return line.comparison.verdict if line.comparison else line.why


def _lines(
    headlines: Sequence[Headline], asked: Callable[[Headline], Comparison | None], itself: bool
) -> list[Line]:
    lines = []
    for headline in headlines:
        c = asked(headline)
        lines.append(Line(_title(headline, c), c, "" if c and c.ratio else _why(headline, c)))
        if itself and headline.itself is not None:
            title = f"{headline.workload}: {headline.itself.denominator} against itself"
            lines.append(Line(title, headline.itself))
    return lines


def _title(headline: Headline, c: Comparison | None) -> str:
    """Mode, workload, place, what is compared."""
    subject = wording.subject(headline.mode, headline.workload)
    place = f"{subject[0].upper()}{subject[1:]} ({headline.place})"
    return f"{place}: {c.numerator} over {c.denominator}, {c.label}" if c else place


def _why(headline: Headline, c: Comparison | None) -> str:
    return f"no ratio: {headline.refused if c is None else c.refused or c.not_measured}"

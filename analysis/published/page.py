"""Published results as a report and as CSV: what their numbers carry, every fault beside them."""

from __future__ import annotations

from collections.abc import Sequence

from analysis import wording
from analysis.flags import BLOCKING, Flag
from analysis.page import Grid, Page, Section
from analysis.published import pictures, sources
from analysis.published.ratios import table_ratios
from analysis.published.reanalysis import Arm, Reading, Reanalysis, supported
from analysis.published.records import fault_ids
from analysis.published.sources import Cell, Source, Table
from analysis.statistics import Average, Ratio
from analysis.units import digits, quantity


def build(title: str, found: Sequence[Reanalysis]) -> Page:
    """The report of some sources; those without recordings show their tables only."""
    sections: list[Section] = []
    for analysed in found:
        sections += _recordings(analysed) if analysed.arms else []
    for analysed in found:
        sections += _tables(analysed.source)
    sections.append(_provenance([analysed.source for analysed in found]))
    sections.append(_known_faults([analysed.source for analysed in found]))
    readings = [reading for analysed in found for reading in analysed.readings]
    return Page(
        title=title,
        subtitle="Other people's results, read with our statistics. They were not measured here.",
        verdict=tuple(sentence(r) for r in readings if not r.sweep)
        or ("Nothing to compare: no two recordings of single runs that belong together.",),
        sections=tuple(sections),
    )


def sentence(reading: Reading) -> str:
    """What a contrast's data carry, and why there is no verdict."""
    what = _pair(reading)
    if reading.refused is not None or reading.typical is None:
        return f"{what}: no ratio. {reading.refused}"
    parts = [f"typical run {ratio_text(reading.typical)}"]
    if reading.average is not None:
        parts.append(f"average run {ratio_text(reading.average)}")
    if reading.tail is not None and reading.tail.low is not None:
        parts.append(f"p90 over runs {ratio_text(reading.tail)}")
    text = f"{what}: {', '.join(parts)}."
    blocks = supported(reading)
    if blocks is not None:
        side, least, greatest = blocks
        where = {"below": "all below 1", "above": "all above 1", "both sides": "on both sides of 1"}
        text += (
            f" Ratios between blocks of consecutive runs: {where[side]}, "
            f"{wording.number(least)} to {wording.number(greatest)}."
        )
    margin = reading.same
    if margin is not None and margin.same:
        text += (
            f" Inside ±{wording.percent(margin.margin)} if the runs were independent, which "
            f"{'they are not' if _has(reading, 'DRIFT') else 'a CSV cannot show'}."
        )
    blocking = sorted({flag.name for flag in reading.flags} & BLOCKING)
    return text + f" No verdict: {', '.join(blocking)}."


def ratio_text(ratio: Ratio | Average) -> str:
    """'0.564 [0.557, 0.569]'."""
    if ratio.low is None or ratio.high is None:
        return f"{wording.number(ratio.estimate)} (no interval)"
    low, high = wording.number(ratio.low), wording.number(ratio.high)
    return f"{wording.number(ratio.estimate)} [{low}, {high}]"


def terminal(page: Page) -> str:
    """The sentences for a terminal."""
    return "\n".join(f"  {line}" for line in page.verdict)


def _recordings(found: Reanalysis) -> list[Section]:
    drawings = pictures.recordings(found)
    sweeps = [reading for reading in found.readings if reading.sweep]
    ratios = Section(
        title=f"{found.source.title}: ratios",
        text=(
            "Below 1 the first arm takes less time. Intervals at 95 %, under the assumption that "
            "runs are independent; the ratio from blocks of consecutive runs needs less of it.",
        ),
        grid=Grid(
            ("arms", "typical run", "average run", "p90 over runs", "p90 of epochs in a run",
             "from blocks", "between blocks", "p of blocks (Holm)", "faults"),
            tuple(_ratio_row(reading) for reading in found.readings if not reading.sweep),
        ),
        points=tuple(
            f"{_pair(reading)}: {flag}" for reading in found.readings for flag in _own(reading)
        ),
        flags=tuple(
            dict.fromkeys(f for r in found.readings for f in r.flags if f not in _own(r))
        ),
    )  # fmt: skip
    arms = Section(
        title=f"{found.source.title}: arms",
        grid=Grid(
            ("file", "arm", "runs", "median", "geometric mean", "mean", "first / second half",
             "lag-1 (p)", "epochs / total"),
            tuple(_arm_row(arm) for arm in found.arms if not arm.file.recording.sweep),
        ),
        drawings=tuple(drawing for drawing in drawings if drawing.name != "ratio_by_batch_size"),
    )  # fmt: skip
    if not sweeps:
        return [ratios, arms]
    sizes = sorted({size for reading in sweeps for size, _ in reading.sweep})
    by_size = Section(
        title=f"{found.source.title}: ratio by batch size",
        text=("One run a cell: no interval and no verdict.",),
        grid=Grid(
            ("batch size", *(f"{_name(r.first)} / {_name(r.second)}" for r in sweeps)),
            tuple((str(size), *(_at(reading, size) for reading in sweeps)) for size in sizes),
        ),
        drawings=tuple(drawing for drawing in drawings if drawing.name == "ratio_by_batch_size"),
    )
    return [ratios, arms, by_size]


def _ratio_row(reading: Reading) -> tuple[str, ...]:
    arms = _pair(reading)
    faults = " ".join(dict.fromkeys((*reading.first.file.faults, *reading.second.file.faults)))
    if reading.refused is not None:
        return (arms, f"no ratio: {reading.refused}", "", "", "", "", "", "", faults)
    blocks = reading.blocks
    return (
        arms,
        *(
            ratio_text(ratio) if ratio is not None else ""
            for ratio in (reading.typical, reading.average, reading.tail, reading.run_p90)
        ),
        f"{wording.number(blocks.estimate)} [{wording.number(blocks.low)}, "
        f"{wording.number(blocks.high)}]"
        if blocks
        else "",
        f"{wording.number(blocks.least)} to {wording.number(blocks.greatest)}" if blocks else "",
        f"{reading.holm:.2g}" if reading.holm is not None else "",
        faults,
    )


def _arm_row(arm: Arm) -> tuple[str, ...]:
    return (
        arm.file.recording.file,
        _name(arm),
        str(arm.file.recording.runs),
        *(quantity(value, "s") for value in (arm.median, arm.geometric_mean, arm.mean)),
        f"{arm.halves:.4f}",
        f"{arm.lag1:+.3f} ({arm.drift_p:.2g})",
        f"{arm.epoch_share:.4f}" if arm.epoch_share is not None else "",
    )


def _tables(source: Source) -> list[Section]:
    sections = [_table(source, table) for table in source.tables]
    ratios = table_ratios(source)
    if ratios:
        drawing = pictures.tables(source.name, ratios)
        sections.append(Section(title=f"{source.title}: ratios as published", drawings=(drawing,)))
    return sections


def _table(source: Source, table: Table) -> Section:
    given = source.given | table.given
    return Section(
        title=f"{source.title}: {table.title}",
        text=(
            f"Document {source.name}, {table.location}. Stated: "
            + ("; ".join(f"{key}: {value}" for key, value in given.items()) or "nothing of the list")
            + f". Not stated: {', '.join(source.missing(table)) or 'nothing of the list'}.",
        ),
        grid=Grid(
            ("arm", "machine", "workload", "metric", "as stated", "value", "statistic", "faults"),
            tuple(
                (f"{line.framework} {line.device}", line.machine, line.workload, cell.metric,
                 cell.stated, _value(cell), cell.statistic + (", derived" * cell.derived),
                 " ".join(dict.fromkeys((*table.faults, *line.faults, *cell.faults))))
                for line in table.lines
                for cell in line.cells
            ),
        ),
    )  # fmt: skip


def _value(cell: Cell) -> str:
    about = "about " if cell.approximate else ""
    values = [] if cell.value is None else [digits(cell.value)]
    if cell.low is not None and cell.high is not None:
        values.append(f"{digits(cell.low)} to {digits(cell.high)}")
    return f"{about}{', '.join(values)} {cell.unit}".strip()


def _provenance(chosen: Sequence[Source]) -> Section:
    return Section(
        title="Where it comes from",
        grid=Grid(
            ("source", "title", "address", "commit", "date", "licence", "remarks"),
            tuple(
                (s.name, s.title, s.url, s.commit, s.date, s.licence,
                 " ".join((s.summary, *s.repeated)))
                for s in chosen
            ),
        ),
    )  # fmt: skip


def _known_faults(chosen: Sequence[Source]) -> Section:
    known = sources.faults()
    used = [fault for fault in known if fault in set(fault_ids(chosen))]
    return Section(
        title="Known faults of these results",
        grid=Grid(
            ("id", "class", "project", "fault", "evidence"),
            tuple(
                (i, "/".join(known[i].classes), known[i].project, known[i].fault, known[i].evidence)
                for i in used
            ),
        ),
    )


def _name(arm: Arm) -> str:
    return arm.file.recording.arm


def _phase(reading: Reading) -> str:
    recording = reading.first.file.recording
    return f"{recording.work}, {recording.runs} runs"


def _at(reading: Reading, size: int) -> str:
    return wording.number(dict(reading.sweep)[size]) if size in dict(reading.sweep) else ""


def _has(reading: Reading, name: str) -> bool:
    return any(flag.name == name for flag in reading.flags)


def _pair(reading: Reading) -> str:
    return f"{_name(reading.first)} / {_name(reading.second)}, {_phase(reading)}"


def _own(reading: Reading) -> list[Flag]:
    """Flags of this contrast alone: not of an arm, not of every CSV."""
    arms = (*reading.first.flags, *reading.second.flags)
    return [f for f in reading.flags if f not in arms and f.name not in BLOCKING]

"""The size of the twins' code as a table. Exact: the same in every trial, and nothing is tested."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.findings import ArmSummary, Grid
from tracking.names import CODE, METRICS

TITLE = "Size of the code"
HOW_IT_IS_COUNTED = (
    "Of the twin's own file, counted by radon without comments, docstrings and blank lines; "
    "complexity is McCabe's, summed over all functions and methods (1 each, and 1 for every branch, "
    "loop, comprehension, and/or). Beside it what the twin uses of models/layers, which workloads "
    "share. Exact, so nothing is tested: a count of this code is no measure of how hard it was to write, "
    "and both twins follow one outline on purpose."
)


def grid(arms: Sequence[ArmSummary]) -> Grid | None:
    """One row a framework, in the order of the arms; None where no trial counted its code."""
    rows: dict[str, tuple[str, ...]] = {}
    for arm in arms:
        framework = arm.condition.get("framework", arm.name)
        if framework not in rows and any(name in arm.values for name in CODE):
            rows[framework] = (framework, *(_cell(arm, name) for name in CODE))
    if not rows:
        return None
    return Grid(("framework", *(METRICS[name].label for name in CODE)), tuple(rows.values()))


def lines_of_code(arms: Sequence[ArmSummary]) -> list[tuple[str, float, float]]:
    """(framework, source lines of its twin, lines that it uses of models/layers), each once."""
    found: dict[str, tuple[str, float, float]] = {}
    for arm in arms:
        framework = arm.condition.get("framework", arm.name)
        if "code/source_lines" in arm.values:
            own = arm.values["code/source_lines"][0]
            shared = arm.values.get("code/shared_source_lines", (0.0,))[0]
            found.setdefault(framework, (framework, own, shared))
    return list(found.values())


def _cell(arm: ArmSummary, name: str) -> str:
    """The count; its range where the file was changed between the trials."""
    if name not in arm.values:
        return "not counted"
    _, least, most = arm.values[name]
    return f"{least:.0f}" if least == most else f"{least:.0f} to {most:.0f} (changed meanwhile)"


def line(arms: Sequence[ArmSummary]) -> str:
    """For a terminal: 'Size of the code: mlx 58 lines, complexity 14; ...'; '' where none was
    counted."""
    table = grid(arms)
    if table is None:
        return ""
    at = {name: 1 + CODE.index(name) for name in CODE}
    parts = [
        f"{row[0]} {row[at['code/source_lines']]} source lines, complexity "
        f"{row[at['code/complexity']]}"
        for row in table.rows
    ]
    return f"{TITLE} (exact, not tested): {'; '.join(parts)}"

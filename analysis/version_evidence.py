"""How a new version compares with an old one: in one study, by a control, or not paired at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from analysis.comparison import analyse
from analysis.findings import Comparison
from analysis.flags import Flag, not_interleaved
from analysis.statistics import Ratio, change_ratio, unpaired_ratio
from analysis.table import Table
from measurement.audit import parity_difference, receipt_difference

if TYPE_CHECKING:
    from tracking.read import Row

FREE = ("version_framework",)
"""The one key of the condition in which two versions may differ."""

OF_THE_CONTROL = ("UNDECIDED", "FEW", "SPLIT", "BELOW-RESOLUTION", "HOLM-FEW")
"""Flags of a session's comparison with its control that say nothing about the change."""

SEED = 20240229  # of the permutation tests: the same p when repeated


@dataclass(frozen=True)
class Run:
    """One arm of one study."""

    table: Table
    arm: str

    @property
    def rows(self) -> list[Row]:
        return list(self.table.arms[self.arm].values())

    @property
    def condition(self) -> dict[str, str]:
        return self.rows[0].cell

    @property
    def fixed(self) -> dict[str, str]:
        """The condition without the version."""
        return {key: value for key, value in self.condition.items() if key not in FREE}

    @property
    def version(self) -> str:
        return self.condition.get(FREE[0], "")

    @property
    def machine(self) -> str:
        return self.rows[0].machine

    @property
    def start_seconds(self) -> float:
        return min(row.start_seconds for row in self.rows)

    @property
    def complete(self) -> bool:
        """As many runs as were planned, their number not decided by the result."""
        return len(self.rows) >= self.table.study.pairs and not self.table.study.anytime

    def values(self, metric: str) -> list[float]:
        """Of every run that has the metric, in the order of the pairs."""
        rows = sorted(self.rows, key=lambda row: row.pair or 0)
        return [row.metrics[metric] for row in rows if metric in row.metrics]


@dataclass(frozen=True)
class Measured:
    """What one kind of evidence says. p is None where no test is allowed; basis: for the verdict;
    control: the arm that ran in both sessions."""

    evidence: str
    margin: float
    basis: str
    ratio: Ratio | None = None
    same: bool = False
    p: float | None = None
    n: int = 0
    control: str = ""
    refused: str = ""
    flags: tuple[Flag, ...] = ()


def best(new: Sequence[Run], old: Sequence[Run], metric: str) -> tuple[Run, Run, Measured]:
    """(new run, old run, evidence): interleaved before control before unpaired, complete before
    incomplete, then the newest. Both lists newest first."""
    couples = sorted(
        ((late, early) for late in new for early in old),
        key=lambda couple: not (couple[0].complete and couple[1].complete),
    )
    for late, early in couples:
        if late.table is early.table:
            return late, early, interleaved(late, early, metric)
    for late, early in couples:
        if controls := common_controls(late, early):
            return late, early, controlled(late, early, *controls, metric)
    late, early = couples[0]
    return late, early, unpaired(late, early, metric)


def interleaved(late: Run, early: Run, metric: str) -> Measured:
    """Both versions as arms of one study: the paired comparison, at full strength."""
    c = _compared(late.table, late.arm, early.arm, "version", metric)
    return Measured(
        evidence="interleaved",
        margin=c.margin,
        basis=f"{c.ratio.n if c.ratio else 0} interleaved pairs of one study",
        ratio=c.ratio,
        same=c.same is not None and c.same.same,
        p=c.ratio.p if c.ratio else None,
        n=c.ratio.n if c.ratio else 0,
        refused="" if c.ratio else c.verdict,
        flags=c.flags,
    )


def common_controls(late: Run, early: Run) -> tuple[str, str] | None:
    """(arm of the new study, arm of the old one) of another framework under one whole condition."""
    for arm in late.table.study.arms:
        control = Run(late.table, arm)
        if not control.rows or control.condition["framework"] == late.condition["framework"]:
            continue
        for other in early.table.study.arms:
            reference = Run(early.table, other)
            if reference.rows and reference.condition == control.condition:
                return arm, other
    return None


def controlled(late: Run, early: Run, control: str, reference: str, metric: str) -> Measured:
    """Two sessions with one control: the ratio of ratios."""
    sides = [
        _compared(late.table, late.arm, control, "as shipped", metric),
        _compared(early.table, early.arm, reference, "as shipped", metric),
    ]
    margin, condition = sides[0].margin, Run(late.table, control).condition
    name = f"{condition['framework']} {condition['version_framework']}"
    found = Measured("control", margin, f"two sessions, {name} as the one control", control=name)
    flags = [flag for c in sides for flag in c.flags]
    refused = _unequal(late, early) or next((c.verdict for c in sides if c.ratio is None), "")
    if refused:
        return replace(found, refused=refused, flags=tuple(dict.fromkeys(flags)))
    (new, new_control), (old, old_control) = [
        ([p.numerator for p in c.points], [p.denominator for p in c.points]) for c in sides
    ]
    change = change_ratio(new, new_control, old, old_control, margin)
    kept = [f for f in flags if f.name not in OF_THE_CONTROL and not f.name.endswith("-DIFFERS")]
    return replace(
        found,
        ratio=change.ratio,
        same=change.same.same,
        p=change.ratio.p,
        n=change.ratio.n,
        flags=tuple(dict.fromkeys((*_warned(change.warnings), *_system(late, early), *kept))),
    )


def unpaired(late: Run, early: Run, metric: str) -> Measured:
    """Two sessions without a control: the ratio of medians, and no verdict on the version."""
    margin = late.table.study.margin
    found = Measured("unpaired", margin, "two sessions without a common control")
    values = late.values(metric), early.values(metric)
    refused = _unequal(late, early)
    if not all(values):
        reasons = [row.not_measured.get(metric) for run in (late, early) for row in run.rows]
        refused = refused or f"not measured: {next(filter(None, reasons), 'no reason recorded')}"
    if not refused and min(map(min, values)) <= 0:
        refused = "a value of 0 or below has no ratio"
    if refused:
        return replace(found, refused=refused)
    ratio = unpaired_ratio(*values)
    apart = not_interleaved("The versions ran in two sessions without a control in both.")
    warned = tuple(f for f in _warned(ratio.warnings) if f.name != apart.name)
    flags = (apart, *warned, *_system(late, early))
    return replace(found, ratio=ratio, n=ratio.n, flags=flags)


def _compared(table: Table, arm: str, against: str, role: str, metric: str) -> Comparison:
    """A pairing that the study need not have declared, with all that the analysis knows of it."""
    yardsticks = [p for p in table.study.comparisons if p.role == "resolution"]
    pairing = replace(table.study.comparisons[0], numerator=arm, denominator=against, role=role)
    study = replace(
        table.study, metric=metric, family=(metric,), comparisons=(pairing, *yardsticks)
    )
    rows = [*table.trials(), *table.unused]
    findings = analyse(study, rows, np.random.default_rng(SEED))
    return next(c for c in findings.comparisons if (c.role, c.metric) == (role, metric))


def _unequal(late: Run, early: Run) -> str:
    """'' when both versions did the same work, else the first difference."""
    by_seed = {row.seed: row for row in early.rows}
    for row in late.rows:
        other = by_seed.get(row.seed, early.rows[0])
        difference = parity_difference(row.parity, other.parity)
        if difference is None and other.seed == row.seed:  # a check value depends on the seed
            difference = receipt_difference(row.receipt, other.receipt)
        if difference:
            return f"not equal work: {difference}"
    return ""


def _warned(warnings: Sequence[Flag]) -> tuple[Flag, ...]:
    return tuple(flag for flag in warnings if flag.name != "RARE")


def _system(late: Run, early: Run) -> tuple[Flag, ...]:
    """SYSTEM-CHANGED: the machine is the same, what the trials recorded of it is not."""
    before, now = early.rows[0].facts, late.rows[0].facts
    return tuple(
        Flag("SYSTEM-CHANGED", f"{key} was '{before[key]}' and is '{now[key]}'.")
        for key in sorted(before.keys() & now.keys())
        if before[key] != now[key]
    )

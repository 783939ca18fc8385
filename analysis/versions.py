"""What changed from one version of a framework to the next, under one condition on one machine.

Three kinds of evidence, the best there is for each change: both versions as arms of one study
(interleaved); two studies that ran the same control, whose ratio of ratios takes out what the
machine did to both frameworks (control); two studies without one, which allow no verdict (unpaired).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from packaging.version import InvalidVersion, Version

from analysis import version_evidence, wording
from analysis.flags import BLOCKING, Flag
from analysis.sessions import differences, named
from analysis.statistics import Ratio, holm
from analysis.statistics.orderstat import interval
from analysis.table import Table, build
from analysis.version_evidence import Measured, Run
from measurement.errors import InputError
from tracking.names import METRICS

if TYPE_CHECKING:
    from tracking.read import Row, Study

FORBIDDING = frozenset({"A/A", "INCOMPLETE", "PEEKED"})
"""Flags of a session under which a change of version is not judged by it."""


@dataclass(frozen=True)
class Asked:
    """old, new: None = every pair of consecutive versions; machine: None = all; metric: None =
    the newest study's own."""

    framework: str
    old: str | None = None
    new: str | None = None
    metric: str | None = None
    machine: str | None = None


@dataclass(frozen=True)
class Level:
    """One version on a track: the values of its runs, their median and its 95 % interval."""

    version: str
    study: str
    start_seconds: float
    values: tuple[float, ...]
    median: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Change:
    """One step from an old to a new version. evidence: interleaved, control or unpaired.

    ratio: new over old; p: Holm-adjusted over all steps that are tested (`family` of them).
    outcome: regression, improvement, same, undecided, none (no verdict is allowed).
    """

    machine: str
    track: str
    old: str
    new: str
    studies: tuple[str, ...]
    measured: Measured
    p: float | None = None
    family: int = 0
    outcome: str = "none"
    verdict: str = ""

    @property
    def ratio(self) -> Ratio | None:
        return self.measured.ratio

    @property
    def flags(self) -> tuple[Flag, ...]:
        return self.measured.flags


@dataclass(frozen=True)
class Track:
    """One condition on one machine through the versions, oldest first."""

    machine: str
    name: str
    condition: dict[str, str]
    levels: tuple[Level, ...]
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class History:
    """Everything that a report over versions shows. refused: changes that no condition joins."""

    workload: str
    framework: str
    metric: str
    label: str
    unit: str
    better: str
    tracks: tuple[Track, ...]
    refused: tuple[str, ...]
    left_out: tuple[str, ...]
    warnings: tuple[Flag, ...] = ()

    @property
    def changes(self) -> tuple[Change, ...]:
        """All steps, the newest version first."""
        found = [change for track in self.tracks for change in track.changes]
        return tuple(sorted(found, key=lambda c: (order(c.new), order(c.old)), reverse=True))


def order(version: str) -> Version:
    """Versions in their own order, as PEP 440 has it. Raises InputError for what is none.

    >>> order("0.9.2") < order("0.31.0") < order("0.31.1+cpu")
    True
    """
    try:
        return Version(version)
    except InvalidVersion:
        raise InputError(f"'{version}' is no version; expected a number such as 0.31.2") from None


def history(workload: str, studies: Iterable[tuple[Study, Sequence[Row]]], asked: Asked) -> History:
    """Every change between consecutive versions of a framework, or the one asked about.

    Raises InputError: a metric that has no better direction; fewer than two versions; a version or
    machine that does not occur; versions that no condition joins (names the keys that differ).
    """
    tables, left_out = _tables(studies)
    runs = [run for table in tables for run in _runs(table, asked.framework)]
    metric = asked.metric or (tables[0].study.metric if tables else "")
    _check(asked, metric, workload, runs)
    if asked.machine:
        runs = [run for run in runs if run.machine == asked.machine]
    versions = sorted({run.version for run in runs}, key=order)
    if asked.old and asked.new:
        versions = [asked.old, asked.new]
    tracks = [
        _track(own, versions, metric)
        for own in _by_condition([run for run in runs if run.version in versions])
    ]
    tracks = [track for track in tracks if track.changes]
    refused = _unjoined(runs, versions, tracks)
    if not tracks:
        raise InputError(
            f"no two versions of {asked.framework} ran {workload} under one condition on one "
            f"machine: {'; '.join(refused) or f'there is {versions[0]} only'}"
        )
    about = METRICS[metric]
    tested, warnings = _with_family(tracks)
    return History(
        workload=workload,
        framework=asked.framework,
        metric=metric,
        label=about.label,
        unit=about.unit,
        better=about.better or "",
        tracks=tuple(_with_verdicts(track, asked.framework, metric) for track in tested),
        refused=tuple(refused),
        left_out=tuple(left_out),
        warnings=warnings,
    )


def _tables(studies: Iterable[tuple[Study, Sequence[Row]]]) -> tuple[list[Table], list[str]]:
    """Every study as a table, newest first, and the reasons for those that are none."""
    tables, left_out = [], []
    for study, rows in studies:
        try:
            tables.append(build(study, rows))
        except InputError as error:
            left_out.append(str(error))
    return sorted(tables, key=lambda t: t.trials()[0].start_seconds, reverse=True), left_out


def _runs(table: Table, framework: str) -> list[Run]:
    """The arms of one framework; of an arm and its second copy, the first."""
    found: dict[str, Run] = {}
    for arm in table.study.arms:
        run = Run(table, arm)
        if run.rows and run.condition.get("framework") == framework and run.machine:
            found.setdefault(repr(run.condition), run)
    return list(found.values())


def _check(asked: Asked, metric: str, workload: str, runs: Sequence[Run]) -> None:
    if runs and (metric not in METRICS or METRICS[metric].better is None):
        raise InputError(f"'{metric}' is no metric with a better direction; see tracking/names.py")
    machines = sorted({run.machine for run in runs})
    if asked.machine and asked.machine not in machines:
        raise InputError(
            f"no trial of {asked.framework} from the machine '{asked.machine}'; there are: "
            f"{', '.join(machines) or 'none'}"
        )
    versions = sorted({run.version for run in runs}, key=order)
    known = ", ".join(versions) or "none"
    for version in (asked.old, asked.new):
        if version and version not in versions:
            raise InputError(
                f"no study of {workload} with {asked.framework} {version}; there are: {known}"
            )
    if (asked.old is None) != (asked.new is None) or (asked.old and asked.old == asked.new):
        raise InputError("old and new: expected two versions or neither; name the other one")
    if len(versions) < 2:
        raise InputError(
            f"a change needs two versions of {asked.framework} that ran {workload}; there are: "
            f"{known}"
        )


def _by_condition(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs of one machine whose conditions differ in nothing but the version; newest first."""
    tracks: dict[str, list[Run]] = {}
    for run in runs:
        tracks.setdefault(repr((run.machine, sorted(run.fixed.items()))), []).append(run)
    return list(tracks.values())


def _track(runs: Sequence[Run], versions: Sequence[str], metric: str) -> Track:
    present = [version for version in versions if any(run.version == version for run in runs)]
    by_version = {v: [run for run in runs if run.version == v] for v in present}
    newest = runs[0]
    name = " ".join(word for word in newest.arm.split() if not word.startswith("version="))
    return Track(
        machine=newest.machine,
        name=name,
        condition=dict(newest.fixed),
        levels=tuple(_level(by_version[version], metric) for version in present),
        changes=tuple(
            _change(newest.machine, name, by_version[old], by_version[new], metric)
            for old, new in zip(present, present[1:], strict=False)
        ),
    )


def _level(runs: Sequence[Run], metric: str) -> Level:
    run = next((run for run in runs if run.complete), runs[0])
    values = run.values(metric)
    ordered = np.sort(np.asarray(values))
    low, high = interval(ordered, 0.5, 0.025) if values else (-np.inf, np.inf)
    bounded = bool(np.isfinite(low) and np.isfinite(high))
    return Level(
        version=run.version,
        study=run.table.study.name,
        start_seconds=run.start_seconds,
        values=tuple(values),
        median=float(np.median(ordered)) if values else float("nan"),
        low=float(low) if bounded else None,
        high=float(high) if bounded else None,
    )


def _change(
    machine: str, track: str, old: Sequence[Run], new: Sequence[Run], metric: str
) -> Change:
    """The best evidence for one step; chosen by design and age, never by its result."""
    late, early, measured = version_evidence.best(new, old, metric)
    names = tuple(dict.fromkeys((early.table.study.name, late.table.study.name)))
    return Change(machine, track, early.version, late.version, names, measured)


def _unjoined(runs: Sequence[Run], versions: Sequence[str], tracks: Sequence[Track]) -> list[str]:
    """A sentence for every step that a machine has in no condition, with the keys that differ."""
    refused = []
    for machine in sorted({run.machine for run in runs}):
        own = [run for run in runs if run.machine == machine]
        present = [version for version in versions if any(run.version == version for run in own)]
        joined = {(c.old, c.new) for t in tracks if t.machine == machine for c in t.changes}
        for old, new in zip(present, present[1:], strict=False):
            if (old, new) in joined:
                continue
            nearest = min(
                (
                    (differences({late.arm: early.fixed}, {late.arm: late.fixed}), early, late)
                    for early in own
                    for late in own
                    if (early.version, late.version) == (old, new)
                ),
                key=lambda found: len(found[0]),
            )
            found, early, late = nearest
            where = early.table.study.name, late.table.study.name
            refused.append(
                f"{machine}: {old} and {new} are not compared: {named(found, *where)}; repeat one "
                "of the studies under the other's condition"
            )
    return refused


def _with_family(tracks: Sequence[Track]) -> tuple[list[Track], tuple[Flag, ...]]:
    """Holm over every step that is tested, on all machines and conditions."""
    tested = [c for track in tracks for c in track.changes if c.measured.p is not None]
    if not tested:
        return list(tracks), ()
    family = holm([c.measured.p or 0.0 for c in tested], max(c.measured.n for c in tested))
    adjusted = dict(zip(map(id, tested), family.adjusted, strict=True))

    def with_p(c: Change) -> Change:
        return replace(c, p=adjusted[id(c)], family=len(tested)) if id(c) in adjusted else c

    return [
        replace(track, changes=tuple(map(with_p, track.changes))) for track in tracks
    ], family.warnings


def _with_verdicts(track: Track, framework: str, metric: str) -> Track:
    return replace(track, changes=tuple(_with_verdict(c, framework, metric) for c in track.changes))


def _with_verdict(c: Change, framework: str, metric: str) -> Change:
    """regression or improvement need p <= 0.05 and nothing that forbids it; same needs TOST."""
    about, m = METRICS[metric], c.measured
    if m.ratio is None:
        return replace(c, verdict=f"no verdict: {m.refused}")
    words = wording.number
    known = f"ratio {words(m.ratio.estimate)}"
    if m.ratio.low is not None and m.ratio.high is not None:
        known += f", 95 % interval {words(m.ratio.low)} to {words(m.ratio.high)}"
    blocking = [flag for flag in m.flags if flag.name in BLOCKING or flag.name in FORBIDDING]
    if m.refused or blocking or c.p is None:
        why = m.refused or "; ".join(dict.fromkeys(flag.name for flag in blocking)) or "no interval"
        return replace(c, verdict=f"no verdict ({why}): {about.label}, {known}")
    pair = f"{framework} {c.new}", f"{framework} {c.old}"
    basis = f"; {m.basis}"
    if c.p <= 0.05:
        better = (m.ratio.estimate < 1) == (about.better == "lower")
        outcome = "improvement" if better else "regression"
        small = f", by less than the margin of {wording.percent(m.margin)}" if m.same else ""
        verdict = (
            f"{outcome}: {pair[0]} {wording.verb(metric, better)} {pair[1]}: {about.label} "
            f"({about.better} is better), {known}{small}{basis}"
        )
    elif m.same:
        outcome = "same"
        verdict = (
            f"{pair[0]} and {pair[1]} are the same within the margin of "
            f"{wording.percent(m.margin)}: {about.label}, {known}{basis}"
        )
    else:
        outcome = "undecided"
        verdict = f"undecided: {about.label} of {pair[0]} over {pair[1]}, {known}{basis}"
    return replace(c, outcome=outcome, verdict=verdict)

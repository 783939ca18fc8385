"""Recordings of others through our statistics: what their numbers carry, and what they do not.

No verdict on frameworks comes out of it: files of single arms are NOT-INTERLEAVED and ONE-PROCESS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import stats

from analysis.flags import Flag
from analysis.published import warnings
from analysis.published.sources import Contrast, File, Source
from analysis.statistics import (
    Average,
    Equivalence,
    Ratio,
    autocorrelation,
    average_ratio,
    equivalence,
    holm,
    percentile_ratio,
    run_percentile,
    tail_ratio,
    unpaired_ratio,
)

BLOCKS = 10
"""Blocks of consecutive runs: long against the drift where there are many runs."""
FEWEST_A_BLOCK = 5
WARM = 1.5  # times the median: a first value beyond holds more than the work
TIMER = 0.01  # difference of the epochs' share of a run beyond which epochs are not comparable


@dataclass(frozen=True)
class Arm:
    """State of one recording; times in seconds.

    halves: geometric mean of the first half of the runs over that of the second. lag1, drift_p:
    autocorrelation and its permutation p. epoch_share: median of (sum of epochs / total), None for
    an inference file.
    """

    file: File
    median: float
    geometric_mean: float
    mean: float
    halves: float
    lag1: float
    drift_p: float
    epoch_share: float | None
    flags: tuple[Flag, ...]


@dataclass(frozen=True)
class BlockRatio:
    """Ratio of geometric means from blocks of consecutive runs, which drift spoils less.

    estimate, low, high, p: Welch's t on the blocks' mean logs. least, greatest: of the ratios of
    any block of the first arm to any block of the second.
    """

    estimate: float
    low: float
    high: float
    p: float
    blocks: int
    least: float
    greatest: float


@dataclass(frozen=True)
class Reading:
    """One contrast. Every result is None where the data do not carry it; `refused` says why there
    is no ratio at all. run_p90: of the epochs after the first, inside each run (Q5); tail: p90 over
    runs (Q5'); holm: the blocks' p adjusted in the declared family; sweep: (batch size, ratio)."""

    contrast: Contrast
    first: Arm
    second: Arm
    refused: str | None
    typical: Ratio | None = None
    average: Average | None = None
    tail: Ratio | None = None
    run_p90: Ratio | None = None
    blocks: BlockRatio | None = None
    same: Equivalence | None = None
    holm: float | None = None
    sweep: tuple[tuple[int, float], ...] = ()
    flags: tuple[Flag, ...] = ()


@dataclass(frozen=True)
class Reanalysis:
    """Everything about one source of recordings."""

    source: Source
    arms: tuple[Arm, ...]
    readings: tuple[Reading, ...]


def reanalyse(source: Source, rng: np.random.Generator) -> Reanalysis:
    """Every arm and every contrast of a source; `rng` draws the permutations of the drift test."""
    arms = {file.recording.file: _arm(file, rng) for file in source.files}
    readings = [
        _reading(contrast, arms[contrast.numerator], arms[contrast.denominator])
        for contrast in source.contrasts
    ]
    return Reanalysis(source, tuple(arms.values()), tuple(_adjusted(readings)))


def block_ratio(
    first: Sequence[float], second: Sequence[float], blocks: int = BLOCKS
) -> BlockRatio | None:
    """Ratio of geometric means from the blocks' mean logs (batch means), by Welch's t.

    None below FEWEST_A_BLOCK runs a block in either arm. Blocks short against the drift still
    understate the uncertainty.

    >>> r = block_ratio([1.0, 1.1] * 25, [2.0, 2.2] * 25)
    >>> round(r.estimate, 3), r.blocks
    (0.5, 10)
    """
    if min(len(first), len(second)) < blocks * FEWEST_A_BLOCK:
        return None
    a, b = (
        np.array([block.mean() for block in np.array_split(np.log(values), blocks)])
        for values in (first, second)
    )
    test = stats.ttest_ind(a, b, equal_var=False)
    limits = test.confidence_interval(0.95)
    every = np.exp(a[:, None] - b[None, :])
    return BlockRatio(
        estimate=float(np.exp(a.mean() - b.mean())),
        low=float(np.exp(limits.low)),
        high=float(np.exp(limits.high)),
        p=float(test.pvalue),
        blocks=blocks,
        least=float(every.min()),
        greatest=float(every.max()),
    )


def _arm(file: File, rng: np.random.Generator) -> Arm:
    recording = file.recording
    totals = np.asarray(recording.total_seconds)
    epochs = np.asarray(recording.epoch_seconds)
    share = float(np.median(epochs.sum(axis=1) / totals)) if recording.epochs else None
    logs = np.log(totals)
    half = len(logs) // 2
    ratio = float(np.exp(logs[:half].mean() - logs[half:].mean())) if half else 1.0
    found: list[Flag] = []
    name = f"{recording.arm} ({recording.work}, {recording.runs} runs)"
    lag1, p = 0.0, 1.0
    if not recording.sweep:
        drift = autocorrelation(totals, rng, name)
        lag1, p = drift.lag1, drift.p
        if drift.warnings:
            found.append(warnings.drift(name, lag1, p))
        if half:
            itself = unpaired_ratio(totals[:half], totals[half:])
            if itself.low is not None and itself.high is not None:
                found += [warnings.halves(name, ratio)] * (not itself.low <= 1 <= itself.high)
        found += _warm_up(name, totals, epochs)
    return Arm(
        file=file,
        median=float(np.median(totals)),
        geometric_mean=float(np.exp(logs.mean())),
        mean=float(totals.mean()),
        halves=ratio,
        lag1=lag1,
        drift_p=p,
        epoch_share=share,
        flags=tuple(found),
    )


def _warm_up(arm: str, totals: np.ndarray, epochs: np.ndarray) -> list[Flag]:
    """The first epoch of the process, or its first pass, against the median of all."""
    values, what = (epochs.ravel(), "epoch") if epochs.size else (totals, "pass")
    typical = float(np.median(values))
    if values[0] <= WARM * typical:
        return []
    return [warnings.warm_up(arm, float(values[0]), typical, what)]


def _reading(contrast: Contrast, first: Arm, second: Arm) -> Reading:
    a, b = first.file.recording, second.file.recording
    always = (warnings.SEPARATE, warnings.one_process(max(a.runs, b.runs)))
    states = (*first.flags, *second.flags)
    work = _work(first.file, second.file)
    if work is not None and work.name == "UNEQUAL-WORK":
        return Reading(contrast, first, second, work.sentence, flags=(work, *always, *states))
    unknown = (work,) if work is not None else ()
    if a.sweep or b.sweep:
        shared = [size for size in a.batch_sizes if size in b.batch_sizes]
        ratios = tuple(
            (size, _at(first, size) / _at(second, size)) for size in dict.fromkeys(shared)
        )
        refused = f"{warnings.SINGLE.sentence} The ratios are listed by batch size."
        flags = (*unknown, *always, warnings.SINGLE)
        return Reading(contrast, first, second, refused, sweep=ratios, flags=flags)
    typical = unpaired_ratio(a.total_seconds, b.total_seconds)
    own = tuple(flag for flag in typical.warnings if flag.name != "NOT-INTERLEAVED")
    timer = _timer(first, second)
    return Reading(
        contrast=contrast,
        first=first,
        second=second,
        refused=None,
        typical=typical,
        average=average_ratio(a.total_seconds, b.total_seconds, paired=False),
        tail=tail_ratio(a.total_seconds, b.total_seconds),
        run_p90=_run_p90(first, second) if timer is None else None,
        blocks=block_ratio(a.total_seconds, b.total_seconds),
        same=equivalence(a.total_seconds, b.total_seconds, paired=False),
        flags=(
            *unknown,
            *always,
            *states,
            *((timer,) if timer else ()),
            *own,
        ),
    )


def _work(first: File, second: File) -> Flag | None:
    """UNEQUAL-WORK, or NO-EVIDENCE where the work of a file is not known."""
    if first.items is None or second.items is None:
        return warnings.WORK_UNKNOWN
    if first.items == second.items and first.recording.epochs == second.recording.epochs:
        return None
    return warnings.unequal_work(first.work, second.work)


def _timer(first: Arm, second: Arm) -> Flag | None:
    if first.epoch_share is None or second.epoch_share is None:
        return None
    if abs(first.epoch_share - second.epoch_share) <= TIMER:
        return None
    return warnings.epoch_timer(first.epoch_share, second.epoch_share)


def _run_p90(first: Arm, second: Arm) -> Ratio | None:
    """Q5 on the epochs after the first of each run."""
    calls = min(first.file.recording.epochs, second.file.recording.epochs) - 1
    if calls < 1:
        return None
    a, b = (
        [run_percentile(epochs[1:], 90) for epochs in arm.file.recording.epoch_seconds]
        for arm in (first, second)
    )
    return percentile_ratio(a, b, calls=calls, percentile=90, paired=False)


def _at(arm: Arm, batch_size: int) -> float:
    recording = arm.file.recording
    return recording.total_seconds[recording.batch_sizes.index(batch_size)]


def _adjusted(readings: list[Reading]) -> list[Reading]:
    """Holm over the declared family, on the blocks' p; a row without one stays in it as 1."""
    family = [i for i, reading in enumerate(readings) if reading.contrast.family]
    if not family:
        return readings
    tests = [readings[i].blocks for i in family]
    adjusted = holm([1.0 if test is None else test.p for test in tests]).adjusted
    for i, test, p in zip(family, tests, adjusted, strict=True):
        if test is not None:
            readings[i] = replace(readings[i], holm=p)
    return readings


Shape = Literal["below", "above", "both sides"]


def supported(reading: Reading) -> tuple[Shape, float, float] | None:
    """What the blocks carry whatever the drift: on which side of 1 every ratio between blocks lies,
    with the least and the greatest. None without blocks."""
    if reading.blocks is None:
        return None
    least, greatest = reading.blocks.least, reading.blocks.greatest
    side: Shape = "below" if greatest < 1 else "above" if least > 1 else "both sides"
    return side, least, greatest

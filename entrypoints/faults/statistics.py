"""Class S: sound trials, counted, chosen or ordered as they must not be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from analysis.comparison import Around
from analysis.recorded import Samples
from entrypoints.faults.fault import Fault
from entrypoints.faults.recorded import Changed, again, arms_of, of_arm
from tracking import digest
from tracking.read import Row, Study

Beside = tuple[Study, list[Row], Around]
_STEP_SECONDS = 100.0


def _at(row: Row, start: float) -> Row:
    """The trial at another time, as it would have recorded it."""
    return again(row, {"started": f"{start:.3f}", "ended": f"{start + _STEP_SECONDS / 2:.3f}"})


def _one_process(study: Study, rows: Sequence[Row]) -> Changed:
    """The calls of one process, as so many runs."""
    first, _ = arms_of(study)
    process = of_arm(rows, first)[0].tags["process"]
    return study, [again(r, {"process": process}) if r.arm == first else r for r in rows]


def _one_after_the_other(study: Study, rows: Sequence[Row]) -> Changed:
    first, second = arms_of(study)
    start, found = rows[0].start_seconds, [r for r in rows if r.arm not in (first, second)]
    for i, row in enumerate([*of_arm(rows, first), *of_arm(rows, second)]):
        found.append(_at(row, start + i * _STEP_SECONDS))
    return study, found


def _never_drawn(study: Study, rows: Sequence[Row]) -> Changed:
    """The same arm first in every pair, and a design that says so."""
    arms, start = study.arms, rows[0].start_seconds
    found = []
    for row in rows:
        place = arms.index(row.arm)
        moved = _at(row, start + ((row.pair or 0) * len(arms) + place) * _STEP_SECONDS)
        found.append(again(moved, {"order": str(place)}))
    design = {**study.design, "order": [*arms] * study.pairs}
    found = [again(r, {"design_sha256": digest.of_design(design)}) for r in found]
    return replace(study, design=design), found


def _at_once(study: Study, rows: Sequence[Row]) -> Changed:
    first, second = arms_of(study)
    starts = {row.pair: row.start_seconds for row in of_arm(rows, second)}
    return study, [_at(r, starts[r.pair] + 1.0) if r.arm == first else r for r in rows]


def _slowest(study: Study, rows: Sequence[Row]) -> Row:
    return max(of_arm(rows, arms_of(study)[0]), key=lambda row: row.metrics[study.metric])


def _without_the_slow_one(study: Study, rows: Sequence[Row]) -> Changed:
    """The slowest run of an arm is deleted and run again."""
    gone = _slowest(study, rows)
    faster = _new(gone, 0.9, 10 * _STEP_SECONDS * len(rows))
    return study, [*(replace(r, deleted=True) if r is gone else r for r in rows), faster]


def _new(row: Row, factor: float, later: float) -> Row:
    """Another trial of the same slot, with other times."""
    metrics = {k: v * factor for k, v in row.metrics.items() if k.endswith("_seconds")}
    made = again(row, {digest.SAMPLES: row.run_id, "process": f"again {row.run_id}"}, metrics)
    return replace(_at(made, row.start_seconds + later), run_id=f"again-{row.run_id}")


def _killed_when_slow(study: Study, rows: Sequence[Row]) -> Changed:
    """Whoever takes too long is stopped and starts again, until it does not."""
    killed = [
        replace(_new(row, 1.0, -1.0), run_id=f"killed-{i}-{row.run_id}", status="KILLED")
        for row in of_arm(rows, arms_of(study)[0])
        for i in range(2)
    ]
    return study, [*killed, *rows]


def _looked_and_went_on(study: Study, rows: Sequence[Row]) -> Changed:
    return replace(study, pairs=study.pairs - 1), list(rows)


def _looked_and_stopped(study: Study, rows: Sequence[Row]) -> Changed:
    return study, [row for row in rows if row.pair != study.pairs - 1]


def _until_significant(study: Study, rows: Sequence[Row], samples: Samples) -> Beside:
    """Nine earlier studies said the opposite."""
    first, second = arms_of(study)
    others = []
    for number in range(9):
        found = []
        for row in of_arm(rows, first) + of_arm(rows, second):
            against = second if row.arm == first else first
            twin = next(r for r in rows if (r.arm, r.pair) == (against, row.pair))
            value = {study.metric: twin.metrics[study.metric] * (1 + 1e-6 * number)}
            other = replace(row, run_id=f"{number}-{row.run_id}", study=f"try-{number}", parent="")
            found.append(
                replace(
                    other,
                    metrics={**row.metrics, **value},
                    tags={"code_sha256": row.tags["code_sha256"]},
                )
            )
        others.append((replace(study, name=f"try-{number}", run_id=f"try-{number}"), found))
    return study, list(rows), Around(samples, others)


def _in_samples(
    change: Callable[[np.ndarray, int], tuple[np.ndarray, dict[str, float]]],
) -> Callable[[Study, Sequence[Row], Samples], Beside]:
    """Epoch times of one arm changed, and with them what its runs say: as they would say it."""

    def fault(study: Study, rows: Sequence[Row], samples: Samples) -> Beside:
        arm, found, kept = arms_of(study)[0], [], dict(samples)
        for row in rows:
            if row.arm != arm:
                found.append(row)
                continue
            series = dict(samples[row.run_id])
            items = int((row.receipt or {})["items"])
            series["epoch_seconds"], metrics = change(np.asarray(series["epoch_seconds"]), items)
            if study.metric in metrics:
                metrics.setdefault("train/items_per_second", items / metrics[study.metric])
            kept[row.run_id] = series
            found.append(again(row, {digest.SAMPLES: digest.of_samples(series)}, metrics))
        return study, found, Around(kept)

    return fault


def _cold(epochs: np.ndarray, items: int) -> tuple[np.ndarray, dict[str, float]]:
    # So much that a hiccup of the other arm, whose epochs take milliseconds here, does not hide it.
    changed = np.concatenate([[1000 * epochs.max()], epochs[1:]])
    return changed, {"train/total_seconds": float(changed.sum())}


def _without_slowest_epoch(epochs: np.ndarray, items: int) -> tuple[np.ndarray, dict[str, float]]:
    return epochs, {"train/total_seconds": float(epochs.sum() - epochs.max())}


def _mean_of_rates(epochs: np.ndarray, items: int) -> tuple[np.ndarray, dict[str, float]]:
    uneven = epochs.mean() * np.linspace(0.8, 1.2, len(epochs))
    total = float(uneven.sum())
    rate = float(np.mean(items / len(epochs) / uneven))
    return uneven, {"train/total_seconds": total, "train/items_per_second": rate}


FAULTS = (
    Fault(
        "one_process",
        "S",
        "the calls of one process counted as runs",
        ("ONE-PROCESS",),
        study=_one_process,
    ),
    Fault(
        "one_after_the_other",
        "S",
        "all runs of one arm, then all of the other",
        ("NOT-INTERLEAVED",),
        study=_one_after_the_other,
    ),
    Fault(
        "order_not_drawn",
        "S",
        "the same arm first in every pair",
        ("STRICT-ORDER", "OTHER-ORDER"),
        study=_never_drawn,
    ),
    Fault("at_once", "S", "both arms of a pair at the same time", ("OVERLAP",), study=_at_once),
    Fault(
        "dropped_slow_run",
        "S",
        "the slowest run deleted and run again",
        ("DROPPED",),
        study=_without_the_slow_one,
    ),
    Fault(
        "killed_when_slow",
        "S",
        "slow runs stopped and started again",
        ("SELECTED",),
        study=_killed_when_slow,
    ),
    Fault(
        "looked_and_went_on",
        "S",
        "more pairs than were planned",
        ("PEEKED",),
        study=_looked_and_went_on,
    ),
    Fault(
        "looked_and_stopped",
        "S",
        "fewer pairs than were planned",
        ("INCOMPLETE",),
        study=_looked_and_stopped,
    ),
    Fault(
        "until_significant",
        "S",
        "the same question asked in ten studies",
        ("REPEATED",),
        around=_until_significant,
    ),
    Fault(
        "cold_mean",
        "S",
        "a cold first epoch in the total of one arm",
        ("COLD-START",),
        around=_in_samples(_cold),
    ),
    Fault(
        "slowest_epoch_dropped",
        "S",
        "a total without its slowest epoch",
        ("ALTERED",),
        around=_in_samples(_without_slowest_epoch),
    ),
    Fault(
        "mean_of_rates",
        "S",
        "a mean of rates as throughput",
        ("ALTERED",),
        around=_in_samples(_mean_of_rates),
    ),
)

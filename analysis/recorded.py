"""Run-level numbers again from the samples that a trial kept: a mean in place of a median, a mean of
rates, a total without its slowest epoch or an edited number then shows. And what a cold start does to
a total."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import binomtest

from analysis import statistics
from analysis.flags import Flag
from tracking import digest

if TYPE_CHECKING:
    from tracking.read import Row

Series = Mapping[str, np.ndarray]
Samples = Mapping[str, Series]  # run id -> series -> values

_TOLERANCE = 1e-9  # a sum in another order
_QUANTILES = (
    ("train/step_seconds", "step_seconds", (50, 90)),
    ("inference/latency_seconds", "latency_seconds", (50, 90, 99)),
    ("inference/token_seconds", "token_seconds", (50, 90, 99)),
    ("stream/update_seconds", "update_seconds", (50, 90, 99)),
    ("switch/loop_seconds", "loop_seconds", (50, 90)),
)


def again(row: Row, series: Series) -> dict[str, float]:
    """metric -> its value by the samples, of those metrics that are nothing but samples and counts."""
    have = {name: np.asarray(values, float) for name, values in series.items() if len(values)}
    counts = {k: v for k, v in (row.receipt or {}).items() if isinstance(v, int | float)}
    found: dict[str, float] = {}
    for metric, name, percents in _QUANTILES:
        if name in have:
            values = np.quantile(have[name], [p / 100 for p in percents]).tolist()
            found |= {f"{metric}_p{p}": v for p, v in zip(percents, values, strict=True)}
    if "epoch_seconds" in have:
        total = float(have["epoch_seconds"].sum())
        found["train/total_seconds"] = total
        if counts.get("items"):
            found["train/items_per_second"] = counts["items"] / total
    if "epoch_loss" in have:
        found["train/loss"] = float(have["epoch_loss"][-1])
    if "inference_seconds" in have and counts.get("inference_items"):
        rate = counts["inference_items"] / float(np.median(have["inference_seconds"]))
        found["inference/items_per_second"] = rate
    if "begin_seconds" in have and "decode_seconds" in have:
        both = have["begin_seconds"].sum() + have["decode_seconds"].sum()
        found["inference/total_seconds"] = float(both)
    if "pass_seconds" in have:
        found["switch/total_seconds"] = float(np.median(have["pass_seconds"]))
    return found


def difference(row: Row, series: Series) -> str | None:
    """Where a trial's run and its samples say different things, in words; None where they agree."""
    recorded = row.tags.get(digest.SAMPLES)
    if recorded and digest.of_samples(series) != recorded:
        return "its samples are not those that were recorded"
    for metric, value in again(row, series).items():
        said = row.metrics.get(metric)
        if said is not None and np.isfinite(value) and abs(said - value) > _TOLERANCE * abs(value):
            return f"{metric} is {said:.8g}, its samples give {value:.8g}"
    return None


def differences(rows: Sequence[Row], samples: Samples) -> dict[str, str]:
    """run id -> what `difference` says, of the trials whose samples are at hand."""
    kept = [row for row in rows if row.run_id in samples]
    found = ((row.run_id, difference(row, samples[row.run_id])) for row in kept)
    return {run_id: said for run_id, said in found if said}


# Of a total that is a sum over a trial's samples: the series that it sums.
_SUMMED = {
    "train/total_seconds": ("epoch_seconds",),
    "inference/total_seconds": ("begin_seconds", "decode_seconds"),
    "stream/total_seconds": ("update_seconds",),
}
_LEAST = 2  # samples, of which the first is not like the others


def cold_start(
    metric: str, pairs: Sequence[tuple[int, Row, Row]], samples: Samples, margin: float
) -> tuple[Flag, ...]:
    """COLD-START: the first sample takes far longer than the others, in one arm more than in the other,
    in most pairs, so that it moves the ratio of totals by over half the margin. COLD-RATIO: without it the difference
    is not shown, or is the other way round."""
    if metric not in _SUMMED:
        return ()
    totals: list[list[float]] = [[], []]
    warm: list[list[float]] = [[], []]  # totals whose first sample is like the others
    factors: list[list[float]] = [[], []]
    for _, first, second in pairs:
        for side, row in enumerate((first, second)):
            parts = _parts(metric, samples.get(row.run_id, {}))
            if len(parts) < _LEAST or not (parts > 0).all():
                return ()
            rest = float(np.median(parts[1:]))
            totals[side].append(float(parts.sum()))
            warm[side].append(float(parts.sum() - max(0.0, parts[0] - rest)))
            factors[side].append(float(parts[0] / rest))
    excess = [np.log(np.array(totals[side]) / np.array(warm[side])) for side in (0, 1)]
    moved = excess[0] - excess[1]
    # In so many pairs the same way, that chance seldom does it: a busy moment is no cold start.
    same_way = max(int((moved > 0).sum()), int((moved < 0).sum()))
    by_chance = binomtest(same_way, len(moved)).pvalue > 0.05
    if by_chance or abs(float(np.median(moved))) <= np.log1p(margin) / 2:
        return ()
    cold = int(np.median(excess[1]) > np.median(excess[0]))
    arm, factor = (pairs[0][1], pairs[0][2])[cold].arm, float(np.median(factors[cold]))
    whole = statistics.paired_ratio(totals[0], totals[1])
    without = statistics.paired_ratio(warm[0], warm[1])
    found = [
        Flag(
            "COLD-START",
            f"The first of {arm}'s samples takes {factor:.3g} times as long as its others; the ratio is "
            f"{whole.estimate:.3f} with it and {without.estimate:.3f} without.",
            "Warm both arms up alike, or compare the medians of steps or calls.",
        )
    ]
    lost = without.p is None or without.p > 0.05 or (without.estimate < 1) != (whole.estimate < 1)
    if whole.p is not None and whole.p <= 0.05 and lost:
        found.append(
            Flag(
                "COLD-RATIO",
                f"Without the first sample of each trial there is no such difference: {arm} started "
                "cold.",
                "Warm both arms up alike.",
            )
        )
    return tuple(found)


def _parts(metric: str, series: Series) -> np.ndarray:
    """The samples that add up to a total, item by item; none where a series is missing."""
    parts = [np.asarray(series.get(name, ()), float) for name in _SUMMED[metric]]
    if len({len(part) for part in parts}) != 1:
        return np.zeros(0)
    return np.asarray(sum(parts[1:], parts[0]))

"""What the samples of a study's trials show, arm by arm: the curves that a report draws."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from analysis import throughput
from analysis.findings import Curves, Distribution, Learning, Middle, Rates, Spans

if TYPE_CHECKING:
    from analysis.table import Table
    from tracking.read import Row

Series = Mapping[str, np.ndarray]
Samples = Mapping[str, Series]  # run id -> series -> values
ByPair = Sequence[tuple[int, np.ndarray]]
Arms = Mapping[str, "Sequence[tuple[Row, Series]]"]

SPANS = {
    "epoch": ("epoch_seconds",),
    "generation": ("begin_seconds", "decode_seconds"),
    "pass": ("pass_seconds",),
}
"""What is timed as a whole -> the series whose sum it is."""
CALLS = ("latency_seconds", "token_seconds", "update_seconds", "loop_seconds")
QUALITY = {"eval/accuracy": ("epoch_quality", "epoch_accuracy")}  # the second: of older trials
SHARES = tuple(float(share) for share in np.linspace(0, 1, 101))


def trace(table: Table, samples: Samples) -> Curves:
    """Of the trials whose samples are at hand; empty without any."""
    arms = {
        arm: [(r, samples[r.run_id]) for _, r in sorted(by_pair.items()) if r.run_id in samples]
        for arm, by_pair in table.arms.items()
    }
    return Curves(
        spans={
            kind: tuple(_spans(arm, values) for arm, values in kept.items())
            for kind, names in SPANS.items()
            if (kept := _kept(arms, names))
        },
        latencies={
            name: tuple(_distribution(arm, values) for arm, values in kept.items())
            for name in CALLS
            if (kept := _kept(arms, (name,)))
        },
        learning=tuple(
            filter(None, (_learning(arm, kept, table.study.quality) for arm, kept in arms.items()))
        ),
        batches=tuple(filter(None, (_rates(arm, kept) for arm, kept in arms.items()))),
    )


def middle(values: Iterable[float] | np.ndarray) -> Middle:
    """Median, least and greatest of some values, of which there is at least one.

    >>> middle([3.0, 1.0, 8.0])
    Middle(n=3, median=3.0, low=1.0, high=8.0)
    """
    found = np.asarray(list(values), float)
    return Middle(len(found), float(np.median(found)), float(found.min()), float(found.max()))


def _kept(arms: Arms, names: Sequence[str]) -> dict[str, ByPair]:
    """arm -> the sum of some series of each trial that kept them; arms without any are left out."""
    found: dict[str, ByPair] = {}
    for arm, kept in arms.items():
        values = [(row.pair or 0, _summed(series, names)) for row, series in kept]
        if whole := [(pair, one) for pair, one in values if len(one)]:
            found[arm] = whole
    return found


def _summed(series: Series, names: Sequence[str]) -> np.ndarray:
    """The sum of some series item by item; empty where one is missing or of another length."""
    parts = [np.asarray(series.get(name, ()), float) for name in names]
    if len({len(part) for part in parts}) != 1:
        return np.zeros(0)
    return np.sum(parts, axis=0)


def _spans(arm: str, values: ByPair) -> Spans:
    trials = tuple((pair, tuple(one.tolist())) for pair, one in values)
    return Spans(arm, trials, middle(np.concatenate([one for _, one in values])))


def _distribution(arm: str, values: ByPair) -> Distribution:
    """Quantiles of each trial first: a trial is what repeats, not a call."""
    quantiles = np.array([np.quantile(one, SHARES) for _, one in values])
    return Distribution(
        arm=arm,
        trials=len(values),
        calls=sum(len(one) for _, one in values),
        shares=SHARES,
        seconds=tuple(np.median(quantiles, axis=0).tolist()),
        low=tuple(quantiles.min(axis=0).tolist()),
        high=tuple(quantiles.max(axis=0).tolist()),
    )


def _learning(arm: str, kept: Sequence[tuple[Row, Series]], quality: str) -> Learning | None:
    """An epoch whose quality is no number in any trial is left out."""
    by_epoch: dict[int, list[tuple[float, float]]] = {}
    for _, series in kept:
        known = QUALITY.get(quality, ("epoch_quality",))
        name = next((name for name in known if len(series.get(name, ()))), "")
        seconds = np.cumsum(np.asarray(series.get("epoch_seconds", ()), float))
        for epoch, point in enumerate(zip(seconds, series.get(name, ()), strict=False), 1):
            if np.isfinite(point).all():
                by_epoch.setdefault(epoch, []).append(point)
    if not by_epoch:
        return None
    epochs = sorted(by_epoch)
    return Learning(
        arm=arm,
        epochs=tuple(epochs),
        seconds=tuple(middle(s for s, _ in by_epoch[epoch]) for epoch in epochs),
        quality=tuple(middle(q for _, q in by_epoch[epoch]) for epoch in epochs),
    )


def _rates(arm: str, kept: Sequence[tuple[Row, Series]]) -> Rates | None:
    by_size: dict[int, list[float]] = {}
    for _, series in kept:
        for size, rate in throughput.of_samples(series).items():
            by_size.setdefault(size, []).append(rate)
    if not by_size:
        return None
    sizes = sorted(by_size)
    return Rates(
        arm=arm,
        sizes=tuple(sizes),
        rates=tuple(middle(by_size[size]) for size in sizes),
        trials=tuple(tuple(by_size[size]) for size in sizes),
    )

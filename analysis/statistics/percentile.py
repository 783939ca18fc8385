"""Percentiles: of the calls inside a run, and of the runs of an arm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from analysis import flags
from analysis.statistics.ratio import Ratio, paired_ratio


def run_percentile(latencies: Sequence[float] | np.ndarray, percentile: int = 90) -> float:
    """One run's percentile, linear between order statistics; never pool calls of two runs.

    >>> run_percentile(range(1, 102))
    91.0
    """
    return float(np.quantile(np.asarray(latencies, dtype=np.float64), percentile / 100))


def percentile_ratio(
    first: Sequence[float] | np.ndarray,
    second: Sequence[float] | np.ndarray,
    calls: int,
    percentile: int = 90,
    confidence: float = 0.95,
) -> Ratio:
    """Q5: paired ratio of per-run latency percentiles, for example p90.

    first, second: each run's own percentile (`run_percentile`), in pairs; calls: the fewest timed
    calls of any run. Pooling the calls of several runs gives 43 to 73 % false positives. Flag
    FEW-LATENCIES unless ten calls lie beyond the percentile (100 calls for p90, 1000 for p99).

    >>> r = percentile_ratio([1.0] * 6, [1.1, 1.2, 1.1, 1.2, 1.1, 1.2], calls=50)
    >>> [flag.name for flag in r.warnings]
    ['FEW-LATENCIES', 'RARE']
    """
    ratio = paired_ratio(first, second, confidence)
    wanted = max(100, round(10 / (1 - percentile / 100)))
    if calls >= wanted:
        return ratio
    flag = flags.few_latencies(calls, wanted, percentile)
    return replace(ratio, warnings=(flag, *ratio.warnings))

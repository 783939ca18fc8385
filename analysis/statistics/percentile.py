"""Percentiles: of the calls inside a run, and of the runs of an arm."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from analysis import flags
from analysis.statistics.checks import Values, arms, positive, quantile, tail
from analysis.statistics.orderstat import runs_needed
from analysis.statistics.ratio import Ratio, paired_ratio, quantile_ratio, unpaired_ratio
from measurement.errors import InputError


def run_percentile(latencies: Values, percentile: float = 90) -> float:
    """One run's percentile, linear between order statistics; never pool calls of two runs.

    latencies: of one run after warm-up, any unit, which is the result's unit too. InputError: no
    latency, one that is no positive finite number, percentile outside 1...100.

    >>> run_percentile(range(1, 102))
    91.0
    """
    values = positive(latencies, "latencies")
    if not len(values):
        raise InputError("latencies: got none; expected the timed calls of one run")
    return float(np.quantile(values, quantile(percentile)))


def percentile_ratio(
    first: Values,
    second: Values,
    calls: int,
    percentile: float = 90,
    confidence: float = 0.95,
    paired: bool = True,
) -> Ratio:
    """Q5: ratio of per-run latency percentiles, for example p90.

    first, second: each run's own percentile (`run_percentile`); calls: the fewest timed calls of
    any run. The ratio is `paired_ratio`, or `unpaired_ratio` with paired=False; it raises as they
    do. Pooling the calls of several runs gives 43 to 73 % false positives. Flag FEW-LATENCIES
    unless ten calls lie beyond the percentile (100 calls for p90, 1000 for p99).

    >>> r = percentile_ratio([1.0] * 6, [1.1, 1.2, 1.1, 1.2, 1.1, 1.2], calls=50)
    >>> [flag.name for flag in r.warnings]
    ['FEW-LATENCIES', 'RARE']
    """
    share = quantile(percentile)
    ratio = (paired_ratio if paired else unpaired_ratio)(first, second, confidence)
    wanted = max(100, round(10 / min(share, 1 - share)))
    if calls >= wanted:
        return ratio
    flag = flags.few_latencies(calls, wanted, percentile)
    return replace(ratio, warnings=(flag, *ratio.warnings))


def tail_ratio(
    first: Values, second: Values, percentile: float = 90, confidence: float = 0.95
) -> Ratio:
    """Q5': ratio of a percentile over runs, such as the p90 of the training time.

    Formula: interpolated order-statistic interval of each arm's quantile on the log scale, joined
    by MOVER. At 95 % the p90 needs 36 runs an arm (0.9^35 > 0.025: the upper limit is infinite);
    below, interval and p are refused (flag P90-FEW). Coverage 95.0 to 97.8 % from there on; a
    bootstrap's is 71 to 97 %. Pairing is not used; flagged NOT-INTERLEAVED only by `unpaired_ratio`.
    Values: positive, any unit. InputError: as `unpaired_ratio`, percentile outside 1...100.

    >>> slow = [1.0 + i / 100 for i in range(36)]
    >>> r = tail_ratio(slow, slow)
    >>> f"{r.estimate:.2f} [{r.low:.3f}, {r.high:.3f}]", tail_ratio(slow[1:], slow).low is None
    ('1.00 [0.964, 1.037]', True)
    """
    q = quantile(percentile)
    a, b = (np.log(arm) for arm in arms(first, second))
    n, needed = min(len(a), len(b)), runs_needed(q, tail(confidence))
    refusal = flags.tail_few(n, needed, percentile) if n < needed else None
    ratio = quantile_ratio(a, b, q, confidence, refusal)
    other = ("NOT-INTERLEAVED", "SPLIT")  # of how the runs were made, and of typical runs
    return replace(ratio, warnings=tuple(f for f in ratio.warnings if f.name not in other))

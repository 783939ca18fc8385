"""Ratios of two arms with intervals whose error rates are known.

Numbers in, a frozen result out; every result carries its warnings. One number per run and metric:
the unit of replication is the process. All work is done on logarithms, so that A/B and B/A agree.
Values are positive and in any unit, the same for both arms; ratios have none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite

import numpy as np

from analysis import flags
from analysis.flags import MINIMUM_PAIRS, Flag
from analysis.statistics.checks import Values, arms, pairs, tail
from analysis.statistics.limits import UNKNOWN, Limits, mover, of_quantile, p_by_inversion
from analysis.statistics.orderstat import runs_needed


@dataclass(frozen=True)
class Ratio:
    """How many times the first arm's value is the second's.

    estimate, low, high: the ratio and its interval at `confidence`; low, high and p are None when
    refused. p: two-sided, from the same interval. n: pairs, or the runs of the smaller arm.
    wins: pairs in which the first value is smaller (None if unpaired); ties: pairs without a
    difference. geometric_mean: ratio of geometric means, the average run's view. limits: of the
    log ratio at any error, for functions that combine ratios.
    """

    estimate: float
    low: float | None
    high: float | None
    p: float | None
    n: int
    wins: int | None
    ties: int | None
    geometric_mean: float
    confidence: float
    warnings: tuple[Flag, ...]
    limits: Limits = field(default=UNKNOWN, repr=False, compare=False)


def paired_ratio(first: Values, second: Values, confidence: float = 0.95) -> Ratio:
    """Q1, Q2: how much larger is a typical run of `first` than its partner in `second`?

    Formula: exp of the median of d_i = log(first_i / second_i); the interval is that of
    interpolated order statistics (Hettmansperger & Sheather 1986, Nyblom 1992); p is the smallest
    alpha whose interval excludes 1, so that the two never disagree; the least possible p is
    2**(1 - n). Coverage 94.3 to 95.2 % for 6 or more pairs in random order, drift included.
    Under 6 pairs interval and p are refused (flag FEW), as they are where `confidence` asks for
    more. Values: positive, any unit. InputError: no pairs, unequal arms, a value that is no
    positive finite number, confidence outside (0, 1).

    >>> r = paired_ratio([8.0, 8.2, 8.1, 8.4, 8.0, 8.3], [10.0, 10.1, 10.0, 10.2, 10.1, 10.0])
    >>> f"{r.estimate:.3f} [{r.low:.3f}, {r.high:.3f}] p {r.p:.5f}, {r.wins} of {r.n}"
    '0.811 [0.795, 0.828] p 0.03125, 6 of 6'
    """
    a, b = pairs(first, second)
    ratios = np.log(a) - np.log(b)
    median, limits = of_quantile(ratios, 0.5)
    return summarise(
        estimate=median,
        limits=limits,
        mean=float(ratios.mean()),
        n=len(ratios),
        confidence=confidence,
        refusal=few(len(ratios), confidence, "pairs"),
        wins=int(np.count_nonzero(a < b)),
        ties=int(np.count_nonzero(a == b)),
    )


def unpaired_ratio(first: Values, second: Values, confidence: float = 0.95) -> Ratio:
    """Q1': ratio of medians of runs that were not paired (other people's data).

    Formula: an interpolated order-statistic interval of each arm's median on the log scale, joined
    by MOVER (square-and-add; Zou & Donner 2008). Under 6 runs an arm interval and p are refused.
    Always flagged NOT-INTERLEAVED: if all of one arm ran first, drift alone gives 20 to 100 %
    false positives. Values: positive, any unit. InputError: an empty arm, a value that is no
    positive finite number, confidence outside (0, 1).

    >>> r = unpaired_ratio([8.0, 8.2, 8.1, 8.4, 8.0, 8.3], [10.0, 10.1, 10.0, 10.2, 10.1, 10.0])
    >>> f"{r.estimate:.3f} [{r.low:.3f}, {r.high:.3f}]", r.warnings[0].name
    ('0.811 [0.794, 0.833]', 'NOT-INTERLEAVED')
    """
    a, b = (np.log(arm) for arm in arms(first, second))
    n = min(len(a), len(b))
    return quantile_ratio(a, b, 0.5, confidence, few(n, confidence, "runs"))


def quantile_ratio(
    log_first: np.ndarray,
    log_second: np.ndarray,
    q: float,
    confidence: float,
    refusal: Flag | None,
) -> Ratio:
    """Ratio of the `q` quantiles of two unpaired arms, given as logarithms.

    >>> logs = np.log([1.0, 1.1, 1.2, 1.3, 1.4, 1.5])
    >>> r = quantile_ratio(logs, logs, 0.5, 0.95, refusal=None)
    >>> r.estimate, round(r.low * r.high, 9)
    (1.0, 1.0)
    """
    estimate, limits = mover([of_quantile(log_first, q), of_quantile(log_second, q)], [1, -1])
    return summarise(
        estimate=estimate,
        limits=limits,
        mean=float(log_first.mean() - log_second.mean()),
        n=min(len(log_first), len(log_second)),
        confidence=confidence,
        refusal=refusal,
        warnings=(flags.not_interleaved(),),
    )


def few(n: int, confidence: float, what: str) -> Flag | None:
    """FEW where `n` pairs or runs give no interval of a median at this confidence, else None.

    >>> few(6, 0.95, "pairs") is None, few(6, 0.99, "pairs").remedy
    (True, 'Run at least 8 pairs; 20 to 30 are advised.')
    """
    needed = max(MINIMUM_PAIRS, runs_needed(0.5, tail(confidence)))
    return flags.few(n, what, needed, confidence) if n < needed else None


def summarise(
    estimate: float,
    limits: Limits,
    mean: float,
    n: int,
    confidence: float,
    refusal: Flag | None,
    wins: int | None = None,
    ties: int | None = None,
    warnings: tuple[Flag, ...] = (),
) -> Ratio:
    """A Ratio from numbers on the log scale; `refusal` leaves out interval and p, saying why.

    >>> summarise(0.0, UNKNOWN, 0.0, 1, 0.95, refusal=flags.few(1)).low is None
    True
    """
    geometric_mean = float(np.exp(mean))
    low = high = p = None
    lower, upper = limits.at(tail(confidence))
    if refusal is not None:
        warnings = (*warnings, refusal)
    else:
        low, high, p = float(np.exp(lower)), float(np.exp(upper)), p_by_inversion(limits)
        if not lower <= mean <= upper:
            warnings = (*warnings, flags.split(geometric_mean))
    return Ratio(
        estimate=float(np.exp(estimate)),
        low=low,
        high=high,
        p=p,
        n=n,
        wins=wins,
        ties=ties,
        geometric_mean=geometric_mean,
        confidence=confidence,
        warnings=(*warnings, flags.rare(n, rare_share(n))),
        limits=limits,
    )


def rare_share(n: int) -> float:
    """RARE: a behaviour with up to this share of runs stays unseen in n runs with p >= 0.05.

    Formula: 1 - 0.05**(1/n).

    >>> [round(100 * rare_share(n)) for n in (3, 5, 6, 10, 20)]
    [63, 45, 39, 26, 14]
    """
    return float(1 - 0.05 ** (1 / n))


def finite(lower: float, upper: float) -> tuple[float | None, float | None]:
    """Limits on the log scale as ratios, (None, None) unless both exist.

    >>> finite(0.0, float("inf"))
    (None, None)
    """
    if not (isfinite(lower) and isfinite(upper)):
        return None, None
    return float(np.exp(lower)), float(np.exp(upper))

"""Q9: an interval that stays valid however often it is looked at."""

from __future__ import annotations

from bisect import bisect_right
from functools import lru_cache, partial
from math import inf

import numpy as np
from scipy.special import betaln

from analysis import flags
from analysis.statistics.checks import Values, pairs, tail
from analysis.statistics.limits import Limits
from analysis.statistics.ratio import Ratio, summarise


@lru_cache(maxsize=1024)
def rejections(n: int) -> tuple[float, ...]:
    """The smallest alpha at which a median with k of n values up to it is out, for k = 0...n//2.

    Formula: 1 / (2^n B(1 + k, 1 + n - k)): one over the likelihood ratio of a mixture, uniform
    over all shares, against a fair coin (Ville 1939; Howard & Ramdas 2022, Bernoulli 28).

    >>> [round(alpha, 4) for alpha in rejections(8)]
    [0.0352, 0.2813, 0.9844, 1.9688, 2.4609]
    """
    k = np.arange(n // 2 + 1)
    return tuple(float(x) for x in np.exp(-n * np.log(2) - betaln(1 + k, 1 + n - k)))


def anytime_ratio(first: Values, second: Values, confidence: float = 0.95) -> Ratio:
    """Q9: `paired_ratio` for who looks after every pair and stops when the result is clear.

    Formula: with d_i = log(first_i / second_i), a candidate median stays in while
    2^n B(1+k, 1+n-k) < 1/alpha, k = values up to it; the interval is x_(r)...x_(n+1-r), r = the
    smallest k that stays. p is the smallest alpha whose interval excludes 1, so p <= alpha exactly
    where it does, at whatever pair one stops. By Ville's inequality the chance that 1 is *ever*
    wrongly excluded is at most alpha, drift included, if the order in a pair is drawn; as an
    interval of another ratio it assumes one that does not drift. The price is width. At 95 % the
    first finite interval comes with 8 pairs; below, flag FEW. Values and InputError as
    `paired_ratio`.

    >>> r = anytime_ratio([0.8, 0.81, 0.79, 0.8, 0.82, 0.8, 0.78, 0.8], [1.0] * 8)
    >>> f"{r.low:.2f} {r.high:.2f} {r.p:.4f}", [flag.name for flag in r.warnings]
    ('0.78 0.82 0.0352', ['ANYTIME', 'RARE'])
    """
    a, b = pairs(first, second)
    ratios = np.sort(np.log(a) - np.log(b))
    n, alpha = len(ratios), 2 * tail(confidence)
    out = tuple(level / 2 for level in rejections(n) if level < 1)
    needed = pairs_needed(alpha)
    return summarise(
        estimate=float(np.median(ratios)),
        limits=Limits(partial(_limits, ratios.tolist(), out), (*out, 0.5)),
        mean=float(ratios.mean()),
        n=n,
        confidence=confidence,
        refusal=flags.anytime_few(n, needed) if n < needed else None,
        wins=int(np.count_nonzero(a < b)),
        ties=int(np.count_nonzero(a == b)),
        warnings=(flags.ANYTIME,),
    )


def _limits(ordered: list[float], out: tuple[float, ...], tail: float) -> tuple[float, float]:
    rank = bisect_right(out, tail)
    return (ordered[rank - 1], ordered[-rank]) if rank else (-inf, inf)


def pairs_needed(alpha: float) -> int:
    """Pairs before the first finite anytime interval: the smallest n with 2^n / (n+1) >= 1/alpha.

    >>> pairs_needed(0.05), pairs_needed(0.01)
    (8, 11)
    """
    n = 1
    while 2.0**n / (n + 1) < 1 / alpha:
        n += 1
    return n

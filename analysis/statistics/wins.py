"""In what share of the pairs is the first arm the smaller one?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import betaincinv

from analysis import flags
from analysis.flags import Flag
from analysis.statistics.checks import Values, pairs, tail
from analysis.statistics.ratio import rare_share


@dataclass(frozen=True)
class Share:
    """A share with its interval at `confidence`: wins of n pairs; ties are wins of neither arm."""

    estimate: float
    low: float
    high: float
    n: int
    wins: int
    ties: int
    confidence: float
    warnings: tuple[Flag, ...]


def wins_share(first: Values, second: Values, confidence: float = 0.95) -> Share:
    """How probable is it that the first arm's value is the smaller one of a pair?

    Formula: wins / n with the exact interval of Clopper & Pearson 1934 (quantiles of the beta distribution). A tie is no win, of either
    arm, so that share(A, B) + share(B, A) = 1 - ties / n. Valid for any number of pairs. Values:
    positive, any unit. InputError: as `paired_ratio`.

    >>> s = wins_share([1.0, 1.0, 1.0, 1.0, 3.0, 2.0], [2.0] * 6)
    >>> s.wins, s.ties, f"{s.estimate:.2f} [{s.low:.2f}, {s.high:.2f}]"
    (4, 1, '0.67 [0.22, 0.96]')
    """
    side = tail(confidence)
    a, b = pairs(first, second)
    n, wins = len(a), int(np.count_nonzero(a < b))
    return Share(
        estimate=wins / n,
        low=float(betaincinv(wins, n - wins + 1, side)) if wins else 0.0,
        high=float(betaincinv(wins + 1, n - wins, 1 - side)) if wins < n else 1.0,
        n=n,
        wins=wins,
        ties=int(np.count_nonzero(a == b)),
        confidence=confidence,
        warnings=(flags.rare(n, rare_share(n)),),
    )

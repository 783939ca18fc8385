"""Q3: are two arms the same within a margin that was fixed before the first run?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis import flags
from analysis.flags import Flag
from analysis.statistics.checks import Values
from analysis.statistics.limits import smallest_tail
from analysis.statistics.orderstat import runs_needed
from analysis.statistics.ratio import Ratio, finite, paired_ratio, unpaired_ratio
from measurement.errors import InputError


@dataclass(frozen=True)
class Equivalence:
    """Are two arms the same within a margin?

    same: low...high, the 1 - 2 alpha interval, lies inside 1/(1+margin)...1+margin. p: of the two
    one-sided tests, the smallest alpha at which it does (None when refused, 1 when the estimate
    itself lies outside). n: pairs, or the runs of the smaller arm. estimate: the ratio.
    """

    same: bool
    margin: float
    low: float | None
    high: float | None
    n: int
    estimate: float
    p: float | None
    confidence: float
    warnings: tuple[Flag, ...]


def equivalence(
    first: Values,
    second: Values,
    margin: float = 0.05,
    alpha: float = 0.05,
    paired: bool = True,
) -> Equivalence:
    """Q3: two one-sided tests (TOST; Schuirmann 1987): the same within a margin fixed beforehand?

    True when the 1 - 2 alpha interval of `paired_ratio` (of `unpaired_ratio` with paired=False)
    lies inside 1/(1+margin)...1+margin. "p >= 0.05" is no such evidence: it calls a 5 % slower
    arm the same in 47 to 89 % of studies of up to 10 pairs. Possible from 5 pairs (flag FEW below);
    82 % power needs 30 pairs at 5 % spread. InputError: margin not above 0, alpha outside (0, 0.5),
    and as the ratio raises.

    >>> same = equivalence([1.00, 1.01, 0.99, 1.01, 1.00, 1.00], [1.0] * 6)
    >>> same.same, same.p
    (True, 0.015625)
    """
    return equivalence_of(
        (paired_ratio if paired else unpaired_ratio)(first, second), margin, alpha
    )


def equivalence_of(ratio: Ratio, margin: float = 0.05, alpha: float = 0.05) -> Equivalence:
    """Q3 of a ratio that is already known; it raises InputError as `equivalence` does.

    >>> known = paired_ratio([1.00, 1.01, 0.99, 1.01, 1.00, 1.00], [1.0] * 6)
    >>> equivalence_of(known).same, equivalence_of(known, margin=0.005).same
    (True, False)
    """
    if not 0 < margin < np.inf:
        raise InputError(f"margin {margin}: expected a number above 0, such as 0.05")
    if not 0 < alpha < 0.5:
        raise InputError(f"alpha {alpha}: expected a number between 0 and 0.5, such as 0.05")
    edge = float(np.log1p(margin))

    def inside(tail: float) -> float:
        low, high = ratio.limits.at(tail)
        return min(low + edge, edge - high)

    low, high = finite(*ratio.limits.at(alpha))
    warnings = tuple(flag for flag in ratio.warnings if flag.name not in ("FEW", "SPLIT"))
    p = None
    if low is None:
        what, needed = "runs" if ratio.wins is None else "pairs", runs_needed(0.5, alpha)
        warnings = (flags.few(ratio.n, what, needed, 1 - alpha), *warnings)
    else:
        p = smallest_tail(inside, ratio.limits.kinks) or 1.0
    return Equivalence(
        same=low is not None and inside(alpha) > 0,
        margin=margin,
        low=low,
        high=high,
        n=ratio.n,
        estimate=ratio.estimate,
        p=p,
        confidence=1 - 2 * alpha,
        warnings=warnings,
    )

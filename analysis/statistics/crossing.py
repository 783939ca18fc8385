"""Where along a parameter does the ratio of two arms pass 1, and how well is that place known?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, log

import numpy as np

from analysis import flags
from analysis.flags import Flag
from analysis.statistics.checks import Values, positive
from analysis.statistics.family import holm
from analysis.statistics.ratio import Ratio, paired_ratio
from measurement.errors import InputError


@dataclass(frozen=True)
class Crossing:
    """One place where the ratio passes 1, in the parameter's unit.

    value: where the medians, joined by straight lines over log2 of the parameter, pass 1; None =
    not located, they do so more than once. low, high: the interval of the place. between: the two
    measured values that take opposite sides of 1. rising: the ratio is
    below 1 on the left and above 1 on the right.
    """

    value: float | None
    low: float
    high: float
    between: tuple[float, float]
    rising: bool
    warnings: tuple[Flag, ...]


@dataclass(frozen=True)
class Crossings:
    """The curve of a ratio over a parameter.

    ratios: Q1 at every value; adjusted: its p after Holm over the values. signs: the side of 1 that
    a crossing may rest on (-1 below, 1 above, 0 open); found: the crossings that are shown, left to
    right.
    """

    values: tuple[float, ...]
    ratios: tuple[Ratio, ...]
    adjusted: tuple[float, ...]
    signs: tuple[int, ...]
    found: tuple[Crossing, ...]
    confidence: float
    warnings: tuple[Flag, ...]


def crossings(
    values: Values, first: Sequence[Values], second: Sequence[Values], confidence: float = 0.95
) -> Crossings:
    """At which values of a parameter does the ratio first / second pass 1?

    values: of the parameter, positive and ascending. first[k], second[k]: the pairs at values[k],
    positive, in any unit; the numbers of pairs may differ.

    A value takes a side where its Q1 interval excludes 1 and it either belongs to an unbroken run of
    that side that starts at an end of the range, or survives Holm over all values. The runs are
    read in an order fixed beforehand, from the end inwards, and stop at the first value that does
    not agree (fixed-sequence testing; Maurer, Hothorn & Lehmacher 1995). A crossing is shown
    between two neighbouring values that take opposite sides: wrong only if one of them is, which
    is why the runs need no adjustment. A statement on one value does: `adjusted`. The interval of
    the place is the test inverted (as Fieller 1954 did for a ratio): every place at which the Q1
    limits, joined by straight lines over log2 of the parameter, hold 1. Only the test at the true
    place must be right for that, so no adjustment for the number of values is due.

    In simulations (values on octaves; lognormal, throttled and outlying noise, arms alike and not,
    pairs of a block independent or correlated by 0.5; 6, 10 and 30 pairs) the interval holds the
    place in 94 to 96 % of studies if it lies on a measured value (to 99 % of those that show it,
    where few do), and in 96 to 100 % between two. Where the truth never passes 1, a crossing is
    shown in 0 to 3 % with 6 pairs and in 0 to 5 % with more. Tried and left: the median of the
    blocks' own curves (88 to 96 %, worst with skewed noise), MOVER between neighbours (91 to 98 %),
    resampled blocks (88 to 98 %), a Bonferroni band (97 to 100 %, but no limit with 6 pairs).

    Flags: FEW where a value has too few pairs for an interval (it decides nothing); NOT-LOCATED.
    InputError: fewer than two values, values not ascending, arms missing, as `paired_ratio`.

    >>> noise = np.array([0.98, 0.99, 1.0, 1.0, 1.01, 1.02])
    >>> found = crossings([16, 32, 64, 128], [1.4 * noise, 1.2 * noise, 0.9 * noise, 0.7 * noise],
    ...                   [np.ones(6)] * 4).found[0]
    >>> f"{found.value:.1f} [{found.low:.1f}, {found.high:.1f}]", found.between, found.rising
    ('49.7 [47.7, 51.6]', (32.0, 64.0), False)
    """
    at = positive(values, "values of the parameter")
    if len(at) < 2 or not (np.diff(at) > 0).all():
        raise InputError(
            f"values of the parameter {at.tolist()}: expected two or more, each above the last"
        )
    if not len(first) == len(second) == len(at):
        raise InputError(f"{len(at)} values need as many arms: got {len(first)} and {len(second)}")
    ratios = tuple(paired_ratio(a, b, confidence) for a, b in zip(first, second, strict=True))
    adjusted = holm([1.0 if ratio.p is None else ratio.p for ratio in ratios]).adjusted
    signs = _sides(ratios, [p <= 1 - confidence for p in adjusted])
    known = [index for index, sign in enumerate(signs) if sign]
    few = min(ratios, key=lambda ratio: ratio.n)
    return Crossings(
        values=tuple(at.tolist()),
        ratios=ratios,
        adjusted=adjusted,
        signs=signs,
        found=tuple(
            _between(at, ratios, left, right)
            for left, right in zip(known, known[1:], strict=False)
            if signs[left] != signs[right]
        ),
        confidence=confidence,
        warnings=tuple(flag for flag in few.warnings if flag.name == "FEW"),
    )


def _sign(ratio: Ratio) -> int:
    """The side of 1 on which the interval lies; 0 where it holds 1 or is missing."""
    if ratio.low is None or ratio.high is None:
        return 0
    return int(ratio.low > 1) - int(ratio.high < 1)


def _sides(ratios: Sequence[Ratio], survives: Sequence[bool]) -> tuple[int, ...]:
    signs = [_sign(ratio) for ratio in ratios]
    kept = list(survives)
    for inwards in (range(len(signs)), range(len(signs) - 1, -1, -1)):
        for index in inwards:
            if not signs[index] or signs[index] != signs[inwards[0]]:
                break
            kept[index] = True
    return tuple(sign if keep else 0 for sign, keep in zip(signs, kept, strict=True))


def _between(at: np.ndarray, ratios: Sequence[Ratio], left: int, right: int) -> Crossing:
    """The crossing between two values that take opposite sides."""
    x = np.log2(at[left : right + 1])
    rising = _sign(ratios[left]) < 0
    curve = np.array([_logs(ratio) for ratio in ratios[left : right + 1]])
    if not rising:  # mirrored, so that the curve rises: lower and upper limit change places
        curve = -curve[:, [2, 1, 0]]
    lower, middle, upper = curve.T
    places = _roots(x, middle)
    ends = float(at[left]), float(at[right])
    return Crossing(
        value=float(2 ** places[0]) if len(places) == 1 else None,
        low=float(2 ** _touch(x, upper)),
        high=float(2 ** _touch(x[::-1], -lower[::-1])),
        between=ends,
        rising=rising,
        warnings=() if len(places) == 1 else (flags.not_located(*ends),),
    )


def _logs(ratio: Ratio) -> tuple[float, float, float]:
    """Lower limit, median and upper limit of the log ratio; infinite limits where there are none."""
    low = -inf if ratio.low is None else log(ratio.low)
    high = inf if ratio.high is None else log(ratio.high)
    return low, log(ratio.estimate), high


def _roots(x: np.ndarray, y: np.ndarray) -> list[float]:
    """Every place where the straight lines through (x, y) meet 0; y is not 0 at either end."""
    found = []
    for k in range(1, len(x)):
        if y[k] == 0:
            found.append(float(x[k]))
        elif y[k - 1] * y[k] < 0:
            found.append(_zero(x, y, k))
    return found


def _touch(x: np.ndarray, limit: np.ndarray) -> float:
    """The first place, from x[0], where a limit that starts below 0 reaches it."""
    return _zero(x, limit, int(np.argmax(limit >= 0)))


def _zero(x: np.ndarray, y: np.ndarray, k: int) -> float:
    """Where the line from point k - 1 to point k meets 0; at k - 1 if it ends in infinity."""
    return float(x[k - 1] + (x[k] - x[k - 1]) * (y[k - 1] / (y[k - 1] - y[k])))

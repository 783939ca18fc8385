"""How many pairs will it take? A pilot's spread, the shipped tests, and simulated studies.

A study of n pairs is drawn from the pilot's log ratios, centred on their median, smoothed, and
shifted to a true ratio; the shipped function says what it would have concluded. The share of drawn
studies with the right conclusion is the power at n.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.optimize import isotonic_regression

from analysis.flags import MINIMUM_PAIRS
from analysis.statistics import anytime_ratio, equivalence, equivalence_of, paired_ratio
from analysis.statistics.checks import positive
from analysis.stopping import FIRST_LOOK
from measurement.errors import InputError

MOST_PAIRS = 2000
"""Beyond, the answer is "more than": no study of whole processes is that long."""

MOST_LOOKS = 400
"""Pairs after which a simulated study that looks after every pair gives up."""

STUDIES = 600
LOOKED_AT = 200
ALPHA = 0.05
CONFIDENCE = 0.8

SMOOTHING = 1.35
"""One and a half times Silverman's 0.9: see `smoothed`."""

Progress = Callable[[], object]


@dataclass(frozen=True)
class Curve:
    """Power against pairs. pairs: where it reaches the wanted power; None = above MOST_PAIRS."""

    points: tuple[tuple[int, float], ...]
    pairs: int | None


@dataclass(frozen=True)
class Need:
    """Pairs for one conclusion: with the pilot's spread, and with one that is as small or as large
    as the true spread may be (80 % confidence each). `safe` is the number to plan with."""

    expected: Curve
    lucky: Curve
    safe: Curve


@dataclass(frozen=True)
class Looking:
    """Pairs until the anytime-valid interval decides. points: (pairs, share of studies decided by
    then); median, nine_in_ten: None = above MOST_LOOKS."""

    points: tuple[tuple[int, float], ...]
    median: int | None
    nine_in_ten: int | None


@dataclass(frozen=True)
class Plan:
    """What a pilot says about a study to come.

    spread: standard deviation of the pilot's log ratios; family: rows tested together (Holm);
    difference, margin: shares; seen: pairs until a true ratio of 1 + difference is called a
    difference; same: pairs until arms with a true ratio of 1 are called the same; different_looks,
    same_looks: pairs until a study that looks after every pair is decided, at either truth.
    """

    pilot_pairs: int
    spread: float
    difference: float
    margin: float
    power: float
    family: int
    seen: Need
    same: Need
    different_looks: Looking
    same_looks: Looking


def spread_bounds(pilot_pairs: int) -> tuple[float, float]:
    """Factors from a pilot's spread to the smallest and largest true one, 80 % confidence each.

    Formula: sqrt((m-1) / chi2 quantile), the confidence limits of a normal standard deviation;
    planning with the upper one is Browne's (1995, Statist. Med. 14) rule for small pilots.

    >>> [round(f, 2) for f in spread_bounds(6)], [round(f, 2) for f in spread_bounds(20)]
    ([0.83, 1.46], [0.89, 1.18])
    """
    degrees = pilot_pairs - 1
    low, high = (
        float(np.sqrt(degrees / stats.chi2.ppf(q, degrees))) for q in (CONFIDENCE, 1 - CONFIDENCE)
    )
    return low, high


def smoothed(centred: np.ndarray, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Draws from a pilot's centred log ratios, each moved by a normal step (smoothed bootstrap).

    Formula: x* + h e, h = 1.35 min(sd, IQR / 1.349) m^(-1/5), one and a half times the factor of
    Silverman 1986. Unsmoothed draws cannot fall between the two middle values of a pilot, where
    the median's test looks, and promise too much: see `plan`.

    >>> smoothed(np.zeros(6), (2, 3), np.random.default_rng(0)).shape
    (2, 3)
    """
    drawn = rng.choice(centred, shape)
    deviation = float(centred.std(ddof=1))
    quartiles = float(np.subtract(*np.percentile(centred, [75, 25]))) / 1.349
    scale = min(deviation, quartiles) if quartiles > 0 else deviation
    return drawn + SMOOTHING * scale * len(centred) ** -0.2 * rng.standard_normal(shape)


def plan(
    ratios: Sequence[float] | np.ndarray,
    rng: np.random.Generator,
    difference: float = 0.05,
    margin: float = 0.05,
    power: float = 0.8,
    family: int = 1,
    studies: int = STUDIES,
    progress: Progress = lambda: None,
) -> Plan:
    """Pairs that a study needs, from the paired ratios of a pilot.

    Simulated pilots of 6, 10 and 20 pairs (lognormal, rare slow runs, a fifth throttled, heavy tail;
    true ratio 1.05) gave, for `seen`: planning with `safe`, a true power of 80 % or more after 71 to
    84, 73 to 86 and 83 to 91 % of the pilots, 87 to 93 % on average; with `expected` after 48 to
    86 %, 74 to 89 % on average; unsmoothed after 30 to 61 %. For `same`: with `safe` after 83 to 90,
    87 to 92 and 88 to 97 %, 91 to 96 % on average. A pilot of 6 pairs may ask for ten times the
    pairs that another one of the same machine asks for: prefer 10 to 20.

    ratios: one a pair, numerator over denominator, no unit; difference: the true ratio less 1 that
    shall be found; margin: within which arms count as the same; power: share of studies that shall
    succeed; family: rows that are tested together (a difference must then pass alpha / family, the
    strictest step of Holm); studies: drawn for each number of pairs; progress: called STEPS times.
    Raises InputError: under 6 pairs, a share outside its range, values that are no ratios.

    >>> pilot = [0.96, 1.07, 0.99, 1.02, 0.93, 1.04, 1.00, 1.10, 0.97, 1.03]
    >>> found = plan(pilot, np.random.default_rng(2), studies=100)
    >>> found.seen.lucky.pairs < found.seen.expected.pairs < found.seen.safe.pairs
    True
    """
    values = np.log(positive(ratios, "ratios of the pilot"))
    _check(len(values), difference, margin, power, family)
    centred = values - np.median(values)
    truth = float(np.log1p(difference))

    def need(concludes: Callable[[np.ndarray], bool], shift: float) -> Need:
        curves = []
        for factor in (1.0, *spread_bounds(len(values))):
            curves.append(_curve(factor * centred, shift, concludes, power, studies, rng))
            progress()
        return Need(*curves)

    def looking(shift: float) -> Looking:
        found = _looking(centred, shift, margin, rng)
        progress()
        return found

    return Plan(
        pilot_pairs=len(values),
        spread=float(values.std(ddof=1)),
        difference=difference,
        margin=margin,
        power=power,
        family=family,
        seen=need(_sees(truth, family), truth),
        same=need(_is_same(margin), 0.0),
        different_looks=looking(truth),
        same_looks=looking(0.0),
    )


STEPS = 8
"""Calls of `progress`."""


def pairs_for(
    ratios: Sequence[float] | np.ndarray,
    rng: np.random.Generator,
    difference: float | None = None,
    margin: float = 0.05,
    power: float = 0.8,
    family: int = 1,
    studies: int = 200,
) -> tuple[int | None, int | None]:
    """The part of `plan` that answers one question, in a second or two: pairs with the pilot's own
    spread, and with the largest that it allows (None: above MOST_PAIRS).

    difference: the true ratio less 1 that shall be seen; None: arms whose true ratio is 1 shall be
    called the same within `margin`. Raises InputError as `plan` does.

    >>> pilot = [0.96, 1.07, 0.99, 1.02, 0.93, 1.04, 1.00, 1.10, 0.97, 1.03]
    >>> few, many = pairs_for(pilot, np.random.default_rng(2), difference=0.2, studies=50)
    >>> 6 <= few <= many < 20
    True
    """
    values = np.log(positive(ratios, "ratios of the pilot"))
    _check(len(values), ALPHA if difference is None else difference, margin, power, family)
    centred = values - np.median(values)
    shift = 0.0 if difference is None else float(np.log1p(difference))
    concludes = _is_same(margin) if difference is None else _sees(shift, family)
    expected, safe = (
        _curve(factor * centred, shift, concludes, power, studies, rng).pairs
        for factor in (1.0, spread_bounds(len(values))[1])
    )
    return expected, safe


def _sees(truth: float, family: int) -> Callable[[np.ndarray], bool]:
    """Whether a study of these log ratios shows a difference in the direction of `truth`."""

    def sees(logs: np.ndarray) -> bool:
        found = paired_ratio(np.exp(logs), np.ones(len(logs)))
        shown = found.p is not None and found.p <= ALPHA / family
        return shown and (found.estimate > 1) == (truth > 0)

    return sees


def _is_same(margin: float) -> Callable[[np.ndarray], bool]:
    """Whether a study of these log ratios calls the arms the same."""
    return lambda logs: equivalence(np.exp(logs), np.ones(len(logs)), margin).same


def _check(pairs: int, difference: float, margin: float, power: float, family: int) -> None:
    if pairs < MINIMUM_PAIRS:
        raise InputError(
            f"the pilot has {pairs} pairs: its spread says nothing yet; expected at least "
            f"{MINIMUM_PAIRS}, better 10: run a study of that many pairs first"
        )
    if not (-1 < difference < np.inf) or difference == 0:
        raise InputError(f"difference {difference:g}: expected a share such as 0.05 for 5 %")
    if not 0 < margin < np.inf:
        raise InputError(f"margin {margin:g}: expected a share above 0, such as 0.05 for 5 %")
    if not 0.5 <= power <= 0.99:
        raise InputError(f"power {power:g}: expected a share from 0.5 to 0.99, such as 0.8")
    if family < 1:
        raise InputError(f"family {family}: expected 1 or more rows")


def _sizes() -> list[int]:
    """6, 7, 8 ... 2000, each about a sixth larger than the one before."""
    sizes = [MINIMUM_PAIRS]
    while sizes[-1] < MOST_PAIRS:
        sizes.append(min(MOST_PAIRS, max(sizes[-1] + 1, round(sizes[-1] * 1.17))))
    return sizes


def _curve(
    centred: np.ndarray,
    shift: float,
    concludes: Callable[[np.ndarray], bool],
    power: float,
    studies: int,
    rng: np.random.Generator,
) -> Curve:
    """Power at growing numbers of pairs until it is well above the wanted one."""
    sizes, shares = [], []
    enough = (1 + power) / 2
    for n in _sizes():
        drawn = smoothed(centred, (studies, n), rng) + shift
        sizes.append(n)
        shares.append(float(np.mean([concludes(study) for study in drawn])))
        if min(shares[-2:]) >= enough:
            break
    # True power grows with n; what falls is Monte-Carlo error.
    rising = isotonic_regression(shares).x
    points = tuple((n, float(share)) for n, share in zip(sizes, rising, strict=True))
    if rising[-1] < power:
        return Curve(points, None)
    return Curve(points, int(np.ceil(np.interp(power, *_steps(rising, sizes)))))


def _steps(rising: np.ndarray, sizes: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Distinct shares with the first size that reaches each, so that a share can be looked up."""
    shares, first = np.unique(rising, return_index=True)
    return shares, np.asarray(sizes)[first]


def _looking(centred: np.ndarray, shift: float, margin: float, rng: np.random.Generator) -> Looking:
    """Studies that look after every pair, as `study --until_resolved` does."""
    drawn = smoothed(centred, (LOOKED_AT, MOST_LOOKS), rng) + shift
    decided = np.sort([_decided(study, margin) for study in drawn])
    sizes = [n for n in _sizes() if n <= MOST_LOOKS]
    return Looking(
        points=tuple((n, float(np.mean(decided <= n))) for n in sizes),
        median=_pairs(decided, 0.5),
        nine_in_ten=_pairs(decided, 0.9),
    )


def _decided(logs: np.ndarray, margin: float) -> float:
    """The first look at which the interval excludes 1 or lies within the margin; infinity: none."""
    values, ones = np.exp(logs), np.ones(len(logs))
    for n in range(FIRST_LOOK, len(logs) + 1):
        found = anytime_ratio(values[:n], ones[:n])
        if (found.p is not None and found.p <= ALPHA) or equivalence_of(
            found, margin, alpha=ALPHA / 2
        ).same:
            return n
    return float("inf")


def _pairs(decided: np.ndarray, share: float) -> int | None:
    found = float(decided[int(np.ceil(share * len(decided))) - 1])
    return int(found) if np.isfinite(found) else None

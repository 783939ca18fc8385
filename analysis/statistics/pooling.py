"""Q7 several machines, Q11 several models: one number from several ratios."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis import flags
from analysis.flags import BLOCKING, Flag
from analysis.statistics.checks import tail
from analysis.statistics.limits import Limits, mover
from analysis.statistics.ratio import Ratio, few, finite, summarise
from analysis.statistics.student import t_interval, variance_of_mean
from measurement.errors import InputError

MINIMUM_MACHINES = 3
"""Below, the t interval over machines is so wide that it says nothing (k = 2: t = 12.7)."""


@dataclass(frozen=True)
class Machines:
    """The ratio on machines like these, and on these alone.

    estimate: geometric mean of the machines' ratios. low, high, p: t interval over machines, for
    machines like these; prediction_low, prediction_high: where the ratio of the next machine would
    lie; None under three machines. these_low, these_high: interval of the mean of the machines
    measured, no claim beyond them; None if one of them has too few pairs. k: machines; spread:
    standard deviation of their log ratios, noise included (None for one machine).
    """

    estimate: float
    low: float | None
    high: float | None
    p: float | None
    prediction_low: float | None
    prediction_high: float | None
    these_low: float | None
    these_high: float | None
    k: int
    spread: float | None
    confidence: float
    warnings: tuple[Flag, ...]


def across_machines(ratios: Sequence[Ratio], confidence: float = 0.95) -> Machines:
    """Q7: does it hold on other machines?

    ratios: one Q1 ratio a machine. Formula, with theta = log ratio: mean -/+ t_{k-1} s / sqrt(k),
    unweighted; the next machine mean -/+ t_{k-1} s sqrt(1 + 1/k); these machines only: MOVER of
    the machines' own limits, as in `models_ratio`. Random-effects weights (DerSimonian & Laird)
    cover 67 to 87 % with so few machines, pooling all runs 20 to 72 %, this 93 to 95 %, provided
    that the machines are a sample of those meant. Under 3 machines only the fixed-set interval is
    given (flag K-FEW, "these machines only"); under 6 K-FEW warns. InputError: no ratio,
    confidence outside (0, 1).

    >>> from analysis.statistics.ratio import paired_ratio
    >>> ones = [1.0, 1.01, 0.99, 1.02, 0.98, 1.0]
    >>> m = across_machines([paired_ratio(ones, [s] * 6) for s in (1.9, 2.0, 2.1)])
    >>> f"{m.estimate:.3f} [{m.low:.3f}, {m.high:.3f}], next {m.prediction_low:.2f}"
    '0.500 [0.442, 0.567], next 0.39'
    >>> f"these {m.these_low:.3f} to {m.these_high:.3f}", m.warnings[0].name
    ('these 0.496 to 0.505', 'K-FEW')
    """
    logs, limits = _mean(ratios)
    k, side = len(logs), tail(confidence)
    mean = float(np.mean(logs))
    spread = float(np.std(logs, ddof=1)) if k > 1 else None
    warnings = _inherited(ratios)
    these_low = these_high = None
    refusal = _refusal(ratios, limits, confidence, "pairs on a machine")
    if refusal is None:
        these_low, these_high = finite(*limits.at(side))
    else:
        warnings = (refusal, *warnings)
    if k < 2 * MINIMUM_MACHINES:
        warnings = (flags.k_few(k, refused=k < MINIMUM_MACHINES), *warnings)
    low = high = p = next_low = next_high = None
    if spread is not None and k >= MINIMUM_MACHINES:
        of_mean = variance_of_mean(logs)
        lower, upper, p = t_interval(mean, of_mean, k - 1, confidence)
        next_lower, next_upper, _ = t_interval(mean, (k + 1) * of_mean, k - 1, confidence)
        low, high = float(np.exp(lower)), float(np.exp(upper))
        next_low, next_high = float(np.exp(next_lower)), float(np.exp(next_upper))
    return Machines(
        estimate=float(np.exp(mean)),
        low=low,
        high=high,
        p=p,
        prediction_low=next_low,
        prediction_high=next_high,
        these_low=these_low,
        these_high=these_high,
        k=k,
        spread=spread,
        confidence=confidence,
        warnings=warnings,
    )


def models_ratio(ratios: Sequence[Ratio], confidence: float = 0.95) -> Ratio:
    """Q11: one number over several models, each measured in its own pairs.

    ratios: the models' Q1 ratios. Formula: exp of the mean of the log ratios (the geometric mean,
    in which no model's run time weighs more than another's), limits by MOVER. Coverage 97 to 99 %
    with 6 models. n: the fewest pairs of any model; under 6 interval and p are refused (flag FEW).
    Flags under which no ratio may be called a difference of frameworks are inherited. InputError:
    no ratio, confidence outside (0, 1).

    >>> from analysis.statistics.ratio import paired_ratio
    >>> ones = [1.0, 1.01, 0.99, 1.02, 0.98, 1.0]
    >>> r = models_ratio([paired_ratio(ones, [s] * 6) for s in (0.5, 2.0)])
    >>> f"{r.estimate:.3f} [{r.low:.3f}, {r.high:.3f}], {r.n} pairs"
    '1.000 [0.988, 1.012], 6 pairs'
    """
    logs, limits = _mean(ratios)
    n = min(ratio.n for ratio in ratios)
    return summarise(
        estimate=float(np.mean(logs)),
        limits=limits,
        mean=float(np.mean(np.log([ratio.geometric_mean for ratio in ratios]))),
        n=n,
        confidence=confidence,
        refusal=_refusal(ratios, limits, confidence, "pairs of a model"),
        warnings=_inherited(ratios),
    )


def _mean(ratios: Sequence[Ratio]) -> tuple[np.ndarray, Limits]:
    """Log ratios in ascending order (so that theirs changes nothing), and limits of their mean."""
    if not len(ratios):
        raise InputError("no ratio to combine: expected one for each machine or model")
    ascending = sorted(ratios, key=lambda ratio: ratio.estimate)
    logs = np.log([ratio.estimate for ratio in ascending])
    parts = [(log, r.limits) for log, r in zip(logs.tolist(), ascending, strict=True)]
    return logs, mover(parts, [1 / len(parts)] * len(parts))[1]


def _refusal(ratios: Sequence[Ratio], limits: Limits, confidence: float, what: str) -> Flag | None:
    n = min(ratio.n for ratio in ratios)
    missing = finite(*limits.at(tail(confidence))) == (None, None)
    return few(n, confidence, what) or (flags.no_limits(n, what) if missing else None)


def _inherited(ratios: Sequence[Ratio]) -> tuple[Flag, ...]:
    blocking = {flag for ratio in ratios for flag in ratio.warnings if flag.name in BLOCKING}
    return tuple(sorted(blocking, key=str))

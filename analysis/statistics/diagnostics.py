"""Is the experiment sound? Resolution of the machine, carry-over between runs, drift of an arm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import norm

from analysis import flags
from analysis.flags import Flag
from analysis.statistics.checks import Values, positive
from analysis.statistics.ratio import Ratio, unpaired_ratio
from measurement.errors import InputError

LARGE = 500
"""Values, from which on orders are no longer drawn."""


@dataclass(frozen=True)
class Autocorrelation:
    """lag1: correlation of a run with the one before; p: by permutation, positive side."""

    lag1: float
    p: float
    n: int
    warnings: tuple[Flag, ...]


def resolution(same_arm: Ratio) -> float | None:
    """Half-width of an A/A interval as a share: 0.02 = differences under 2 % are out of sight.

    Formula: sqrt(high / low) - 1, the half-width on the log scale.

    >>> from analysis.statistics.ratio import paired_ratio
    >>> a_a = paired_ratio([1.00, 1.02, 0.98, 1.01, 0.99, 1.00], [1.0] * 6)
    >>> f"{resolution(a_a):.3f}"
    '0.017'
    """
    if same_arm.low is None or same_arm.high is None:
        return None
    return float(np.sqrt(same_arm.high / same_arm.low) - 1)


def order_effect(ratios: Values, first_ran_first: Sequence[bool]) -> Ratio:
    """Carry-over: ratios of the pairs in which the first arm ran first over those of the others.

    Q1' on the two groups. An interval that excludes 1 gives the flag ORDER. With under 6 pairs in
    either order the check is refused (FEW): it can then say nothing. InputError: as many orders as
    ratios are expected, ratios positive.

    >>> r = order_effect([1.1] * 6 + [0.9] * 6, [True] * 6 + [False] * 6)
    >>> [flag.name for flag in r.warnings]
    ['ORDER']
    """
    values, first = positive(ratios, "ratios"), np.asarray(first_ran_first, dtype=bool)
    if len(values) != len(first):
        raise InputError(
            f"each pair has an order: got {len(values)} ratios and {len(first)} orders"
        )
    if not first.any() or first.all():
        nan = float("nan")
        return Ratio(nan, None, None, None, 0, None, None, nan, 0.95, (flags.few(0),))
    effect = unpaired_ratio(values[first], values[~first])
    warnings: tuple[Flag, ...] = ()
    if effect.low is None or effect.high is None:
        warnings = (flags.few(effect.n, "pairs of one order"),)
    elif not effect.low <= 1 <= effect.high:
        warnings = (flags.order(effect.estimate, effect.low, effect.high),)
    return replace(effect, warnings=warnings)


def autocorrelation(
    values_in_time_order: Values,
    rng: np.random.Generator,
    arm: str = "the arm",
    permutations: int = 9999,
    alpha: float = 0.05,
) -> Autocorrelation:
    """Q10: does a run depend on the one before it? Lag-1 autocorrelation of the log values.

    Formula, with x = log value - mean: lag1 = sum x_i x_(i+1) / sum x_i^2 and p = (1 + permutations
    whose lag-1 is at least the observed) / (1 + permutations) (Wald & Wolfowitz 1943); from `LARGE`
    values on their normal limit, with the mean and variance that they give there. Flag DRIFT
    at p < alpha. Under 4 values, or where nothing varies, p is 1. InputError: a value that is no
    positive finite number. Power is 39 % at 10 runs and 91 % at 30 (AR(1) with 0.8): silence is no licence.

    >>> rising = np.linspace(1.0, 2.0, 12)
    >>> [flag.name for flag in autocorrelation(rising, np.random.default_rng(1)).warnings]
    ['DRIFT']
    """
    x = np.log(positive(values_in_time_order, arm))
    n = len(x)
    x = x - x.mean() if n else x
    scale = float(np.sum(x * x))
    if n < 4 or scale < 1e-24 * n:  # constant: nothing drifts
        return Autocorrelation(0.0, 1.0, n, ())
    observed = float(np.sum(x[:-1] * x[1:]) / scale)
    if n >= LARGE:
        p = _of_many(observed, float(np.sum(x**4)) / scale**2, n)
        warnings = (flags.drift(arm, observed, p),) if p < alpha else ()
        return Autocorrelation(observed, p, n, warnings)
    shuffled = rng.permuted(np.broadcast_to(x, (permutations, n)), axis=1)
    reached = np.sum(shuffled[:, :-1] * shuffled[:, 1:], axis=1) / scale >= observed - 1e-12
    p = float((1 + np.sum(reached)) / (1 + permutations))
    warnings = (flags.drift(arm, observed, p),) if p < alpha else ()
    return Autocorrelation(observed, p, n, warnings)


def _of_many(lag1: float, fourth: float, n: int) -> float:
    """One-sided p of a lag-1 by the normal limit; fourth: sum x^4 / (sum x^2)^2, x centred. Mean and
    variance over all orders: -1 / n and (1 - fourth) / n + (1 - 2 fourth) / (n (n - 1)) - 1 / n^2."""
    variance = (1 - fourth) / n + (1 - 2 * fourth) / (n * (n - 1)) - 1 / n**2
    return float(norm.sf((lag1 + 1 / n) / np.sqrt(variance)))

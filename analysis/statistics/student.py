"""Student's t: an average with its interval and p, also where nothing varies."""

from __future__ import annotations

from math import sqrt

import numpy as np
from scipy.special import stdtr, stdtrit

from analysis.statistics.checks import tail


def variance_of_mean(values: np.ndarray) -> float:
    """s^2 / n, exactly 0 where all values are equal (rounding of the mean would make it 1e-33).

    >>> variance_of_mean(np.array([0.1, 0.1, 0.1])), variance_of_mean(np.array([1.0, 3.0]))
    (0.0, 1.0)
    """
    if values.min() == values.max():
        return 0.0
    return float(values.var(ddof=1) / len(values))


def t_interval(
    mean: float, variance: float, df: float, confidence: float
) -> tuple[float, float, float]:
    """Lower limit, upper limit and two-sided p of a mean whose own variance is `variance`.

    Formula: mean -/+ t_df sqrt(variance). Without any variance the limits are the mean, and p is 0
    unless the mean is 0.

    >>> [round(x, 4) for x in t_interval(1.0, 0.25, 2, 0.95)]
    [-1.1513, 3.1513, 0.1835]
    >>> t_interval(1.0, 0.0, 2, 0.95)
    (1.0, 1.0, 0.0)
    """
    side, error = tail(confidence), sqrt(variance)
    if error == 0:
        return mean, mean, 1.0 if mean == 0 else 0.0
    half = -float(stdtrit(df, side)) * error
    return mean - half, mean + half, 2 * float(stdtr(df, -abs(mean) / error))

"""Run times of a machine whose truth is known: shapes, drifts, orders of the runs, misses.

Times are relative (a typical run is about 1); random state is always passed in. The shapes are
guided by recordings of training runs: steady, with rare slow runs, throttled in part of the runs,
heavy-tailed. The drifts are those of a machine that warms up, wanders or is throttled in spells.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.stats import norm

Shape = Callable[[np.random.Generator, int], np.ndarray]
Arms = tuple[np.ndarray, np.ndarray]

BETWEEN_RUNS = 0.02
"""Spread of single runs around a drifting machine, log scale."""


def lognormal(rng: np.random.Generator, n: int, variation: float = 0.05) -> np.ndarray:
    """A steady machine; `variation` is the coefficient of variation.

    >>> lognormal(np.random.default_rng(0), 100_000).std().round(3)
    np.float64(0.05)
    """
    return np.exp(rng.normal(0, np.sqrt(np.log1p(variation**2)), n))


def outliers(rng: np.random.Generator, n: int) -> np.ndarray:
    """One run in twenty is slower by a factor of 1.3 plus an exponential of mean 0.5.

    >>> float(np.median(outliers(np.random.default_rng(0), 100_000)).round(2))
    1.0
    """
    slow = rng.random(n) < 0.05
    return lognormal(rng, n, 0.03) * np.where(slow, 1.3 + rng.exponential(0.5, n), 1.0)


def throttled(rng: np.random.Generator, n: int, share: float) -> np.ndarray:
    """Two modes: a `share` of the runs takes 1.3 times as long.

    >>> float((throttled(np.random.default_rng(0), 100_000, 0.2) > 1.15).mean().round(2))
    0.2
    """
    return lognormal(rng, n, 0.02) * np.where(rng.random(n) < share, 1.3, 1.0)


def bimodal20(rng: np.random.Generator, n: int) -> np.ndarray:
    """A fifth of the runs is throttled."""
    return throttled(rng, n, 0.2)


def bimodal50(rng: np.random.Generator, n: int) -> np.ndarray:
    """Half of the runs is throttled."""
    return throttled(rng, n, 0.5)


def heavy(rng: np.random.Generator, n: int) -> np.ndarray:
    """1 + 0.05 Lomax(1.5): the variance is infinite."""
    return 1 + 0.05 * rng.pareto(1.5, n)


SHAPES: dict[str, Shape] = {
    "lognormal": lognormal,
    "outliers": outliers,
    "bimodal20": bimodal20,
    "bimodal50": bimodal50,
    "heavy": heavy,
}


def autoregressive(rng: np.random.Generator, runs: int) -> np.ndarray:
    """State of a machine that wanders: AR(1) with 0.8, standard deviation 5 %, log scale."""
    state = np.empty(runs)
    state[0] = rng.normal(0, 0.05)
    for run, step in enumerate(rng.normal(0, 0.05 * np.sqrt(1 - 0.8**2), runs - 1)):
        state[run + 1] = 0.8 * state[run] + step
    return state


def ramp(rng: np.random.Generator, runs: int) -> np.ndarray:
    """State of a machine that gets slower by 10 % from the first run to the last, log scale."""
    return np.linspace(0, np.log(1.1), runs)


def spells(rng: np.random.Generator, runs: int) -> np.ndarray:
    """State of a machine that is throttled (1.3 times) in spells of ten runs on average."""
    switches = rng.random(runs) < 0.1
    switches[0] = rng.random() < 0.5
    return np.log(1.3) * (np.cumsum(switches) % 2)


DRIFTS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "AR(1)": autoregressive,
    "ramp": ramp,
    "throttle spells": spells,
}


def session(rng: np.random.Generator, runs: int, drift: str) -> np.ndarray:
    """Times of consecutive runs of one program on a machine that drifts.

    >>> session(np.random.default_rng(0), 4, "ramp").shape
    (4,)
    """
    return np.exp(DRIFTS[drift](rng, runs) + rng.normal(0, BETWEEN_RUNS, runs))


def in_random_pairs(rng: np.random.Generator, times: np.ndarray) -> Arms:
    """Consecutive runs as pairs; a coin says which of the two is the first arm's.

    >>> first, second = in_random_pairs(np.random.default_rng(0), np.arange(6.0))
    >>> np.abs(first - second)
    array([1., 1., 1.])
    """
    pairs = times.reshape(-1, 2)
    coin = (rng.random(len(pairs)) < 0.5).astype(int)
    row = np.arange(len(pairs))
    return pairs[row, coin], pairs[row, 1 - coin]


def one_after_the_other(times: np.ndarray) -> Arms:
    """All runs of the first arm, then all of the second.

    >>> one_after_the_other(np.arange(4.0))
    (array([0., 1.]), array([2., 3.]))
    """
    half = len(times) // 2
    return times[:half], times[half:]


def calls(rng: np.random.Generator, runs: int, count: int, within: float) -> np.ndarray:
    """Latencies of `count` calls in each of several runs, with 10 % spread; calls of one run
    resemble each other with intraclass correlation `within` on the log scale.

    >>> calls(np.random.default_rng(0), 3, 100, 0.2).shape
    (3, 100)
    """
    run = rng.normal(0, 0.1 * np.sqrt(within), (runs, 1))
    return np.exp(run + rng.normal(0, 0.1 * np.sqrt(1 - within), (runs, count)))


BUDGET = 2.0
"""Time after which a run that has not arrived is stopped; a typical run arrives at 1."""


def arrival_times(rng: np.random.Generator, n: int, never: float, scale: float = 1.0) -> np.ndarray:
    """Times to a target with 15 % spread; a share `never` of the runs does not arrive (infinity).

    >>> bool(np.isinf(arrival_times(np.random.default_rng(0), 10, 1.0)).all())
    True
    """
    arrived = np.minimum(scale * lognormal(rng, n, 0.15), BUDGET)
    return np.where(rng.random(n) < never, np.inf, arrived)


def arrival_quantile(share: float) -> float:
    """True quantile of the times of the runs that arrive.

    >>> arrival_quantile(0.5)
    1.0
    """
    return float(np.exp(norm.ppf(share) * np.sqrt(np.log1p(0.15**2))))

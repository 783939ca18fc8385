"""Circuits of an epithelium, their impedance over frequency, and samples around them.

The circuit: Rsh in parallel with the series of (Ra parallel Ca) and (Rb parallel Cb), one pair for
each of a cell's two membranes:

    Z(w) = Rsh || (Ra / (1 + j w Ra Ca) + Rb / (1 + j w Rb Cb))

Ground truths. What a network can learn of two unknown parameters from three known ones is what they
have in common. With every parameter drawn by itself there is nothing, and an accuracy of 1/12 is all
there is: so it is in the public code of the source document. Here they follow what membranes do. A
membrane's capacitance grows with its area, about 1 uF/cm2 (Cole 1968), and its resistance falls with
it, so that the area is not in their product, the time constant. That is log-normal around 0.3 ms and
3 ms, with a spread of a factor of 1.4; the area is log-uniform, where both R and C are on their grid. The
pairs could change places, so that of the smaller time constant is a. Rsh, the path between the cells,
is log-uniform and follows nothing: where it is unknown nobody beats chance.

A ground truth is continuous. A sample of it is a grid point nearby: the nearest one, moved along each
parameter by a rounded normal number of steps; then the sample's resnorm is its distance to the ground
truth, (1/N) sum over N frequencies of |Z_sample - Z_truth|, in ohm.

No sample holds a spectrum. Both pairs have the same grid, so the spectra of all 12^5 grid points
follow from those of 12 x 12 pairs, which are computed once (0.1 MB; all of them would take 100 MB).
Everything is in the logarithm until the last moment and in float64.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np

PARAMETERS = ("Rsh", "Ra", "Ca", "Rb", "Cb")
GRID = 12  # points per parameter
# First and last point, log10 of ohm and farad: 10 ohm to 10 kohm, 0.1 uF to 50 uF.
RESISTANCE = (1.0, 4.0)
CAPACITANCE = (-7.0, np.log10(5e-5))
LOW, HIGH = np.array([RESISTANCE, RESISTANCE, CAPACITANCE, RESISTANCE, CAPACITANCE]).T
STEP = (HIGH - LOW) / (GRID - 1)
FREQUENCIES = (0.0, 6.0)  # log10 of hertz: 1 Hz to 1 MHz
TIME_CONSTANTS = (np.log10(3e-4), np.log10(3e-3))  # medians, log10 of seconds
SPREAD = 0.15  # standard deviation of a time constant, in decades: a factor of 1.4
OFFSET = 0.35  # standard deviation of a sample around its ground truth before rounding, in steps
PATTERNS = np.array(
    [[k not in (i, j) for k in range(5)] for i in range(5) for j in range(i + 1, 5)]
)
CHUNK = 1 << 12  # samples at a time: their spectra take a few MB


def frequencies(count: int) -> np.ndarray:
    """Hertz, log-spaced, (count,)."""
    return np.logspace(*FREQUENCIES, count)


def values(classes: np.ndarray) -> np.ndarray:
    """Grid points (n, 5) -> log10 of their parameters in ohm and farad, (n, 5) float64."""
    return LOW + STEP * classes


def pair(resistance: np.ndarray, capacitance: np.ndarray, hertz: np.ndarray) -> np.ndarray:
    """Impedance of R parallel C in ohm: (n,), (n,), (f,) -> (n, f) complex128."""
    turns = 2 * np.pi * (resistance * capacitance)[:, None] * hertz
    return resistance[:, None] / (1 + 1j * turns)


def impedance(circuits: np.ndarray, hertz: np.ndarray) -> np.ndarray:
    """log10 of any circuits' parameters (n, 5), (f,) -> ohm, (n, f) complex128."""
    shunt, ra, ca, rb, cb = (10.0**circuits).T
    return _shunted(shunt[:, None], pair(ra, ca, hertz) + pair(rb, cb, hertz))


def grid_impedance(classes: np.ndarray, hertz: np.ndarray) -> np.ndarray:
    """Grid points (n, 5), (f,) -> ohm, (n, f) complex128."""
    table = _pairs(tuple(hertz))
    shunt, ra, ca, rb, cb = np.asarray(classes, np.intp).T
    series = table[ra, ca] + table[rb, cb]
    return _shunted(10.0 ** (LOW[0] + STEP[0] * shunt)[:, None], series)


def _shunted(shunt: np.ndarray, series: np.ndarray) -> np.ndarray:
    found: np.ndarray = shunt * series / (shunt + series)
    return found


@functools.lru_cache(maxsize=1)
def _pairs(hertz: tuple[float, ...]) -> np.ndarray:
    """Impedance of R parallel C over the grids of both: (12, 12, f) complex128."""
    points = np.arange(GRID)
    resistance, capacitance = (10.0 ** (LOW[k] + STEP[k] * points) for k in (1, 2))
    flat = pair(np.repeat(resistance, GRID), np.tile(capacitance, GRID), np.array(hertz))
    return flat.reshape(GRID, GRID, -1)


def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Resnorm of spectra in ohm: (n, f), (n, f) complex -> (n,) ohm."""
    found: np.ndarray = np.mean(np.abs(a - b), axis=1)
    return found


def ground_truths(count: int, seed: list[int]) -> np.ndarray:
    """log10 of the parameters of `count` circuits in ohm and farad, (count, 5) float64; of more
    circuits they are the first."""
    normal, area, shunt = (np.random.default_rng([*seed, part]) for part in range(3))
    times = np.array(TIME_CONSTANTS) + SPREAD * normal.standard_normal((count, 2))
    times = np.clip(times, RESISTANCE[0] + CAPACITANCE[0], RESISTANCE[1] + CAPACITANCE[1])
    times.sort(axis=1)
    least = np.maximum(CAPACITANCE[0], times - RESISTANCE[1])
    most = np.minimum(CAPACITANCE[1], times - RESISTANCE[0])
    capacitance = least + (most - least) * area.random((count, 2))
    resistance = times - capacitance
    free = LOW[0] + (HIGH[0] - LOW[0]) * shunt.random(count)
    columns = [free, resistance[:, 0], capacitance[:, 0], resistance[:, 1], capacitance[:, 1]]
    return np.stack(columns, axis=1)


def nearby(circuits: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """The grid points (n, 5) uint8 of ground truths (n, 5) in log10, moved by normal `steps`
    (n, 5) of standard deviation 1."""
    nearest = np.rint((circuits - LOW) / STEP)
    return np.clip(nearest + np.rint(OFFSET * steps), 0, GRID - 1).astype(np.uint8)


def resnorms(
    classes: np.ndarray, circuits: np.ndarray, which: np.ndarray, hertz: np.ndarray
) -> np.ndarray:
    """Ohm, (n,) float64: of grid points (n, 5) to the circuits[which], (c, 5) and (n,)."""
    found = np.empty(len(classes))
    for start in range(0, len(classes), CHUNK):
        part = slice(start, start + CHUNK)
        needed, places = np.unique(which[part], return_inverse=True)
        truth = impedance(circuits[needed], hertz)
        found[part] = distance(grid_impedance(classes[part], hertz), truth[places])
    return found


def _counts(items: int, seed: list[int]) -> Iterator[np.ndarray]:
    """Two tables (12, 12, 12, 12, 12) of how often each grid point is drawn."""
    for half in range(2):
        circuits = ground_truths(items, [*seed, half, 0])
        steps = np.random.default_rng([*seed, half, 1]).standard_normal((items, 5))
        points = np.ravel_multi_index(tuple(nearby(circuits, steps).T), (GRID,) * 5)
        yield np.bincount(points, minlength=GRID**5).reshape((GRID,) * 5)


def ceiling(items: int = 2_000_000, seed: int = 1) -> tuple[float, float]:
    """(of the best rule there is, of the best that does not look at what is known): the share of
    unknown parameters told right, over the ten patterns, on circuits never seen.

    By counting: `items` samples of as many circuits, all different, say which class is the likeliest
    at each value of the known parameters; as many others say how often it is right.
    """
    first, second = _counts(items, [seed])
    informed, blind = [], []
    for known in PATTERNS:
        for unknown in np.flatnonzero(~known):
            (other,) = (k for k in np.flatnonzero(~known) if k != unknown)
            seen, fresh = (
                np.moveaxis(t.sum(axis=other), unknown - (other < unknown), -1).reshape(-1, GRID)
                for t in (first, second)
            )
            best = seen.argmax(axis=1)
            informed.append(fresh[np.arange(len(fresh)), best].sum() / items)
            blind.append(fresh[:, seen.sum(axis=0).argmax()].sum() / items)
    return float(np.mean(informed)), float(np.mean(blind))

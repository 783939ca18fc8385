"""One cell of the calibration: what is simulated, what is counted, where the count must lie."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

Study = Callable[[np.random.Generator], bool]
Kind = Literal["false positives", "coverage", "power", "refused"]
Role = Literal["promise", "limit", "counter-example"]

WIDENED_BY = 3.0
"""Monte-Carlo standard errors. A true rate on the very edge of its band falls outside once in 740
simulations, one inside the band practically never."""


@dataclass(frozen=True)
class Band:
    """Percent between which the true rate lies, and how that is known."""

    low: float
    high: float
    source: str

    def widened(self, replicates: int) -> tuple[float, float]:
        """The edges moved outwards by three standard errors of a rate at the edge.

        0 and 100 stay: what never happens never happens in a simulation either.

        >>> [round(edge, 1) for edge in Band(4.3, 5.7, "").widened(8000)]
        [3.6, 6.5]
        """
        low, high = (
            WIDENED_BY * float(np.sqrt(edge * (100 - edge) / replicates))
            for edge in (self.low, self.high)
        )
        return max(0.0, self.low - low), min(100.0, self.high + high)

    def __str__(self) -> str:
        if self.low == self.high:
            return f"{self.low:g}"
        if self.low == 0:
            return f"at most {self.high:g}"
        if self.high == 100:
            return f"at least {self.low:g}"
        return f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Cell:
    """One simulated experiment, repeated many times.

    question: Q1...Q11; function: the public name in `analysis.statistics`; kind: what share of the
    studies is counted; setting: the experiment in words; variant: which of several shapes, drifts
    or shares; n: pairs, runs of an arm, or machines; study: one simulated study -> is it counted?
    role: a promise; a limit (known to miss its nominal rate, shown for honesty); a counter-example
    (what another design or rule would do). dear: a study takes milliseconds, so that fewer are
    simulated.
    """

    question: str
    function: str
    kind: Kind
    setting: str
    variant: str
    n: int
    study: Study
    band: Band
    role: Role = "promise"
    dear: bool = False

    @property
    def name(self) -> str:
        """Unique, and allowed as the name of an MLflow metric."""
        words = (self.kind, self.question, self.function, self.setting, self.variant, f"n{self.n}")
        plain = (word.replace("'", "b").replace("%", "percent") for word in words)
        return "/".join(re.sub(r"[^\w.-]+", "_", word).strip("_") for word in plain if word)


@dataclass(frozen=True)
class Rate:
    """How often a cell's studies were counted: `hits` of `replicates`."""

    cell: Cell
    replicates: int
    hits: int

    @property
    def percent(self) -> float:
        return 100 * self.hits / self.replicates

    @property
    def standard_error(self) -> float:
        """Monte-Carlo standard error, in percent points."""
        return float(np.sqrt(self.percent * (100 - self.percent) / self.replicates))

    @property
    def inside(self) -> bool:
        """Within the band, allowing for the Monte-Carlo error of this many replicates."""
        low, high = self.cell.band.widened(self.replicates)
        return low <= self.percent <= high

    def __str__(self) -> str:
        low, high = self.cell.band.widened(self.replicates)
        return (
            f"{self.cell.name}: {self.percent:.1f} % of {self.replicates} studies, expected "
            f"{low:.1f} to {high:.1f} %"
        )


def measure(cell: Cell, replicates: int, seed: int) -> Rate:
    """Simulate a cell. Its random stream comes from seed and name alone: neither other cells nor
    the number of processes change its numbers."""
    digest = hashlib.sha256(cell.name.encode()).digest()
    key = tuple(int.from_bytes(digest[i : i + 4], "big") for i in range(0, 16, 4))
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
    return Rate(cell, replicates, sum(cell.study(rng) for _ in range(replicates)))

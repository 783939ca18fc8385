"""What an analysis finds: frozen values that a report shows without computing anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from analysis.flags import Flag
from analysis.statistics import Equivalence, Ratio
from analysis.statistics.survival import Arrival, LogRank

if TYPE_CHECKING:
    from tracking.read import Study


@dataclass(frozen=True)
class Point:
    """One pair: its number, both values in the metric's unit, their ratio."""

    pair: int
    numerator: float
    denominator: float
    ratio: float


@dataclass(frozen=True)
class Comparison:
    """One metric of two arms.

    ratio: Q1 and Q2 (numerator over denominator); same: Q3; p: of Q2, Holm-adjusted if `family`
    is above 0 (the size of the declared family). wins: pairs in which the numerator is better.
    resolution: half-width of the A/A interval as a share, None = no A/A. truth: the ratio that was
    made on purpose (role injected); detection: (n, share of subsets of n pairs that show a
    difference) where the truth is known. At most one of ratio,
    refused (a sentence) and not_measured (the reason) says what there is.
    """

    numerator: str
    denominator: str
    role: str
    metric: str
    unit: str
    label: str
    better: str | None
    margin: float
    points: tuple[Point, ...] = ()
    ratio: Ratio | None = None
    same: Equivalence | None = None
    p: float | None = None
    family: int = 0
    wins: int | None = None
    resolution: float | None = None
    truth: float | None = None
    detection: tuple[tuple[int, float], ...] = ()
    refused: str | None = None
    not_measured: str | None = None
    outcome: str = "none"  # better, worse (of the numerator), same, undecided, none
    verdict: str = ""
    flags: tuple[Flag, ...] = ()

    @property
    def significant(self) -> bool:
        return self.p is not None and self.p <= 0.05


@dataclass(frozen=True)
class ArmSummary:
    """One arm: its trials, its condition as it ran, and each metric's median, least and most."""

    name: str
    trials: int
    condition: dict[str, str]
    values: dict[str, tuple[float, float, float]]
    not_measured: dict[str, str]
    flags: tuple[Flag, ...]


@dataclass(frozen=True)
class Target:
    """Time to the target of two arms in one unit ("s" or "epochs")."""

    numerator: str
    denominator: str
    role: str
    unit: str
    first: Arrival
    second: Arrival
    test: LogRank


@dataclass(frozen=True)
class Findings:
    """Everything that a report shows; nothing is left to compute."""

    study: Study
    headline: str
    arms: tuple[ArmSummary, ...]
    comparisons: tuple[Comparison, ...]
    arrivals: dict[tuple[str, str], Arrival]  # (arm, unit) -> when its runs arrived
    targets: tuple[Target, ...]
    notes: tuple[str, ...]
    trials: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Drawing:
    """One finished figure: file name without ending, title, and words for who cannot see it."""

    name: str
    title: str
    alt: str
    light: bytes
    dark: bytes

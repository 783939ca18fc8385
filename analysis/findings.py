"""What an analysis finds: frozen values that a report shows without computing anything."""

from __future__ import annotations

from dataclasses import dataclass, field
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
class Middle:
    """Of n values: their median, least and greatest."""

    n: int
    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Spans:
    """What one arm timed as a whole: (pair, seconds of each span) of every trial, and all of them
    together."""

    arm: str
    trials: tuple[tuple[int, tuple[float, ...]], ...]
    every: Middle


@dataclass(frozen=True)
class Distribution:
    """Single calls of one arm. shares: of a trial's calls; seconds within which they end: the median
    over the trials, and the quickest and the slowest trial. calls: of all trials."""

    arm: str
    trials: int
    calls: int
    shares: tuple[float, ...]
    seconds: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class Learning:
    """Quality of one arm after each epoch, over the training time until then (s)."""

    arm: str
    epochs: tuple[int, ...]
    seconds: tuple[Middle, ...]
    quality: tuple[Middle, ...]


@dataclass(frozen=True)
class Rates:
    """Items a second of one arm by batch size; trials: each one's."""

    arm: str
    sizes: tuple[int, ...]
    rates: tuple[Middle, ...]
    trials: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Curves:
    """What the samples of the trials show, by series (spans, latencies) and arm."""

    spans: dict[str, tuple[Spans, ...]] = field(default_factory=dict)
    latencies: dict[str, tuple[Distribution, ...]] = field(default_factory=dict)
    learning: tuple[Learning, ...] = ()
    batches: tuple[Rates, ...] = ()


@dataclass(frozen=True)
class Roof:
    """Arithmetic of one arm against the fastest matrix product of its framework on this machine
    (FLOP/s). how: what was divided by what. intensity: FLOP per byte, at most; None = not known.
    missing: why something is not there; ''."""

    arm: str
    framework: str
    dtype: str
    how: str
    achieved: Middle | None = None
    ceiling: Middle | None = None
    fraction: Middle | None = None
    intensity: float | None = None
    missing: str = ""


@dataclass(frozen=True)
class Done:
    """What the trials of one arm say that they did. evidence, receipts, signed: how many of them carry
    each; facts: name -> value, a range where the trials differ."""

    arm: str
    trials: int
    evidence: int
    receipts: int
    signed: int
    facts: dict[str, str]


@dataclass(frozen=True)
class Proof:
    """Did two arms do equal work, pair by pair? difference: the first one found, in words; ''."""

    numerator: str
    denominator: str
    role: str
    pairs: int
    equal: int
    difference: str = ""


@dataclass(frozen=True)
class Findings:
    """Everything that a report shows; nothing is left to compute. machine: what the trials recorded
    of it."""

    study: Study
    headline: str
    arms: tuple[ArmSummary, ...]
    comparisons: tuple[Comparison, ...]
    arrivals: dict[tuple[str, str], Arrival]  # (arm, unit) -> when its runs arrived
    targets: tuple[Target, ...]
    notes: tuple[str, ...]
    trials: tuple[dict[str, Any], ...]
    curves: Curves = field(default_factory=Curves)
    roofs: tuple[Roof, ...] = ()
    done: tuple[Done, ...] = ()
    proofs: tuple[Proof, ...] = ()
    machine: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Grid:
    """A table for people: every row has as many cells as the header. A cell may be ''."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Drawing:
    """One finished figure: file name without ending, title, and words for who cannot see it.

    light: PNG on white. With svg, which takes its colours from the page, and narrow, the same for a
    phone, there is no dark one. grid: the table behind it.
    """

    name: str
    title: str
    alt: str
    light: bytes
    dark: bytes = b""
    svg: str = ""
    narrow: str = ""
    grid: Grid | None = None

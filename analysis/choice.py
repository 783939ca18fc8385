"""Which measured candidate to take for the same work: a study's verdict where there is one, else
medians of single runs, which carry no verdict and are said to carry none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from analysis import wording
from analysis.findings import Comparison
from analysis.sessions import Session
from analysis.units import quantity
from tracking.names import METRICS, PRIMARY

if TYPE_CHECKING:
    from tracking.read import Row

ENOUGH = 3  # runs of a candidate, below which nothing is called clear
SPEED = {**PRIMARY, "train": "train/items_per_second"}
"""What single runs of a mode are compared by; a training's time depends on its epochs too."""
SPOILT = frozenset(
    ("LOAD", "STOLEN-CPU", "BATTERY", "LOW-POWER", "THERMAL", "SWAP", "ROSETTA", "AUDIT", "DIVERGED", "TF32",
     "CLOCK", "CPU-QUOTA", "GPU-SHARED", "SUSPENDED")
)  # fmt: skip
"""Flags of a run whose time is not to be believed."""


@dataclass(frozen=True)
class Candidate:
    """What may be chosen. compile, compile_inference: as it ran; blas: as asked for, "shipped" on a
    GPU, where it is no part of the condition."""

    framework: str
    device: str
    blas: str
    compile: str
    compile_inference: str

    @classmethod
    def of(cls, cell: Mapping[str, str]) -> Candidate:
        on_cpu = "cpu" in cell.get("device", "")
        return cls(
            cell.get("framework", ""),
            cell.get("device", ""),
            cell.get("blas", "") if on_cpu else "shipped",
            cell.get("compile", ""),
            cell.get("compile_inference", ""),
        )

    def __str__(self) -> str:
        blas = f", BLAS {self.blas}" if "cpu" in self.device else ""
        compiled = self.compile
        if self.compile != self.compile_inference:
            compiled = f"{compiled} (inference {self.compile_inference})"
        return f"{self.framework} on {self.device}{blas}, compiled {compiled}"


@dataclass(frozen=True)
class Choice:
    """basis: verdict, same (by a verdict), medians or undecided; runs: ids of the trials that were looked at."""

    candidate: Candidate
    basis: str
    reason: str
    runs: tuple[str, ...]


@dataclass(frozen=True)
class _Runs:
    rows: tuple[Row, ...]
    speeds: tuple[float, ...]  # higher is better
    shown: str

    @property
    def middle(self) -> float:
        return median(self.speeds)


@dataclass(frozen=True)
class _Said:
    """What a study says of two candidates. winner: None where it found them the same or undecided."""

    study: str
    comparison: Comparison
    winner: Candidate | None
    loser: Candidate | None


def decide(
    rows: Sequence[Row],
    sessions: Sequence[Session],
    matches: Callable[[Mapping[str, str]], bool],
    mode: str,
    usual: tuple[str, str],
) -> Choice | None:
    """The choice among the candidates that `rows` measured; None where fewer than two were.

    rows: finished trials of the same work. sessions: their studies, newest first; only pairings of
    conditions that `matches` count. usual: framework and device that are taken where nothing decides.
    """
    measured = _measured(rows, mode)
    if len(measured) < 2:
        return None
    said = _said(sessions, matches, mode)
    losers = {verdict.loser for verdict in said.values()}
    contenders = [c for c in measured if c not in losers] or list(measured)
    contenders.sort(key=lambda c: -measured[c].middle)
    lead, rest = contenders[0], contenders[1:]
    tied = [c for c in rest if not _clear(measured[lead], measured[c], said.get(_pair(lead, c)))]
    won = [v for v in said.values() if v.winner == lead]
    if not tied:
        if not rest and won:
            runs = _ids(measured, [lead, *(v.loser for v in won if v.loser)])
            return Choice(lead, "verdict", "; ".join(_sentence(v) for v in won[:2]), runs)
        second = (
            rest[0] if rest else max(measured.keys() - {lead}, key=lambda c: measured[c].middle)
        )
        reason = (
            f"measured, but in unpaired runs, which carry no verdict: {lead}: {measured[lead].shown}; "
            f"{second}: {measured[second].shown}; every run of the first is faster"
        )
        return Choice(lead, "medians", reason, _ids(measured, [lead, second]))
    equals = [lead, *tied]
    taken = next((c for c in equals if (c.framework, c.device) == usual), None)
    why = "the usual choice of this platform"
    if taken is None:
        winners = {v.winner for v in said.values()}
        taken = next((c for c in equals if c in winners), lead)
        why = "it won a verdict against another" if taken in winners else "the better median"
    other = next(c for c in equals if c != taken)
    verdict = said.get(_pair(taken, other))
    basis = "undecided"
    if verdict:
        evidence = _sentence(verdict)
        basis = "same" if verdict.comparison.outcome == "same" else basis
    else:
        few = min(len(measured[c].rows) for c in (taken, other)) < ENOUGH
        because = f"fewer than {ENOUGH} runs of one" if few else "their runs overlap"
        evidence = (
            f"{taken}: {measured[taken].shown}; {other}: {measured[other].shown}; unpaired runs carry no "
            f"verdict, and {because}"
        )
    return Choice(taken, basis, f"{evidence}; taken: {why}", _ids(measured, equals))


def _measured(rows: Sequence[Row], mode: str) -> dict[Candidate, _Runs]:
    """Runs by candidate: those that nothing spoilt, or all where something spoilt each."""
    about = METRICS[SPEED[mode]]
    groups: dict[Candidate, list[Row]] = {}
    for row in rows:
        if row.metrics.get(about.name, 0) > 0:
            groups.setdefault(Candidate.of(row.cell), []).append(row)
    found = {}
    for candidate, all_rows in groups.items():
        clean = [row for row in all_rows if not SPOILT & set(row.flags)]
        used = clean or all_rows
        values = [row.metrics[about.name] for row in used]
        flags = sorted({flag for row in used for flag in SPOILT & set(row.flags)})
        shown = (
            f"median {quantity(median(values), about.unit)} (n={len(values)}"
            f"{', flagged ' + ', '.join(flags) if flags else ''})"
        )
        speeds = [1 / value for value in values] if about.better == "lower" else values
        found[candidate] = _Runs(tuple(used), tuple(speeds), shown)
    return found


def _pair(one: Candidate, other: Candidate) -> frozenset[Candidate]:
    return frozenset((one, other))


def _said(
    sessions: Sequence[Session],
    matches: Callable[[Mapping[str, str]], bool],
    mode: str,
) -> dict[frozenset[Candidate], _Said]:
    """The newest study's word on every pair of candidates."""
    found: dict[frozenset[Candidate], _Said] = {}
    for session in sessions:
        if session.findings is None:
            continue
        for c in session.findings.comparisons:
            asked = c.metric == session.study.metric and c.metric in (PRIMARY[mode], SPEED[mode])
            if not asked or c.outcome == "none" or c.role in wording.KNOWN_TRUTH:
                continue
            cells = session.condition(c.numerator), session.condition(c.denominator)
            first, second = map(Candidate.of, cells)
            if first == second or not all(map(matches, cells)):
                continue
            winner, loser = {"better": (first, second), "worse": (second, first)}.get(
                c.outcome, (None, None)
            )
            found.setdefault(_pair(first, second), _Said(session.study.name, c, winner, loser))
    return found


def _clear(lead: _Runs, other: _Runs, said: _Said | None) -> bool:
    """Whether the lead is faster beyond doubt, as far as unpaired runs can show it. What a study
    found the same or undecided is not."""
    if said is not None:
        return False
    enough = min(len(lead.speeds), len(other.speeds)) >= ENOUGH
    return enough and min(lead.speeds) > max(other.speeds)


def _sentence(said: _Said) -> str:
    ratio = said.comparison.ratio
    return f"study {said.study}, {ratio.n if ratio else 0} pairs: {said.comparison.verdict}"


def _ids(measured: Mapping[Candidate, _Runs], candidates: Sequence[Candidate]) -> tuple[str, ...]:
    return tuple(row.run_id for c in candidates if c in measured for row in measured[c].rows)

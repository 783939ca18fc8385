"""What matters to somebody -> the metric that answers it -> what a study says of two frameworks in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from analysis.findings import Comparison
from analysis.sessions import Session
from analysis.statistics import holm_pairs
from analysis.workloads import adjusted
from tracking.names import METRICS, PRIMARY

if TYPE_CHECKING:
    from tracking.read import Study

COST = "cost/usd"
PRIORITIES: dict[str, Mapping[str, str]] = {
    "speed": PRIMARY,
    "latency": {
        "train": "inference/latency_seconds_p90",
        "infer": "inference/latency_seconds_p90",
        "generate": "inference/token_seconds_p90",
        "stream": "stream/update_seconds_p90",
        "switch": "switch/loop_seconds_p90",
    },
    "memory": dict.fromkeys(PRIMARY, "memory/process_peak_bytes"),
    "energy": dict.fromkeys(PRIMARY, "energy/joules"),
    "cost": dict.fromkeys(PRIMARY, COST),
    "accuracy": {"train": "target/seconds"},
}
"""Priority -> mode -> metric. Which framework learns better is no question here: both compute the same
function from the same weights, so what is asked is which one reaches the target first."""

Prices = Mapping[str, float]
"""Chip or machine -> USD an hour."""


@dataclass(frozen=True)
class Question:
    """What one study asks of one place. comparisons: those that answer it, which share arms; adjusted:
    the same as some of many questions that are answered at once; refused: why there are none."""

    session: Session
    place: tuple[str, str, str, str]  # workload, mode, machine, device
    metric: str
    comparisons: tuple[Comparison, ...] = ()
    adjusted: tuple[Comparison, ...] = ()
    refused: str = ""

    @property
    def study(self) -> Study:
        return self.session.study

    @property
    def complete(self) -> bool:
        """Whether a comparison has all the pairs that were planned."""
        planned = 1 if self.study.anytime else self.study.pairs
        return any(c.ratio is not None and c.ratio.n >= planned for c in self.comparisons)

    @property
    def declared(self) -> bool:
        """Whether the metric was named before the first trial; cost is time at a fixed price."""
        asked = self.metric
        if asked == COST and METRICS[PRIMARY[self.study.mode]].unit == "s":
            asked = PRIMARY[self.study.mode]
        return asked in (self.study.metric, *self.study.family)


def question(session: Session, priority: str, prices: Prices) -> Question | None:
    """What a study says to a priority; None where it compares no two frameworks, like with like."""
    study = session.study
    pairing = next((p for p in study.comparisons if p.role == "headline"), None)
    if pairing is None or not _two(session, pairing.numerator, pairing.denominator):
        return None
    cell = session.condition(pairing.numerator)
    cell = cell or (dict(session.rows[0].cell) if session.rows else {})
    metric = PRIORITIES[priority].get(study.mode, "")
    asked = Question(
        session,
        (
            cell.get("workload") or str(study.design.get("workload", "unknown")),
            study.mode,
            session.machine or study.machine,
            cell.get("device") or str(study.design.get("condition", {}).get("device", "unknown")),
        ),
        metric,
    )
    if not metric:
        return replace(asked, refused="nothing is trained, so no target is met")
    if session.findings is None:
        return replace(asked, refused=session.refused)
    known = [
        c
        for c in session.findings.comparisons
        if c.role == "headline" and _two(session, c.numerator, c.denominator)
    ]
    own = [c for c in known if c.metric == metric]
    if metric == COST and not any(c.ratio for c in own):
        own = priced(session, known, prices) or own
    if not own:
        return replace(asked, refused=f"no trial of study {study.name} has this number")
    return replace(asked, comparisons=_joined(own))


def framework(session: Session, arm: str) -> str:
    """Whose an arm is."""
    return session.condition(arm).get("framework") or arm.split()[0]


def _two(session: Session, first: str, second: str) -> bool:
    return framework(session, first) != framework(session, second)


def _joined(found: Sequence[Comparison]) -> tuple[Comparison, ...]:
    """Those that share arms with the first, directly or through others. A study over numbers of ranks
    asks several questions, and the first is that of one rank."""
    arms = {found[0].numerator, found[0].denominator}
    while (
        more := {
            arm
            for c in found
            if {c.numerator, c.denominator} & arms
            for arm in (c.numerator, c.denominator)
        }
        - arms
    ):
        arms |= more
    return tuple(c for c in found if c.numerator in arms)


def chip(session: Session) -> str:
    """The chip that did the work, as the trials recorded it; '' where they did not."""
    if not session.rows:
        return ""
    row = session.rows[0]
    on_gpu = "gpu" in row.cell.get("device", "")
    return (row.tags.get("version_gpu", "") if on_gpu else "") or row.facts.get("machine_cpu", "")


def priced(session: Session, known: Sequence[Comparison], prices: Prices) -> list[Comparison]:
    """Cost from measured time and a price given now. Both arms ran on one machine, of which an hour
    costs the same for both, so the ratio is that of their times. [] where there is no price."""
    price = prices.get(chip(session)) or prices.get(session.machine)
    timed = [c for c in known if c.metric == PRIMARY[session.study.mode] and c.unit == "s"]
    if not price:
        return []
    about = METRICS[COST]

    def cost(c: Comparison) -> Comparison:
        points = tuple(
            replace(
                point,
                numerator=point.numerator * price / 3600,
                denominator=point.denominator * price / 3600,
            )
            for point in c.points
        )
        label = f"{about.label} at {price:g} USD an hour"
        c = replace(c, metric=COST, label=label, unit=about.unit, points=points)
        if c.p is None:
            return c
        # The same numbers in other words.
        return adjusted(c, session.study, c.p, c.family, holm_pairs(max(1, c.family)))

    return [cost(c) for c in timed]

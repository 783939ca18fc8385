"""What stands behind a study's verdict, as sections of its report: how it was measured, on what, the
evidence of equal work, and every raw pair."""

from __future__ import annotations

from analysis import cells, wording
from analysis.findings import Comparison, Findings, Grid, Proof
from analysis.page import Section
from analysis.units import digits, quantity
from tracking.names import METRICS

HOW_TO_READ = (
    "A ratio is the median over pairs of numerator / denominator; its interval comes from interpolated "
    "order statistics, whose coverage is 94 to 95 % for six or more pairs whatever the shape of the times "
    'and under drift of the machine. "Better" and "worse" need p ≤ 0.05 from that same interval; '
    '"the same" needs the 90 % interval inside the margin; anything else is undecided. The resolution is '
    "the half-width of the interval when an arm is compared with itself on this machine.",
    "A trial is a fresh process that imports one framework; it starts from the same NumPy parameters and "
    "sees the same items in the same order as its partner. Arms run in blocks, in random order. An epoch's "
    "clock holds its steps and one barrier that waits for the loss and all state, nothing else. First "
    "step, warm-up, evaluation and audit are timed apart. docs/METHOD.md says the rest.",
)
EVIDENCE = (
    "Every trial proves its work with the very calls that are timed: fingerprints of every layer's "
    "output, of every gradient and of the updates of some steps, the losses, the counted operations, and "
    "a receipt of what was done. Two arms get a ratio only if all of it agrees within the tolerance of "
    "their dtype. A signed record is one that is still as its trial wrote it.",
)
VERSIONS = ("version_framework", "version_python")


def sections(findings: Findings) -> tuple[Section, ...]:
    """In the order of the report."""
    return (
        Section("How it was measured", text=HOW_TO_READ, points=findings.notes),
        _machine(findings),
        _conditions(findings),
        _equal_work(findings),
        _raw(findings),
    )


def _machine(findings: Findings) -> Section:
    facts = [
        (key.removeprefix("machine_").replace("_", " "), value)
        for key, value in sorted(findings.machine.items())
    ]
    names = sorted({str(trial["machine"]) for trial in findings.trials if trial["machine"]})
    rows = [*(("fingerprint", name) for name in names), *facts]
    for key in VERSIONS:
        for arm in findings.arms:
            framework = arm.condition.get("framework", arm.name)
            what = framework if key == "version_framework" else "Python"
            if value := arm.condition.get(key):
                rows.append((f"version of {what}", value))
    return Section(
        "Machine and versions",
        text=() if facts else ("These trials recorded nothing but the machine's fingerprint.",),
        grid=Grid(("what", "as recorded"), tuple(dict.fromkeys(rows))) if rows else None,
    )


def _conditions(findings: Findings) -> Section:
    """As they ran: in what the arms differ as a table, what is equal as a sentence."""
    arms = findings.arms
    keys = sorted({key for arm in arms for key in arm.condition})
    differing = [key for key in keys if len({arm.condition.get(key) for arm in arms}) > 1]
    return Section(
        "Conditions as they ran",
        text=(cells.conditions(findings)[1],),
        grid=Grid(
            ("arm", *differing),
            tuple((a.name, *(a.condition.get(key, "") for key in differing)) for a in arms),
        )
        if differing
        else None,
        points=tuple(
            f"{flag.name} ({named}) {flag.sentence} {flag.remedy}".rstrip()
            for flag, named in cells.arm_flags(findings)
        ),
    )


def _equal_work(findings: Findings) -> Section:
    done = findings.done
    names = list(dict.fromkeys(name for one in done for name in one.facts))
    header = ("arm", "trials", "with evidence", "with receipt", "signed record")
    claimed = Grid(
        ("of a trial", *(one.arm for one in done)),
        tuple(
            (name.replace("_", " "), *(one.facts.get(name, "") for one in done)) for name in names
        ),
    )
    return Section(
        "Evidence of equal work",
        text=EVIDENCE,
        grid=Grid(
            header,
            tuple(
                (o.arm, str(o.trials), str(o.evidence), str(o.receipts), str(o.signed))
                for o in done
            ),
        ),
        points=tuple(map(proof_text, findings.proofs)),
        folded=(("What every trial says it did", claimed),) if names else (),
    )


def proof_text(proof: Proof) -> str:
    """'Like with like, mlx / pytorch: equal work in 6 of 6 pairs.'"""
    about = f"{wording.ROLES.get(proof.role, proof.role)}, {proof.numerator} / {proof.denominator}"
    if not proof.pairs:
        return f"{about}: no pair in which both arms finished."
    said = f"{about}: equal work in {proof.equal} of {proof.pairs} pairs"
    return f"{said}; {proof.difference}." if proof.difference else f"{said}."


def _raw(findings: Findings) -> Section:
    """Both values of each pair in the declared metrics, and each pair's ratio in all others."""
    declared = {findings.study.metric, *findings.study.family}
    folded = []
    for heading, _, found in cells.by_pairing(findings):
        with_points = [c for c in found if c.points]
        folded += [
            (f"{heading}: {c.label}", _pairs(c)) for c in with_points if c.metric in declared
        ]
        if others := [c for c in with_points if c.metric not in declared]:
            folded.append((f"{heading}: ratio of every other metric", _ratios(others)))
    if not folded:
        return Section("Every raw pair", text=("No pair has a ratio.",))
    return Section(
        "Every raw pair",
        text=(
            "In full precision with every trial's values: comparisons.csv and trials.csv beside this page.",
        ),
        folded=tuple(folded),
    )


def _pairs(c: Comparison) -> Grid:
    unit = METRICS[c.metric].unit
    return Grid(
        ("pair", c.numerator, c.denominator, "ratio"),
        tuple(
            (
                str(point.pair),
                quantity(point.numerator, unit),
                quantity(point.denominator, unit),
                f"{point.ratio:.4g}",
            )
            for point in c.points
        ),
    )


def _ratios(found: list[Comparison]) -> Grid:
    """A row a pair, a column a metric; '' where that pair lacks it."""
    ratios = [{point.pair: point.ratio for point in c.points} for c in found]
    pairs = sorted({pair for by_pair in ratios for pair in by_pair})
    return Grid(
        ("pair", *(c.label for c in found)),
        tuple(
            (str(pair), *(digits(by_pair[pair]) if pair in by_pair else "" for by_pair in ratios))
            for pair in pairs
        ),
    )

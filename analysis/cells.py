"""Findings as short texts: cells of tables, and which flag is said where. Nothing is computed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from analysis import wording
from analysis.findings import ArmSummary, Comparison, Findings, Middle, Target
from analysis.flags import Flag
from analysis.statistics import Ratio
from analysis.statistics.survival import Arrival
from analysis.units import quantity
from tracking.names import METRICS


def by_pairing(findings: Findings) -> list[tuple[str, str, list[Comparison]]]:
    """(heading, role, comparisons) of each pairing; the primary metric comes first."""
    groups: dict[tuple[str, str, str], list[Comparison]] = {}
    for c in findings.comparisons:
        groups.setdefault((c.role, c.numerator, c.denominator), []).append(c)
    primary = findings.study.metric
    return [
        (
            f"{wording.ROLES.get(role, role)}: {numerator} / {denominator}",
            role,
            sorted(found, key=lambda c: c.metric != primary),
        )
        for (role, numerator, denominator), found in groups.items()
    ]


def common_flags(found: Sequence[Comparison]) -> list[Flag]:
    """Flags that every comparison with a ratio carries: said once for the pairing."""
    divided = [c for c in found if c.ratio is not None]
    if not divided:
        return []
    return [flag for flag in divided[0].flags if all(flag in c.flags for c in divided)]


def own_flags(c: Comparison, common: Iterable[Flag]) -> list[Flag]:
    """The flags of one comparison that its pairing has not said already."""
    return [flag for flag in c.flags if flag not in common]


def arm_flags(findings: Findings) -> list[tuple[Flag, str]]:
    """(flag, the arms that carry it in the same words), each flag once."""
    arms: dict[Flag, list[str]] = {}
    for arm in findings.arms:
        for flag in arm.flags:
            arms.setdefault(flag, []).append(arm.name)
    return [(flag, ", ".join(arms[flag])) for flag in sorted(arms, key=lambda flag: flag.name)]


def without_ratio(found: Sequence[Comparison]) -> list[tuple[str, str]]:
    """(reason, labels) of the metrics that got no ratio, equal reasons together."""
    reasons: dict[str, list[str]] = {}
    for c in found:
        if c.ratio is None:
            reasons.setdefault(c.verdict, []).append(c.label)
    return [(reason, ", ".join(dict.fromkeys(labels))) for reason, labels in reasons.items()]


def subject(findings: Findings) -> str:
    """'training of mnist', as the trials ran."""
    workload = next((arm.condition.get("workload", "") for arm in findings.arms), "")
    return wording.subject(findings.study.mode, workload)


def target_text(findings: Findings) -> str:
    """'96 % test accuracy'."""
    return wording.target(findings.study.quality, findings.study.target)


def target_line(findings: Findings, target: Target) -> str:
    """Median and expected time to the target of both arms, the share that arrived, the test."""
    parts = []
    for name, a in ((target.numerator, target.first), (target.denominator, target.second)):
        parts.append(
            f"{name} median {wording.time_text(a.median, target.unit)}, expected with restarts "
            f"{wording.time_text(a.expected, target.unit)}, {a.arrived} of {a.n} arrived "
            f"({100 * a.share_low:.0f} to {100 * a.share_high:.0f} %)"
        )
    test = target.test
    said = f"log-rank p {test.p:.2g}" if test.p is not None else f"no test: {test.refused}"
    return "; ".join(parts) + f"; {said}"


def arrived_cell(a: Arrival) -> str:
    """'5 of 6 (36 to 100 %)', with the interval of the share."""
    return f"{a.arrived} of {a.n} ({100 * a.share_low:.0f} to {100 * a.share_high:.0f} %)"


def ratio_cell(c: Comparison) -> str:
    """'0.794 [0.775, 0.847]'."""
    return limits_cell(c.ratio)


def limits_cell(ratio: Ratio | None) -> str:
    """The same of a ratio alone."""
    if ratio is None:
        return ""
    if ratio.low is None or ratio.high is None:
        return f"{wording.number(ratio.estimate)} (no interval)"
    low, high = wording.number(ratio.low), wording.number(ratio.high)
    return f"{wording.number(ratio.estimate)} [{low}, {high}]"


def behind(c: Comparison | None) -> str:
    """What stands behind a verdict: 'n = 6 pairs; flags: BLAS-DIFFERS.'; '' where there is no ratio."""
    if c is None or c.ratio is None:
        return ""
    names = ", ".join(dict.fromkeys(flag.name for flag in c.flags))
    named = c.numerator in c.verdict or c.role == "resolution"
    arms = "" if named else f"{c.numerator} over {c.denominator}, "
    return f"{arms}n = {c.ratio.n} pairs; {f'flags: {names}' if names else 'no flag'}."


def resolution_cell(c: Comparison) -> str:
    """'±3.2 %', or that it is unknown."""
    return "unknown" if c.resolution is None else f"±{wording.percent(c.resolution)}"


def p_cell(c: Comparison) -> str:
    """'0.031', with the family when it was adjusted; '' where there is none."""
    if c.p is None:
        return ""
    return f"{c.p:.2g}" + (f" (Holm, {c.family})" if c.family > 1 else "")


def won_cell(c: Comparison) -> str:
    """'6 of 6': pairs in which the numerator was better."""
    return f"{c.wins} of {c.ratio.n}" if c.wins is not None and c.ratio else ""


def outcome_word(c: Comparison) -> str:
    """The verdict in a word or two."""
    if c.role in wording.KNOWN_TRUTH:
        return "A/A" if c.truth is None else f"made: {wording.number(c.truth)}"
    return {"none": "no verdict", "same": f"same within {wording.percent(c.margin)}"}.get(
        c.outcome, c.outcome
    )


def label_cell(c: Comparison) -> str:
    """'training time (lower is better)'."""
    return f"{c.label} ({c.better} is better)" if c.better else c.label


def value_cell(arm: ArmSummary, name: str) -> str:
    """The median of an arm, or that there is none."""
    if name not in arm.values:
        return "not measured"
    return quantity(arm.values[name][0], METRICS[name].unit)


def range_cell(arm: ArmSummary, name: str) -> str:
    """'0.656 s (0.610 to 0.702)': median, least and greatest over the trials."""
    if name not in arm.values:
        return f"not measured: {arm.not_measured.get(name, 'no reason recorded')}"
    return middle_cell(Middle(arm.trials, *arm.values[name]), METRICS[name].unit)


def middle_cell(found: Middle, unit: str) -> str:
    """'656 ms (610 ms to 702 ms)'."""
    middle, low, high = (quantity(v, unit) for v in (found.median, found.low, found.high))
    return middle if low == high else f"{middle} ({low} to {high})"


def conditions(findings: Findings) -> tuple[str, ...]:
    """In what the arms differ, and what is equal in all of them."""
    arms = findings.arms
    keys = sorted({key for arm in arms for key in arm.condition})
    equal, differing = [], []
    for key in keys:
        values = list(dict.fromkeys(arm.condition.get(key, "") for arm in arms))
        if len(values) == 1:
            equal.append(f"{key} {values[0]}")
        else:
            differing.append(f"{key} ({', '.join(value or 'none' for value in values)})")
    return (f"Differing: {'; '.join(differing)}.", f"Equal in all arms: {', '.join(equal)}.")

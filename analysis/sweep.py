"""A study over one parameter -> for every metric a curve of ratios and the places where it passes 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from analysis import wording
from analysis.findings import Comparison, Findings
from analysis.flags import BLOCKING
from analysis.statistics import Crossing, Crossings, crossings


@dataclass(frozen=True)
class Curve:
    """One metric over the parameter.

    points: (value, comparison) where there is a ratio; missing: (value, why there is none).
    crossings: None where no statement on the curve is allowed; sentences then say why.
    """

    metric: str
    label: str
    unit: str
    better: str | None
    points: tuple[tuple[float, Comparison], ...]
    missing: tuple[tuple[float, str], ...]
    crossings: Crossings | None
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Sweep:
    """numerator, denominator: the two arms without the parameter. curves: the primary metric first.

    same_arm: every metric of the arm that was compared with itself, at one value.
    """

    parameter: str
    values: tuple[float, ...]
    numerator: str
    denominator: str
    margin: float
    pairs: int
    curves: tuple[Curve, ...]
    same_arm: tuple[Comparison, ...]

    @property
    def primary(self) -> Curve:
        return self.curves[0]


def trace(findings: Findings) -> Sweep | None:
    """The curves of a study that was designed as a sweep; None for any other study."""
    study = findings.study
    design = study.design.get("sweep")
    if design is None:
        return None
    parameter, values = design["parameter"], tuple(design["values"])
    pairings = [pairing for pairing in study.comparisons if pairing.role == "sweep"]
    arms = {(p.numerator, p.denominator): v for p, v in zip(pairings, values, strict=True)}
    by_metric: dict[str, list[tuple[float, Comparison]]] = {}
    for c in findings.comparisons:
        if c.role == "sweep":
            value = arms[c.numerator, c.denominator]
            by_metric.setdefault(c.metric, []).append((value, c))
    named = tuple(
        _without(name, parameter) for name in (pairings[0].numerator, pairings[0].denominator)
    )
    metrics = sorted(by_metric, key=lambda metric: metric != study.metric)
    return Sweep(
        parameter=parameter,
        values=values,
        numerator=named[0],
        denominator=named[1],
        margin=study.margin,
        pairs=study.pairs,
        curves=tuple(
            _curve(sorted(by_metric[metric], key=lambda at: at[0]), parameter, named, study.pairs)
            for metric in metrics
        ),
        same_arm=tuple(c for c in findings.comparisons if c.role == "resolution"),
    )


def _without(arm: str, parameter: str) -> str:
    """'mlx blas=mkl batch_size=64' -> 'mlx blas=mkl'."""
    return " ".join(word for word in arm.split() if not word.startswith(f"{parameter}="))


def _curve(
    found: Sequence[tuple[float, Comparison]], parameter: str, named: tuple[str, ...], planned: int
) -> Curve:
    points = tuple((value, c) for value, c in found if c.ratio is not None)
    curve = Curve(
        metric=found[0][1].metric,
        label=found[0][1].label,
        unit=found[0][1].unit,
        better=found[0][1].better,
        points=points,
        missing=tuple((value, c.verdict) for value, c in found if c.ratio is None),
        crossings=None,
        sentences=(),
    )
    reason = _refusal(curve, planned)
    if reason:
        return replace(curve, sentences=(f"{curve.label}: {reason}",))
    known = crossings(
        [value for value, _ in points],
        [[point.numerator for point in c.points] for _, c in points],
        [[point.denominator for point in c.points] for _, c in points],
    )
    sentences = _sentences(curve, known, parameter, *named)
    return replace(curve, crossings=known, sentences=sentences)


def _refusal(curve: Curve, planned: int) -> str | None:
    """Why nothing may be said of a curve, or None."""
    if len(curve.points) < 2:
        reasons = "; ".join(dict.fromkeys(reason for _, reason in curve.missing))
        return (
            f"a ratio at {number(curve.points[0][0])} only: {reasons}" if curve.points else reasons
        )
    blocking = {flag.name for _, c in curve.points for flag in c.flags if flag.name in BLOCKING}
    if blocking:
        return f"no verdict, {', '.join(sorted(blocking))} forbids one on the frameworks"
    sizes = {c.ratio.n for _, c in curve.points if c.ratio is not None}
    if sizes != {planned}:
        return f"no verdict, a value has {min(sizes)} to {max(sizes)} pairs where {planned} were planned"
    return None


def _sentences(
    curve: Curve, known: Crossings, parameter: str, first: str, second: str
) -> tuple[str, ...]:
    """A sentence for each crossing that is shown, or one that says what is known without any."""
    if known.found:
        return tuple(_crossing(curve, one, parameter, first, second) for one in known.found)
    return (
        f"{curve.label}: no crossing shown, {_stretches(curve, known, parameter, first, second)}",
    )


def _crossing(curve: Curve, one: Crossing, parameter: str, first: str, second: str) -> str:
    before, after = (_does(curve, sign) for sign in ((-1, 1) if one.rising else (1, -1)))
    left, right = (number(value) for value in one.between)
    limits = f"{number(one.low)} to {number(one.high)}"
    if one.value is None:
        place = f"somewhere in {parameter} {limits} (not located: the medians pass 1 repeatedly)"
    else:
        place = f"at {parameter} {number(one.value)} (95 % interval {limits})"
    return (
        f"{curve.label}: the ratio passes 1 {place}; {first} {before} {second} at {left}, "
        f"{after} it at {right}"
    )


def _does(curve: Curve, sign: int) -> str:
    """What the first arm does where the ratio is below (-1) or above (1) one."""
    if curve.better is None:
        return "has less than" if sign < 0 else "has more than"
    return wording.verb(curve.metric, (sign < 0) == (curve.better == "lower"))


def _stretches(curve: Curve, known: Crossings, parameter: str, first: str, second: str) -> str:
    """'mlx is faster than pytorch at every value', or which values show what by themselves.

    The first needs no adjustment, since it is wrong as soon as one value is; the second is Holm's.
    """
    span = f"{parameter} from {number(known.values[0])} to {number(known.values[-1])}"
    if len(set(known.signs)) == 1 and known.signs[0]:
        return f"{first} {_does(curve, known.signs[0])} {second} at every value of {span}"
    words = []
    for (_, c), ratio, p in zip(curve.points, known.ratios, known.adjusted, strict=True):
        if p <= 1 - known.confidence:
            words.append(f"{first} {_does(curve, -1 if ratio.estimate < 1 else 1)} {second}")
        elif c.same is not None and c.same.same:
            words.append(f"the same within {wording.percent(c.margin)}")
        else:
            words.append("undecided")
    if len(set(words)) == 1:
        return f"{words[0]} at every value of {span}"
    listed: list[str] = []
    for word in dict.fromkeys(words):
        at = [number(value) for value, w in zip(known.values, words, strict=True) if w == word]
        listed.append(f"{word} at {parameter} {', '.join(at)}")
    return "; ".join(listed)


def medians(c: Comparison) -> tuple[float, float]:
    """What a typical run of either arm of a pairing measured: numerator, denominator."""
    return (
        median(point.numerator for point in c.points),
        median(point.denominator for point in c.points),
    )


def number(value: float) -> str:
    """A value of the parameter: whole above 100, else three digits.

    >>> number(16384.0), number(153.7), number(45.25), number(0.05)
    ('16384', '154', '45.2', '0.05')
    """
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def records(findings: Findings, sweep: Sweep) -> list[dict[str, Any]]:
    """One flat record a crossing, for CSV; a metric without one has a record that says why."""
    found = []
    for curve in sweep.curves:
        known = curve.crossings.found if curve.crossings else ()
        for index, sentence in enumerate(curve.sentences):
            one = known[index] if known else None
            found.append(
                {
                    "study": findings.study.name,
                    "parameter": sweep.parameter,
                    "numerator": sweep.numerator,
                    "denominator": sweep.denominator,
                    "metric": curve.metric,
                    "pairs": sweep.pairs,
                    "value": one.value if one else None,
                    "low": one.low if one else None,
                    "high": one.high if one else None,
                    "left": one.between[0] if one else None,
                    "right": one.between[1] if one else None,
                    "ratio": ("rises" if one.rising else "falls") if one else None,
                    "flags": " ".join(flag.name for flag in one.warnings) if one else "",
                    "sentence": sentence,
                }
            )
    return found

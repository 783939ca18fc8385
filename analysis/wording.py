"""The sentences that the statistics allow: 'faster', 'the same within', 'undecided', no ratio."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from analysis.units import digits
from tracking.names import METRICS

if TYPE_CHECKING:
    from analysis.findings import Comparison

ROLES = {  # in the order in which a report shows them
    "headline": "Like with like",
    "version": "One framework, two versions",
    "sweep": "Like with like, one parameter varied",
    "scaling": "More ranks over one",
    "as shipped": "As the wheels ship",
    "wheel": "What the wheel costs",
    "resolution": "The machine against itself",
    "injected": "A slowdown of known size",
}
KNOWN_TRUTH = frozenset({"resolution", "injected"})
"""Roles whose ratio is known beforehand: they test the measurement, not the frameworks."""
QUESTIONS = frozenset({"headline", "version", "sweep"})
"""Roles of the pairings a study was made for: they are tested as one declared family."""

MODES = {
    "train": "training",
    "infer": "inference",
    "generate": "generation",
    "stream": "continuous learning",
    "switch": "switching between devices",
}
"""What the trials of a study did, by its mode."""

# group or full name of a metric -> what the better arm does
_VERBS = {
    "memory": "uses less memory than",
    "energy/joules": "uses less energy than",
    "energy/watts_mean": "draws less power than",
    "cost": "costs less than",
    "target/epochs": "needs fewer epochs than",
    "target/seconds": "reaches the target sooner than",
    "eval": "is better on the test set than",
    "hardware/ceiling_fraction": "comes closer to this machine's matmul ceiling than",
}
_OPPOSITES = {
    "memory": "uses more memory than",
    "energy/joules": "uses more energy than",
    "energy/watts_mean": "draws more power than",
    "cost": "costs more than",
    "target/epochs": "needs more epochs than",
    "target/seconds": "reaches the target later than",
    "eval": "is worse on the test set than",
    "hardware/ceiling_fraction": "stays further from this machine's matmul ceiling than",
}


def verb(metric: str, first_is_better: bool) -> str:
    """What the first arm does, compared with the second.

    >>> verb("train/total_seconds", True), verb("memory/process_peak_bytes", False)
    ('is faster than', 'uses more memory than')
    """
    words = _VERBS if first_is_better else _OPPOSITES
    plain = "is faster than" if first_is_better else "is slower than"
    return words.get(metric) or words.get(metric.split("/")[0]) or plain


def target(metric: str, value: float) -> str:
    """A target in words; a perplexity is met from above, an accuracy from below.

    >>> target("eval/accuracy", 0.96), target("eval/perplexity", 120)
    ('96 % test accuracy', 'test perplexity of 120 or less')
    """
    about = METRICS[metric]
    if metric == "eval/accuracy":
        return f"{100 * value:g} % {about.label}"
    return f"{about.label} of {value:g} or {'less' if about.better == 'lower' else 'more'}"


def subject(mode: str, workload: str) -> str:
    """What a study's trials did.

    >>> subject("train", "mnist"), subject("generate", "tinyllama")
    ('training of mnist', 'generation by tinyllama')
    """
    return f"{MODES.get(mode, mode)} {'of' if mode == 'train' else 'by'} {workload or 'a model'}"


def percent(share: float) -> str:
    """A share as a percentage with two significant digits.

    >>> percent(0.05), percent(0.0123), percent(0.5)
    ('5 %', '1.2 %', '50 %')
    """
    return f"{100 * share:.2g} %"


def number(ratio: float) -> str:
    """A ratio with three decimals, or with three digits where that says more.

    >>> number(0.81234), number(23.456), number(0.0028)
    ('0.812', '23.5', '0.00280')
    """
    if ratio < 0.1:
        return digits(ratio)
    return f"{ratio:.3f}" if ratio < 10 else f"{ratio:.1f}" if ratio < 1000 else f"{ratio:.0f}"


def time_text(time: float, unit: str) -> str:
    """A time to the target, or 'never'.

    >>> time_text(2.5, "s"), time_text(float("inf"), "epochs")
    ('2.50 s', 'never')
    """
    return "never" if math.isinf(time) else f"{digits(time)} {unit}"


def interval_text(c: Comparison) -> str:
    """The ratio with its interval, 'not measured' or why there is none."""
    if c.not_measured:
        return f"not measured: {c.not_measured}"
    if c.refused or c.ratio is None:
        return f"no ratio: {c.refused}"
    if c.ratio.low is None or c.ratio.high is None:
        return f"{number(c.ratio.estimate)}, no interval from {c.ratio.n} pairs"
    return (
        f"{number(c.ratio.estimate)}, {percent(c.ratio.confidence)} interval "
        f"{number(c.ratio.low)} to {number(c.ratio.high)}"
    )


def wins_text(c: Comparison) -> str:
    """'better in 6 of 6 pairs', in the metric's own direction."""
    if c.wins is None or c.ratio is None:
        return ""
    ties = f", equal in {c.ratio.ties}" if c.ratio.ties else ""
    return f"{c.numerator} better in {c.wins} of {c.ratio.n} pairs{ties}"


def resolution_text(c: Comparison) -> str:
    """What an arm compared with itself shows on this machine for this metric."""
    if c.resolution is None:
        return "resolution unknown"
    return f"resolution ±{percent(c.resolution)}"


def outcome(c: Comparison, planned: int, blocking: tuple[str, ...]) -> str:
    """better, worse (of the numerator), same, undecided, none (no verdict is allowed)."""
    if c.ratio is None or c.ratio.low is None or c.ratio.n != planned or c.role in KNOWN_TRUTH:
        return "none"
    if blocking:
        return "undecided"
    if c.significant and c.better is not None:
        return "better" if (c.ratio.estimate < 1) == (c.better == "lower") else "worse"
    return "same" if c.same is not None and c.same.same else "undecided"


def verdict(c: Comparison, planned: int, blocking: tuple[str, ...]) -> str:
    """The one sentence that the evidence allows (STATISTICS: rules of the harness).

    A difference needs p <= 0.05 (adjusted in the declared family); 'the same within' needs the 90 %
    interval inside the margin; else it is undecided. blocking: names of flags that forbid to blame a
    framework for either.
    """
    if c.not_measured or c.refused or c.ratio is None:
        return interval_text(c)
    n = c.ratio.n
    if c.ratio.low is None or c.ratio.high is None:
        listed = ", ".join(number(point.ratio) for point in c.points)
        return f"no verdict from {n} pair{'s' if n != 1 else ''}; the ratios are {listed}"
    limits = f"between {number(c.ratio.low)} and {number(c.ratio.high)}"
    if n < planned:
        return f"no verdict yet, {n} of {planned} planned pairs are complete; the ratio is {limits}"
    if n > planned:
        return f"no verdict from {n} pairs where {planned} were planned; the ratio is {limits}"
    spoilt = f"; {', '.join(blocking)} spoils it" if blocking else ""
    if c.role == "resolution":
        return _resolution_verdict(c, limits) + spoilt
    if c.role == "injected":
        return _injected_verdict(c, limits) + spoilt
    same = c.same is not None and c.same.same and not blocking
    if c.outcome in ("better", "worse"):
        first_is_better = c.outcome == "better"
        within = f", by less than the margin of {percent(c.margin)}" if same else ""
        return (
            f"{c.numerator} {verb(c.metric, first_is_better)} {c.denominator}: "
            f"{c.label}, ratio {interval_text(c)}{within}"
        )
    if same:
        return (
            f"{c.numerator} and {c.denominator} are the same within {percent(c.margin)}: "
            f"the ratio of {c.label} is {limits}"
        )
    why = f" ({', '.join(blocking)} forbids a verdict on the frameworks)" if blocking else ""
    return f"undecided with {n} pairs{why}; the ratio is {limits}"


def _resolution_verdict(c: Comparison, limits: str) -> str:
    assert c.ratio is not None and c.ratio.low is not None and c.ratio.high is not None
    if c.ratio.low <= 1 <= c.ratio.high:
        return (
            f"{c.denominator} against itself: the ratio is {limits}, as it should be; "
            f"this machine resolves ±{percent(c.resolution or 0.0)} with {c.ratio.n} pairs"
        )
    return (
        f"{c.denominator} differs from itself here: the ratio is {limits}; "
        "trust no small difference"
    )


def _injected_verdict(c: Comparison, limits: str) -> str:
    assert c.ratio is not None and c.ratio.low is not None and c.ratio.high is not None
    assert c.truth is not None
    seen = "is found" if c.significant else f"is not found with {c.ratio.n} pairs"
    holds = "holds" if c.ratio.low <= c.truth <= c.ratio.high else "does not hold"
    return (
        f"the ratio that was made is {number(c.truth)} and {seen}: the ratio is {limits}, "
        f"which {holds} it"
    )


def detection_text(c: Comparison) -> str:
    """In how many random subsets of the pairs a difference shows; '' where it was not counted."""
    if not c.detection:
        return ""
    shares = ", ".join(f"{n} pairs {100 * share:.0f} %" for n, share in c.detection)
    what = "false alarm" if c.role == "resolution" else "difference seen"
    return f"{what} in random subsets of the pairs: {shares}"

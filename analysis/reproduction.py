"""A trial and its repetition: the same result, bit for bit or within tolerance, or a different one; and
whether the times agree. Numbers in, sentences out."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import stats

from analysis.flags import MINIMUM_PAIRS
from measurement import audit, comparison

SAME_WEIGHTS, SAME_RESULTS = "same weights bit for bit", "same results bit for bit"
WITHIN, DIFFERENT = "same within tolerance", "different"
LEAST_REPEATS = 3
_LEVEL = 0.95

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Ran:
    """What a run left. losses: by epoch, or of what else its mode has; seconds: of its timed work.
    weights_sha256: as it was recorded; it and weights are None where there are none to be read."""

    run_id: str
    mode: str
    machine: str
    commit: str
    versions: dict[str, Any]
    condition: dict[str, str]
    flags: tuple[str, ...]
    parity: dict[str, Any] | None
    receipt: dict[str, Any] | None
    losses: np.ndarray
    seconds: float
    weights_sha256: str | None = None
    weights: Arrays | None = None
    kept_sha256: str | None = None  # of `weights`, as they are in the store now
    altered: tuple[str, ...] = ()  # names of what was changed in the run after it was written
    start_sha256: str | None = None  # of the checkpoint, of a mode that begins with one

    @property
    def learns(self) -> bool:
        """Whether it changed weights."""
        return self.mode in ("train", "stream")


@dataclass(frozen=True)
class Verdict:
    """word: one of the four above. first: the first thing that differs, "" for none. reasons: what was
    compared, and how it came out."""

    word: str
    first: str = ""
    reasons: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        return self.word != DIFFERENT

    @property
    def sentence(self) -> str:
        return f"{self.word}: {self.first}" if self.first else self.word


@dataclass(frozen=True)
class Resolution:
    """How far one run is from another of the same condition, as a share, in 95 % of cases: from
    `count` ratios, or runs, of `source`."""

    share: float
    count: int
    source: str


@dataclass(frozen=True)
class Timing:
    """agrees: yes, no, unknown (no resolution) or not compared. ratio: repetition over original."""

    agrees: str
    sentence: str
    ratio: float | None = field(default=None)


def judge(a: Ran, b: Ran, initial: Arrays | None, around: Sequence[str]) -> Verdict:
    """a: the original, b: its repetition. initial: the weights that both started from; None where
    nothing is learnt or they are unknown. around: what else differs, the weightiest first, as in
    'versions: torch 2.12.0 against 2.13.0': no reason to call a result different, but to name first."""
    for run in (a, b):
        if run.kept_sha256 not in (None, run.weights_sha256):
            changed = (
                f"weights: the model kept with run {run.run_id} has the sha256 {run.kept_sha256}, the run "
                f"recorded {run.weights_sha256}: it was changed afterwards"
            )
            return Verdict(DIFFERENT, changed, (changed,))
    if None not in (a.start_sha256, b.start_sha256) and a.start_sha256 != b.start_sha256:
        other = f"checkpoint: sha256 {a.start_sha256} against {b.start_sha256}"
        return Verdict(DIFFERENT, other, (other,))
    if a.learns and None not in (a.weights_sha256, b.weights_sha256):
        if a.weights_sha256 == b.weights_sha256:
            word = f"all trained weights have the sha256 {a.weights_sha256}"
            return Verdict(SAME_WEIGHTS, "", (word,))
    elif not a.learns and _equal((a.parity, a.receipt), (b.parity, b.receipt)) and a.parity:
        return Verdict(SAME_RESULTS, "", ("evidence and receipt are the same, number by number",))
    reasons: list[str] = []
    apart: list[str] = []
    for name, said in (
        ("evidence of ten steps", audit.parity_difference(a.parity, b.parity)),
        ("work receipt", audit.receipt_difference(a.receipt, b.receipt)),
        ("losses", _losses_apart(a.losses, b.losses)),
        ("weights", _weights_apart(a, b, initial)),
    ):
        if said is None:
            reasons.append(f"{name}: within tolerance ({_tolerance(name, a)})")
        elif said.startswith("not compared"):
            reasons.append(f"{name}: {said}")
        else:
            reasons.append(f"{name}: {said.removeprefix(f'{name}: ')}")
            apart.append(said)
    if (distance := _largest(a, b, initial)) is not None:
        reasons.append(f"weights: the furthest apart is {distance}")
    if not apart:
        return Verdict(WITHIN, "", tuple(reasons))
    return Verdict(DIFFERENT, "; ".join((*around[:1], apart[-1])), tuple(reasons))


def _equal(a: Any, b: Any) -> bool:
    """As text, in which a number that is none equals itself."""
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)


def _tolerance(name: str, run: Ran) -> str:
    dtype = (run.parity or {}).get("dtype", "float32")
    optimiser = (run.parity or {}).get("optimiser", "sgd")
    outputs, gradients, losses = comparison.TOLERANCES[dtype]
    share = audit.RECEIPT_TOLERANCE
    return {
        "evidence of ten steps": f"outputs {outputs:g}, gradients {gradients:g}, losses {losses:g}, "
        f"updates {comparison.UPDATE_TOLERANCES.get(optimiser, {}).get(dtype, 0):g}",
        "work receipt": f"counts equal, weight change and last loss {share:g}",
        "losses": f"each {share:g} of itself",
        "weights": f"{share:g} of the norm of their change",
    }[name]


def _losses_apart(a: np.ndarray, b: np.ndarray) -> str | None:
    """The first loss that is further away than a receipt allows."""
    if not len(a):
        return "not compared: the run keeps none"
    if len(a) != len(b):
        return f"{len(a)} against {len(b)} losses"
    for number, (x, y) in enumerate(zip(a, b, strict=True)):
        both = math.isnan(x) and math.isnan(y)
        if not both and not abs(x - y) <= audit.RECEIPT_TOLERANCE * max(abs(x), abs(y)):
            return f"loss {number} is {x:.8g} against {y:.8g}"
    return None


def _changes(a: Ran, b: Ran, initial: Arrays | None) -> list[tuple[str, float, float, float]]:
    """(name, distance, one norm, other norm) of every array's change in training."""
    if a.weights is None or b.weights is None or initial is None:
        return []
    found = []
    for name in sorted(a.weights):
        start = initial[name].astype(np.float64)
        x, y = a.weights[name] - start, b.weights[name] - start
        distance, one, other = (float(np.linalg.norm(z)) for z in (x - y, x, y))
        found.append((name, distance, one, other))
    return found


def _weights_apart(a: Ran, b: Ran, initial: Arrays | None) -> str | None:
    """All weights as one vector: under AdamW the change of an array may be rounding alone, see
    measurement.comparison, and weigh nothing in the whole."""
    if not a.learns:
        return "not compared: nothing is learnt"
    changes = _changes(a, b, initial)
    if not changes:
        return "not compared: a run keeps no weights that can be read, or their start is unknown"
    distance, x, y = (math.hypot(*values) for values in list(zip(*changes, strict=True))[1:])
    share = distance / max(x, y, 1e-30)
    if share <= audit.RECEIPT_TOLERANCE:
        return None
    return (
        f"weights: their change differs by {share:.2g} of its norm (allowed "
        f"{audit.RECEIPT_TOLERANCE:g}), first {_largest(a, b, initial)}"
    )


def _largest(a: Ran, b: Ran, initial: Arrays | None) -> str | None:
    changes = _changes(a, b, initial)
    if not changes:
        return None
    name, distance, x, y = max(changes, key=lambda one: one[1])
    return (
        f"{name}, by {distance:.2e} ({distance / max(x, y, 1e-30):.2g} of the norm of its change)"
    )


def from_pairs(ratios: Sequence[float], source: str) -> Resolution | None:
    """One run over another, from the A/A pairs of studies: half-width of the interval in which one
    more ratio lies with 95 %, if the logs are normal around 0: t(n) * sqrt(mean square)."""
    n = len(ratios)
    if n < MINIMUM_PAIRS:
        return None
    spread = math.sqrt(float(np.mean(np.square(np.log(ratios)))))
    width = float(stats.t.ppf((1 + _LEVEL) / 2, n)) * spread
    return Resolution(math.expm1(width), n, source)


def from_repeats(seconds: Sequence[float]) -> Resolution | None:
    """One more run from those of one evening: t(n - 1) * s * sqrt(1 + 1/n) on the log scale."""
    n = len(seconds)
    if n < LEAST_REPEATS:
        return None
    spread = float(np.std(np.log(seconds), ddof=1)) * math.sqrt(1 + 1 / n)
    width = float(stats.t.ppf((1 + _LEVEL) / 2, n - 1)) * spread
    return Resolution(math.expm1(width), n, "the repetitions themselves")


def timing(
    a: Ran, repeats: Sequence[Ran], resolution: Resolution | None, reason: str | None
) -> Timing:
    """reason: why times must not be compared, or None."""
    if reason:
        return Timing("not compared", f"time not compared: {reason}")
    seconds = float(np.exp(np.mean(np.log([run.seconds for run in repeats]))))
    ratio = seconds / a.seconds
    said = f"time {seconds:.4g} s against {a.seconds:.4g} s, ratio {ratio:.3f}"
    if resolution is None:
        return Timing(
            "unknown",
            f"{said}: resolution unknown, because no study here compared an arm with itself at this size "
            f"in {MINIMUM_PAIRS} pairs or more; run one, or repeat with -P repeats={LEAST_REPEATS}",
            ratio,
        )
    inside = abs(math.log(ratio)) <= math.log1p(resolution.share)
    return Timing(
        "yes" if inside else "no",
        f"{said}: {'agrees' if inside else 'does not agree'} within the ±{resolution.share:.1%} by which one "
        f"run differs from another here (95 %, from {resolution.count} of {resolution.source}); runs of "
        "different days may differ more",
        ratio,
    )

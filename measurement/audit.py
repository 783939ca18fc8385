"""Was the work equal, and was it done? Receipts, evidence of parity, completion.

Nothing here trusts a twin: the receipt counts what the loop ran, the evidence comes from the very
step that is timed, and the completion audit asks the clock.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from measurement.comparison import KINK_TOLERANCE, TOLERANCES, UPDATE_TOLERANCES
from measurement.operations import counted_difference

NO_OPTIMISER = "none"  # of work that learns nothing
COMPLETION_BOUNDS = (1.6, 2.5)
RESIDUE_BOUND = 0.5
# After whole epochs two float32 trainings drift apart a little by rounding alone.
RECEIPT_TOLERANCE = 0.05


@dataclass(frozen=True)
class Receipt:
    """What one training did: counts are exact, weight_change_norm and check_value are the
    fingerprints of learning. initial: of the weights as they were read from the device before the
    first epoch; order: of the items of each step; answers, single_answers: what the timed inference
    put out, see measurement.ledger; answer_quality, single_answer_quality: in 16 bits, the quality
    that an evaluation would find, were they the labels."""

    items: int
    steps: int
    flops: int
    eval_items: int
    inference_items: int
    latency_calls: int
    weight_change_norm: float
    check_value: float
    warmup_calls: int
    order: str
    initial: list[float]
    answers: list[float]
    single_answers: list[float]
    answer_quality: float | None = None
    single_answer_quality: float | None = None
    kind: str = "train"


@dataclass(frozen=True)
class InferenceReceipt:
    """What one trial without training did in a pass; check_value is the quality it found."""

    flops: int
    eval_items: int
    inference_items: int
    latency_calls: int
    check_value: float
    warmup_calls: int
    answers: list[float]
    single_answers: list[float]
    answer_quality: float | None = None
    single_answer_quality: float | None = None
    kind: str = "infer"


@dataclass(frozen=True)
class StreamReceipt:
    """What one trial of continuous learning did; check_value is the mean loss of its updates."""

    items: int
    steps: int
    flops: int
    eval_items: int
    weight_change_norm: float
    check_value: float
    warmup_calls: int
    initial: list[float]
    kind: str = "stream"


@dataclass(frozen=True)
class GenerationReceipt:
    """What one trial of generation did. tokens_digest: of every token it put out, in float32; in 16
    bits a rounding may turn the greedy choice, and nothing after it compares: ""."""

    items: int
    prompt_tokens: int
    tokens: int
    flops: int
    latency_calls: int
    tokens_digest: str
    warmup_calls: int
    kind: str = "generate"


@dataclass(frozen=True)
class SwitchReceipt:
    """What one trial on two devices did in its timed passes. products: results that were counted.
    check_value: how far the last matrices are from 1, on average."""

    loops: int
    products: int
    flops: int
    latency_calls: int
    check_value: float
    warmup_calls: int
    kind: str = "switch"


@dataclass(frozen=True)
class _Fields:
    """Of one kind of receipt: equal whole numbers, close numbers, equal texts; vectors: fingerprints
    [.., norm, projection] and how far apart they may be on the scale of the norm."""

    whole: tuple[str, ...]
    close: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    vectors: tuple[tuple[str, float], ...] = ()


# Weights are copied, so equal but for their rounding to 16 bits. Answers may be the numbers of classes,
# where a rounding turns a few of them: half of them elsewhere would be 0.7 apart, one for all 1. In 16
# bits a language model before its training has words by the thousands that are as likely, and sound
# twins were 0.47 apart with one seed of six: there others are as good, if they are as likely. Sound
# twins held their own for as good within 0.001 (CPU, bfloat16, at smoke, and 12 blocks of 1,024). Where
# that is a share of answers which the model would give again, single items asked another way than a
# batch turned 0 to 3 of 128 (DeiT on an H200, ten seeds); half of them elsewhere would be 64.
_INITIAL, _ANSWERS, _QUALITY, _SHARE = 1e-6, 0.3, 0.02, 0.05
_QUALITIES = {"answers": "answer_quality", "single_answers": "single_answer_quality"}
_RECEIPTS: dict[str, _Fields] = {
    "train": _Fields(
        (
            "items",
            "steps",
            "flops",
            "eval_items",
            "inference_items",
            "latency_calls",
            "warmup_calls",
        ),
        ("weight_change_norm", "check_value"),
        ("order",),
        (("initial", _INITIAL), ("answers", _ANSWERS), ("single_answers", _ANSWERS)),
    ),
    "infer": _Fields(
        ("flops", "eval_items", "inference_items", "latency_calls", "warmup_calls"),
        ("check_value",),
        (),
        (("answers", _ANSWERS), ("single_answers", _ANSWERS)),
    ),
    "stream": _Fields(
        ("items", "steps", "flops", "eval_items", "warmup_calls"),
        ("weight_change_norm", "check_value"),
        (),
        (("initial", _INITIAL),),
    ),
    "generate": _Fields(
        ("items", "prompt_tokens", "tokens", "flops", "latency_calls", "warmup_calls"),
        (),
        ("tokens_digest",),
    ),
    "switch": _Fields(
        ("loops", "products", "flops", "latency_calls", "warmup_calls"), ("check_value",)
    ),
}
# What the first receipts did not have: two without it are compared by the rest.
_LATER = ("warmup_calls", "order", "initial", "answers", "single_answers")


def receipt_difference(a: Mapping[str, Any] | None, b: Mapping[str, Any] | None) -> str | None:
    """None when two receipts state the same work, else the first difference in a sentence."""
    if not a or not b:
        return "a work receipt is missing"
    kind = a.get("kind", "train")  # the first receipts had no kind
    if kind != b.get("kind", "train") or not isinstance(kind, str) or kind not in _RECEIPTS:
        return f"the receipts differ in kind: {kind} against {b.get('kind', 'train')}"
    fields = _RECEIPTS[kind]
    old = {name for name in _LATER if name not in a and name not in b}

    def differ(name: str, equal: bool) -> str | None:
        if equal or name in old:
            return None
        return f"the receipts differ in {name}: {a.get(name)} against {b.get(name)}"

    def alike(name: str, most: float) -> bool:
        return _alike(a.get(name), b.get(name), most) or _as_good(name, a, b)

    checks = [
        *(differ(n, isinstance(a.get(n), int) and a.get(n) == b.get(n)) for n in fields.whole),
        *(differ(n, _close(a.get(n), b.get(n), RECEIPT_TOLERANCE)) for n in fields.close),
        *(differ(n, isinstance(a.get(n), str) and a.get(n) == b.get(n)) for n in fields.texts),
        *(differ(n, alike(n, most)) for n, most in fields.vectors),
    ]
    if found := next((said for said in checks if said), None):
        return found
    if a.get("weight_change_norm") == 0:
        return "neither arm changed a weight"
    return None


def _alike(a: Any, b: Any, tolerance: float) -> bool:
    """Whether two fingerprints are: as many rows, norm and projection close on the norm's scale."""
    if a == [] and b == []:
        return True
    if not (isinstance(a, list) and isinstance(b, list) and len(a) == len(b) and len(a) in (2, 3)):
        return False
    if not (_finite(a, len(a)) and _finite(b, len(b))) or a[:-2] != b[:-2]:
        return False
    scale = max(abs(a[-2]), abs(b[-2]))
    return all(abs(x - y) <= tolerance * scale for x, y in zip(a[-2:], b[-2:], strict=True))


def _as_good(name: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two receipts have as many answers, and each model holds its own for as good."""
    x, y = a.get(name), b.get(name)
    if not (name in _QUALITIES and isinstance(x, list) and isinstance(y, list) and x[:1] == y[:1]):
        return False
    one, other = a.get(_QUALITIES[name]), b.get(_QUALITIES[name])
    shares = isinstance(one, float) and isinstance(other, float) and max(one, other) <= 1
    return _close(one, other, _SHARE if shares else _QUALITY)


_PIECE = 65_536  # elements at a time: whole, it would be the peak of a process's memory


def fingerprint(arrays: Mapping[str, np.ndarray]) -> list[float]:
    """[norm, projection on a fixed random sign vector] over all arrays, float64.

    The projection catches what keeps the norm: a permutation, a sign, two layers exchanged.
    """
    with ThreadPoolExecutor() as threads:  # NumPy lets go of the interpreter meanwhile
        parts = list(threads.map(lambda name: _sums(name, arrays[name]), sorted(arrays)))
    return [math.sqrt(sum(part[0] for part in parts)), sum((part[1] for part in parts), 0.0)]


def _sums(name: str, array: np.ndarray) -> tuple[float, float]:
    """Of the squares, and of the values each with its sign. No product of BLAS, whose threads wait for
    each other: beside other work on two cores 172 million values took 23 s so, and 0.7 s without."""
    squares, projection = 0.0, 0.0
    flat, generator = np.asarray(array).ravel(), np.random.PCG64(zlib.crc32(name.encode()))
    for start in range(0, flat.size, _PIECE):
        values = np.asarray(flat[start : start + _PIECE], np.float64)
        # default_rng(..).integers(0, 2, size), a third of its time: the first of every 32 bits.
        bits = generator.random_raw(-(-values.size // 2)).view(np.uint32)[: values.size] >> 31
        squares += float(np.sum(np.square(values)))
        projection += float(2 * np.sum(values * bits) - np.sum(values))
    return squares, projection


def parity_difference(a: Mapping[str, Any] | None, b: Mapping[str, Any] | None) -> str | None:
    """None when two arms computed the same function, else the first difference in a sentence.

    The evidence: digest of the work (workload, sizes, data, dtype), parameter count, fingerprints
    of outputs and gradients on the first batch, the losses of ten steps and the update they made.
    A generation has no gradients and no update: its losses are those of ten tokens given to it. Nor
    has work on two devices: its losses are the mean of each matrix after each of ten loops. Last
    come the counted operations, which see work that changes no result.
    """
    if not a or not b:
        return "evidence of equal work is missing"
    for name in ("work", "dtype", "parameters"):
        if a.get(name) is None or a[name] != b.get(name):
            return f"the evidence differs in {name}: {a.get(name)} against {b.get(name)}"
    optimiser = a.get("optimiser", "sgd")  # the first evidence did not name it
    if optimiser != b.get("optimiser", "sgd"):
        return f"the evidence differs in optimiser: {optimiser} against {b.get('optimiser')}"
    # Anything may stand in a tag: what is no word is no name of a tolerance either.
    if not isinstance(a["dtype"], str) or a["dtype"] not in TOLERANCES:
        return f"no tolerance is stated for dtype {a['dtype']}"
    if not isinstance(optimiser, str) or optimiser not in {NO_OPTIMISER, *UPDATE_TOLERANCES}:
        return f"no tolerance is stated for optimiser {optimiser}"
    outputs, gradients, losses = TOLERANCES[a["dtype"]]
    scales = [("output", outputs)]
    if optimiser != NO_OPTIMISER:
        updates = UPDATE_TOLERANCES[optimiser][a["dtype"]]
        scales += [("gradient", max(gradients, KINK_TOLERANCE)), ("update", updates)]
    for name, tolerance in scales:
        if not (_finite(a.get(name), 2) and _finite(b.get(name), 2)):
            return f"the evidence differs in {name}: {a.get(name)} against {b.get(name)}"
        # A projection sums signed terms, so both numbers are compared on the scale of the norm.
        scale = max(abs(a[name][0]), abs(b[name][0]))
        for x, y in zip(a[name], b[name], strict=True):
            if not abs(x - y) <= tolerance * scale:
                return f"the evidence differs in {name}: {x:.8g} against {y:.8g}"
    x, y = a.get("losses"), b.get("losses")
    if not (isinstance(x, list) and isinstance(y, list)):
        return "the evidence has no losses"
    if not x or not y or len(x) != len(y):
        return f"the evidence has {len(x or [])} against {len(y or [])} losses"
    for step, (one, other) in enumerate(zip(x, y, strict=True)):
        if not _close(one, other, losses):
            return f"the evidence differs in the loss of step {step}: {one} against {other}"
    return counted_difference(a, b)


def completion(
    timed_steps: Callable[[int], float],
    read_back: Callable[[], object],
    clock: Callable[[], float],
    seconds: float,
    most: int = 4096,
    repetitions: int = 5,
    agree: Callable[[float], float] = lambda seconds: seconds,
) -> tuple[float, float]:
    """(time of 2k steps / time of k steps, what was left to do when they were timed / their time).

    k is chosen so that k steps take about `seconds`, and is at most `most`; medians of
    `repetitions`, interleaved. A barrier that does not wait gives a ratio near 1, or a read-back that
    takes longer than a second one right after it: what it takes longer is the work left over.
    agree: makes the time that k is chosen by that of all ranks.
    Steps that take no time at all give (0, inf).
    """

    def left_over() -> float:
        """Seconds that a first read-back takes longer than a second one."""
        copies = []
        for _ in range(2):
            start = clock()
            read_back()
            copies.append(clock() - start)
        return max(0.0, copies[0] - copies[1])

    steps = 1
    # Work that was left over counts: without a barrier no number of steps would take the time.
    while agree(timed_steps(steps) + left_over()) < seconds / 2 and 2 * steps <= most:
        steps *= 2
    read_back()
    single, double, residue = [], [], []
    for _ in range(repetitions):
        # Before either a step that is not timed: with MLX on CUDA the call after a read-back of 0.7 GB took
        # 0.1 s longer, perhaps because what was read has to come back (its memory is the host's too).
        timed_steps(1)
        single.append(timed_steps(steps))
        residue.append(left_over())
        timed_steps(1)
        double.append(timed_steps(2 * steps))
    base = float(np.median(single))
    if base <= 0:
        return 0.0, math.inf
    return float(np.median(double)) / base, float(np.median(residue)) / base


def completed(ratio: float, residue: float) -> bool:
    """Whether a completion audit passes."""
    return COMPLETION_BOUNDS[0] <= ratio <= COMPLETION_BOUNDS[1] and residue <= RESIDUE_BOUND


def _finite(values: Any, count: int) -> bool:
    """Whether `values` are `count` finite numbers: a gap in a record is not an agreement."""
    return (
        isinstance(values, list)
        and len(values) == count
        and all(isinstance(v, int | float) and math.isfinite(v) for v in values)
    )


def _close(a: Any, b: Any, tolerance: float) -> bool:
    return _finite([a, b], 2) and abs(a - b) <= tolerance * max(abs(a), abs(b))

"""What a trial really asked of its work, counted and read back; nothing here believes a twin."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from measurement.audit import fingerprint
from measurement.framework import Framework

# {batch of the test set, -1 the last one: answers to its first items} -> the quality (accuracy,
# perplexity) that an evaluation would find, were the answers its labels.
Judge = Callable[[Mapping[int, np.ndarray]], float]
_IN_16_BITS = ("bfloat16", "float16")
_LEFT_SECONDS = 0.005
_MOST_VALUES = 1_000_000  # of one output that are read back


def rows_digest(rows: np.ndarray) -> int:
    """A number that says which items were seen, in any order and by any rank: the sum modulo 2**64 of
    a hash of each row number (splitmix64's finaliser, Steele et al. 2014, doi 10.1145/2660193.2660195).
    """
    x = np.asarray(rows, np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return int(np.sum(x ^ (x >> np.uint64(31)), dtype=np.uint64))


class Ledger:
    """Counts the calls of a session, and those that come while the clock of another kind runs.

    timing: the kind whose clock runs, "" for none. calls: kind -> number. strays: sentence -> number.
    spans: phase -> (seconds of a clock, seconds of work that was left before it or after it).
    """

    def __init__(self) -> None:
        self.timing = ""
        self.calls: Counter[str] = Counter()
        self.strays: Counter[str] = Counter()
        self.spans: dict[str, list[tuple[float, float]]] = {}

    def unfinished_share(self) -> float:
        """The largest share, over the phases, of work that lay outside its clock: medians, because
        a busy machine draws out single calls. Less than 5 ms of a phase are no evidence."""
        found = [0.0]
        for spans in self.spans.values():
            seconds, left = np.median(np.asarray(spans, np.float64), axis=0)
            if left * len(spans) > _LEFT_SECONDS and seconds > 0:
                found.append(float(left / seconds))
        return max(found)

    def count(self, kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, counted as one of `kind`."""
        calls = self.calls

        def counted(*arguments: Any, **keywords: Any) -> Any:
            calls[kind] += 1
            if self.timing and self.timing != kind:
                self.strays[f"{kind} inside the clock of a {self.timing}"] += 1
            return function(*arguments, **keywords)

        return counted


class Order:
    """Digest of which items each step was given, as 16 hexadecimal digits. Parts of a batch add up to
    the whole, so that the sum over a job's ranks is the digest of one process."""

    def __init__(self, text: str = "0") -> None:
        self._digest = int(text, 16)

    def add(self, step: int, rows: np.ndarray) -> None:
        """rows: item numbers (n,), in any order within the step."""
        numbered = np.asarray(rows, np.uint64) + (np.uint64(step) << np.uint64(32))
        self._digest = (self._digest + rows_digest(numbered)) % 2**64

    def __str__(self) -> str:
        return f"{self._digest:016x}"


def merged_order(parts: Sequence[str]) -> str:
    """The digest of the whole from those of the ranks."""
    return f"{sum(int(part, 16) for part in parts) % 2**64:016x}"


def extra_seconds(call: Callable[[], Any], clock: Callable[[], float]) -> float:
    """What `call` takes longer than the same call right after it: work that was left to do."""
    times = []
    for _ in range(2):
        start = clock()
        call()
        times.append(clock() - start)
    return max(0.0, times[0] - times[1])


def put_out(outputs: Any, framework: Framework, judge: Judge | None) -> dict[str, Any]:
    """Of a receipt: what the last timed pass put out; in 16 bits, where an answer may be one of many
    that are as likely, also how good the model holds it for."""
    said = {"answers": answers(outputs, framework)}
    if said["answers"] and judge is not None and framework.dtype in _IN_16_BITS:
        batches = _batches(outputs)
        read = {place: np.asarray(framework.read(batches[place])) for place in (0, -1)}
        return said | {"answer_quality": judge(read)}
    return said


def single_put_out(singles: list[Any], framework: Framework, judge: Judge | None) -> dict[str, Any]:
    """The same of what single-item calls answered, NumPy arrays, of those in the first batch."""
    said = {"single_answers": single_answers(singles)}
    if said["single_answers"] and judge is not None and framework.dtype in _IN_16_BITS:
        read = np.concatenate([np.asarray(next(_leaves(one))) for one in singles])
        return said | {"single_answer_quality": judge({0: read})}
    return said


def answers(outputs: Any, framework: Framework) -> list[float]:
    """[rows, norm, projection] of what a timed pass put out, read back after its clock has stopped:
    rows counts the first axis of every batch's first array, the others are the fingerprint of the
    first and of the last batch. [] where nothing was put out."""
    batches = _batches(outputs)
    if not batches:
        return []
    read = {
        name: _beginning(framework.read(_first_rows(array)))
        for name, array in (("first", batches[0]), ("last", batches[-1]))
    }
    shapes: list[tuple[int, ...]] = [getattr(array, "shape", ()) for array in batches]
    rows = sum(int(shape[0]) if len(shape) else 1 for shape in shapes)
    return [float(rows), *fingerprint(read)]


def _batches(outputs: Any) -> list[Any]:
    """The first array of every batch."""
    return [leaves[0] for output in _listed(outputs) if (leaves := list(_leaves(output)))]


def single_answers(outputs: list[Any]) -> list[float]:
    """[calls, norm, projection] of what single-item calls answered, NumPy arrays."""
    if not outputs or any(output is None for output in outputs):
        return []
    values = np.concatenate([_beginning(np.asarray(next(_leaves(o)))) for o in outputs])
    return [float(len(outputs)), *fingerprint({"answers": values})]


def _first_rows(array: Any) -> Any:
    """As many rows as hold the values that are read back, cut off on the device."""
    shape: tuple[int, ...] = getattr(array, "shape", ())
    if not len(shape) or not shape[0]:
        return array
    row = max(1, math.prod(int(size) for size in shape[1:]))
    return array[: max(1, _MOST_VALUES // row)]


def _beginning(array: np.ndarray) -> np.ndarray:
    return np.asarray(array, np.float64).ravel()[:_MOST_VALUES]


def _listed(outputs: Any) -> list[Any]:
    return outputs if isinstance(outputs, list) else [outputs]


def _leaves(tree: Any) -> Iterator[Any]:
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, list | tuple):
        for branch in tree:
            yield from _leaves(branch)
    elif tree is not None:
        yield tree

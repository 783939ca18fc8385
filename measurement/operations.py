"""The arithmetic of one call, counted from what a framework runs, not from what a twin claims: work
that changes no result is work all the same.

A product of (m, k) and (k, n) counts 2 m k n, in the dtype of its operands. All of these count as the
products that they are made of: convolutions; fused attention, whose mask saves nothing and whose
gradient does not compute the scores again; a Fourier transform, as the product with its matrix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

# By which two arms may differ, of the larger count. Sound twins of every workload agree exactly, in
# float32 and in 16 bits; strips of a causal mask are made whole by a ratio, which is rounded.
TOLERANCE = 0.001
# Of answers: an output that an answer does not use is not computed where evaluation is lazy; of
# eis_predictor the residual's head, at most 1 in 61 products.
UNUSED = {"answer": 0.02, "pass over the test set": 0.02}
# What keeps float32's 24 bits; a product in fewer is compared by its own name, and never hidden in
# the sum.
EXACT = ("float32", "float64")


@dataclass(frozen=True)
class Operations:
    """products: dtype of the operands -> FLOPs. recorded: operations whose inputs were kept for a
    gradient. unknown: why they could not be counted."""

    products: dict[str, int]
    recorded: int = 0
    unknown: str = ""


class Counter:
    """Adds up products."""

    def __init__(self) -> None:
        self.products: dict[str, int] = {}

    def add(self, dtype: str, flops: float) -> None:
        self.products[dtype] = self.products.get(dtype, 0) + round(flops)

    def found(self, recorded: int = 0) -> Operations:
        return Operations(dict(sorted(self.products.items())), recorded)


def total(parts: list[Operations]) -> Operations:
    """Of several ranks, each of which does its part."""
    counter = Counter()
    for part in parts:
        for dtype, flops in part.products.items():
            counter.add(dtype, flops)
    reasons = [part.unknown for part in parts if part.unknown]
    recorded = sum(part.recorded for part in parts)
    return replace(counter.found(recorded), unknown=next(iter(reasons), ""))


def tally(*groups: list[tuple[str, int]]) -> dict[str, int]:
    """dtype -> elements, from (dtype, elements) of each array."""
    found: dict[str, int] = {}
    for dtype, size in (pair for group in groups for pair in group):
        found[dtype] = found.get(dtype, 0) + size
    return dict(sorted(found.items()))


@dataclass(frozen=True)
class Counted:
    """calls: what is timed ("step", "answer" ...) -> its operations, of all ranks together; recorded:
    operations that were kept for a gradient where nothing is learnt. stored: dtype -> elements of the
    parameters and of the arrays that a step, or a token, changes besides. widest: what is timed -> the
    FLOPs of it that the workload wants in the widest floats of the device, float64 or float32."""

    calls: dict[str, Operations]
    stored: dict[str, int]
    widest: dict[str, int] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """For the evidence, see `counted_difference`."""
        unknown = {name: found.unknown for name, found in self.calls.items() if found.unknown}
        return {
            "products": {name: found.products for name, found in self.calls.items()},
            "recorded": sum(f.recorded for name, f in self.calls.items() if name != "step"),
            "stored": self.stored,
            **({"widest": self.widest} if self.widest else {}),
            **({"unknown": unknown} if unknown else {}),
        }


def counted_difference(a: Mapping[str, Any], b: Mapping[str, Any]) -> str | None:
    """None when two summaries of evidence count the same work, or both none, as evidence from before
    it was counted; else the first difference."""
    one, other = a.get("counted"), b.get("counted")
    if one is None and other is None:
        return None
    if not (_whole(one) and _whole(other)):
        return "the work of one arm was counted and that of the other was not"
    assert one is not None and other is not None
    x, y = one["products"], other["products"]
    if set(x) != set(y):
        return f"what was counted differs: {', '.join(x)} against {', '.join(y)}"
    for side in (one, other):
        for name, reason in side.get("unknown", {}).items():
            return f"the work of one {name} cannot be counted: {reason}"
    for name in x:
        widest = max(side.get("widest", {}).get(name, 0) for side in (one, other))
        if said := _products_difference(x[name], y[name], UNUSED.get(name, TOLERANCE), widest):
            return f"the counted work of one {name} differs: {said}"
    for side in (one, other):
        if side["recorded"]:
            return f"{side['recorded']} operations of an answer were recorded for a gradient"
    for dtype in sorted({*one["stored"], *other["stored"]}):
        m, n = one["stored"].get(dtype, 0), other["stored"].get(dtype, 0)
        if m != n:
            return f"what is stored differs: {m:,} against {n:,} elements in {dtype}"
    return None


def _products_difference(
    a: Mapping[str, int], b: Mapping[str, int], tolerance: float, widest: int
) -> str | None:
    x, y = _classes(a), _classes(b)
    largest = max([*x.values(), *y.values()], default=0)
    if not all(abs(x.get(d, 0) - y.get(d, 0)) <= tolerance * largest for d in {*x, *y}):
        return f"products of {_said(x)} against {_said(y)} (allowed {100 * tolerance:g} %)"
    if abs(a.get("float64", 0) - b.get("float64", 0)) > widest + tolerance * largest:
        return f"products of {_said(a)} against {_said(b)}"
    return None


def _said(products: Mapping[str, int]) -> str:
    return " and ".join(f"{flops:,} FLOP in {dtype}" for dtype, flops in products.items()) or "none"


def _classes(products: Mapping[str, int]) -> dict[str, int]:
    found: dict[str, int] = {}
    for dtype, flops in products.items():
        name = "float32" if dtype in EXACT else dtype
        found[name] = found.get(name, 0) + flops
    return found


def _whole(counted: Any) -> bool:
    """Whether it is a summary: a tag may have been cut or edited."""

    def counts(values: Any) -> bool:
        return isinstance(values, dict) and all(
            isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in values.values()
        )

    return (
        isinstance(counted, dict)
        and isinstance(counted.get("products"), dict)
        and isinstance(counted.get("unknown", {}), dict)
        and counts(counted.get("widest", {}))
        and all(map(counts, counted["products"].values()))
        and isinstance(counted.get("recorded"), int)
        and counts(counted.get("stored"))
    )

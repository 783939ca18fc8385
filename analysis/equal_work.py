"""What the trials say that they did, and whether two arms did the same: for people to check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from analysis.findings import Done, Proof
from measurement.audit import parity_difference, receipt_difference

if TYPE_CHECKING:
    from analysis.table import Table
    from tracking.read import Row

EVIDENCE = ("work", "parameters", "optimiser", "dtype")
RECEIPT = (
    "items", "steps", "loops", "products", "prompt_tokens", "tokens", "flops", "eval_items",
    "inference_items", "latency_calls", "warmup_calls", "weight_change_norm", "check_value",
)  # fmt: skip


def done(table: Table) -> tuple[Done, ...]:
    """One an arm, in the order of the study."""
    return tuple(_done(arm, list(rows.values())) for arm, rows in table.arms.items() if rows)


def proofs(table: Table) -> tuple[Proof, ...]:
    """One a declared pairing: every pair's evidence and receipts."""
    found = []
    for pairing in table.study.comparisons:
        pairs = table.pairs(pairing.numerator, pairing.denominator)
        said = [
            (number, different)
            for number, a, b in pairs
            if (
                different := parity_difference(a.parity, b.parity)
                or receipt_difference(a.receipt, b.receipt)
            )
        ]
        first = f"pair {said[0][0]}: {said[0][1]}" if said else ""
        found.append(
            Proof(
                pairing.numerator, pairing.denominator, pairing.role, len(pairs),
                len(pairs) - len(said), first,
            )
        )  # fmt: skip
    return tuple(found)


def _done(arm: str, rows: list[Row]) -> Done:
    parities = [row.parity or {} for row in rows]
    receipts = [row.receipt or {} for row in rows]
    facts = {name: _said(parities, name) for name in EVIDENCE}
    facts |= {name: _said(receipts, name) for name in RECEIPT}
    return Done(
        arm=arm,
        trials=len(rows),
        evidence=sum(row.parity is not None for row in rows),
        receipts=sum(row.receipt is not None for row in rows),
        signed=sum(row.altered == () for row in rows),
        facts={name: value for name, value in facts.items() if value},
    )


def _said(parts: Sequence[Mapping[str, Any]], name: str) -> str:
    """What all of them say, or from least to greatest; '' where none says anything."""
    values = [part[name] for part in parts if part.get(name) is not None]
    numbers = [value for value in values if isinstance(value, int | float)]
    if len(numbers) < len(values):
        return " or ".join(sorted({str(value) for value in values}))
    if not values:
        return ""
    least, most = min(numbers), max(numbers)
    return _number(least) if least == most else f"{_number(least)} to {_number(most)}"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"

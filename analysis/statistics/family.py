"""Q8: several tests of one declared family."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis import flags
from analysis.flags import Flag
from analysis.statistics.checks import numbers
from measurement.errors import InputError


@dataclass(frozen=True)
class Family:
    """adjusted: p-values in the order given; needed_pairs: before any of them can reach alpha."""

    adjusted: tuple[float, ...]
    needed_pairs: int
    warnings: tuple[Flag, ...]


def holm(p_values: Sequence[float], pairs: int | None = None, alpha: float = 0.05) -> Family:
    """Q8: Holm's step-down adjustment (Holm 1979) of one declared family of p-values.

    Sorted ascending: adjusted_(i) = max over j <= i of min(1, (m - j + 1) p_(j)). A row that was
    declared and came to nothing stays in the family as p = 1. pairs: of the longest row, if known;
    flag HOLM-FEW where even that many cannot survive. InputError: no p-value, one outside [0, 1],
    alpha outside (0, 1).

    >>> family = holm([0.01, 0.04, 0.03], pairs=6)
    >>> [round(p, 6) for p in family.adjusted], family.needed_pairs, family.warnings[0].name
    ([0.03, 0.06, 0.06], 7, 'HOLM-FEW')
    """
    p = numbers(p_values, "p-values")
    if not len(p) or not ((p >= 0) & (p <= 1)).all():
        raise InputError(f"p-values {list(p_values)}: expected one or more numbers from 0 to 1")
    m = len(p)
    ascending = np.argsort(p, kind="stable")
    scaled = (m - np.arange(m)) * p[ascending]
    adjusted = np.empty_like(p)
    adjusted[ascending] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    needed = holm_pairs(m, alpha)
    few = pairs is not None and pairs < needed
    return Family(
        adjusted=tuple(float(value) for value in adjusted),
        needed_pairs=needed,
        warnings=(flags.holm_few(pairs, m, needed),) if pairs is not None and few else (),
    )


def holm_pairs(family: int, alpha: float = 0.05) -> int:
    """Pairs needed before any row of a family can survive Holm: ceil(1 + log2(m / alpha)).

    InputError: family under 1, alpha outside (0, 1).

    >>> [holm_pairs(m) for m in (1, 10, 20, 100)]
    [6, 9, 10, 12]
    """
    if family < 1 or not 0 < alpha < 1:
        raise InputError(f"family {family}, alpha {alpha}: expected 1 or more, and 0 < alpha < 1")
    return int(np.ceil(1 + np.log2(family / alpha)))

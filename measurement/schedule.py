"""What is run, and in which order: conditions, and a seeded random order inside every block."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from measurement.errors import InputError
from measurement.untrusted import shown

SOUND = "none"
"""An arm without a deliberate mistake."""


@dataclass(frozen=True)
class Condition:
    """Everything about a trial that is not its workload's sizes or its seed."""

    framework: str
    device: str = "auto"
    dtype: str = "float32"
    compile: str = "auto"
    blas: str = "shipped"
    threads: int = 0  # 0: every physical core; of several ranks each its share
    version: str = "installed"  # of the framework, as in 0.31.2
    slowdown_percent: float = 0.0  # every timed span lasts this much longer, on purpose
    ranks: int = 1  # processes that train together
    backend: str = "auto"  # how they talk to each other
    fault: str = SOUND  # a deliberate mistake, see entrypoints/faults


@dataclass(frozen=True)
class Slot:
    """One trial of a study: block number, position inside the block, arm."""

    pair: int
    order: int
    arm: str


_SETTINGS = {
    "device": str,
    "dtype": str,
    "compile": str,
    "blas": str,
    "threads": int,
    "version": str,
    "slowdown_percent": float,
    "ranks": int,
    "backend": str,
    "fault": str,
}
ALL = "all"
AGAIN = "(again)"
"""Marks the second copy of an arm, which runs the same condition."""

_KINDS = {int: "a whole number", float: "a number", str: "a word"}
Setting = str | int | float


def parse_arm(
    text: str, base: Condition, sizes: Mapping[str, type] | None = None
) -> tuple[Condition, dict[str, Setting]]:
    """`mlx blas=mkl batch_size=64` -> (condition, sizes); what is not named is as in `base`.

    sizes: name -> type of the workload's own options. Raises InputError for a word that is no
    setting, that is given twice, or whose value is not of its kind.
    """
    known = {**_SETTINGS, **(sizes or {})}
    words = text.replace(AGAIN, "").split()
    if not words:
        raise InputError("an arm is empty; expected a framework and settings, as in 'mlx blas=mkl'")
    changes: dict[str, Setting] = {}
    for word in words[1:]:
        key, _, value = word.partition("=")
        if key not in known or not value:
            raise InputError(
                f"arm '{text}': '{word}' is no setting; expected {', '.join(known)} as key=value"
            )
        if key in changes:
            raise InputError(f"arm '{text}': {key} is given twice; expected it once")
        try:
            changes[key] = known[key](value)
        except ValueError:
            raise InputError(
                f"arm '{text}': {key} must be {_KINDS[known[key]]}, got '{value}'"
            ) from None
    own = {key: changes.pop(key) for key in list(changes) if key not in _SETTINGS}
    condition = replace(base, framework=words[0], **changes)  # type: ignore[arg-type]
    if not 0 <= condition.slowdown_percent <= 1000:
        raise InputError(
            f"arm '{text}': slowdown_percent={condition.slowdown_percent:g}; expected 0 to 1000"
        )
    return condition, own


def blocks(arms: tuple[str, ...], pairs: int, seed: int) -> list[Slot]:
    """Each arm once a block, in an order drawn anew for every block (randomised multiple
    interleaved trials, Abedi & Brecht 2017, doi 10.1145/3030207.3030229)."""
    slots = []
    for pair in range(pairs):
        order = np.random.default_rng([seed, pair]).permutation(len(arms))
        slots += [Slot(pair, position, arms[arm]) for position, arm in enumerate(order)]
    return slots


def part(text: str, pairs: int) -> range:
    """The blocks that a command runs, of `pairs` (one or more) numbered from 0: `all`, `5`, or `5-9`.

    >>> part("5-9", 10)
    range(5, 10)

    Raises InputError.
    """
    if text == ALL:
        return range(pairs)
    found = re.fullmatch("([0-9]{1,9})(?:-([0-9]{1,9}))?", text)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, -1)
    if not first <= last < pairs:
        raise InputError(
            f"blocks='{shown(text)}': expected all, or numbers from 0 to {pairs - 1} as in 0-{pairs - 1}"
        )
    return range(first, last + 1)

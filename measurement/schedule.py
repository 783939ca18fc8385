"""What is run, and in which order: conditions, and a seeded random order inside every block."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from measurement.errors import InputError


@dataclass(frozen=True)
class Condition:
    """Everything about a trial that is not its workload's sizes or its seed."""

    framework: str
    device: str = "auto"
    dtype: str = "float32"
    compile: str = "auto"
    blas: str = "shipped"
    threads: int = 0  # 0: every physical core


@dataclass(frozen=True)
class Slot:
    """One trial of a study: block number, position inside the block, arm."""

    pair: int
    order: int
    arm: str


_SETTINGS = {"device": str, "dtype": str, "compile": str, "blas": str, "threads": int}


def parse_arm(text: str, base: Condition) -> Condition:
    """`mlx blas=mkl threads=1` -> a condition, other fields from `base`. The words after the
    framework are settings; `(again)` marks the second copy of an arm. Raises InputError."""
    words = text.replace("(again)", "").split()
    if not words:
        raise InputError("an arm is empty; expected a framework and settings, as in 'mlx blas=mkl'")
    changes: dict[str, str | int] = {}
    for word in words[1:]:
        key, _, value = word.partition("=")
        if key not in _SETTINGS or not value:
            raise InputError(
                f"arm '{text}': '{word}' is no setting; expected {', '.join(_SETTINGS)} as key=value"
            )
        if key in changes:
            raise InputError(f"arm '{text}': {key} is given twice; expected it once")
        try:
            changes[key] = _SETTINGS[key](value)
        except ValueError:
            raise InputError(f"arm '{text}': {key} must be a whole number, got '{value}'") from None
    return replace(base, framework=words[0], **changes)  # type: ignore[arg-type]


def blocks(arms: tuple[str, ...], pairs: int, seed: int) -> list[Slot]:
    """Each arm once a block, in an order drawn anew for every block (randomised multiple
    interleaved trials, Abedi & Brecht 2017, doi 10.1145/3030207.3030229)."""
    slots = []
    for pair in range(pairs):
        order = np.random.default_rng([seed, pair]).permutation(len(arms))
        slots += [Slot(pair, position, arms[arm]) for position, arm in enumerate(order)]
    return slots

"""Studies of one store, each analysed alone: what machines and versions are compared from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from analysis.comparison import Around, analyse
from analysis.findings import Findings
from measurement.errors import InputError

if TYPE_CHECKING:
    from tracking.read import Pairing, Row, Study

SEED = 20240229
"""Of the permutation tests inside each study: the same p when repeated."""


@dataclass(frozen=True)
class Session:
    """One study on one machine. findings is None where it was refused; `refused` says why."""

    study: Study
    rows: tuple[Row, ...]
    findings: Findings | None
    refused: str = ""
    around: Around = field(default_factory=Around)

    @property
    def machine(self) -> str:
        """The fingerprint that the trials carry; '' where there is none."""
        return next((row.machine for row in self.rows if row.machine), "")

    @property
    def facts(self) -> dict[str, str]:
        """Chip, cores, memory and system as the first trial recorded them."""
        return dict(self.rows[0].facts) if self.rows else {}

    @property
    def start_seconds(self) -> float:
        return min((row.start_seconds for row in self.rows), default=0.0)

    def condition(self, arm: str) -> dict[str, str]:
        """The condition of an arm as it ran; {} where none of its trials finished."""
        found = self.findings.arms if self.findings else ()
        return next((summary.condition for summary in found if summary.name == arm), {})

    def pairs(self, pairing: Pairing) -> int:
        """Pairs in which both arms finished."""
        numbers = [
            {trial["pair"] for trial in (self.findings.trials if self.findings else ())
             if trial["arm"] == arm}
            for arm in (pairing.numerator, pairing.denominator)
        ]  # fmt: skip
        return len(numbers[0] & numbers[1])


def session(study: Study, rows: Sequence[Row], around: Around | None = None) -> Session:
    """One study analysed alone, or the reason why it was refused."""
    around = around or Around()
    try:
        findings = analyse(study, rows, np.random.default_rng(SEED), around)
        return Session(study, tuple(rows), findings, around=around)
    except InputError as error:
        return Session(study, tuple(rows), None, str(error), around)


Keys = Mapping[str, Mapping[str, str]]
"""What may not differ: place ("design", or the name of a side) -> key -> value."""


@dataclass(frozen=True)
class Difference:
    """A key whose value differs, and at which places of how many."""

    key: str
    first: str
    second: str
    places: tuple[str, ...]


def differences(first: Keys, second: Keys) -> list[Difference]:
    """The keys in which two conditions differ, in the order of their places.

    >>> one = {"mlx": {"tf32": "off", "dtype": "float32"}, "pytorch": {"dtype": "float32"}}
    >>> other = {"mlx": {"tf32": "on", "dtype": "float16"}, "pytorch": {"dtype": "float16"}}
    >>> [(d.key, d.first, d.second, d.places) for d in differences(one, other)]
    [('dtype', 'float32', 'float16', ('mlx', 'pytorch')), ('tf32', 'off', 'on', ('mlx',))]
    """
    places: dict[tuple[str, str, str], list[str]] = {}
    for place in dict.fromkeys([*first, *second]):
        one, other = first.get(place, {}), second.get(place, {})
        for key in sorted(one.keys() | other.keys()):
            values = one.get(key, ""), other.get(key, "")
            if values[0] != values[1]:
                places.setdefault((key, *values), []).append(place)
    return [Difference(*key, tuple(where)) for key, where in places.items()]


def named(found: Sequence[Difference], first: str, second: str) -> str:
    """The differences as a sentence.

    >>> named([Difference("tf32", "off", "on", ("mlx",))], "study a", "study b")
    "tf32 is 'off' in study a and 'on' in study b (mlx)"
    """
    return "; ".join(
        f"{d.key} is '{d.first}' in {first} and '{d.second}' in {second} ({' and '.join(d.places)})"
        for d in found
    )

"""What a decision card holds: frozen values that a report shows without computing anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from analysis.findings import Comparison
from analysis.flags import Flag

SHOWN, ALONE, INDICATED, SAME, UNDECIDED, NONE = (
    "shown", "shown alone", "indicated", "the same", "undecided", "no verdict",
)  # fmt: skip
NOT_MEASURED = "not measured"
CERTAINTIES = {
    SHOWN: "a difference in what the study declared before its first trial, also if all questions of "
    "this card are answered at once",
    ALONE: "the same by the study's own verdict, not for all questions of this card at once",
    INDICATED: "a difference by the study's own verdict in what it measured beside: one of many metrics",
    SAME: "the 90 % interval of the ratio lies inside the margin: either will do",
    UNDECIDED: "so many pairs show neither a difference nor sameness",
    NONE: "the analysis refuses a verdict, and says why",
    NOT_MEASURED: "no trial has this number, and none is made up",
}


@dataclass(frozen=True)
class Elsewhere:
    """The same question under another condition, or in another metric, where it has another answer.
    better: the arm that is better there."""

    where: str
    better: str
    comparison: Comparison


@dataclass(frozen=True)
class Answer:
    """One workload on one device of one machine.

    choice: the arm to take, framework: whose it is; "" where none is chosen. contenders: arms that
    nothing beat. comparisons: what answers, as the study has it; adjusted: the same with p, outcome and
    flags after Holm over all answers of the card. values: arm ->
    median, least and most in the metric's unit. condition: of the first arm, as it ran. changes:
    sentences that say what would change it; settle: the command that would, "" where it is shown.
    """

    workload: str
    mode: str
    machine: str
    chip: str
    device: str
    study: str
    metric: str
    certainty: str
    sentence: str
    condition: Mapping[str, str] = field(default_factory=dict)
    choice: str = ""
    framework: str = ""
    contenders: tuple[str, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    adjusted: tuple[Comparison, ...] = ()
    values: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    changes: tuple[str, ...] = ()
    elsewhere: tuple[Elsewhere, ...] = ()
    settle: str = ""
    flags: tuple[Flag, ...] = ()

    @property
    def place(self) -> str:
        """'cpu of Apple M1'."""
        return f"{self.device} of {self.chip or self.machine or 'an unnamed machine'}"


@dataclass(frozen=True)
class Decision:
    """An answer for each workload, mode and device. across: sentences on one workload over devices;
    family: how many questions are answered at once."""

    priority: str
    answers: tuple[Answer, ...]
    across: tuple[str, ...]
    notes: tuple[str, ...]
    family: int

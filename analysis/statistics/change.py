"""What changed between two sessions, judged against a control that ran in both."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from analysis import flags
from analysis.flags import Flag
from analysis.statistics.checks import Values, pairs
from analysis.statistics.equivalence import Equivalence, equivalence
from analysis.statistics.ratio import Ratio, unpaired_ratio
from measurement.errors import InputError


@dataclass(frozen=True)
class Change:
    """ratio: of the new session to the old one, after the control; same: Q3 on that ratio.

    ratio.n: pairs of the smaller session. warnings: always TWO-SESSIONS; FEW under six pairs.
    """

    ratio: Ratio
    same: Equivalence

    @property
    def warnings(self) -> tuple[Flag, ...]:
        return self.ratio.warnings


def change_ratio(
    new: Values,
    new_control: Values,
    old: Values,
    old_control: Values,
    margin: float = 0.05,
    confidence: float = 0.95,
) -> Change:
    """Ratio of ratios: how much larger is a typical run than in an earlier session?

    Two sessions on one machine, months apart, each with pairs of the subject and a control (the
    other framework at one version). With d_i = log(subject_i / control_i) of each session's pairs,

        change = exp(median(d_new) - median(d_old)),

    so that whatever slows both arms of a session alike cancels. Each median has its interval of
    interpolated order statistics (Hettmansperger & Sheather 1986, Nyblom 1992); MOVER joins the two
    by square-and-add (Zou & Donner 2008); p is the smallest alpha whose interval excludes 1; "the
    same" needs the 90 % interval inside 1/(1+margin)...1+margin.

    Values: positive, in one unit; the i-th of `new` and of `new_control` are one pair, likewise for
    the old session; the sessions may differ in size. False positives 1.6 to 4.0 % for 6 to 30 pairs,
    however much the sessions differ in speed. What changed for the subject alone between the
    sessions (its driver, say) is in the answer and no formula can take it out: flag TWO-SESSIONS.
    Raises InputError for an empty session, unequal halves of a pair, values that are not above 0.

    >>> old, control = [1.00, 1.02, 0.99, 1.01, 1.00, 1.03], [2.00, 2.01, 2.00, 1.99, 2.02, 2.00]
    >>> new, slower = [1.32, 1.34, 1.31, 1.33, 1.36, 1.32], [2.40, 2.41, 2.42, 2.40, 2.39, 2.41]
    >>> found = change_ratio(new, slower, old, control)
    >>> f"{found.ratio.estimate:.3f} [{found.ratio.low:.3f}, {found.ratio.high:.3f}]"
    '1.096 [1.071, 1.127]'
    """
    late = np.divide(*_pairs(new, new_control, "new session"))
    early = np.divide(*_pairs(old, old_control, "old session"))
    ratio = unpaired_ratio(late, early, confidence)
    same = equivalence(late, early, margin, paired=False)
    return Change(
        ratio=replace(ratio, warnings=_with_control(ratio.warnings)),
        same=replace(same, warnings=_with_control(same.warnings)),
    )


def _with_control(warnings: tuple[Flag, ...]) -> tuple[Flag, ...]:
    """The control stands in for the interleaving, with limits of its own."""
    return (flags.two_sessions(), *(flag for flag in warnings if flag.name != "NOT-INTERLEAVED"))


def _pairs(subject: Values, control: Values, session: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        return pairs(subject, control)
    except InputError as error:
        raise InputError(f"{session}: {error}") from None

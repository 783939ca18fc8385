"""Did machine and meters treat both arms alike? What the trials' own records say of that."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from analysis.flags import TRIAL_REMEDIES, Flag
from measurement import energy, memory

if TYPE_CHECKING:
    from tracking.read import Row

CHANCE = ("LOAD", "STOLEN-CPU", "SWAP", "THERMAL", "CLOCK", "CPU-QUOTA", "GPU-SHARED", "SUSPENDED")
"""States that come and go: trials of a sound study meet them too, whichever arm they are of."""
SET = ("BATTERY", "LOW-POWER", "ROSETTA", "UNWATCHED")
"""States that somebody has put the machine in."""
MOST = 0.5  # of an arm's trials: fewer do not move its median
TIMES = 2.0  # as often as the other arm's: what both meet alike is no difference
LEVEL = 0.05  # one-sided: in random order chance alone hits one arm so much more in 1 of 20 studies


def machine_asymmetry(rows_a: Sequence[Row], rows_b: Sequence[Row]) -> str | None:
    """Why two arms did not run on a machine in the same state, in one sentence; None when they did.

    A state that comes by itself must have met most of one arm's trials, twice as large a share as of
    the other's, and more than chance explains (Fisher's exact test). One that is set must have met
    all of one arm's and none of the other's, or as many as that.
    """
    for flag in (*SET, *CHANCE):
        a, b = (sum(flag in row.flags for row in rows) for rows in (rows_a, rows_b))
        for rows, n, count, others, m, other in (
            (rows_a, len(rows_a), a, rows_b, len(rows_b), b),
            (rows_b, len(rows_b), b, rows_a, len(rows_a), a),
        ):
            if n and m and _one_sided(flag, count, n, other, m):
                return (
                    f"the machine was not in the same state for both arms: {flag} in {count} of {n} "
                    f"trials of {rows[0].arm} and in {other} of {m} of {others[0].arm}; repeat the "
                    "study on a machine that is quiet, cool and on mains power throughout"
                )
    return None


def _one_sided(flag: str, count: int, n: int, other: int, m: int) -> bool:
    if flag in SET and count == n and other == 0:
        return True
    most = count >= MOST * n and count / n >= TIMES * other / m
    return count > 0 and most and fisher(count, n, other, m) <= LEVEL


def fisher(count: int, n: int, other: int, m: int) -> float:
    """Probability that of all that were met at least `count` are among the first n of n + m, if
    each is as likely to be met.

    >>> round(fisher(4, 6, 0, 6), 4), round(fisher(3, 6, 0, 6), 4), fisher(0, 6, 0, 6)
    (0.0303, 0.0909, 1.0)
    """
    met = count + other
    ways = sum(math.comb(n, k) * math.comb(m, met - k) for k in range(count, min(n, met) + 1))
    return ways / math.comb(n + m, met)


def marked(found: Sequence[Flag]) -> str:
    """The flags that trials of a comparison carry, to stand behind its verdict; "" where none does.

    >>> from analysis.flags import trial_flag
    >>> marked([trial_flag("LOAD", 4, 12), trial_flag("BATTERY", 12, 12)])
    ' (LOAD in 4 of 12 trials, BATTERY in 12 of 12 trials)'
    """
    said = [
        f"{flag.name} in {flag.sentence[: flag.sentence.index('trials') + len('trials')]}"
        for flag in found
        if flag.name in TRIAL_REMEDIES and " trials " in flag.sentence
    ]
    return f" ({', '.join(said)})" if said else ""


def meter_refusal(metric: str, rows_a: Sequence[Row], rows_b: Sequence[Row]) -> str | None:
    """Why a metric of a meter is not compared, in one sentence; None when it is."""
    rows = [*rows_a, *rows_b]
    if metric.startswith("energy/"):
        return next(filter(None, map(_energy, rows)), None)
    if metric != "memory/process_peak_bytes":
        return None
    return next(filter(None, map(_memory, rows)), None) or _device_unseen(rows)


def _energy(row: Row) -> str | None:
    wrong = energy.unknown(row.tags.get("energy_source", ""))
    watts = row.metrics.get("energy/watts_mean")
    if wrong is None and watts is not None:
        wrong = energy.implausible(watts, max(1, int(row.cell.get("ranks", "1") or 1)))
    return f"energy of {row.arm} (run {row.run_id}): {wrong}" if wrong else None


def _memory(row: Row) -> str | None:
    """On a GPU that has memory of its own the weights are not in the process's."""
    peak, parity = row.metrics.get("memory/process_peak_bytes"), row.parity or {}
    if peak is None or "parameters" not in parity or _unseen(row):
        return None
    size = memory.ITEM_BYTES.get(row.cell.get("dtype", ""), 4)
    trained = row.cell.get("mode", "train") in ("train", "stream")
    wrong = memory.too_small(int(peak), int(parity["parameters"]), size, trained)
    return f"memory of {row.arm} (run {row.run_id}): {wrong}" if wrong else None


def _device_unseen(rows: Sequence[Row]) -> str | None:
    if len({row.cell.get("framework") for row in rows}) < 2:
        return None  # one framework with itself: the host's part of it compares
    unseen = sorted({row.arm for row in rows if _unseen(row)})
    if not unseen:
        return None
    return (
        f"the memory of the process does not hold that of the GPU, where {' and '.join(unseen)} "
        "worked: it is the host's part only, and how large that is says nothing of the work's"
    )


def _unseen(row: Row) -> bool:
    """Whether the work lies in memory that a process's meter does not see; a Mac's GPU shares it."""
    system = row.facts.get("machine_os", "")
    return "gpu" in row.cell.get("device", "") and system.startswith("Linux")

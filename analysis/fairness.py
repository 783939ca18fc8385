"""May these two arms be divided by each other? Equal work, equal conditions, interleaved runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from analysis import conditions, flags
from analysis.flags import Flag
from analysis.wording import QUESTIONS
from measurement.audit import parity_difference, receipt_difference
from measurement.doubts import UNTRUSTED
from tracking.names import METRICS

if TYPE_CHECKING:
    from tracking.read import Row

Pairs = Sequence[tuple[int, "Row", "Row"]]

# The question itself, and what a framework must be free to choose to be as fast as it can.
QUESTION = frozenset({"framework", "version_framework"})
ONE_FRAMEWORK = frozenset({"resolution", "wheel", "version", "injected", "scaling"})
FRAMEWORKS_OWN = frozenset({"compile", "compile_inference", "backend"})
RESOURCES = frozenset({"ranks", "hosts", "backend"})  # what a larger job has more of
_APART = 1.5  # two ranks' rates added up wrongly are off by 2
OWN_BLAS = "own"  # of a framework that multiplies with code of its own, and takes no other


def different_keys(first: Mapping[str, str], second: Mapping[str, str]) -> list[str]:
    """Condition keys in which two arms differ, other than the framework and its version; of work on
    GPUs alone without the BLAS, which is the CPU's.

    >>> different_keys({"framework": "mlx", "dtype": "float32"},
    ...                {"framework": "pytorch", "dtype": "float16"})
    ['dtype']
    """
    keys = (first.keys() | second.keys()) - QUESTION
    if not any("cpu" in cell.get("device", "cpu") for cell in (first, second)):
        keys = {key for key in keys if not key.startswith("blas")}
    return sorted(key for key in keys if first.get(key) != second.get(key))


def refusal(role: str, pairs: Pairs) -> str | None:
    """Why these arms get no ratio, in one sentence that names the first difference; else None.

    role: of the pairing. "wheel" and "as shipped" ask about the BLAS and may differ in it only;
    "version" asks about the framework's version, "injected" about a slowdown made on purpose,
    "scaling" about more ranks of one framework.
    A framework that takes no BLAS is compared with whatever the other one has.
    """
    for number, first, second in pairs:
        for difference in (
            parity_difference(first.parity, second.parity),
            receipt_difference(first.receipt, second.receipt),
        ):
            if difference:
                return f"not equal work (pair {number}): {difference}"
        for row in (first, second):
            if said := ranks_disagree(row):
                return said
    _, first, second = pairs[0]
    allowed = set(FRAMEWORKS_OWN)
    own = OWN_BLAS in (first.cell.get("blas"), second.cell.get("blas"))
    if role in ("wheel", "as shipped") or (own and role in QUESTIONS):
        allowed |= {key for key in first.cell.keys() | second.cell.keys() if key.startswith("blas")}
    if role == "injected":
        allowed.add("slowdown_percent")
    if role == "scaling":
        allowed |= RESOURCES
    wrong = [key for key in different_keys(first.cell, second.cell) if key not in allowed]
    if wrong:
        return "not like with like: " + "; ".join(
            f"{key} is '{first.cell.get(key, 'unknown')}' for {first.arm} and "
            f"'{second.cell.get(key, 'unknown')}' for {second.arm}"
            for key in wrong
        )
    if role in ONE_FRAMEWORK:
        versions = [row.cell.get("version_framework") for row in (first, second)]
        if first.cell.get("framework") != second.cell.get("framework"):
            return f"a pairing of the role '{role}' is of one framework with itself"
        if (versions[0] == versions[1]) == (role == "version"):
            return (
                f"a pairing of the role '{role}' is of {'two' if role == 'version' else 'one'} "
                f"version{'s' * (role == 'version')}; got {versions[0]} and {versions[1]}"
            )
    for arm in (0, 1):
        if said := untrusted([(a, b)[arm] for _, a, b in pairs]):
            return said
    if role in QUESTIONS and role != "version":
        slow = sorted({row.arm for _, a, b in pairs for row in (a, b) if _reference_blas(row)})
        if slow:
            return (
                f"{' and '.join(slow)} ran on the reference BLAS, which measures the wheel and not "
                "the framework; choose blas=mkl or blas=openblas"
            )
    return conditions.machine_asymmetry([a for _, a, _ in pairs], [b for _, _, b in pairs])


def ranks_disagree(row: Row) -> str | None:
    """Why a job's ranks contradict the job; None where they do not, or recorded nothing.

    A job whose rate is that of one rank's part, or a rank's that of the whole, is off by the number
    of ranks.
    """
    count = row.cell.get("ranks", "1")
    if not row.ranks or not count.isdecimal():
        return None
    for metric in ("rank/items_per_second", "rank/epoch_seconds_p50"):
        found = row.ranks.get(metric, {})
        if found and set(found) != set(range(int(count))):
            seen = ", ".join(str(rank) for rank in sorted(found))
            return (
                f"the ranks of {row.arm} disagree (run {row.run_id}): {METRICS[metric].label} is "
                f"recorded of rank {seen}, expected 0 to {int(count) - 1}"
            )
    total = sum(row.ranks.get("rank/items_per_second", {}).values())
    whole = row.metrics.get("train/items_per_second")
    if total and whole and not 1 / _APART < total / whole < _APART:
        return (
            f"the ranks of {row.arm} disagree with the job (run {row.run_id}): their parts add up to "
            f"{total:.4g} items/s and the whole job says {whole:.4g}"
        )
    return None


def untrusted(rows: Sequence[Row]) -> str | None:
    """Why the times of an arm's trials are not to be believed; None when they are."""
    for name in UNTRUSTED:
        flagged = sum(name in row.flags for row in rows)
        if 2 * flagged > len(rows):
            what, _ = flags.TRIAL_REMEDIES[name]
            return (
                f"{name}: {flagged} of {len(rows)} trials of {rows[0].arm} {what}, so its times are "
                "not trusted"
            )
    return None


def _reference_blas(row: Row) -> bool:
    return "REFERENCE-BLAS" in row.flags


def condition_flags(role: str, pairs: Pairs) -> tuple[Flag, ...]:
    """What a reader must know of the conditions and of the trials' own warnings."""
    found: list[Flag] = []
    _, first, second = pairs[0]
    for key in different_keys(first.cell, second.cell):
        name = key.upper().split("_")[0] + "-DIFFERS"
        if any(flag.name == name for flag in found):
            continue
        found.append(
            Flag(
                name,
                f"{key} is '{first.cell.get(key)}' for {first.arm} and '{second.cell.get(key)}' "
                f"for {second.arm}"
                + (
                    ", which is what this comparison asks."
                    if role in ("wheel", "as shipped", "injected", "scaling")
                    else "."
                ),
            )
        )
    return (*found, *trial_flags([row for _, a, b in pairs for row in (a, b)]))


def trial_flags(rows: Sequence[Row]) -> tuple[Flag, ...]:
    """The flags that trials carry, each with the number of trials that do."""
    counts = Counter(name for row in rows for name in row.flags)
    return tuple(flags.trial_flag(name, counts[name], len(rows)) for name in sorted(counts))


def design_flags(pairs: Pairs, drawn: bool = False) -> tuple[Flag, ...]:
    """Were the runs of the two arms interleaved in pairs, each in a process of its own? drawn: the
    design holds the order that chance gave.

    A pair is broken when another run of the two arms started between its two. One broken pair is
    a trial repeated after an interruption; more than half broken is another design.
    """
    # The parts of a study may run at the same time; a part is in the order of its own time.
    starts = sorted(
        (row.parent, row.start_seconds, number) for number, a, b in pairs for row in (a, b)
    )
    position: dict[int, list[int]] = {}
    for index, (*_, number) in enumerate(starts):
        position.setdefault(number, []).append(index)
    broken = sum(last - first > 1 for first, last in position.values())
    found: list[Flag] = []
    if 2 * broken > len(pairs):
        found.append(flags.not_interleaved())
    elif broken:
        found.append(
            Flag(
                "LATE-PAIR",
                f"{broken} of {len(pairs)} pairs were completed later, not back to back.",
                "Nothing to do after one interruption; otherwise repeat the study undisturbed.",
            )
        )
    if (
        2 * broken <= len(pairs)
        and len(pairs) >= flags.MINIMUM_PAIRS
        and len({a.start_seconds < b.start_seconds for _, a, b in pairs}) == 1
    ):
        found.append(
            Flag(
                "ONE-ORDER" if drawn else "STRICT-ORDER",
                "The same arm ran first in every pair, so drift inside a pair does not cancel"
                + (", though the order was drawn." if drawn else "."),
                "Run more pairs." if drawn else "Let `study` draw the order.",
            )
        )
    return tuple(found)

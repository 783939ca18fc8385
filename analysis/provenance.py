"""Are these trials what they say: recorded so, all of them, in the order that was drawn, by one code?

What cannot be believed gets no ratio (`refusal`); what spoils the comparison of frameworks gets a flag
of `flags.BLOCKING`; what a reader must know gets another flag. Old trials, which say less of their
origin, are judged by what they say.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from analysis import flags
from analysis.flags import Flag
from analysis.table import altered
from measurement.schedule import blocks
from measurement.settings import DEFAULT, placed
from tracking.digest import SAMPLES
from tracking.names import BOOT, METRICS, SUPERSEDED

if TYPE_CHECKING:
    from analysis.table import Table
    from tracking.read import Row

Pairs = Sequence[tuple[int, "Row", "Row"]]

FIRST = "none"
"""What the first trial of a study has as the one before it."""

_SAID_SINCE = ("process", "code_sha256", "started", SAMPLES)  # by every run with a digest
_ALIKE_SECONDS = 1e-12  # two times that agree so well are one: a clock has no such luck
_ALIKE_OTHERS = 2
_CLOCK_SECONDS = 0.5  # by which a clock may be set back between two trials
_DIGITS = 12  # of a number that was computed, not written by hand
_FINGERPRINT = re.compile(r"[a-z]+-(?P<arch>.+)-(?P<cores>\d+)c-[0-9a-f]{6}")


def refusal(table: Table, pairs: Pairs) -> str | None:
    """Why the numbers of these trials are not to be believed, beginning with the fault's name."""
    rows = [row for _, a, b in pairs for row in (a, b)]
    for row in rows:
        if row.source != "measured":
            return (
                f"PUBLISHED: {_named(row)} is marked '{row.source}', which is nobody's measurement "
                "here; expected measured trials only"
            )
    return _altered(table, rows) or _copied(table, rows) or _same_evidence(pairs)


def _altered(table: Table, rows: Iterable[Row]) -> str | None:
    signed = [row.start_seconds for row in table.trials() if row.altered is not None]
    first = min(signed, default=float("inf"))
    for row in rows:
        if row.altered:
            return altered(row)
        lost = row.start_seconds >= first
        if row.altered is None and (lost or any(key in row.tags for key in _SAID_SINCE)):
            return f"ALTERED: {_named(row)} has lost the digest of what it recorded"
        if found := table.resampled.get(row.run_id):
            return f"ALTERED: {_named(row)}: {found}"
    designs = {row.tags["design_sha256"] for row in rows if "design_sha256" in row.tags}
    if designs and table.design_sha256 and designs != {table.design_sha256}:
        return (
            "ALTERED: the study's design is not the one that its trials were started with; expected "
            "pairs, metric, margin, family and arms as they were fixed before the first trial"
        )
    return None


def _copied(table: Table, rows: Iterable[Row]) -> str | None:
    """A run presented twice: the same times to the last bit, or the same samples."""
    wanted = {row.run_id for row in rows}
    every, metric = table.trials(), table.study.metric
    with_value = sorted(
        (r for r in every if r.metrics.get(metric)), key=lambda r: r.metrics[metric]
    )
    alike = [
        (a, b)
        for a, b in pairwise(with_value)
        if abs(a.metrics[metric] / b.metrics[metric] - 1) <= _ALIKE_SECONDS
        and len(_equal_times(a, b, metric)) >= _ALIKE_OTHERS
    ]
    by_samples: dict[str, Row] = dict(table.elsewhere)
    for row in every:
        if digest := row.tags.get(SAMPLES):
            if digest in by_samples:
                alike.append((by_samples[digest], row))
            by_samples[digest] = row
    for a, b in alike:
        if wanted & {a.run_id, b.run_id}:
            return (
                f"COPIED: {_named(a)} and {_named(b)} have the same times to the last bit, so one is a "
                "copy; expected a measurement of its own for each"
            )
    return None


def _equal_times(a: Row, b: Row, metric: str) -> list[str]:
    """Metrics other than this one, in seconds, that are equal in every digit."""
    return [
        name
        for name in a.metrics.keys() & b.metrics.keys()
        if name != metric
        and name in METRICS
        and METRICS[name].unit == "s"
        and a.metrics[name] == b.metrics[name]
    ]


def _same_evidence(pairs: Pairs) -> str | None:
    """Two frameworks add in other orders, so that a learnt thing never agrees in every digit."""
    for number, a, b in pairs:
        if a.cell.get("framework") == b.cell.get("framework"):
            continue
        for what, one, other, keys in (
            ("evidence", a.parity, b.parity, ("gradient", "update")),
            ("receipts", a.receipt, b.receipt, ("weight_change_norm", "check_value")),
        ):
            values = [_flat((side or {}).get(key) for key in keys) for side in (one, other)]
            if (
                values[0] == values[1]
                and len(values[0]) >= len(keys)
                and all(len(repr(value)) > _DIGITS for value in values[0])
            ):
                return (
                    f"COPIED: the {what} of {a.arm} and {b.arm} (pair {number}) agree in every digit of "
                    f"{' and '.join(keys)}, as those of two frameworks never do"
                )
    return None


def _flat(values: Iterable[Any]) -> list[float]:
    found: list[float] = []
    for value in values:
        found += value if isinstance(value, list) else [value] if isinstance(value, float) else []
    return found


def found_flags(table: Table, pairs: Pairs) -> tuple[Flag, ...]:
    """Every flag on the origin of a comparison's trials."""
    rows = [row for _, a, b in pairs for row in (a, b)]
    arms = tuple(dict.fromkeys(row.arm for row in rows))
    return (
        *_one_process(rows),
        *_overlap(table, rows),
        *_other_order(table, pairs),
        *_dropped(table, arms),
        *_rerun(table, arms, len(pairs)),
        *_one_code(rows),
        *_within_arms(rows),
        *_seeds(table, pairs),
        *_machine(rows),
    )


def _one_process(rows: Sequence[Row]) -> tuple[Flag, ...]:
    counts = Counter(row.tags["process"] for row in rows if row.tags.get("process"))
    shared = sum(count for count in counts.values() if count > 1)
    if not shared:
        return ()
    return (flags.trial_flag("ONE-PROCESS", shared, len(rows)),)


def _overlap(table: Table, rows: Sequence[Row]) -> tuple[Flag, ...]:
    """Trials that ran while another of the study ran on this machine."""
    wanted = {row.run_id for row in rows}
    known = [row for row in (*table.trials(), *table.unused) if row.end_seconds is not None]
    shared, beside = set[str](), set[str]()
    running: list[Row] = []
    for row in sorted(known, key=lambda row: row.start_seconds):
        running = [r for r in running if row.start_seconds < _end(r) - _CLOCK_SECONDS]
        for other in running:
            if _elsewhere(row, other):
                continue
            (beside if _apart(row, other) else shared).update({row.run_id, other.run_id} & wanted)
        running.append(row)
    found = []
    if shared:
        found.append(
            Flag(
                "OVERLAP",
                f"{len(shared)} of {len(rows)} trials ran while another trial of the study ran on this machine: "
                "each slowed the other.",
                "Run one study at a time.",
            )
        )
    if beside:
        found.append(
            Flag(
                "PARTS-AT-ONCE",
                f"{len(beside)} of {len(rows)} trials ran while a trial of another part of the study ran on other "
                "GPUs and processors of this machine: they shared its memory and its power.",
                "Look at the A/A arm; where that resolves too little, run the parts one after the other.",
            )
        )
    return tuple(found)


def _end(row: Row) -> float:
    return row.end_seconds or 0.0


def _elsewhere(row: Row, other: Row) -> bool:
    """Whether two trials are of different parts, on two of the machines that have one name."""
    one, two = row.tags.get(BOOT, ""), other.tags.get(BOOT, "")
    return row.parent != other.parent and bool(one and two) and one != two


def _apart(row: Row, other: Row) -> bool:
    """Whether two trials are of different parts, on GPUs and processors of their own."""
    (_, one), (_, two) = (placed(r.tags.get("settings", DEFAULT)) for r in (row, other))
    return row.parent != other.parent and one.apart(two)


def _other_order(table: Table, pairs: Pairs) -> tuple[Flag, ...]:
    """Did the arms of each block run in the order that was drawn beforehand?"""
    design, arms = table.study.design, table.study.arms
    order = design.get("order")
    if not isinstance(order, list) or len(order) != len(arms) * table.study.pairs:
        return ()
    seed = design.get("seed")
    if isinstance(seed, int) and order != [s.arm for s in blocks(arms, table.study.pairs, seed)]:
        return (
            Flag(
                "OTHER-ORDER",
                "The order of the trials in the design is not the one that its seed draws: who chooses "
                "the order can choose who meets a warm machine.",
                "Let `study` draw the order.",
            ),
        )
    place = {(i // len(arms), arm): i % len(arms) for i, arm in enumerate(order)}
    again = {(row.pair, row.arm) for row in table.unused}
    wrong = [
        number
        for number, a, b in pairs
        if not again & {(number, a.arm), (number, b.arm)}
        and (
            (a.start_seconds < b.start_seconds)
            != (place.get((number, a.arm), -1) < place.get((number, b.arm), -1))
            or any(r.order is not None and r.order != place.get((number, r.arm)) for r in (a, b))
        )
    ]
    if not wrong:
        return ()
    listed = ", ".join(map(str, wrong[:5])) + (" ..." if len(wrong) > 5 else "")
    return (
        Flag(
            "OTHER-ORDER",
            f"{len(wrong)} of {len(pairs)} pairs (pair {listed}) ran in another order than the one drawn "
            "before the first trial, or their arms were exchanged.",
            "Let `study` run the trials, in a new study.",
        ),
    )


def _dropped(table: Table, arms: Sequence[str]) -> tuple[Flag, ...]:
    """Finished trials that are gone. Of two that finished in one place the first counts, so a later
    one may go."""
    gone = [
        row
        for row in table.unused
        if row.deleted and row.status == "FINISHED" and row.arm in arms and row.pair is not None
        if (kept := table.arms[row.arm].get(row.pair)) is None
        or kept.start_seconds > row.start_seconds
    ]
    known = {row.tags.get("trial", "") for row in (*table.trials(), *table.unused)} | {FIRST}
    before = {row.tags["previous"] for row in table.trials() if row.tags.get("previous")}
    sentences = []
    if gone:
        counts = ", ".join(f"{arm} {n}" for arm, n in sorted(Counter(r.arm for r in gone).items()))
        pairs = ", ".join(str(pair) for pair in sorted({row.pair or 0 for row in gone}))
        sentences.append(
            f"{len(gone)} finished trials of these arms were deleted ({counts}; pair {pairs})"
        )
    if missing := len(before - known):
        sentences.append(
            f"{missing} trials that ran in this study are no longer in the store, of whatever arm"
        )
    if not sentences:
        return ()
    return (
        Flag(
            "DROPPED",
            f"{' and '.join(sentences)}: what is left was chosen.",
            "Restore them, or run a new study.",
        ),
    )


def _rerun(table: Table, arms: Sequence[str], pairs: int) -> tuple[Flag, ...]:
    """Places in which a trial ended early, or finished twice, and another one counts; or in which a
    whole one was set aside because the machine was started anew in its block."""
    every = [
        (row, kept)
        for row in table.unused
        if row.arm in arms and row.pair is not None
        if (kept := table.arms[row.arm].get(row.pair)) is not None
    ]
    cut = Counter(row.arm for row, kept in every if _set_aside(row, kept))
    again = Counter(row.arm for row, _ in every) - cut
    total, found = sum(again.values()), []
    if cut:
        found.append(
            Flag(
                "CUT-BLOCK",
                f"{sum(cut.values())} trials ({_counts(cut, arms)}) were whole when the machine was "
                "started anew, or another one took over, in the middle of their block. They were "
                "measured again with the rest of it, so that what is paired ran in one start.",
                "",
            )
        )
    if total:
        found.append(
            Flag(
                "RERUN",
                f"{total} trials ended early and were run again ({_counts(again, arms)}). If the slow "
                "ones are those that end early (a time limit, impatience), what was kept is faster than "
                "the arm is.",
                "Nothing to do after one interruption.",
            )
        )
    if total > max(2, pairs / 4):
        found.append(
            Flag(
                "SELECTED",
                f"{total} repeated trials in {pairs} pairs are too many for those that were kept to be "
                "taken for all.",
                "Find out why trials end early, then run a new study.",
            )
        )
    return tuple(found)


def _set_aside(row: Row, kept: Row) -> bool:
    """Whether a trial ran in another start of the machine than the one that counts: the word alone would
    let anybody choose."""
    return SUPERSEDED in row.tags and row.tags.get(BOOT, "") != kept.tags.get(BOOT, "")


def _counts(found: Mapping[str, int], arms: Sequence[str]) -> str:
    return ", ".join(f"{arm} {found[arm]}" for arm in arms if found[arm])


def _one_code(rows: Sequence[Row]) -> tuple[Flag, ...]:
    """By the files themselves where the trials say so, else by the commit."""
    keys = [row.tags.get("code_sha256", "") for row in rows]
    what = "versions of the measuring code"
    if not any(keys):
        keys = [row.tags.get("mlflow.source.git.commit", "") for row in rows]
        what = "commits"
    found = Counter(keys)
    if len(found) == 1:
        return ()
    listed = ", ".join(f"{key[:8] or 'unknown'} in {count}" for key, count in found.most_common(4))
    return (
        Flag(
            "MIXED-CODE",
            f"The trials ran {len(found)} {what}: {listed} trials.",
            "Run the whole study with one.",
        ),
    )


def _within_arms(rows: Sequence[Row]) -> tuple[Flag, ...]:
    """What may differ between two arms, and never inside one."""
    found = []
    # Where all data are drawn from the seeds of their blocks, those of a block are the same.
    drawn = all(row.tags.get("data_source", "").endswith(f", seed {row.seed}") for row in rows)
    for name, keys, group, remedy in (
        ("MIXED-DATA", _exactly("data_sha256"), _block if drawn else _arm, "the same data"),
        ("MIXED-DATA", _exactly("weights_sha256"), _arm, "the same weights"),
        ("MIXED-VERSIONS", _versions, _arm, "the same packages"),
    ):
        for who in dict.fromkeys(map(group, rows)):
            own = [keys(row.tags) for row in rows if group(row) == who]
            names = sorted({key for one in own for key in one})
            for key in names:
                values = sorted({one.get(key, "unknown") for one in own})
                if len(values) > 1:
                    said = " and ".join(value[:12] for value in values[:3])
                    sentence = f"The trials of {who} ran with more than one {key}: {said}."
                    found.append(Flag(name, sentence, f"Run the whole study with {remedy}."))
                    break
    return tuple(found)


def _arm(row: Row) -> str:
    return row.arm


def _block(row: Row) -> str:
    return f"seed {row.seed}"


def _exactly(*names: str) -> Any:
    return lambda tags: {key: tags[key] for key in names if key in tags}


def _versions(tags: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in tags.items() if key.startswith("version_")}


def _seeds(table: Table, pairs: Pairs) -> tuple[Flag, ...]:
    first = table.study.design.get("seed")
    wrong = [
        number
        for number, a, b in pairs
        if a.seed != b.seed or (isinstance(first, int) and a.seed != first + number)
    ]
    if not wrong and len({a.seed for _, a, _ in pairs}) == len(pairs):
        return ()
    if wrong:
        number, a, b = next(pair for pair in pairs if pair[0] == wrong[0])
        sentence = (
            f"{len(wrong)} of {len(pairs)} pairs did not start from the seed of their block (pair "
            f"{number}: {a.arm} {a.seed}, {b.arm} {b.seed}): initial values and order of the data differ, "
            "or were chosen."
        )
    else:
        sentence = "Several pairs have one seed, so they say less than as many pairs of their own."
    return (Flag("OTHER-SEED", sentence, "Let `study` count the seeds."),)


def _machine(rows: Sequence[Row]) -> tuple[Flag, ...]:
    """One machine's name on trials whose own facts say otherwise."""
    for key in ("machine_cpu", "machine_arch", "machine_cores"):
        values = sorted({row.facts[key] for row in rows if row.facts.get(key)})
        if len(values) > 1:
            sentence = (
                f"Trials under one machine's name were run on {' and '.join(values)} ({key})."
            )
            return (_other_machine(sentence),)
    for row in rows:
        named = _FINGERPRINT.fullmatch(row.machine)
        for key, part in (("machine_arch", "arch"), ("machine_cores", "cores")):
            if named and row.facts.get(key, named[part]) != named[part]:
                return (
                    _other_machine(
                        f"{_named(row)} is under the machine {row.machine} and recorded "
                        f"{key} {row.facts[key]}."
                    ),
                )
    return ()


def _other_machine(sentence: str) -> Flag:
    return Flag(
        "OTHER-MACHINE", sentence, "Run the whole study on one machine, under its own name."
    )


def unsigned(rows: Sequence[Row]) -> str:
    """A note on runs that carry no digest; '' where all do, or none was stored at all."""
    old = sum(row.altered is None for row in rows if row.tags)
    if not old:
        return ""
    return (
        f"{old} of {len(rows)} trials are older than the digest that runs carry: an edit of theirs "
        "would not show (UNSIGNED)."
    )


def _named(row: Row) -> str:
    return f"run {row.run_id} ({row.arm}, pair {row.pair})"

"""Rows of one study -> a table of arms and pairs, or a refusal that names what is wrong.

Only FINISHED trials enter; a trial killed half way is as good as never started.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from measurement import settings
from measurement.errors import InputError
from tracking.digest import of_design
from tracking.names import SUPERSEDED

if TYPE_CHECKING:  # the types only: reading a table must not import a tracking client
    from tracking.read import Row, Study

ZERO_ALLOWED = frozenset(
    {"hardware/cpu_percent_mean", "hardware/gpu_percent_mean", "eval/accuracy", "cost/usd"}
)

_SHORT_SECONDS = 0.01  # a busy machine draws out a pass of less by any factor

MAY_DIVERGE = frozenset({"train/loss", "eval/perplexity"})
"""An infinite or NaN loss is a result."""


@dataclass(frozen=True)
class Table:
    """The trials of one study. arms: arm -> pair -> row; left_out: sentences on unused rows;
    out_of_memory: arm -> trials that ended for lack of memory; unused: the other trials of the study,
    which ended early, were deleted or belong to no pair; resampled: run id -> what its samples say that
    its run does not."""

    study: Study
    arms: Mapping[str, Mapping[int, Row]]
    left_out: tuple[str, ...]
    out_of_memory: Mapping[str, int]
    unused: tuple[Row, ...] = ()
    resampled: Mapping[str, str] = field(default_factory=dict)
    elsewhere: Mapping[str, Row] = field(
        default_factory=dict
    )  # digest of samples -> of which trial

    @cached_property
    def design_sha256(self) -> str:
        """Of what the study's run says was fixed beforehand; "" where it says nothing."""
        return of_design(self.study.design) if self.study.design else ""

    def known(self, metrics: Iterable[str]) -> list[str]:
        """Those of some metrics that concern this study: declared, measured in a trial, or missing
        there for a reason that it states."""
        known = {self.study.metric, *self.study.family}
        for row in self.trials():
            known |= row.metrics.keys() | row.not_measured.keys()
        return [metric for metric in metrics if metric in known]

    def pairs(self, numerator: str, denominator: str) -> list[tuple[int, Row, Row]]:
        """(pair, row, row) of every pair in which both arms finished, in order of the pairs."""
        first, second = self.arms.get(numerator, {}), self.arms.get(denominator, {})
        return [(pair, first[pair], second[pair]) for pair in sorted(first.keys() & second.keys())]

    def halves(self, numerator: str, denominator: str) -> int:
        """Pairs of which only one of the two arms finished."""
        return len(self.arms.get(numerator, {}).keys() ^ self.arms.get(denominator, {}).keys())

    def trials(self) -> list[Row]:
        """All used rows in the order in which they ran."""
        rows = [row for by_pair in self.arms.values() for row in by_pair.values()]
        return sorted(rows, key=lambda row: row.start_seconds)


def build(study: Study, rows: Iterable[Row]) -> Table:
    """The table of a study.

    Raises InputError: no finished trial; the same arm and pair twice; conditions mixed within an
    arm (names the key); a job on other ranks or hosts than its arm was to have; two machines; a metric that is NaN, infinite or negative; mixed units.
    """
    # A study of the same name that was deleted, and begun anew, is another one.
    rows = [row for row in rows if row.parent in ("", *study.runs)]
    if study.parts:
        rows = _anywhere(study, rows)
    every, rows = rows, [row for row in rows if not row.deleted]
    finished = [row for row in rows if row.status == "FINISHED"]
    short = Counter(r.arm for r in rows if r.status != "FINISHED" and "OUT-OF-MEMORY" in r.flags)
    arms: dict[str, dict[int, Row]] = {arm: {} for arm in study.arms}
    unpaired = 0
    for row in sorted(finished, key=lambda row: row.start_seconds):
        if row.pair is None or row.arm not in arms:
            unpaired += 1
            continue
        if row.pair in arms[row.arm]:
            raise InputError(
                f"study {study.name}: arm '{row.arm}' has pair {row.pair} twice "
                f"(runs {arms[row.arm][row.pair].run_id} and {row.run_id}); "
                "the first counts: delete the later one"
            )
        try:
            check_values(row)
            check_units(row)
        except InputError:
            if row.altered:  # an edit is an edit first
                raise InputError(altered(row)) from None
            raise
        arms[row.arm][row.pair] = row
    for arm, by_pair in arms.items():
        check_one_condition(
            study.name, arm, [(f"run {row.run_id}", row.cell) for row in by_pair.values()]
        )
    for declared in study.design.get("scaling_arms", ()):
        for row in arms.get(declared["name"], {}).values():
            _check_resources(study, row, declared["ranks"])
    if not any(arms.values()):
        if short:
            raise InputError(
                f"study {study.name} has no finished trial: "
                f"{sum(short.values())} ended for lack of memory ({', '.join(sorted(short))}); "
                "start a new study with a smaller batch_size or preset"
            )
        raise InputError(
            f"study {study.name} has no finished trial; run the study again, it resumes where it "
            "stopped"
        )
    machines = sorted({row.machine for by_pair in arms.values() for row in by_pair.values()})
    if len(machines) > 1:
        raise InputError(
            f"study {study.name} mixes the machines {', '.join(machines)}: its run names none of them, "
            "so their pairs cannot be told apart; start it anew on each"
        )
    left_out = []
    aside = sum(row.status != "FINISHED" and SUPERSEDED in row.tags for row in rows)
    if short_of := len(rows) - len(finished) - aside:
        why = f", {sum(short.values())} of them for lack of memory ({', '.join(sorted(short))})"
        left_out.append(f"{short_of} trials did not finish and are left out{why if short else ''}.")
    if aside:
        left_out.append(
            f"{aside} whole trials were set aside with the block that a restart of the machine cut in two."
        )
    if unpaired:
        left_out.append(f"{unpaired} trials belong to no pair of this study and are left out.")
    used = {row.run_id for by_pair in arms.values() for row in by_pair.values()}
    unused = tuple(row for row in every if row.run_id not in used)
    return Table(study, arms, tuple(left_out), short, unused)


def altered(row: Row) -> str:
    """What of a run is not as its trial recorded it, in a sentence."""
    names = row.altered or ()
    listed = ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")
    return (
        f"ALTERED: {listed} of run {row.run_id} ({row.arm}, pair {row.pair}) is not as the trial "
        "recorded it"
    )


def check_values(row: Row) -> None:
    """InputError when a metric is no measurement; a metric that is absent is 'not measured'."""
    for name, value in row.metrics.items():
        if not math.isfinite(value) and name not in MAY_DIVERGE:
            kind = "not a number" if math.isnan(value) else "infinite"
            raise InputError(
                f"run {row.run_id} ({row.name}): {name} is {kind}; expected a finite number, or "
                "no value where nothing was measured"
            )
        if value < 0 or (value == 0 and name not in ZERO_ALLOWED and _is_amount(name)):
            raise InputError(
                f"run {row.run_id} ({row.name}): {name} is {value:g}; expected a number above 0"
            )


def check_units(row: Row) -> None:
    """InputError when times, rates and counts contradict each other, as they do when one of them is
    in another unit (milliseconds, or a rate per batch)."""
    for measured, stated, apart, sentence in _twice_known(row):
        if not 1 / apart < measured / stated < apart:
            raise InputError(f"run {row.run_id} ({row.name}): {sentence}: units are mixed")


def _twice_known(row: Row) -> Iterator[tuple[float, float, float, str]]:
    """(value by the metrics, the same by the receipt or other metrics, the factor from which they
    contradict each other, the sentence to say then).

    Any two units are further apart than the factor. It is larger where medians stand against a
    sum, which one slow call moves.
    """
    counts = {k: v for k, v in (row.receipt or {}).items() if isinstance(v, int | float)}
    get, items = row.metrics.get, counts.get("items")
    for group in ("train", "inference"):
        seconds, rate = get(f"{group}/total_seconds"), get(f"{group}/items_per_second")
        if seconds and rate and items:
            yield (
                seconds * rate,
                items,
                2.0,
                (
                    f"{seconds:g} s at {rate:g} items/s are {seconds * rate:.4g} items, the receipt says "
                    f"{items:.4g}; expected seconds and items per second"
                ),
            )
    begin = get("inference/first_token_seconds") or get("inference/encode_seconds")
    seconds, rate = get("inference/total_seconds"), get("inference/decode_tokens_per_second")
    tokens, prompt = counts.get("tokens"), counts.get("prompt_tokens")
    if begin and seconds and rate and items and tokens:
        parts = items * begin + (tokens - items) / rate
        yield (
            parts,
            seconds,
            20.0,
            (
                f"{items:.4g} first phases of {begin:g} s and {tokens - items:.4g} tokens at {rate:g} "
                f"tokens/s take {parts:.4g} s, the run says {seconds:.4g} s; expected seconds and tokens "
                "per second"
            ),
        )
    halves = [get(f"switch/{name}_device_seconds") for name in ("first", "second")]
    seconds, loops = get("switch/total_seconds"), row.cell.get("loops", "")
    if halves[0] and halves[1] and seconds and loops.isdecimal():
        parts = int(loops) * (halves[0] + halves[1] + (get("switch/transfer_seconds") or 0.0))
        if min(parts, seconds) > _SHORT_SECONDS:
            yield (
                parts,
                seconds,
                20.0,
                (
                    f"{loops} loops of {halves[0]:g} s on the first device and {halves[1]:g} s on the "
                    f"second take {parts:.4g} s, the run says {seconds:.4g} s; expected seconds"
                ),
            )
    rate = get("inference/prefill_tokens_per_second")
    if begin and rate and items and prompt:
        yield (
            begin * rate,
            prompt / items,
            2.0,
            (
                f"{begin:g} s at {rate:g} tokens/s are {begin * rate:.4g} tokens of a prompt, the receipt "
                f"says {prompt / items:.4g}; expected seconds and tokens per second"
            ),
        )


def _is_amount(name: str) -> bool:
    return (
        name.split("/")[0]
        in {
            "train",
            "inference",
            "stream",
            "switch",
            "memory",
            "target",
        }
        and name != "train/loss"
    )


def _anywhere(study: Study, rows: Iterable[Row]) -> list[Row]:
    """The rows of a study in parts, with how many GPUs and processors they had instead of which: that is
    one in a block, and so in no ratio. Raises InputError where it is not."""
    found: list[Row] = []
    first: dict[str, tuple[settings.Place, Row]] = {}
    for row in rows:
        text, place = settings.placed(row.cell.get("settings", settings.DEFAULT))
        whole = row.status == "FINISHED" and not row.deleted
        known, other = first.setdefault(row.parent, (place, row)) if whole else (place, row)
        if known != place:
            raise InputError(
                f"study {study.name}: one part of it, run {row.parent}, used other GPUs or processors in run "
                f"{row.run_id} than in run {other.run_id}; expected the same: start the study anew"
            )
        found.append(replace(row, cell={**row.cell, "settings": text}))
    return found


def check_one_condition(
    study: str, arm: str, trials: Sequence[tuple[str, Mapping[str, str]]]
) -> None:
    """trials: what each is called, and its condition. Raises InputError at the first difference."""
    for name, cell in trials[1:]:
        first, usual = trials[0]
        for key in sorted(usual.keys() | cell.keys()):
            one, other = usual.get(key), cell.get(key)
            if one != other:
                raise InputError(
                    f"study {study}: arm '{arm}' mixes conditions: {key} is '{one}' in {first} and "
                    f"'{other}' in {name}; start a new study for the changed condition"
                )


def _check_resources(study: Study, row: Row, ranks: int) -> None:
    """A speed-up is relative to what a job was given."""
    most = {"ranks": ranks, "hosts": min(ranks, int(study.design["scaling"].get("hosts", 1)))}
    least = {"ranks": ranks, "hosts": 1}
    for key, upper in most.items():
        ran = row.cell.get(key, "1")
        if not ran.isdecimal() or not least[key] <= int(ran) <= upper:
            noun = key if upper != 1 else key.removesuffix("s")
            raise InputError(
                f"study {study.name}: arm '{row.arm}' was to have {upper} {noun} and ran on {ran} (run "
                f"{row.run_id}); start a new study for other {key}"
            )


def records(table: Table, metrics: Iterable[str]) -> list[dict[str, Any]]:
    """One flat record a trial: identity, condition, evidence, metrics (None = not measured).

    Records are in the order in which the trials ran.
    """
    names = list(metrics)
    return [
        {
            "study": row.study,
            "run_id": row.run_id,
            "run": row.name,
            "arm": row.arm,
            "pair": row.pair,
            "order": row.order,
            "seed": row.seed,
            "machine": row.machine,
            "start_seconds": row.start_seconds,
            "source": row.source,
            "flags": " ".join(row.flags),
            "evidence": row.parity is not None and row.receipt is not None,
            **{f"condition/{key}": value for key, value in sorted(row.cell.items())},
            **{name: row.metrics.get(name) for name in names},
        }
        for row in table.trials()
    ]

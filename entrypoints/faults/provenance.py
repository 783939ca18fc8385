"""Class P: trials that are not what they are said to be."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from entrypoints.faults.fault import Fault
from entrypoints.faults.recorded import Changed, again, arms_of, edited, of_arm
from tracking import digest
from tracking.read import Row, Study

Change = Callable[[Study, Sequence[Row]], Changed]
_PAIR = 2  # that one changed trial is in


def _one(change: Callable[[Row], Row]) -> Change:
    """One trial of the first arm changed."""

    def fault(study: Study, rows: Sequence[Row]) -> Changed:
        arm = arms_of(study)[0]
        return study, [change(r) if (r.arm, r.pair) == (arm, _PAIR) else r for r in rows]

    return fault


def _recorded(**tags: str) -> Change:
    """One trial that recorded something else than the others did."""
    named = {key.replace("__", "."): value for key, value in tags.items()}
    return _one(lambda row: again(row, named))


def _faster(row: Row) -> Row:
    return edited(row, metrics={"train/total_seconds": 0.9 * row.metrics["train/total_seconds"]})


def _more_work(row: Row) -> Row:
    receipt = {**(row.receipt or {})}
    receipt["items"] = 2 * receipt["items"]
    return edited(row, {"receipt": json.dumps(receipt)})


def _copied(study: Study, rows: Sequence[Row]) -> Changed:
    """One trial's numbers under another's name."""
    first, second, *_ = of_arm(rows, arms_of(study)[0])
    copy = again(second, {digest.SAMPLES: first.tags[digest.SAMPLES]}, first.metrics)
    return study, [copy if row is second else row for row in rows]


def _borrowed(kind: str) -> Change:
    """The other framework's evidence of equal work."""

    def fault(study: Study, rows: Sequence[Row]) -> Changed:
        first, second = arms_of(study)
        theirs = {row.pair: row.tags[kind] for row in of_arm(rows, second)}
        return study, [again(r, {kind: theirs[r.pair]}) if r.arm == first else r for r in rows]

    return fault


def _exchanged(study: Study, rows: Sequence[Row]) -> Changed:
    """In one pair each arm has the other's times."""
    first, second = arms_of(study)
    pair = {row.arm: row for row in rows if row.pair == _PAIR}

    def swapped(row: Row) -> Row:
        other = pair[second if row.arm == first else first]
        return again(row, {key: other.tags[key] for key in ("started", "ended")})

    return study, [swapped(r) if r.pair == _PAIR and r.arm in (first, second) else r for r in rows]


def _other_design(**changes: Any) -> Change:
    def fault(study: Study, rows: Sequence[Row]) -> Changed:
        return replace(study, design={**study.design, **changes}, **changes), list(rows)

    return fault


def _dirty(study: Study, rows: Sequence[Row]) -> Changed:
    arm = arms_of(study)[0]
    return study, [
        again(r, {"flags": ",".join({*r.flags, "DIRTY-TREE"})}) if r.arm == arm else r for r in rows
    ]


def _commits(study: Study, rows: Sequence[Row]) -> Changed:
    """Half of the trials of another commit, by runs that know no more of their code."""
    return study, [
        again(r, {"mlflow.source.git.commit": "0123456" if (r.pair or 0) % 2 else "789abcd",
                  "code_sha256": ""})
        for r in rows
    ]  # fmt: skip


FAULTS = (
    Fault("edited_metric", "P", "a time edited in the store", ("ALTERED",), study=_one(_faster)),
    Fault(
        "edited_receipt", "P", "a receipt edited in the store", ("ALTERED",), study=_one(_more_work)
    ),
    Fault(
        "edited_flags",
        "P",
        "a warning added or removed later",
        ("ALTERED",),
        study=_one(lambda row: edited(row, {"flags": ",".join({*row.flags} ^ {"LOAD"})})),
    ),
    Fault(
        "digest_removed",
        "P",
        "a time edited and the digest removed",
        ("ALTERED",),
        study=_one(lambda row: edited(_faster(row), {digest.TAG: "", digest.PARTS: ""})),
    ),
    Fault(
        "design_edited",
        "P",
        "another margin after the trials",
        ("ALTERED",),
        study=_other_design(margin=0.5),
    ),
    Fault("copied_run", "P", "one run presented as two", ("COPIED",), study=_copied),
    Fault(
        "copied_evidence", "P", "the other arm's evidence", ("COPIED",), study=_borrowed("parity")
    ),
    Fault(
        "copied_receipt", "P", "the other arm's receipt", ("COPIED",), study=_borrowed("receipt")
    ),
    Fault(
        "arms_exchanged", "P", "the arms of a pair exchanged", ("OTHER-ORDER",), study=_exchanged
    ),
    Fault(
        "published_as_ours",
        "P",
        "a published result among the measured",
        ("PUBLISHED",),
        study=_recorded(source="published"),
    ),
    Fault(
        "other_seed", "P", "a trial of another seed", ("OTHER-SEED",), study=_recorded(seed="77")
    ),
    Fault(
        "mixed_code",
        "P",
        "a trial of other code",
        ("MIXED-CODE",),
        study=_recorded(code_sha256="0" * 64),
    ),
    Fault("mixed_commits", "P", "trials of two commits", ("MIXED-CODE",), study=_commits),
    Fault("dirty_tree", "P", "code that is in no commit", ("DIRTY-TREE",), study=_dirty),
    Fault(
        "mixed_data",
        "P",
        "a trial of other data",
        ("MIXED-DATA",),
        study=_recorded(data_sha256="0" * 64),
    ),
    Fault(
        "mixed_versions",
        "P",
        "a trial of another NumPy",
        ("MIXED-VERSIONS",),
        study=_recorded(version_numpy="1.0.0"),
    ),
    Fault(
        "other_machine",
        "P",
        "another machine under one name",
        ("OTHER-MACHINE",),
        study=_recorded(machine_cpu="Another chip"),
    ),
)

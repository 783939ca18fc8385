"""What a study's trials say before it ends. The analysis would refuse the same, hours later."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from analysis.table import check_one_condition
from measurement.audit import parity_difference, receipt_difference
from measurement.schedule import Slot
from tracking import stated
from tracking.outbox import Kept


def check_condition(name: str, kept: Sequence[Kept], arm: str) -> None:
    """Raises InputError where an arm's finished trials ran under two conditions. kept: every record of
    this machine's part of the study."""
    own = [one for one in kept if one.record.tags.get("arm") == arm]
    check_one_condition(
        name,
        arm,
        [
            (f"record {one.folder.name}", stated.cell(one.record.tags, one.record.params))
            for one in own
            if one.record.status == "FINISHED"
        ],
    )


def unequal(kept: Sequence[Kept], plan: Mapping[str, Any], slot: Slot) -> Iterator[tuple[str, str]]:
    """(pairing, sentence) of every declared pairing of this slot's arm whose two trials of its block
    are there and did not do the same work. Nothing is stopped: what was measured is kept, and a study
    may be made to show just that."""
    tags = {
        one.record.tags["arm"]: one.record.tags
        for one in kept
        if one.record.status == "FINISHED" and one.record.tags.get("pair") == str(slot.pair)
    }
    for pairing in plan["comparisons"]:
        sides = pairing["numerator"], pairing["denominator"]
        if slot.arm not in sides or not set(sides) <= set(tags):
            continue
        a, b = ([stated.evidence(tags[arm].get(x)) for x in ("parity", "receipt")] for arm in sides)
        if different := parity_difference(a[0], b[0]) or receipt_difference(a[1], b[1]):
            both = " and ".join(sides)
            yield (
                both,
                f"{both} did not do the same work in block {slot.pair}: {different}. The study goes on, "
                "but its report will give no ratio of them",
            )

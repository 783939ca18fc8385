"""One study name on many machines: each runs its own part, and all parts must be the same study.

Equal means the same design but for the machine, and but for what `auto` came to on each machine: an
option that is left to the machine on both may come to other values there (device, preset, and the
epochs of a preset; the arms that a platform has by default; a price by chip). The analysis then
shows both, and pools what ran under one condition only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from entrypoints.prices import NONE
from measurement.errors import InputError
from tracking.read import Study

AUTO = "auto"
_LEFT_OPEN = ("device", "preset", "epochs", "arms")
# key of a design -> the option that, where it is left open, may bring another value on a machine
_FOLLOWS = {
    **{option: option for option in _LEFT_OPEN},
    "comparisons": "arms",
    "order": "arms",
    "scaling_arms": "arms",
    "price_per_hour": "price_table",
}
_OWN = frozenset({"machine", "by_machine", "wait_quiet"})
_NAMES = {"stopping": "until_resolved"}  # where the option has another name


def left_open(options: Mapping[str, Any]) -> list[str]:
    """The options that the user leaves to the machine; one that a command lacks is its own to choose.
    Options that are complete already carry the answer."""
    if "by_machine" in options:
        return list(options["by_machine"])
    found = [option for option in _LEFT_OPEN if options.get(option, AUTO) == AUTO]
    return found + ["price_table"] * (options.get("price_table", NONE) != NONE)


def changed(known: Mapping[str, Any], plan: Mapping[str, Any]) -> list[str]:
    """Keys in which a design differs from the one recorded, where that has them."""
    return [key for key in plan if key not in _OWN and key in known and known[key] != plan[key]]


def check(plan: Mapping[str, Any], others: Sequence[Study]) -> None:
    """Raises InputError, naming the option, when this machine would run another study than those
    others under one name; and where one of them is this machine with other cores, or a start of
    the same study here a moment ago."""
    here = plan["machine"]
    for study in others:
        if study.machine == here:
            raise InputError(
                f"study '{study.name}' is just being started on this machine by another command; "
                "wait for its end, or use another name"
            )
        if study.machine.rpartition("-")[2] == here.rpartition("-")[2]:
            raise InputError(
                f"study '{study.name}' was started on this machine as {study.machine}, now it is "
                f"{here}: expected the same cores; give it as many as before, or use another name"
            )
        for key, ours, theirs in _different(plan, study.design):
            raise InputError(
                f"study '{study.name}' runs on {study.machine} with another {key} ({theirs} there, "
                f"{ours} here); use the same options on every machine, or another name"
            )


def _different(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(key, value in one, value in the other) of what may not differ and does."""
    both_open = set(one.get("by_machine", ())) & set(other.get("by_machine", ()))
    first, second = _flat(one), _flat(other)
    keys = dict.fromkeys([*first, *second])
    if not ("by_machine" in one and "by_machine" in other):  # one is older than some keys
        keys = {key: None for key in keys if key in first and key in second}
    values = [(key, first.get(key, "none"), second.get(key, "none")) for key in keys]
    return [
        (_NAMES.get(key, key), _text(ours), _text(theirs))
        for key, ours, theirs in values
        if ours != theirs and _FOLLOWS.get(key) not in both_open
    ]


def _flat(design: Mapping[str, Any]) -> dict[str, Any]:
    """A design with its condition's keys among its own, what explains other keys first."""
    condition = design.get("condition", {})
    own = {k: v for k, v in design.items() if k not in _OWN | {"condition"}}
    return {**condition, **own}


def _text(value: Any) -> str:
    words = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return words if len(words) < 200 else words[:200] + " ..."

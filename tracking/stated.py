"""What a run says of itself, in tags that anybody who can write to the store may have written: read as
it should be, or refused in one line that names the run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from measurement import untrusted
from measurement.errors import InputError
from measurement.untrusted import shown
from tracking import names

# Names that become folders: no separator, and not only dots.
_NAME = re.compile(r"(?!\.+\Z)[A-Za-z0-9._+-]{1,128}")
_NUMBER = re.compile(r"[0-9]{1,12}(\.[0-9]{1,12})?(e[+-]?[0-9]{1,2})?")
_DIGITS = re.compile(r"[0-9]{1,9}")
_MOST_ARMS = 4096
NUMBERS = (
    "epochs",
    "batch_size",
    "target",
    "slowdown_percent",
    "ranks",
    "hosts",
)  # of a condition


def name(text: str, what: str) -> str:
    """A study's or a machine's name. Raises InputError for one that would climb out of a folder."""
    if not _NAME.fullmatch(text):
        raise InputError(
            f"{what} '{shown(text)}'; expected letters, digits, '.', '_' and '-', as the commands"
            " write it"
        )
    return text


def line(text: str) -> str:
    """Text that is printed: without the control characters that move a terminal's cursor."""
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


def whole(text: str | None) -> int | None:
    """A block's or position's number, None where there is none."""
    return int(text) if text and _DIGITS.fullmatch(text) else None


def seed(text: str) -> int:
    """Raises InputError for what is no whole number."""
    found = whole(text)
    if found is None:
        raise InputError(f"seed is '{shown(text)}'; expected a whole number")
    return found


def seconds(text: str | None) -> float | None:
    """A moment; None for what is cut or edited, which the digest says."""
    return float(text) if text and _NUMBER.fullmatch(text) else None


def evidence(text: str | None) -> dict[str, Any] | None:
    """Parity or a receipt. None where a tag is missing, was cut or edited, or is deeper than any of
    ours: that is no evidence."""
    if not text:
        return None
    try:
        found = untrusted.parse_json(text, "a tag")
    except InputError:
        return None
    return found if isinstance(found, dict) else None


def reasons(text: str | None) -> dict[str, str]:
    """metric -> why it was not measured."""
    found = evidence(text) or {}
    return {line(key): line(value) for key, value in found.items() if isinstance(value, str)}


def design(text: str) -> dict[str, Any]:
    """A study's design. Raises InputError naming the first key that is not as a study writes it."""
    found = untrusted.parse_json(text, "its design")
    if not isinstance(found, dict):
        raise InputError("its design is no JSON object")
    for key, good in _DESIGN.items():
        if key not in found or not good(found[key]):
            raise InputError(
                f"its design has {key}={shown(repr(found.get(key, 'missing')))}, which no study writes"
            )
    for key, good in _OPTIONAL.items():
        if key in found and not good(found[key]):
            raise InputError(
                f"its design has {key}={shown(repr(found[key]))}, which no study writes"
            )
    return found


def _sweep(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and _word(value.get("parameter"))
        and isinstance(value.get("values"), list)
        and all(untrusted.number(one, float) for one in value["values"])
    )


def _scaling(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("ranks"), list)
        and all(map(_count, value["ranks"]))
        and _count(value.get("threads"))
        and _count(value.get("hosts", 1))
    )


def _word(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 1000


def _words(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= _MOST_ARMS and all(map(_word, value))


def _pairings(value: Any) -> bool:
    keys = {"numerator", "denominator", "role"}
    return (
        isinstance(value, list)
        and len(value) <= _MOST_ARMS
        and all(isinstance(one, dict) and one.keys() == keys for one in value)
        and all(map(_word, (word for one in value for word in one.values())))
    )


def _positive(value: Any) -> bool:
    return untrusted.number(value, float) and value >= 0


def _count(value: Any) -> bool:
    return untrusted.number(value, int) and 0 <= value <= 1_000_000


def _condition(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(one, str) or untrusted.number(one, float) for one in value.values()
    )


_DESIGN = {
    "pairs": _count,
    "margin": _positive,
    "metric": lambda value: _word(value) and value in names.METRICS,
    "family": _words,
    "arms": _words,
    "comparisons": _pairings,
}
_OPTIONAL = {
    "target": lambda value: value is None or _positive(value),
    "workload": _word,
    "mode": lambda value: _word(value) and value in names.PRIMARY,
    "quality": _word,
    "checkpoint": _word,
    "preset": _word,
    "by_machine": _words,
    "stopping": _word,
    "epochs": lambda value: _word(value) or _count(value),
    "seed": lambda value: untrusted.number(value, int) and value >= 0,
    "dataset": _word,
    "price_per_hour": _positive,
    "gap_seconds": _positive,
    "slowdown_percent": _positive,
    "machine": _word,
    "condition": _condition,
    "sweep": _sweep,
    "scaling": _scaling,
    "scaling_arms": lambda value: (
        isinstance(value, list) and all(isinstance(one, dict) for one in value)
    ),
    "order": lambda value: isinstance(value, list) and all(map(_word, value)),
}


def cell(tags: Mapping[str, str], params: Mapping[str, str]) -> dict[str, str]:
    """The condition as it ran, by the names of tracking.names.CELL, and the sizes. Raises InputError
    where a number is none."""
    found = {key: tags.get(key, params.get(key, names.ABSENT.get(key, ""))) for key in names.CELL}
    found |= {k.removeprefix(names.SIZE): v for k, v in tags.items() if k.startswith(names.SIZE)}
    for key in NUMBERS:
        # A parameter is as it was typed, `preset` or `auto`: all that a trial has which never began.
        if tags.get(key) and not _NUMBER.fullmatch(tags[key]):
            raise InputError(f"{key} is '{shown(tags[key])}'; expected a number")
    return {line(key): line(value) for key, value in found.items()}

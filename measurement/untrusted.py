"""Data that others made, read within limits: what is too large, too deep, or no plain file is refused
in one line before it takes memory or time."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, TypeGuard

from measurement.errors import InputError

DEEPEST = 32  # levels of JSON; ours have four
KIB, MIB = 1 << 10, 1 << 20
_MOST_DIGITS = 100
_SHOWN = 120  # characters of somebody else's text in a message


def read_bytes(path: Path, most: int, what: str) -> bytes:
    """The content of a plain file of at most `most` bytes; no device, pipe or folder is opened, which
    could wait or go on for ever. what: was expected, as in "a hostfile". Raises InputError."""
    try:
        # Not to wait for a pipe's other end.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(handle, "rb") as stream:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise InputError(f"{path} cannot be read (no plain file); expected {what}")
            content = stream.read(most + 1)
    except InputError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{path} cannot be read ({reason}); expected {what}") from error
    if len(content) > most:
        raise InputError(f"{path} has more than {most:,} bytes; expected {what}: a smaller file")
    return content


def read_text(path: Path, most: int, what: str) -> str:
    """`read_bytes` as UTF-8 text. Raises InputError."""
    try:
        return read_bytes(path, most, what).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} cannot be read (no UTF-8 text); expected {what}") from error


def parse_json(text: str | bytes, where: str) -> Any:
    """What a JSON text says. Raises InputError: no JSON, deeper than any of ours, a number of
    thousands of digits."""
    try:
        value = json.loads(text, parse_int=_whole)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: no JSON, line {error.lineno}: {error.msg}") from error
    except RecursionError as error:
        raise InputError(f"{where}: JSON deeper than {DEEPEST} levels") from error
    except ValueError as error:  # an integer that Python refuses, bytes that are no text
        raise InputError(f"{where}: no JSON ({shown(str(error))})") from error
    if _deeper(value, DEEPEST):
        raise InputError(f"{where}: JSON deeper than {DEEPEST} levels")
    return value


def _whole(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:  # it would be no float either
        raise ValueError(f"a number of {len(digits):,} digits")
    return int(digits)


def _deeper(value: Any, levels: int) -> bool:
    """Level by level, because a recursion would end where the data wants it to."""
    level = [value]
    for _ in range(levels):
        inner: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                inner += one.values()
            elif isinstance(one, list):
                inner += one
        level = inner
    return any(isinstance(one, (dict, list)) for one in level)


def shown(text: str) -> str:
    """Somebody else's text as a message may quote it: one short line without control characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= _SHOWN else line[: _SHOWN - 3] + "..."


def number(value: Any, kind: type) -> TypeGuard[float]:
    """Whether a JSON value is a finite number of this kind that fits a machine's word. An int is a
    float too; a bool is neither."""
    if isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else int):
        return False
    return -(2**63) <= value < 2**63  # false for NaN

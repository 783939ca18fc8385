"""How every command speaks: results on standard output and all else on standard error, one object for
machines with --json, colour on a terminal only, how long a long work still takes, exit codes."""

from __future__ import annotations

import io
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Any, TextIO, TypeVar

import click

Item = TypeVar("Item")

DONE, FOUND, BAD_INPUT, UNDELIVERED, STOPPED = 0, 1, 2, 75, 130
EXIT_CODES = {
    DONE: "everything that was asked for is done",
    FOUND: "a trial failed, or a check found what it looks for; what was measured is kept",
    BAD_INPUT: "a mistake in what was asked: one line says what is expected",
    UNDELIVERED: "measured and kept on disk, but the tracking store does not have all of it; "
    "`deliver` sends it",
    STOPPED: "stopped by Ctrl-C or SIGTERM; what was measured is kept",
}
"""What a script may rely on. 75 is EX_TEMPFAIL of sysexits.h, "try again later": neither 0, after which
a script would read the store, nor the 1 of a measurement that failed."""

WARNING = "! "
"""What a line begins with that warns, after any blanks."""
_SECONDS_BETWEEN_LINES = 10.0


@dataclass
class Said:
    """What a command said, for one object on standard output."""

    command: str
    text: list[str] = field(default_factory=list)
    result: dict[str, Any] = field(default_factory=dict)
    error: str | None = None

    def as_json(self, exit_code: int) -> str:
        """The object: the same keys whatever the command; `result` is the command's own."""
        warnings = [line.strip() for line in self.text if line.strip().startswith(WARNING)]
        whole = {
            "command": self.command,
            "exit_code": exit_code,
            "error": self.error,
            "result": plain(self.result),
            "warnings": [line.removeprefix(WARNING) for line in warnings],
            "text": self.text,
        }
        return json.dumps(whole, indent=1, allow_nan=False, ensure_ascii=False)


_said: list[Said] = []  # of the command that runs with --json


def result(**values: Any) -> None:
    """Adds to the object that --json prints; without --json nothing."""
    if _said:
        _said[-1].result.update(values)


def error(text: str) -> None:
    """One line on standard error that says what was wrong."""
    line = " ".join(text.split())
    if _said:
        _said[-1].error = line
    word = "Error:"
    click.echo(f"{click.style(word, fg='red') if coloured(sys.stderr) else word} {line}", err=True)


def plain(value: Any) -> Any:
    """A value as JSON has it: what is not finite, and what is absent, is null.

    >>> plain({"a": float("inf"), "b": (1, "x")})
    {'a': None, 'b': [1, 'x']}
    """
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(one) for one in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if hasattr(value, "item"):  # a number of NumPy
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)


# --- what is printed, and where


class _Stream(io.TextIOBase):
    """Stands in for standard output: writes to `to`, and keeps or colours what is written."""

    encoding = "utf-8"
    errors = "replace"

    def __init__(self, to: TextIO, keep: Said | None) -> None:
        self._to, self._keep, self._rest = to, keep, ""

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._to.isatty()

    def fileno(self) -> int:
        return self._to.fileno()

    def flush(self) -> None:
        self._to.flush()

    def write(self, text: str) -> int:
        if self._keep is None:
            self._to.write(_painted(text))
            return len(text)
        self._to.write(text)
        *whole, self._rest = (self._rest + text).split("\n")
        self._keep.text += [click.unstyle(line) for line in whole]
        return len(text)

    def end(self) -> None:
        if self._keep is not None and self._rest:
            self._keep.text.append(click.unstyle(self._rest))


def coloured(stream: Any) -> bool:
    """Whether colour may go there: to a terminal that knows it, and to nobody who asked for none
    (https://no-color.org)."""
    dumb = os.environ.get("TERM") == "dumb"
    return bool(stream.isatty() and not os.environ.get("NO_COLOR") and not dumb)


def _painted(text: str) -> str:
    """Warnings in another colour; all else as it is."""
    lines = text.split("\n")
    return "\n".join(
        click.style(line, fg="yellow") if line.lstrip().startswith(WARNING) else line
        for line in lines
    )


@contextmanager
def speaking(command: str, as_json: bool) -> Iterator[Said | None]:
    """What the block prints goes where it belongs. as_json: standard output is kept for the object
    that `finish` prints, what the command prints there for people goes to standard error."""
    out = sys.stdout
    if not as_json and not coloured(out):
        yield None
        return
    said = Said(command) if as_json else None
    stream = _Stream(sys.stderr if as_json else out, said)
    if said:
        _said.append(said)
    sys.stdout = stream
    try:
        yield said
    finally:
        stream.end()
        sys.stdout = out
        if said:
            _said.remove(said)


def finish(said: Said | None, exit_code: int) -> None:
    """The object, the only thing on standard output; nothing without --json."""
    if said:
        click.echo(said.as_json(exit_code))


def json_asked(words: Sequence[str]) -> bool:
    """Whether a command line asks for JSON, also one that cannot be understood otherwise.

    >>> json_asked(["--study", "a", "--json"]), json_asked(["--json", "false"])
    (True, False)
    """
    for word, following in zip(words, [*words[1:], ""], strict=False):
        name, equals, value = word.partition("=")
        if name == "--json":
            given = value if equals else following
            if given.startswith("-") or given == "":
                return True
            return given.lower() in ("true", "1", "yes", "on", "t", "y")
    return False


# --- how far a long work is


@contextmanager
def progress(total: int, label: str) -> Iterator[Callable[..., None]]:
    """Says on standard error how far a work of `total` steps is and how long the rest may take: a bar
    on a terminal, else a line every ten seconds. The block calls what it is given after each step,
    with the step's name and, after several at once, how many they were."""
    if sys.stderr.isatty() and total:
        with click.progressbar(
            length=total, label=label, file=sys.stderr, show_pos=True, width=30,
            item_show_func=lambda name: name or "",
        ) as bar:  # fmt: skip
            yield lambda name="", steps=1: bar.update(steps, name)
        return
    start = said = time.monotonic()
    done = 0

    def step(name: str = "", steps: int = 1) -> None:
        nonlocal done, said
        done, now = done + steps, time.monotonic()
        if now >= said + _SECONDS_BETWEEN_LINES:
            said, left = now, (now - start) / done * (total - done)
            click.echo(" ".join(f"{label} {done}/{total} {name}".split()) + f", {left:.0f} s left", err=True)  # fmt: skip

    yield step


def each(
    items: Iterable[Item], label: str, name: Callable[[Item], str] = lambda item: ""
) -> Iterator[Item]:
    """The items, one after the other, with `progress`."""
    listed = list(items)
    with progress(len(listed), label) as step:
        for item in listed:
            yield item
            step(name(item))

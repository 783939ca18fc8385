"""What every command shares: one-line errors, and options read from MLproject's own names."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from measurement.errors import InputError


class Command(click.Command):
    """A command whose user mistakes are one line on standard error and exit code 2."""

    def main(self, *args: Any, **keywords: Any) -> Any:
        keywords["standalone_mode"] = False
        try:
            tidy()
            return super().main(*args, **keywords)
        except click.exceptions.Exit as stop:
            sys.exit(stop.exit_code)
        except click.Abort:
            click.echo("Stopped. What was measured is kept; start again to go on.", err=True)
            sys.exit(130)
        except (click.ClickException, InputError) as error:
            text = error.format_message() if isinstance(error, click.ClickException) else str(error)
            click.echo("Error: " + " ".join(text.split()), err=True)
            sys.exit(2)


def tidy() -> None:
    """First of all, because a command that ends on a user's mistake leaves a run too."""
    if "MLFLOW_RUN_ID" not in os.environ:
        return
    from tracking import adopted  # MLflow takes seconds to import, which --help can do without

    try:
        adopted.tidy()
    except InputError as error:
        click.echo(
            f"the run of this command is not looked through for private names: {error}", err=True
        )


@contextmanager
def _terminated() -> Iterator[None]:
    """SIGTERM, by which a queue or a container ends a command, is taken as Ctrl-C is: what runs is
    closed as KILLED and what was measured is delivered. The one that was there before comes back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def whole(minimum: int) -> click.IntRange:
    """A whole number of at least `minimum`."""
    return click.IntRange(min=minimum)


class Or(click.ParamType):
    """A word that stands for a value found later (`auto`, `preset`), or a value of another type."""

    def __init__(self, word: str, kind: click.ParamType) -> None:
        self.word, self.kind = word, kind
        self.name = kind.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if value == self.word else self.kind.convert(value, param, ctx)


TARGET = click.FloatRange(min=0, min_open=True)

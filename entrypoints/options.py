"""What every command shares: one-line errors, and options read from MLproject's own names."""

from __future__ import annotations

import inspect
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from entrypoints import terminal
from measurement.errors import InputError

HELPS = {
    "workload": "what is measured, a folder of models/",
    "framework": "pytorch, mlx or another one that the workload has a twin in",
    "seed": "a whole number; the same one gives the same draws",
    "data_dir": "folder of the data files; auto: the project's own, filled by download",
    "dtype": "of weights and products: float32, or another one that the workload takes",
    "preset": "sizes of model and data by name",
    "epochs": "number of passes over the training data",
    "gap_seconds": "seconds of rest after every trial",
    "power": "share of studies that shall see it, 0.5 to 0.99",
    "repeats": "number of repetitions, a process each",
    "versions": "same: refuses other versions of the packages; any: says what differs",
    "mode": "train, infer, generate, stream or switch, as far as the workload has it",
    "global_batch_size": "items of a batch, over all ranks",
}
"""What an option means wherever it has no help of its own; defaults and choices are added."""

JSON = "json"


class Command(click.Command):
    """A command whose user mistakes are one line on standard error and exit code 2.

    --json, which every one has, leaves standard output to one object (entrypoints.terminal); example:
    a command line that can be pasted, the last line of --help.
    """

    def __init__(self, *args: Any, example: str = "", **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.help = as_written(self.help or "")
        self.example = example
        if example:
            self.epilog = f"\b\nExample:\n  {example}"
        self.params = [
            *self.params,
            click.Option(
                [f"--{JSON}"], type=bool, metavar="[true|false]", is_flag=False, flag_value=True, default=False,
                show_default=True, expose_value=False,
                help="one JSON object on standard output, all else on standard error",
            ),
        ]  # fmt: skip
        for option in self.params:
            if isinstance(option, click.Option) and not option.help:
                option.help = HELPS.get(option.name or "")

    @property
    def title(self) -> str:
        """What people call it: its module's name, unless it has one of its own."""
        if self.name not in (None, "main"):
            return str(self.name)
        module = str(getattr(self.callback, "__module__", ""))
        if module == "__main__":
            spec = sys.modules[module].__spec__
            module = spec.name if spec else ""
        return module.rpartition(".")[2]

    def main(self, args: Sequence[str] | None = None, *rest: Any, **keywords: Any) -> Any:
        words = [*(sys.argv[1:] if args is None else args)]
        keywords["standalone_mode"] = False
        with terminal.speaking(self.title, terminal.json_asked(words)) as said:
            code, value = _ended(lambda: super(Command, self).main(words, *rest, **keywords))
        terminal.finish(said, code)
        if code:
            sys.exit(code)
        return value


def as_written(text: str) -> str:
    """A docstring of which click leaves the paragraphs that are command lines as they are.

    >>> as_written("What it does.\\n\\n    python -m it\\n    python -m it --also\\n")
    'What it does.\\n\\n\\x08\\npython -m it\\npython -m it --also'
    """
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(f"\b\n{p}" if p.lstrip().startswith("python -m") else p for p in paragraphs)


def _ended(run: Callable[[], Any]) -> tuple[int, Any]:
    """(exit code, what it returned) of a command, whichever way it ends."""
    try:
        tidy()
        with _terminated():
            return terminal.DONE, run()
    except click.exceptions.Exit as stop:
        return stop.exit_code, None
    except SystemExit as stop:
        return int(stop.code or terminal.DONE), None
    except (click.Abort, KeyboardInterrupt):
        click.echo("Stopped. What was measured is kept; start again to go on.", err=True)
        return terminal.STOPPED, None
    except (click.ClickException, InputError) as mistake:
        terminal.error(
            mistake.format_message() if isinstance(mistake, click.ClickException) else str(mistake)
        )
        return terminal.BAD_INPUT, None


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

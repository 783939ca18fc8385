"""`python -m entrypoints`: every command of MLproject by its name, with the same options.

python -m entrypoints decide --priority memory
eval "$(python -m entrypoints completion bash)"     # or zsh, fish; then: framework-study TAB
"""

from __future__ import annotations

import os
import sys

import click
from click.shell_completion import ShellComplete, get_completion_class

from entrypoints.commands import Commands, entries, load
from entrypoints.options import as_written

PROGRAM = "framework-study"
COMPLETE = "_FRAMEWORK_STUDY_COMPLETE"
_RUN = "python -m entrypoints"


@click.group(cls=Commands, help=as_written(__doc__))
def group() -> None:
    """Only listed and completed: `main` runs what it names."""


@group.command(short_help="what a shell evaluates to complete commands and options")
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
def completion(shell: str) -> None:
    """Prints what a shell evaluates: the function `framework-study`, which runs a command of the
    project in whose folder one stands, and the completion of its words."""
    click.echo(script(shell))


def script(shell: str) -> str:
    """Click's own script, asking Python in place of a program on the path."""
    kind = get_completion_class(shell)
    assert kind is not None
    # Bash's own class would start bash to see its version.
    text = ShellComplete.source(kind(group, {}, PROGRAM, COMPLETE))
    text = text.replace(f"(( ! $+commands[{PROGRAM}] )) && return 1", "")
    text = text.replace("_complete $1)", f"_complete {_RUN})").replace(f" {PROGRAM})", f" {_RUN})")
    runs = f'{PROGRAM}() {{ {_RUN} "$@"; }}'
    if shell == "fish":
        runs = f"function {PROGRAM}; {_RUN} $argv; end"
    return f"{runs}\n{text}"


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in entries() and COMPLETE not in os.environ:
        load(name).main(sys.argv[2:], prog_name=f"{_RUN} {name}")
    else:
        group.main(prog_name=_RUN, complete_var=COMPLETE)


if __name__ == "__main__":
    main()

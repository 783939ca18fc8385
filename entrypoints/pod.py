"""`pod`: runs one of the project's commands inside a pod that MLflow's Kubernetes backend made.

python -m entrypoints.pod entrypoints.study --name fleet

MLflow hands a pod its command word by word and quotes each word for a shell, but no shell reads it: a
value with a space would arrive with its quotes. And a tracking address that is good where `mlflow
run` was started may be nothing in the pod: then the runs would be lost with it.
"""

from __future__ import annotations

import os
import shlex
import sys
from urllib.parse import urlsplit

import click

from entrypoints.options import Command
from measurement.errors import InputError

_PACKAGE = "entrypoints."


def unquoted(word: str) -> str:
    """The word without the quotes that were meant for a shell; any other word as it is.

    >>> [unquoted(word) for word in ("'mlx, pytorch'", "--pairs", "it's", "a b", "''")]
    ['mlx, pytorch', '--pairs', "it's", 'a b', '']
    """
    try:
        found = shlex.split(word)
    except ValueError:  # a lone quote is part of the value
        return word
    return found[0] if len(found) == 1 else word


def check_address(address: str) -> None:
    """Raises InputError for a tracking address that is inside this pod."""
    parts = urlsplit(address)
    here = parts.hostname in ("localhost", "::1") or (parts.hostname or "").startswith("127.")
    if parts.scheme in ("", "file", "sqlite") or here:
        raise InputError(
            f"MLFLOW_TRACKING_URI='{address}' is inside this pod, and the runs would be lost with it; "
            "expected a server's address: set KUBE_MLFLOW_TRACKING_URI where `mlflow run` is started"
        )


@click.command(
    cls=Command,
    help=__doc__,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("module")
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def main(module: str, words: tuple[str, ...]) -> None:
    if not module.startswith(_PACKAGE):
        raise InputError(f"'{module}' is no command of this project; expected {_PACKAGE}NAME")
    check_address(os.environ.get("MLFLOW_TRACKING_URI", ""))
    # In place of this process, so that the pod's end reaches the command itself.
    os.execv(sys.executable, [sys.executable, "-m", module, *map(unquoted, words)])


if __name__ == "__main__":
    main()

"""Every command by the name that MLproject gives it: the same list for `mlflow run . -e NAME`, for
`python -m entrypoints NAME` and for a shell that completes either's words."""

from __future__ import annotations

import ast
import pkgutil
import re
import shlex
from functools import cache
from typing import Any

import click
import yaml

from entrypoints.processes import ROOT

_OF_TWO = ("entrypoints.trial", "entrypoints.distributed")  # a workload and a framework make one


@cache
def entries() -> dict[str, dict[str, Any]]:
    """Name -> entry point, as MLproject has them; `main` is `study`."""
    project = yaml.load((ROOT / "MLproject").read_text(encoding="utf-8"), yaml.CSafeLoader)
    found: dict[str, dict[str, Any]] = project["entry_points"]
    return found


def words(entry: str) -> list[str]:
    """['entrypoints.trial', 'mnist', 'mlx', ...]: the module and what follows it."""
    found = shlex.split(entries()[entry]["command"])
    assert found[:2] == ["python", "-m"]
    return found[2:]


def load(entry: str) -> click.Command:
    """The command itself, with all that it imports."""
    module, *rest = words(entry)
    if module in _OF_TWO:
        made: click.Command = pkgutil.resolve_name(f"{module}:command")(*rest[:2])
        return made
    found: click.Command = pkgutil.resolve_name(f"{module}:main")
    return found


def about(entry: str) -> str:
    """Its first sentence, read from the file: importing all of them takes seconds."""
    module, *rest = words(entry)
    if module in _OF_TWO:
        what = "one training by several ranks" if module.endswith("distributed") else "one trial"
        return f"{what} of {rest[0]} in {rest[1]}"
    text = (ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
    said = (ast.get_docstring(ast.parse(text)) or "").partition("\n\n")[0]
    first = re.split(r"(?<=[.?]) |; ", " ".join(said.split()))[0].rstrip(".")
    return first.partition(": ")[2] or first


class Commands(click.Group):
    """All of them for a list and for a shell's TAB: what they are and which options they take is read
    from MLproject, so that nothing is imported."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *entries()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in entries():
            return super().get_command(ctx, cmd_name)
        given = entries()[cmd_name].get("parameters", {})
        params = [
            click.Option([f"--{name}"], default=one["default"]) for name, one in given.items()
        ]
        return click.Command(cmd_name, params=[*params], short_help=about(cmd_name))

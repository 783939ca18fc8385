"""`code_size`: lines and branching of every twin, counted by radon without comments and docstrings.

    python -m entrypoints.code_size --workload mnist

A twin's own file, and beside it what it uses of models/layers, which several twins share; without what is
there for one kind of GPU alone (models/layers/gradients and kernels, of MLX and of PyTorch).
"""

from __future__ import annotations

from dataclasses import astuple
from pathlib import Path

import click

import models
from entrypoints import terminal
from entrypoints.options import Command
from measurement.code_size import CodeSize, code_size, imported, used
from measurement.errors import InputError
from tracking import write

REFERENCE = "pytorch"
_FOLDER = Path(models.__file__).parent
_NAMES = ("source_lines", "logical_lines", "complexity", "complexity_most")


def twin_size(workload: str, framework: str) -> tuple[CodeSize, CodeSize]:
    """(the twin's own file, the definitions that it needs of models.layers). Raises InputError for
    a workload or twin that is not there."""
    known = models.frameworks(_checked(workload))
    if framework not in known:
        raise InputError(
            f"workload '{workload}' has no twin in '{framework}'; it has: {', '.join(known)}"
        )
    text = (_FOLDER / workload / f"{framework}.py").read_text(encoding="utf-8")
    names = imported(text, f"models.layers.{framework}")
    layers = _FOLDER / "layers" / f"{framework}.py"
    shared = used(layers.read_text(encoding="utf-8"), names) if names else ""
    return code_size(text), code_size(shared)


def metrics(workload: str, framework: str) -> dict[str, float]:
    """The same by the names of tracking.names: exact, the same in every trial of a twin."""
    own, shared = twin_size(workload, framework)
    found = {f"code/{name}": value for name, value in zip(_NAMES, astuple(own), strict=True)}
    found |= {
        "code/shared_source_lines": shared.source_lines,
        "code/shared_complexity": shared.complexity,
    }
    return {name: float(value) for name, value in found.items()}


def table(workloads: list[str]) -> str:
    """Markdown, one row a twin. The last column adds what is shared: lines against PyTorch's."""
    rows = [
        "| workload | framework | source lines | logical lines | complexity | of the largest function "
        f"| used of models/layers: lines | complexity | all lines against {REFERENCE} |",
        "|---" * 9 + "|",
    ]
    for workload in workloads:
        sizes = {name: twin_size(workload, name) for name in models.frameworks(workload)}
        lines = {name: own.source_lines + more.source_lines for name, (own, more) in sizes.items()}
        for name, (own, shared) in sizes.items():
            against = ""
            if name != REFERENCE and REFERENCE in lines:
                against = f"{100 * (lines[name] / lines[REFERENCE] - 1):+.0f} %"
            cells = (
                workload, name, *astuple(own), shared.source_lines, shared.complexity, against
            )  # fmt: skip
            rows.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def _checked(workload: str) -> str:
    if workload not in models.names():
        known = ", ".join(models.names())
        raise InputError(f"unknown workload '{workload}'; choose one of: all, {known}")
    return workload


@click.command(cls=Command, help=__doc__, example="mlflow run . -e code_size -P workload=mnist")
@click.option(
    "--workload", default="all", show_default=True, help="all, or one or several with commas"
)
def main(workload: str) -> None:
    chosen = [_checked(word.strip()) for word in workload.split(",")] if workload != "all" else None
    text = table(chosen or models.names())
    for name in chosen or models.names():
        twins = {twin: metrics(name, twin) for twin in models.frameworks(name)}
        terminal.result(**{name: twins})
    run_id = write.adopt("code_size", f"code size of {workload}")
    click.echo(text)
    write.attach_text(run_id, text, "code_size.md")


if __name__ == "__main__":
    main()

"""The project files that a model needs to be rebuilt elsewhere, found by following imports."""

from __future__ import annotations

import ast
import shutil
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def closure(roots: Iterable[str], root: Path = ROOT) -> list[Path]:
    """Files below `root` that the files `roots` (paths relative to it) import, directly or not,
    themselves and the `__init__.py` of every package on the way included; sorted, relative.

    Only import statements are followed: what a registry loads by name must be among the roots.
    """
    found: set[Path] = set()
    waiting = [Path(name) for name in roots]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        packages = [parent / "__init__.py" for parent in path.parents if parent != Path(".")]
        waiting += [package for package in packages if (root / package).is_file()]
        for name in _imported(path, (root / path).read_text(encoding="utf-8")):
            base = Path(*name.split("."))
            candidates = (base.with_suffix(".py"), base / "__init__.py")
            waiting += [c for c in candidates if (root / c).is_file()]
    return sorted(found)


def copy(roots: Iterable[str], destination: Path, root: Path = ROOT) -> None:
    """Copy the closure of `roots` below `destination`, keeping the folders."""
    for path in closure(roots, root):
        target = destination / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / path, target)


def _imported(path: Path, text: str) -> list[str]:
    """Dotted names that a file imports; `from a import b` counts as both a and a.b."""
    names = []
    for node in ast.walk(ast.parse(text, filename=str(path))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = path.parts[: -node.level] if node.level else ()
            base = ".".join([*package, *([node.module] if node.module else [])])
            names += [base, *[f"{base}.{alias.name}" for alias in node.names]]
    return [name for name in names if name]

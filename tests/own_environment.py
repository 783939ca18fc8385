"""Running tests and scripts with the interpreter of a framework that has an environment of its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What the tests import and a framework's own environment lacks; all are written in Python alone.
_BORROWED = (
    "pytest", "pytest-timeout", "pluggy", "iniconfig", "pygments", "hypothesis", "sortedcontainers",
)  # fmt: skip


def _parts() -> Iterator[Path]:
    """Packages, modules and metadata of the borrowed distributions, where they are installed."""
    for name in _BORROWED:
        files = metadata.files(name) or []
        for part in {file.parts[0] for file in files} - {"..", "__pycache__"}:
            yield Path(str(metadata.distribution(name).locate_file(part)))


def lend(folder: Path) -> None:
    """Links to pytest and hypothesis of this environment, for one of the same Python."""
    for path in _parts():
        (folder / path.name).symlink_to(path)


def run(python: Path, lent: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`python words` in the project's folder, with what is lent to it."""
    return subprocess.run(
        [str(python), *words],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, (lent, ROOT, ROOT / "tests" / "models"))),
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        capture_output=True,
        text=True,
    )

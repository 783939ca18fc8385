"""Another version of a framework beside the installed one: a folder that a worker searches first."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from measurement.errors import InputError

INSTALLED = "installed"
_PACKAGES = {"mlx": "mlx", "pytorch": "torch"}
# MLX's device code comes in packages of their own, always of MLX's version.
_COMPANIONS = {"mlx": ("mlx-metal", "mlx-cpu", "mlx-cuda-12", "mlx-cuda-13")}


def folder(framework: str, version: str) -> Path | None:
    """The folder with `version` of a framework, fetched with pip when it is asked for first; None
    for the installed one. Raises InputError when there is no such version."""
    if version == INSTALLED:
        return None
    if framework not in _PACKAGES or not re.fullmatch(r"\d+(\.\d+)*([a-z]+\d*)?(\+\w+)?", version):
        raise InputError(
            f"version={version}: expected a version number of {' or '.join(_PACKAGES)}, as in 0.31.2"
        )
    place = Path("mlruns/versions").resolve() / f"{framework}-{version}"
    if place.is_dir():
        return place
    wanted = [f"{name}=={version}" for name in _installed(framework)]
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=place.parent))
    except OSError as error:
        raise InputError(
            f"cannot write to '{place.parent}' ({error.strerror}); expected a writable folder: run "
            "from a folder that you may write to"
        ) from None
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pip", "install", "-q", "--target", str(fresh), *wanted],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            raise InputError(
                f"version={version}: pip finds no {' with '.join(wanted)} for this machine "
                f"({lines[-1] if lines else done.stderr.strip()[-200:]}); choose a version that exists"
            )
        fresh.rename(place)  # at once: a folder that was cut off is never taken for a whole one
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return place


def _installed(framework: str) -> list[str]:
    names = [_PACKAGES[framework]]
    for name in _COMPANIONS.get(framework, ()):
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        names.append(name)
    return names

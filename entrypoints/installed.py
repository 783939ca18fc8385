"""What is installed where a trial computes, as names and versions: no paths, nothing private."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import frameworks
from entrypoints import overlay
from entrypoints.environment import CONSTRAINTS, ROOT, python
from measurement import machine
from measurement.schedule import Condition

# Variables by which a library chooses its kernels, none of which holds a name or a path.
SETTINGS = (
    "ATEN_CPU_CAPABILITY", "CUBLAS_WORKSPACE_CONFIG", "DNNL_MAX_CPU_ISA", "KMP_DETERMINISTIC_REDUCTION",
    "MKL_CBWR", "MKL_DYNAMIC", "MKL_ENABLE_INSTRUCTIONS", "NVIDIA_TF32_OVERRIDE", "OMP_DYNAMIC",
    "OMP_SCHEDULE", "ONEDNN_MAX_CPU_ISA", "OPENBLAS_CORETYPE",
    *(setting for name in frameworks.names() for setting in frameworks.about(name).settings),
)  # fmt: skip
# Packages that compute, by the beginning of their names: those of every framework, and its own.
_COMPUTE = ("numpy", "mkl", "intel-", "tbb", "tcmlib", "umf", "nvidia-", "triton", "scipy")
_METERS = ("nvidia-ml-py",)


def environment(condition: Condition) -> dict[str, Any]:
    """Of the processes that measure under a condition: Python, system, compiler, settings, packages."""
    return {
        "python": platform.python_version(),
        "system": f"{machine.facts()['machine_os']} {platform.machine()}",
        "libc": " ".join(platform.libc_ver()).strip(),
        "compiler": compiler(),
        "settings": {name: os.environ[name] for name in SETTINGS if name in os.environ},
        "packages": packages(
            python(condition.framework), overlay.folder(condition.framework, condition.version)
        ),
    }


def packages(interpreter: Path, first: Path | None = None) -> dict[str, str]:
    """name -> version of the installed packages that this project pins, or a framework brings with
    it; not of others, whose names may be private. first: a folder that is searched before."""
    places = sys.path
    if interpreter != Path(sys.executable):
        places = [str(place) for place in interpreter.parent.parent.glob("lib*/*/site-packages")]
    pinned = {_plain(line.split("==")[0]) for line in _pins().splitlines() if "==" in line}
    own = (frameworks.about(name).distributions for name in frameworks.names())
    known = (*_COMPUTE, *(start for starts in own for start in starts))
    found: dict[str, str] = {}
    for one in importlib.metadata.distributions(path=[*([str(first)] if first else []), *places]):
        name = _plain(one.name)
        if name in pinned or name.startswith(known):
            found.setdefault(name, one.version)
    return dict(sorted(found.items()))


def compiler() -> str:
    """What compiles a CPU's kernels, as in 'g++ (Debian 12.2.0-14) 12.2.0'; "" without one."""
    path = next(filter(None, map(shutil.which, ("g++", "clang++", "c++"))), None)
    if path is None:
        return ""
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return (done.stdout.splitlines() or ["unknown"])[0].strip()[:100]


def pins_sha256() -> str:
    """Of the list of pins that this code asks for."""
    return hashlib.sha256(_pins().encode()).hexdigest()


def differences(
    a: Mapping[str, Any], b: Mapping[str, Any], framework: str
) -> tuple[list[str], list[str]]:
    """(what differs of that which computes, what differs of the rest) between two environments."""
    computes: list[str] = []
    rest: list[str] = []
    for name in ("python", "system", "libc", "compiler"):
        if a.get(name) != b.get(name):
            computes.append(_apart(name, a.get(name), b.get(name)))
    for part in ("settings", "packages"):
        x, y = dict(a.get(part) or {}), dict(b.get(part) or {})
        for name in sorted(x | y):
            if x.get(name) != y.get(name):
                own = part == "settings" or _computes(name, framework)
                (computes if own else rest).append(_apart(name, x.get(name), y.get(name)))
    return computes, rest


def _computes(name: str, framework: str) -> bool:
    own = (
        frameworks.about(framework).distributions
        if framework in frameworks.names()
        else (framework,)
    )
    known = (*_COMPUTE, *own)
    return name.startswith(known) and name not in _METERS


def _apart(name: str, a: Any, b: Any) -> str:
    return f"{name} {a or 'absent'} against {b or 'absent'}"


def _plain(name: str) -> str:
    """A package's name as the index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _pins() -> str:
    return (ROOT / CONSTRAINTS).read_text(encoding="utf-8")

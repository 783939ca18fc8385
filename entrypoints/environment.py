"""Environments of frameworks that have one of their own, so that nobody else pays for them: made by
the first trial that asks for such a framework, kept in the user's cache folder for every clone."""

from __future__ import annotations

import fcntl
import hashlib
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import IO

import frameworks
from measurement.errors import InputError
from models.download import directory, say

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = "constraints.txt"
COMPLETE = "complete"  # written last: a folder without it was cut off, and is made anew
_NEEDED_BYTES = {False: 4 << 30, True: 12 << 30}  # without and with CUDA, pip's own copies included
_SHOWN = ("Downloading", "Using cached", "Installing")  # of what pip says
_OFFLINE = ("NewConnectionError", "NameResolutionError", "ProxyError", "ConnectTimeoutError")


def python(framework: str) -> Path:
    """The interpreter that has `framework`: this one, or that of its own environment, which is made
    now (minutes) where it is missing. Raises InputError when it cannot be made."""
    found = ready(framework)
    if found is None and framework in frameworks.OWN_ENVIRONMENT:
        found = _make(framework)
    if found is None:
        raise InputError(
            f"framework '{framework}' is not installed; run 'pip install -r requirements.txt'"
        )
    return found


def ready(framework: str) -> Path | None:
    """As `python`, but None where nothing is installed yet: makes nothing."""
    if frameworks.available(framework):
        return Path(sys.executable)
    if framework in frameworks.OWN_ENVIRONMENT:
        place = folder(framework)
        if (place / COMPLETE).is_file():
            return _interpreter(place)
    return None


def folder(framework: str) -> Path:
    """Where the environment of a framework lies, made or not: its name changes with the packages
    asked for, with their pins (not those of others, or every new pin would cost 2 GB) and with this
    Python."""
    names = wanted(framework)
    lines = (ROOT / CONSTRAINTS).read_text(encoding="utf-8").splitlines()
    bare = {name.split("[")[0].lower() for name in names}
    pins = [line for line in lines if line.split("==")[0].lower() in bare]
    parts = [*names, *pins, platform.python_version(), platform.machine()]
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:10]
    return directory("auto") / "environments" / f"{framework}-{digest}"


def wanted(framework: str) -> list[str]:
    """Names of packages to install; with CUDA's libraries where this machine has an NVIDIA driver."""
    lines = (ROOT / frameworks.OWN_ENVIRONMENT[framework]).read_text(encoding="utf-8").splitlines()
    names = [line for line in lines if line and not line.startswith(("#", "-"))]
    extra = frameworks.about(framework).cuda_extra
    if not extra or not has_cuda():
        return names
    return [f"{name}[{extra}]" if name == framework else name for name in names]


def has_cuda() -> bool:
    """Whether this machine has NVIDIA's driver."""
    return sys.platform == "linux" and shutil.which("nvidia-smi") is not None


def _interpreter(place: Path) -> Path:
    return place / "bin" / "python"


def _make(framework: str) -> Path:
    """Makes the environment, or waits for another process that does."""
    place = folder(framework)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with (place.parent / f"{place.name}.lock").open("w") as lock:
            _wait(lock, framework, place)
            if not (place / COMPLETE).is_file():
                _fill(framework, place)
    except OSError as error:
        raise _failed(framework, place, str(error)) from None
    return _interpreter(place)


def _wait(lock: IO[str], framework: str, place: Path) -> None:
    """Two processes that install into one folder would spoil it. The lock ends with its process."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say(f"{framework}: another process makes its environment {place}; waiting for it")
        fcntl.flock(lock, fcntl.LOCK_EX)


def _fill(framework: str, place: Path) -> None:
    """In place, because a virtual environment cannot be moved; a failed one gives its room back."""
    names = wanted(framework)
    cuda = any("[" in name for name in names)
    free = shutil.disk_usage(place.parent).free
    if free < _NEEDED_BYTES[cuda]:
        needed = f"{_NEEDED_BYTES[cuda] / 2**30:.0f} GiB"
        raise _failed(framework, place, f"{free / 2**30:.1f} GiB are free there, {needed} needed")
    _remove(place)
    say(f"{framework}: making its own environment in {place}, once; this takes minutes")
    try:
        _run([sys.executable, "-m", "venv", str(place)], framework, place)
        _run(
            [
                str(_interpreter(place)), "-m", "pip", "install", "--no-input",
                "--disable-pip-version-check", "--progress-bar", "off",
                "-c", str(ROOT / CONSTRAINTS), *names,
            ],
            framework,
            place,
        )  # fmt: skip
        package = frameworks.package(framework)
        _run([str(_interpreter(place)), "-c", f"import {package}"], framework, place)
    except BaseException:  # Ctrl-C too
        _remove(place)
        raise
    (place / COMPLETE).write_text("\n".join(names) + "\n", encoding="utf-8")
    say(f"{framework}: its environment is complete")


def _remove(place: Path) -> None:
    if place.exists():
        shutil.rmtree(place)


def _run(command: list[str], framework: str, place: Path) -> None:
    """One command; what it installs is said as it goes on. Raises InputError with its last error."""
    lines: list[str] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip():
                lines.append(line.strip())
            if line.strip().startswith(_SHOWN):
                say(f"{framework}: {line.strip()[:200]}")
    if process.returncode:
        errors = [line for line in lines if line.startswith("ERROR")] or lines
        reason = errors[-1].removeprefix("ERROR: ")[:300] if errors else "no message"
        if any(word in line for word in _OFFLINE for line in lines):
            reason += " (the package index cannot be reached)"
        raise _failed(framework, place, reason)


def _failed(framework: str, place: Path, reason: str) -> InputError:
    return InputError(
        f"the environment of '{framework}' cannot be made in {place} ({reason}); expected room there "
        "and a package index that pip reaches: see to it and run again, or install "
        f"{frameworks.OWN_ENVIRONMENT[framework]} into the environment you run from"
    )

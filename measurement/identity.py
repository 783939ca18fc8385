"""Which process did the work: known again, and telling nothing about whose machine it is."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import psutil

from measurement import machine

CODE = ("entrypoints", "frameworks", "measurement", "models")
"""Folders whose code measures."""

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_SALT = b"framework-study:"


def process() -> str:
    """Salted hash of this boot, this process's number and the moment it started: equal in all that
    one process measures, different for any two processes of any two machines."""
    own = f"{_boot()} {os.getpid()} {_started()}"
    return hashlib.sha256(_SALT + own.encode()).hexdigest()[:16]


def code(root: Path, folders: Sequence[str] = CODE) -> str:
    """Digest of every source file that a trial may run, whatever git knows of them."""
    whole = hashlib.sha256()
    for path in sorted(path for folder in folders for path in (root / folder).rglob("*.py")):
        name = path.relative_to(root).as_posix().encode()
        whole.update(b"%s %s\n" % (name, hashlib.sha256(path.read_bytes()).hexdigest().encode()))
    return whole.hexdigest()


def boot() -> str:
    """Salted hash of this start of the machine, or of the one that a container is on: of two trials it
    tells whether the machine was started anew, or was exchanged, in between."""
    return hashlib.sha256(_SALT + b"boot " + _boot().encode()).hexdigest()[:16]


def _boot() -> str:
    try:
        return _BOOT.read_text().strip()
    except OSError:  # a Mac, whose time of boot moves when its clock is set
        return machine.boot_session() or f"{psutil.boot_time():.0f}"


def _started() -> str:
    """Clock ticks since the boot where the system says so: no later change of the clock moves them."""
    try:
        # The name in brackets may hold blanks; the start is the 22nd word, the 20th after it.
        return Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return f"{psutil.Process().create_time():.2f}"

"""Deliberately broken arms, by the classes of the faults that published comparisons have. Each must be
refused or flagged, by name, by the very pipeline that sound arms go through: see `selftest`.

An arm `mlx fault=no_optimiser_step` is a trial with that mistake in it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from entrypoints.faults import (
    devices,
    machine,
    meters,
    numerics,
    operations,
    settings,
    timing,
    work,
)
from entrypoints.faults.fault import CLASSES, Fault
from measurement.errors import InputError
from measurement.schedule import SOUND

__all__ = ["CLASSES", "FAULTS", "Fault", "around", "check"]

FAULTS: dict[str, Fault] = {
    fault.name: fault
    for module in (work, operations, timing, numerics, devices, settings, machine, meters)
    for fault in module.FAULTS
}


def around(name: str) -> AbstractContextManager[Any]:
    """Open while a supervisor has a trial with this fault."""
    opened = FAULTS[name].supervisor if name != SOUND else None
    return opened() if opened else nullcontext()


def check(name: str, framework: str) -> None:
    """Raises InputError for a fault that no arm of this framework can have."""
    if name == SOUND:
        return
    known = [n for n, f in FAULTS.items() if framework in f.frameworks and f.of_an_arm]
    if name not in known:
        raise InputError(
            f"fault={name}: unknown in {framework}; choose one of: {', '.join(known) or SOUND}"
        )

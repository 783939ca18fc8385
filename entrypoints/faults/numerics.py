from __future__ import annotations

from entrypoints.faults.fault import Fault

FAULTS: tuple[Fault, ...] = ()

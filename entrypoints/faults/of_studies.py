"""The faults that no single trial has: of what a study recorded. Apart from the others, because a
worker, which knows those, must not import a tracking client."""

from __future__ import annotations

from entrypoints.faults import provenance, statistics
from entrypoints.faults.fault import Fault

OF_STUDIES: dict[str, Fault] = {
    fault.name: fault for module in (statistics, provenance) for fault in module.FAULTS
}

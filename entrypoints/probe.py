"""Asks a framework, in a worker of its own, which devices it has here and how it multiplies."""

from __future__ import annotations

import shutil
from typing import Any

from entrypoints.supervisor import new_folder, run_worker
from measurement import machine


def probe(framework: str, blas: str = "shipped", ceiling_seconds: float = 0.0) -> dict[str, Any]:
    """{"devices": [{"device", "missing" | "numerics", "versions", "compile", ...}, ...]}, CPU first.

    ceiling_seconds > 0 also measures the matrix-product rate. Raises InputError, TrialFailed.
    """
    folder = new_folder(f"probe-{framework}")
    result = run_worker(
        {
            "action": "probe",
            "framework": framework,
            "blas": blas,
            "threads": machine.physical_cores(),
            "ceiling_seconds": ceiling_seconds,
        },
        folder,
    )
    shutil.rmtree(folder)  # a probe is no measurement that must be kept
    return result

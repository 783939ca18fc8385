"""Asks a framework, in a worker of its own, which devices it has here and how it multiplies."""

from __future__ import annotations

import shutil
from typing import Any

import frameworks
import models
from entrypoints import environment
from entrypoints.processes import run_worker
from entrypoints.supervisor import new_folder
from measurement import machine
from measurement.errors import InputError


def probe(framework: str, blas: str = "shipped", ceiling_seconds: float = 0.0) -> dict[str, Any]:
    """{"devices": [{"device", "missing" | "numerics", "versions", "compile", ...}, ...]}, CPU first.

    ceiling_seconds > 0 also measures the matrix-product rate. Installs nothing. Raises InputError,
    TrialFailed.
    """
    python = environment.ready(framework)
    if python is None:
        raise InputError(missing(framework))
    folder = new_folder(f"probe-{framework}")
    result = run_worker(
        {
            "action": "probe",
            "python": str(python),
            "framework": framework,
            "blas": blas,
            "threads": machine.physical_cores(),
            "ceiling_seconds": ceiling_seconds,
        },
        folder,
    )
    shutil.rmtree(folder)  # a probe is no measurement that must be kept
    return result


def missing(framework: str) -> str:
    """What to say of a framework that is not there, and how it comes."""
    if framework not in frameworks.OWN_ENVIRONMENT:
        return "not installed; pip install -r requirements.txt"
    trials = [f"{w}_{framework}" for w in models.names() if framework in models.frameworks(w)]
    first = f"the first {' or '.join(trials) or 'trial'} run"
    return f"not installed; its own environment is made by {first}"

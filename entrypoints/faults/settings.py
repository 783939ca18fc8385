"""Class D: one arm's process, or its framework, is set otherwise than the other's, and nobody says so."""

from __future__ import annotations

import gc
import os
import sys
from typing import Any

from entrypoints.faults.fault import Fault, Patch, Spec, on_adapter


def _low_priority(patch: Patch, spec: Spec) -> None:
    os.nice(5)


def _one_processor(patch: Patch, spec: Spec) -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def _no_collector(patch: Patch, spec: Spec) -> None:
    """As `timeit` does, and only one of two scripts."""
    gc.disable()


def _profiled(patch: Patch, spec: Spec) -> None:
    sys.setprofile(lambda frame, event, argument: None)


def _variable(patch: Patch, spec: Spec) -> None:
    """Kernels for an older processor, by a variable that a shell was left with."""
    os.environ["MKL_ENABLE_INSTRUCTIONS"] = "SSE4_2"


def _no_onednn(patch: Patch, spec: Spec) -> None:
    def change(adapter: Any) -> None:
        sys.modules["torch"].backends.mkldnn.enabled = False

    on_adapter(patch, change)


def _deterministic(patch: Patch, spec: Spec) -> None:
    def change(adapter: Any) -> None:
        sys.modules["torch"].use_deterministic_algorithms(True)

    on_adapter(patch, change)


FAULTS = (
    Fault(
        "low_priority",
        "D",
        "one arm runs at a lower priority",
        ("settings is",),
        worker=_low_priority,
    ),
    Fault(
        "one_processor",
        "D",
        "one arm may use one processor",
        ("settings is",),
        worker=_one_processor,
    ),
    Fault(
        "no_collector",
        "D",
        "one arm runs without garbage collection",
        ("settings is",),
        worker=_no_collector,
    ),
    Fault("profiled", "D", "a profiler looks at one arm", ("settings is",), worker=_profiled),
    Fault(
        "older_instructions",
        "D",
        "a variable gives one arm the kernels of an older processor",
        ("settings is",),
        worker=_variable,
    ),
    Fault(
        "no_onednn",
        "D",
        "PyTorch does without the kernels of oneDNN",
        ("SWITCHED",),
        frameworks=("pytorch",),
        worker=_no_onednn,
    ),
    Fault(
        "deterministic",
        "D",
        "PyTorch is held to deterministic algorithms, and MLX is not",
        ("SWITCHED",),
        frameworks=("pytorch",),
        worker=_deterministic,
    ),
)

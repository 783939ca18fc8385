"""Class D: one arm on another device, with other libraries or threads."""

from __future__ import annotations

import sys
from typing import Any

from entrypoints.faults.fault import Fault, Patch, Spec, on_adapter


def _elsewhere(patch: Patch, spec: Spec) -> None:
    """Simulated where there is no GPU: the weights lie on one."""

    def change(adapter: Any) -> None:
        adapter.device_of = lambda model: "gpu"

    on_adapter(patch, change)


def _one_thread(patch: Patch, spec: Spec) -> None:
    """As published scripts do to PyTorch alone; the condition says nothing of it."""
    on_adapter(patch, lambda adapter: sys.modules["torch"].set_num_threads(1))


FAULTS = (
    Fault(
        "cpu_against_gpu",
        "D",
        "one arm on the CPU, the other on a GPU",
        ("device is",),
        worker=_elsewhere,
    ),
    Fault(
        "reference_blas",
        "D",
        "MLX on the reference BLAS of its wheel, PyTorch on a tuned one",
        ("blas is", "reference BLAS"),
        frameworks=("mlx",),
        arm="{framework} blas=shipped",
    ),
    Fault("fewer_threads", "D", "one arm on one thread", ("threads is",), arm="{sound} threads=1"),
    Fault(
        "one_thread_unsaid",
        "D",
        "PyTorch is held to one thread and nobody says so",
        ("THREADS", "blas_threads is"),
        frameworks=("pytorch",),
        worker=_one_thread,
    ),
)

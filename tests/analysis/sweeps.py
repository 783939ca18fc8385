"""Rows of a sweep with a known crossing, made by hand: a study over batch_size."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from rows import row, study

from tracking.read import Pairing, Row, Study

VALUES = (16, 32, 64, 128, 256, 512)
CROSSING = 2**6.5  # between 64 and 128
MLX, TORCH = "mlx blas=mkl batch_size={}", "pytorch blas=mkl batch_size={}"
AGAIN = TORCH.format(128) + " (again)"


def sweep_study(pairs: int = 10, values: tuple[int, ...] = VALUES, **changes: Any) -> Study:
    pairings = [Pairing(MLX.format(v), TORCH.format(v), "sweep") for v in values]
    again = Pairing(AGAIN, TORCH.format(128), "resolution")
    arms = [p.numerator for p in pairings] + [p.denominator for p in pairings] + [AGAIN]
    return study(
        pairs=pairs,
        **{
            "arms": tuple(arms),
            "comparisons": (*pairings, again),
            "design": {"sweep": {"parameter": "batch_size", "values": list(values)}},
            **changes,
        },
    )


def sweep_rows(plan: Study, octave: float = -0.3, spread: float = 0.02, seed: int = 5) -> list[Row]:
    """Log ratio of MLX over PyTorch `octave` times the octaves from CROSSING; PyTorch halves its
    time with every octave. Memory: MLX uses half at every value."""
    rng, found = np.random.default_rng(seed), []
    for pair in range(plan.pairs):
        for order, index in enumerate(rng.permutation(len(plan.arms))):
            arm = plan.arms[index]
            value = int(arm.split("batch_size=")[1].split()[0])
            seconds = 20.0 / value**0.5 * float(np.exp(rng.normal(0, spread)))
            if arm.startswith("mlx"):
                seconds *= float(np.exp(octave * np.log2(value / CROSSING)))
            one = row(arm, pair, order, seconds)
            assert one.parity is not None
            found.append(
                replace(
                    one,
                    run_id=f"{arm} {pair}",
                    start_seconds=1000.0 + 1000 * pair + 10 * order,
                    cell={**one.cell, "batch_size": str(value)},
                    parity={**one.parity, "work": f"batch {value}"},
                )
            )
    return found

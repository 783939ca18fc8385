"""Studies of several machines and sessions as a server would return them, made by hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from rows import row

from analysis.sessions import Session, session
from tracking.read import Pairing, Row, Study

MLX, TORCH, AGAIN = "mlx blas=mkl", "pytorch blas=mkl", "pytorch blas=mkl (again)"
PRIMARY = "train/total_seconds"
DAY_SECONDS = 86400.0


def measured(
    name: str,
    machine: str = "m1",
    speed: Mapping[str, float] | None = None,
    pairs: int = 10,
    day: float = 0.0,
    seed: int = 2,
    session_speed: float = 1.0,
    spread: float = 0.02,
    arms: Iterable[str] = (MLX, TORCH, AGAIN),
    cells: Mapping[str, Mapping[str, str]] | None = None,
    **changes: Any,
) -> tuple[Study, list[Row]]:
    """(study, rows): every arm once a block. speed: arm -> time against 1 s; cells: arm -> keys of
    its condition that are not the usual ones ("*" = every arm); changes: of the study's design."""
    rng, arms = np.random.default_rng([seed, *map(ord, name)]), tuple(arms)
    study = Study(
        **{
            "name": name,
            "run_id": f"parent-{name}",
            "pairs": pairs,
            "margin": 0.05,
            "metric": PRIMARY,
            "target": 0.96,
            "family": (PRIMARY,),
            "arms": arms,
            "comparisons": (
                Pairing(arms[0], arms[1], "headline"),
                *((Pairing(AGAIN, TORCH, "resolution"),) if AGAIN in arms else ()),
            ),
            "design": {"workload": "mnist"},
            "machine": machine,
            **changes,
        }
    )
    rows = []
    for pair in range(pairs):
        block = session_speed * float(np.exp(rng.normal(0, 0.05)))
        for order, index in enumerate(rng.permutation(len(arms))):
            arm = arms[index]
            noise = float(np.exp(rng.normal(0, spread)))
            made = row(arm, pair, order, block * (speed or {}).get(arm, 1.0) * noise)
            keys = {**(cells or {}).get("*", {}), **(cells or {}).get(arm, {})}
            rows.append(
                replace(
                    made,
                    run_id=f"{name}-{arm}-{pair}",
                    study=name,
                    machine=machine,
                    start_seconds=made.start_seconds + DAY_SECONDS * day,
                    cell={**made.cell, **keys},
                    facts={
                        "machine_cpu": f"chip of {machine}",
                        "machine_cores": "2",
                        "machine_os": "Linux 6.1",
                        "machine_memory_gib": "8.0",
                    },
                )  # fmt: skip
            )
    return study, rows


def analysed(*made: tuple[Study, list[Row]]) -> list[Session]:
    """The studies analysed alone, newest first."""
    return sorted((session(*one) for one in made), key=lambda s: -s.start_seconds)


def fleet(
    truths: Iterable[float], spread: float = 0.02, pairs: int = 10, seed: int = 2, **more: Any
) -> list[tuple[Study, list[Row]]]:
    """One study a machine; truths: MLX over PyTorch on each."""
    return [
        measured(f"s{i}", f"m{i}", {MLX: truth}, pairs, float(i), seed, spread=spread, **more)
        for i, truth in enumerate(truths)
    ]

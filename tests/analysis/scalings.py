"""Rows of a scaling study with known efficiencies, made by hand: whole jobs, and their ranks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from rows import row, study

from analysis.scaling_jobs import Arm
from tracking.read import Pairing, Row, Study

RANKS = (1, 2, 4)
STEMS = ("mlx blas=mkl", "pytorch blas=mkl")
BATCH, ITEMS = 256, 3 * 60000
EFFICIENCY = {
    ("mlx blas=mkl", "strong"): 0.8,
    ("pytorch blas=mkl", "strong"): 0.6,
    ("mlx blas=mkl", "weak"): 0.9,
    ("pytorch blas=mkl", "weak"): 0.7,
}
SECONDS = {"mlx blas=mkl": 8.0, "pytorch blas=mkl": 10.0}  # of one process
BACKENDS = {"mlx blas=mkl": "ring", "pytorch blas=mkl": "gloo"}
SHARE = 0.12  # of a step, at two ranks; twice that at four
AGAIN = "pytorch blas=mkl ranks=1 threads=1 (again)"


def members(ranks: tuple[int, ...] = RANKS, stems: tuple[str, ...] = STEMS) -> list[Arm]:
    found = []
    for stem in stems:
        found.append(Arm(stem, "single", 1, BATCH, f"{stem} ranks=1 threads=1"))
        for kind in ("strong", "weak"):
            for n in ranks[1:]:
                words = f"{stem} ranks={n} threads=1"
                words += f" batch_size={BATCH * n}" if kind == "weak" else ""
                found.append(Arm(stem, kind, n, BATCH * (n if kind == "weak" else 1), words))
    return found


def scaling_study(
    pairs: int = 8, ranks: tuple[int, ...] = RANKS, stems: tuple[str, ...] = STEMS, **changes: Any
) -> Study:
    arms = members(ranks, stems)
    one = {arm.framework: arm.name for arm in arms if arm.kind == "single"}
    sides = [[a for a in arms if a.framework == s and a.kind != "weak"] for s in stems]
    headlines = (
        [Pairing(a.name, b.name, "headline") for a, b in zip(*sides, strict=True)]
        if len(stems) == 2
        else []
    )
    more = [Pairing(a.name, one[a.framework], "scaling") for a in arms if a.kind == "strong"]
    return study(
        pairs=pairs,
        **{
            "arms": (*(arm.name for arm in arms), AGAIN),
            "comparisons": (*headlines, *more, Pairing(AGAIN, AGAIN[:-8], "resolution")),
            "design": {
                "workload": "mnist",
                "scaling": {
                    "ranks": list(ranks),
                    "kinds": ["strong", "weak"],
                    "threads": 1,
                    "hosts": 1,
                },
                "scaling_arms": [vars(arm) for arm in arms],
            },
            **changes,
        },
    )


def scaling_rows(plan: Study, spread: float = 0.02, seed: int = 5) -> list[Row]:
    """Every arm once a block in random order; a block is 5 % slower or faster as a whole."""
    known = {arm["name"]: Arm(**arm) for arm in plan.design["scaling_arms"]}
    known[AGAIN] = Arm(STEMS[1], "single", 1, BATCH, AGAIN)
    rng, found = np.random.default_rng(seed), []
    for pair in range(plan.pairs):
        block = float(np.exp(rng.normal(0, 0.05)))
        for order, index in enumerate(rng.permutation(len(plan.arms))):
            arm = known[plan.arms[index]]
            noise = float(np.exp(rng.normal(0, spread)))
            found.append(_row(arm, pair, order, block * noise))
    return found


def _row(arm: Arm, pair: int, order: int, factor: float) -> Row:
    efficiency = EFFICIENCY.get((arm.framework, arm.kind), 1.0)
    seconds = SECONDS[arm.framework] / (efficiency * arm.ranks) * factor
    one = row(arm.name, pair, order, seconds)
    steps = 3 * -(-60000 // arm.batch_size)
    assert one.parity is not None and one.receipt is not None
    metrics = {k: v for k, v in one.metrics.items() if not k.startswith("inference")}
    metrics["train/step_seconds_p50"] = seconds / steps
    missing = dict(one.not_measured)
    if arm.ranks > 1:
        share = SHARE * arm.ranks / 2 * factor
        metrics |= {
            "communication/step_share": share,
            "communication/all_reduce_seconds_p50": share * seconds / steps,
            "communication/all_reduce_seconds_p90": 1.2 * share * seconds / steps,
            "communication/bytes_per_step": 4.0 * 26506,
        }
    else:
        missing |= {"communication/step_share": "one rank exchanges nothing"}
    return replace(
        one,
        run_id=f"{arm.name} {pair}",
        start_seconds=1000.0 + 1000 * pair + 10 * order,
        cell={
            **one.cell,
            "threads": "1",
            "blas_threads": "1",
            "ranks": str(arm.ranks),
            "hosts": "1",
            "backend": BACKENDS[arm.framework] if arm.ranks > 1 else "none",
            "batch_size": str(arm.batch_size),
        },
        parity={**one.parity, "work": f"batch {arm.batch_size}"},
        receipt={**one.receipt, "steps": steps},
        metrics=metrics,
        not_measured=missing,
        facts={"machine_cores": "4"},
        ranks=_recorded(arm.ranks, metrics) if arm.ranks > 1 else {},
    )


def _recorded(ranks: int, metrics: dict[str, float]) -> dict[str, dict[int, float]]:
    """What every rank of a job recorded of its own part."""
    rate = metrics["train/items_per_second"]
    return {
        "rank/items_per_second": {rank: rate / ranks * (1 + 0.01 * rank) for rank in range(ranks)},
        "rank/epoch_seconds_p50": dict.fromkeys(range(ranks), metrics["train/total_seconds"] / 3),
        "rank/process_peak_bytes": dict.fromkeys(range(ranks), 3e8 / ranks),
    }

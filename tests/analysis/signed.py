"""A sound study as its trials record it: digests, processes, times, seeds and order as drawn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import rows as made
from stored import tags_of

from entrypoints.faults.recorded import again
from measurement.schedule import blocks
from tracking import digest, read
from tracking.bulk import Found
from tracking.read import Pairing, Row, Study

ARMS = ("mlx blas=mkl", "pytorch blas=mkl", "pytorch blas=mkl (again)")
MACHINE = "linux-x86_64-2c-dfb674"
FACTS = {"machine_cpu": "A chip", "machine_arch": "x86_64", "machine_cores": "2"}


def study(pairs: int = 8, **changes: Any) -> Study:
    order = [slot.arm for slot in blocks(ARMS, pairs, 0)]
    design = {"workload": "mnist", "mode": "train", "seed": 0, "order": order, **changes}
    return made.study(
        pairs,
        arms=ARMS,
        comparisons=(Pairing(*ARMS[:2], "headline"), Pairing(ARMS[2], ARMS[1], "resolution")),
        design=design,
        machine=MACHINE,
    )


def rows(plan: Study) -> tuple[list[Row], dict[str, dict[str, np.ndarray]]]:
    """(rows as read back, their samples)."""
    rng, found, samples, before = np.random.default_rng(3), [], {}, "none"
    for place, slot in enumerate(blocks(plan.arms, plan.pairs, 0)):
        noise = float(np.exp(rng.normal(0, 0.02)))
        one = made.row(slot.arm, slot.pair, slot.order, noise * made.SPEED.get(slot.arm, 1.0))
        one = replace(one, parity=_digits(one.parity, noise), receipt=_digits(one.receipt, noise))
        samples[one.run_id] = made.samples(one)
        start = 1000.0 + 20 * place
        tags = {
            **tags_of(replace(one, machine=MACHINE, facts=FACTS)),
            "order": str(slot.order),
            "process": f"process {place}",
            "code_sha256": "c0de",
            "data_sha256": "da7a",
            "version_numpy": "2.4.0",
            "trial": one.run_id,
            "previous": before,
            "design_sha256": digest.of_design(plan.design),
            "started": f"{start:.3f}",
            "ended": f"{start + 15:.3f}",
            digest.SAMPLES: digest.of_samples(samples[one.run_id]),
        }
        raw = Found(one.run_id, one.name, "FINISHED", int(1000 * start), {}, tags, one.metrics)
        found.append(again(read.row_of(raw)))
        before = one.run_id
    return found, samples


def _digits(values: Any, noise: float) -> Any:
    """As computed by a framework: no two agree in every digit."""
    scale = 1 + 1e-7 * noise
    known = ("gradient", "update", "weight_change_norm", "check_value")
    return {k: np.multiply(v, scale).tolist() if k in known else v for k, v in values.items()}

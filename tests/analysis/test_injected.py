"""An arm that was slowed on purpose, and two versions of one framework: compared, and only so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import rows as made

from analysis import comparison, report
from tracking.read import Pairing

PLAIN, SLOW = "pytorch blas=mkl", "pytorch blas=mkl slowdown_percent=5"


def slowed(metrics: dict[str, float], factor: float) -> dict[str, float]:
    seconds, rate = metrics["train/total_seconds"], metrics["train/items_per_second"]
    return {
        **metrics,
        "train/total_seconds": seconds * factor,
        "train/items_per_second": rate / factor,
    }


def injected(truth: float = 1.05, pairs: int = 20, **cell: str):
    study = made.study(
        pairs,
        arms=(*made.ARMS, SLOW),
        comparisons=(*made.study().comparisons, Pairing(SLOW, PLAIN, "injected")),
    )
    found = [replace(row, cell={**row.cell, "slowdown_percent": "0"}) for row in made.rows(pairs)]
    rng = np.random.default_rng(5)
    slow = [
        replace(
            row,
            arm=SLOW,
            run_id=f"slow-{row.pair}",
            start_seconds=row.start_seconds + (-1) ** (row.pair or 0) * 0.5,
            cell={**row.cell, "slowdown_percent": "5", **cell},
            metrics=slowed(row.metrics, truth * float(np.exp(rng.normal(0, 0.01)))),
        )
        for row in found
        if row.arm == PLAIN
    ]
    return study, found + slow


def primary(study, found, role: str):
    findings = comparison.analyse(study, found, np.random.default_rng(1))
    chosen = [c for c in findings.comparisons if c.role == role]
    return findings, chosen, next(c for c in chosen if c.metric == study.metric)


def test_a_known_slowdown_is_found_and_its_truth_held():
    findings, chosen, c = primary(*injected(), "injected")
    assert c.truth == pytest.approx(1.05)
    assert "is found" in c.verdict and "which holds it" in c.verdict
    assert c.outcome == "none"
    assert dict(c.detection)[20] == 1.0
    assert all(other.unit in ("s", "items/s") for other in chosen)
    throughput = next(other for other in chosen if other.metric == "train/items_per_second")
    assert throughput.truth == pytest.approx(1 / 1.05)
    text = report.terminal(findings)
    assert "A slowdown of known size" in text and "difference seen in random subsets" in text


def test_a_slowdown_that_did_not_happen_is_said_to_be_missing():
    _, _, c = primary(*injected(truth=1.0), "injected")
    assert "is not found with 20 pairs" in c.verdict and "does not hold it" in c.verdict


def test_a_slowed_arm_is_in_no_question_and_no_family():
    study, found = injected()
    _, _, c = primary(study, found, "headline")
    assert c.family == 1
    headline = (Pairing(SLOW, "mlx blas=mkl", "headline"),)
    _, _, c = primary(replace(study, comparisons=headline), found, "headline")
    assert "slowdown_percent is '5'" in c.refused


@pytest.mark.parametrize(("key", "value"), [("dtype", "bfloat16"), ("threads", "1")])
def test_nothing_but_the_slowdown_may_differ(key: str, value: str):
    _, _, c = primary(*injected(**{key: value}), "injected")
    assert c.ratio is None and key in c.refused


@pytest.mark.parametrize(
    ("role", "version", "refused"),
    [
        ("version", "2.12.0", None),
        ("version", "2.13.0", "is of two versions; got 2.13.0 and 2.13.0"),
        ("resolution", "2.12.0", "is of one version; got 2.12.0 and 2.13.0"),
    ],
)
def test_versions_differ_in_their_own_role_only(role: str, version: str, refused: str | None):
    study, found = injected(slowdown_percent="0", version_framework=version)
    study = replace(study, comparisons=(Pairing(SLOW, PLAIN, role),))
    _, _, c = primary(study, found, role)
    if refused:
        assert refused in c.refused
    else:
        assert c.family == 1 and c.outcome == "worse", c.verdict

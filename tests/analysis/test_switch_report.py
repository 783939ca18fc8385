"""Studies of work on two devices: what their report says, shows and refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import language
import numpy as np
import pytest
from language import MLX, TORCH
from mlflow.tracking import MlflowClient
from rows import with_quantiles
from stored import store

from analysis.comparison import analyse
from entrypoints import analyze as command
from measurement.errors import InputError
from tracking.read import Row, Study

LOOPS = 10
WHY = "an MLX array belongs to no device"


def switch(made: Row, seconds: float) -> Row:
    """A training's row as one of a switch: the GPU takes a tenth of a loop, moves another."""
    loop = seconds / LOOPS
    mlx = made.arm.startswith("mlx")
    moved = {} if mlx else {"switch/transfer_seconds": 0.1 * loop}
    assert made.parity is not None
    return replace(
        made,
        metrics={
            **{k: v for k, v in made.metrics.items() if k.startswith(("memory/", "hardware/"))},
            "switch/total_seconds": seconds,
            "switch/first_call_seconds": 2 * loop,
            "switch/loop_seconds_p50": loop,
            "switch/loop_seconds_p90": 1.1 * loop,
            "switch/first_device_seconds": 0.1 * loop,
            "switch/second_device_seconds": 0.8 * loop,
            "switch/parts_ratio": 0.9 if mlx else 1.0,
            **moved,
        },
        not_measured={**made.not_measured, **({"switch/transfer_seconds": WHY} if mlx else {})},
        cell={**made.cell, "device": "cpu-gpu", "loops": str(LOOPS), "size": "2048"},
        receipt={
            "kind": "switch", "loops": 50, "products": 300, "flops": 10**12, "latency_calls": 100,
            "check_value": 0.0425,
        },
        parity={**made.parity, "optimiser": "none", "parameters": 0},
    )  # fmt: skip


def made(**design: Any) -> tuple[Study, list[Row]]:
    plan = language.study(
        "switch", "device_switch", "switch/total_seconds", mode="switch", quality="none", **design
    )
    return language.measured(plan, 0.7, switch, seed=9)


def samples(row: Row) -> dict[str, np.ndarray]:
    total = row.metrics["switch/total_seconds"]
    return {
        "pass_seconds": total * np.array([1.01, 0.99, 1.0, 1.02, 0.98]),
        "loop_seconds": with_quantiles(row, "switch/loop_seconds"),
    }


def pick(findings, metric, role="headline"):
    return next(c for c in findings.comparisons if (c.metric, c.role) == (metric, role))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    path = tmp_path_factory.mktemp("switch")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}/mlflow.db")
        patch.chdir(path)
        MlflowClient().get_experiment("0")
        store([made()], samples)
        yield path


def test_a_switch_is_reported_with_its_parts(server, tmp_path):
    done = command.analyze("switch", tmp_path)
    html, text = (tmp_path / "report.html").read_text(), (tmp_path / "report.md").read_text()
    assert done.text.startswith("Study switch, switching between devices by device_switch: 8 pairs")
    assert "mlx blas=mkl is faster than pytorch blas=mkl: time of all loops" in text
    for page in (html, text, done.text):
        assert "train" not in page.replace("trained", "") and "accuracy" not in page
        assert "token" not in page and "None" not in page
    assert {"parts.png", "pass_times.png", "loop_latency.png", "ratio_by_metric.png"} <= {
        path.name for path in (tmp_path / "figures").iterdir()
    }
    assert "first half of a loop, on the first device" in text


def test_a_transfer_of_one_framework_only_is_compared_with_nobody():
    findings = analyse(*made(), np.random.default_rng(0))
    moved = pick(findings, "switch/transfer_seconds")
    assert moved.ratio is None and moved.verdict == f"not measured: {WHY}"
    assert pick(findings, "switch/transfer_seconds", "resolution").ratio is not None
    assert pick(findings, "switch/total_seconds").outcome == "better"
    arms = {arm.name: arm for arm in findings.arms}
    assert "switch/transfer_seconds" in arms[TORCH].values
    assert arms[MLX].not_measured["switch/transfer_seconds"] == WHY


@pytest.mark.parametrize(
    ("receipt", "said"),
    [
        ({"loops": 49}, "loops"),
        ({"products": 299}, "products"),
        ({"check_value": 0.05}, "check_value"),
        ({"check_value": float("nan")}, "check_value"),
    ],
)
def test_other_work_gets_no_ratio(receipt, said):
    plan, found = made()
    other = [
        replace(row, receipt={**row.receipt, **receipt}) if row.arm == MLX else row for row in found
    ]
    headline = pick(analyse(plan, other, np.random.default_rng(0)), "switch/total_seconds")
    assert headline.ratio is None and f"differ in {said}" in (headline.refused or "")


def test_parts_in_milliseconds_are_refused():
    plan, found = made()
    name = "switch/second_device_seconds"
    mixed = replace(found[0], metrics={**found[0].metrics, name: 1e3 * found[0].metrics[name]})
    with pytest.raises(InputError, match="10 loops of .* units are mixed"):
        analyse(plan, [mixed, *found[1:]], np.random.default_rng(0))


def test_a_time_of_nothing_is_refused():
    plan, found = made()
    zero = replace(found[0], metrics={**found[0].metrics, "switch/transfer_seconds": 0.0})
    with pytest.raises(InputError, match="switch/transfer_seconds is 0; expected a number above 0"):
        analyse(plan, [zero, *found[1:]], np.random.default_rng(0))

"""Rows as a tracking server would return them, made by hand: a study with known truth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from tracking.read import Pairing, Row, Study

ARMS = ("mlx blas=mkl", "pytorch blas=mkl", "pytorch blas=mkl (again)", "mlx", "pytorch")
SPEED = {"mlx blas=mkl": 0.8, "mlx": 4.0, "pytorch": 0.97}


def study(pairs: int = 6, **changes: Any) -> Study:
    values: dict[str, Any] = {
        "name": "mnist-cpu",
        "run_id": "parent",
        "pairs": pairs,
        "margin": 0.05,
        "metric": "train/total_seconds",
        "target": 0.96,
        "family": ("train/total_seconds",),
        "arms": ARMS,
        "comparisons": (
            Pairing("mlx blas=mkl", "pytorch blas=mkl", "headline"),
            Pairing("pytorch blas=mkl (again)", "pytorch blas=mkl", "resolution"),
            Pairing("mlx", "mlx blas=mkl", "wheel"),
            Pairing("mlx", "pytorch", "as shipped"),
        ),
    }
    return Study(**{**values, **changes})


def row(arm: str, pair: int, order: int, seconds: float, accuracy: float = 0.965) -> Row:
    framework = arm.split()[0]
    reference = arm == "mlx"
    blas = "mkl" if "mkl" in arm else "shipped"
    items = 3 * 60000
    return Row(
        run_id=f"{framework}{'-again' if 'again' in arm else ''}-{blas}-{pair}",
        name=f"mnist {arm} pair {pair}",
        status="FINISHED",
        start_seconds=1000.0 + 100 * pair + 10 * order,
        study="mnist-cpu",
        arm=arm,
        pair=pair,
        order=order,
        machine="m1",
        seed=pair,
        cell={
            "workload": "mnist",
            "framework": framework,
            "device": "cpu",
            "dtype": "float32",
            "compile": "mx.compile" if framework == "mlx" else "none",
            "blas": blas,
            "blas_loaded": "reference 3.9" if reference else "mkl 2025.3",
            "blas_threads": "1" if reference else "2",
            "threads": "2",
            "tf32": "off",
            "preset": "cpu",
            "dataset": "mnist",
            "epochs": "3",
            "batch_size": "256",
            "version_framework": {"mlx": "0.32.4", "pytorch": "2.13.0"}[framework],
            "version_python": "3.11.15",
        },
        parity={
            "work": "a1",
            "dtype": "float32",
            "parameters": 26506,
            "output": [1.0, 0.5],
            "gradient": [2.0, 0.1],
            "update": [0.3, 0.01],
            "losses": [2.3, 2.2],
        },
        receipt={
            "items": items,
            "steps": 705,
            "flops": 10**10,
            "eval_items": 30000,
            "inference_items": 10000,
            "latency_calls": 300,
            "weight_change_norm": 3.5,
            "check_value": 0.21,
        },
        flags=("REFERENCE-BLAS",) if reference else (),
        metrics={
            "train/total_seconds": seconds,
            "train/first_step_seconds": seconds / 50,
            "train/step_seconds_p50": seconds / 800,
            "train/step_seconds_p90": seconds / 700,
            "train/items_per_second": items / seconds,
            "train/loss": 0.12,
            "eval/accuracy": accuracy,
            "inference/latency_seconds_p50": 40e-6 * seconds,
            "inference/latency_seconds_p90": 50e-6 * seconds,
            "inference/latency_seconds_p99": 90e-6 * seconds,
            "inference/items_per_second": 2e6 / seconds,
            "memory/process_peak_bytes": 3.1e8 if framework == "mlx" else 6.2e8,
            "memory/device_peak_bytes": 2.1e8,
            "target/seconds": seconds * 2 / 3,
            "target/epochs": 2.0,
            "cost/usd": seconds * 1e-5,
            "hardware/flops_per_second": 1e10 / seconds,
            "hardware/ceiling_fraction": 0.11 / seconds,
            "hardware/cpu_percent_mean": 180.0,
        },
        not_measured={
            "energy/joules": "no meter on this machine",
            "energy/watts_mean": "no meter on this machine",
            "hardware/gpu_percent_mean": "no GPU",
        },
        source="measured",
    )


def rows(pairs: int = 6, seed: int = 1, speed: dict[str, float] | None = None) -> list[Row]:
    """Every arm once a block in random order; 2 % spread a run and 5 % a block."""
    rng, found = np.random.default_rng(seed), []
    for pair in range(pairs):
        block = float(np.exp(rng.normal(0, 0.05)))
        for order, index in enumerate(rng.permutation(len(ARMS))):
            arm = ARMS[index]
            factor = (SPEED if speed is None else speed).get(arm, 1.0)
            found.append(row(arm, pair, order, block * factor * float(np.exp(rng.normal(0, 0.02)))))
    return found


def samples(row: Row, seed: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([seed, row.pair or 0, len(row.arm)])
    return {
        "epoch_seconds": summing_to(
            row.metrics["train/total_seconds"], np.exp(rng.normal(0, 0.03, 3))
        ),
        "latency_seconds": with_quantiles(row, "inference/latency_seconds"),
        "epoch_accuracy": np.array([0.91, 0.962, 0.965]),
    }


def summing_to(total: float, shares: np.ndarray) -> np.ndarray:
    return total * shares / shares.sum()


def with_quantiles(row: Row, metric: str) -> np.ndarray:
    """301 samples whose quantiles are the row's, which are given for some percents."""
    known = {
        p: row.metrics[f"{metric}_p{p}"] for p in (50, 90, 99) if f"{metric}_p{p}" in row.metrics
    }
    at = [0.0, *(p / 100 for p in known), 1.0]
    values = [0.9 * min(known.values()), *known.values(), 1.1 * max(known.values())]
    return np.interp(np.linspace(0, 1, 301), at, values)


def changed(found: list[Row], arm: str, pair: int, **changes: Any) -> list[Row]:
    """The rows with one of them changed; dicts are merged into the old ones."""

    def merged(row: Row) -> Row:
        values = {
            key: {**getattr(row, key), **value} if isinstance(value, dict) else value
            for key, value in changes.items()
        }
        return replace(row, **values)

    return [merged(r) if r.arm == arm and r.pair == pair else r for r in found]

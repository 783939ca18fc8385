"""100 runs of 20 epochs on an M1, as richiksc/mlx-benchmarks published them at 107fd89."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

import analysis

FOLDER = Path(analysis.__path__[0]) / "published" / "data" / "richiksc_mlx-benchmarks"
ARMS = {
    "MLX GPU": "mlx-train-gpu-n100-e20.csv",
    "PyTorch MPS": "torch-train-mps-n100-e20.csv",
    "MLX CPU": "mlx-train-cpu-n100-e20.csv",
    "PyTorch CPU": "torch-train-cpu-n100-e20.csv",
}


def column(file: str, name: str = "iter_total") -> np.ndarray:
    with (FOLDER / file).open() as lines:
        return np.array([float(row[name]) for row in csv.DictReader(lines)])


def totals(arm: str) -> np.ndarray:
    """Seconds of each run."""
    return column(ARMS[arm])


def epochs(arm: str) -> np.ndarray:
    """Seconds of the epochs after the first, one row a run."""
    return np.array([column(ARMS[arm], f"epoch_{i}") for i in range(1, 20)]).T

"""Three matrices of uniform random numbers, from a seed, the same bytes for every framework."""

from __future__ import annotations

import hashlib

import numpy as np

from measurement.errors import InputError
from models.dataset import Data
from models.device_switch.config import DATASETS, Config

NAMES = ("a", "b", "c")
SEED = 0x5817C4


def prepare(dataset: str, data_dir: str) -> None:
    """Nothing to fetch. Raises InputError: an unknown data set."""
    if dataset not in DATASETS:
        raise InputError(f"no data set {dataset!r}; expected one of: {', '.join(DATASETS)}")


def load(config: Config, dataset: str, data_dir: str, seed: int = 0) -> Data:
    """a, b, c: (size, size) float32, uniform in [0, 1). Raises InputError as `prepare`."""
    prepare(dataset, data_dir)
    matrices = {
        name: np.random.default_rng([SEED, seed, number]).random(
            (config.size, config.size), np.float32
        )
        for number, name in enumerate(NAMES)
    }
    digest = hashlib.sha256()
    for name, matrix in matrices.items():
        digest.update(f"{name} {matrix.shape}".encode())
        digest.update(np.ascontiguousarray(matrix, "<f4").data.cast("B"))
    return Data({}, matrices, dataset, f"uniform random numbers, seed {seed}", digest.hexdigest())

"""Points from a seed: the same bytes for every framework."""

from __future__ import annotations

import hashlib

import numpy as np

from measurement.errors import InputError
from models.blobs.config import CLASSES, DATASETS, FEATURES, Config
from models.dataset import Data

_SPREAD = {"scattered": 0.6, "synthetic": 0.3}  # of the points around their centre


def prepare(dataset: str, data_dir: str) -> None:
    """Fetches what is missing: nothing. Raises InputError: an unknown data set."""
    if dataset not in DATASETS:
        raise InputError(f"no data set {dataset!r}; expected one of: {', '.join(DATASETS)}")


def load(config: Config, dataset: str, data_dir: str) -> Data:
    """points (n, FEATURES) float32, labels (n,) int32. Raises InputError as `prepare`."""
    prepare(dataset, data_dir)
    rng = np.random.default_rng(0xB10B5)
    centres = rng.normal(size=(CLASSES, FEATURES)).astype(np.float32)
    items = config.train_items + config.test_items
    labels = rng.integers(0, CLASSES, items, np.int32)
    noise = rng.normal(size=(items, FEATURES)).astype(np.float32)
    points = centres[labels] + np.float32(_SPREAD[dataset]) * noise
    train, test = (
        {"points": points[part], "labels": labels[part]}
        for part in (slice(config.train_items), slice(config.train_items, None))
    )
    digest = hashlib.sha256(points.tobytes() + labels.tobytes()).hexdigest()
    return Data(train, test, dataset, "generated", digest)

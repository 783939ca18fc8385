"""A trial's folder with known weights, and the digits they give by plain NumPy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from models.mnist.config import PIXEL_MEAN, PIXEL_STD, Config

CONFIG = Config(hidden_size=16, layers=2)
FRAMEWORKS = ("mlx", "pytorch")


def weights() -> dict[str, np.ndarray]:
    """Seeded values; the last bias takes the mean logits away, so that every class is met."""
    random = np.random.default_rng(1)
    values = {
        name: random.normal(0, 2 * fan_in**-0.5, shape).astype(np.float32)
        for name, (shape, fan_in) in CONFIG.parameters().items()
    }
    values["head.bias"] -= logits(values, images(256)).mean(axis=0).astype(np.float32)
    return values


def write_trial(folder: Path, framework: str) -> Path:
    """What a trial leaves behind."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights(), folder / "weights.safetensors")
    spec = {"workload": "mnist", "framework": framework, **vars(CONFIG)}
    (folder / "config.json").write_text(json.dumps(spec))
    return folder


def images(count: int) -> np.ndarray:
    """(count, 784) float32 in [0, 1]: random patches of 4 by 4 pixels."""
    patches = np.random.default_rng(0).random((count, 7, 1, 7, 1)) > 0.6
    pixels = np.broadcast_to(patches, (count, 7, 4, 7, 4))
    return pixels.reshape(count, 784).astype(np.float32)


def logits(values: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """The oracle: the network of CONFIG written out in NumPy, float64, from pixels in [0, 1]."""
    x = (x - PIXEL_MEAN) / PIXEL_STD
    w = {name: value.astype(np.float64) for name, value in values.items()}
    for i in range(CONFIG.layers):
        name = f"hidden.{i}.linear"
        x = np.maximum(x @ w[f"{name}.weight"].T + w[f"{name}.bias"], 0)
    return x @ w["head.weight"].T + w["head.bias"]


def digits(x: np.ndarray) -> np.ndarray:
    """(n, 784) -> (n,) as the trial's own model must answer."""
    return logits(weights(), x).argmax(axis=1)

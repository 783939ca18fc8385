"""As own_cases.py, with what is asked of TensorFlow's layers alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import own_cases
import tensorflow as tf

from models.layers import tensorflow as layers


def rates_of(case: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Of AdamW, before each of these steps."""
    optimiser = layers.AdamW(
        layers.Linear(2, 2, bias=True),
        weight_decay=0.0,
        betas=(0.9, 0.999),
        epsilon=1e-8,
        **case["schedule"],
    )
    return {"rates": [float(optimiser.rate(tf.constant(float(step)))) for step in case["steps"]]}


def attention_of(case: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Attention with a mask, and without one where it lets every query see all."""
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((2, 3, 5, 4)).astype(np.float32) for _ in range(3)]
    mask = rng.random((2, 1, 5, 5)) < 0.7
    mask[..., 0] = True
    for name, given in (("masked", mask), ("all", np.ones_like(mask)), ("none", None)):
        given = None if given is None else tf.constant(given)
        np.save(folder / f"{name}.npy", layers.attend(*map(tf.constant, arrays), given).numpy())
    return {}


if __name__ == "__main__":
    own_cases.main(own_cases.ACTIONS | {"rates": rates_of, "attention": attention_of})

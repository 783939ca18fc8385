"""The rate of AdamW over the steps: the same in every framework, and that of a closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twins import needs_all

import models

RATE = 0.25


def closed_form(step: int, warmup: int, decay: int) -> float:
    """Loshchilov and Hutter 2017, equation 5, without restarts, after a linear warm-up."""
    rate = RATE * min(1.0, step / warmup if warmup else 1.0)
    if decay:
        done = min(1.0, max(0.0, (step - warmup) / (decay - warmup)))
        rate *= (1 + math.cos(math.pi * done)) / 2
    return rate


def rates(framework: str, steps: list[int], warmup: int, decay: int) -> list[float]:
    layers = models.load("transformer_lm", framework)  # which has taken AdamW from models.layers
    constants = {"weight_decay": 0.0, "betas": (0.9, 0.999), "epsilon": 1e-8}
    if framework == "mlx":
        import mlx.core as mx
        from mlx import nn

        optimiser = layers.AdamW(
            nn.Linear(2, 2), learning_rate=RATE, warmup_steps=warmup, decay_steps=decay, **constants
        )
        # As MLX's own counter has it.
        return [float(optimiser.rate(mx.array(step, mx.uint64))) for step in steps]
    import torch

    optimiser = layers.AdamW(
        torch.nn.Linear(2, 2),
        learning_rate=RATE,
        warmup_steps=warmup,
        decay_steps=decay,
        **constants,
    )
    return [float(optimiser.rate(torch.tensor(float(step)))) for step in steps]


@needs_all
@pytest.mark.parametrize("framework", ["mlx", "pytorch"])
@settings(max_examples=30)
@given(warmup=st.integers(0, 20), length=st.integers(1, 500), decays=st.booleans())
def test_the_rate_is_that_of_the_closed_form(framework, warmup, length, decays):
    decay = warmup + length if decays else 0
    steps = sorted({0, 1, warmup, warmup + 1, warmup + length // 2, warmup + length, 10**6})
    expected = [closed_form(step, warmup, decay) for step in steps]
    np.testing.assert_allclose(rates(framework, steps, warmup, decay), expected, atol=1e-7)


@needs_all
def test_pytorchs_own_scheduler_agrees():
    import torch

    parameter = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([parameter], lr=RATE)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=50)
    expected = []
    for _ in range(50):
        expected.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    np.testing.assert_allclose(rates("pytorch", list(range(50)), 0, 50), expected, atol=1e-7)

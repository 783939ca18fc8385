"""Both AdamWs against the same steps in float64: to rounding, from the first step on."""

from __future__ import annotations

import numpy as np
import pytest

import frameworks
import models

BETAS, EPSILON, RATE, DECAY = (0.9, 0.999), 1e-8, 1e-3, 0.01
STEPS = 12


def exact(weights: np.ndarray, gradients: np.ndarray) -> list[np.ndarray]:
    """The weights after each step, Loshchilov and Hutter 2019, algorithm 2."""
    first, second, found = np.zeros_like(weights), np.zeros_like(weights), []
    for step, gradient in enumerate(gradients, start=1):
        first = BETAS[0] * first + (1 - BETAS[0]) * gradient
        second = BETAS[1] * second + (1 - BETAS[1]) * gradient**2
        scale = np.sqrt(second / (1 - BETAS[1] ** step)) + EPSILON
        change = first / (1 - BETAS[0] ** step) / scale
        weights = weights - RATE * DECAY * weights - RATE * change
        found.append(weights)
    return found


@pytest.mark.parametrize("name", ["mlx", "pytorch"])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_every_step_is_exact_to_rounding(name, compiled):
    """A correction of 1 - 0.999 ** step in float32 would be off by 1e-5 in the first steps."""
    if not frameworks.available(name):
        pytest.skip(f"{name} is not installed")
    framework = frameworks.load(name, "cpu", "float32")
    if compiled and framework.can_compile():
        pytest.skip(str(framework.can_compile()))
    twin, config = models.load("eis_predictor", name), models.load("eis_predictor", "config").SMOKE
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(STEPS, config.first_width, 10)).astype(np.float32)
    model = twin.Model(config)
    values = {key: np.zeros(shape, np.float32) for key, (shape, _) in config.parameters().items()}
    framework.write_parameters(model, values)
    optimiser = twin.AdamW(
        model,
        learning_rate=RATE,
        warmup_steps=0,
        weight_decay=DECAY,
        betas=BETAS,
        epsilon=EPSILON,
    )
    tree = {key: framework.put(value) for key, value in values.items()}

    def step(gradient):
        now = tree | {"encoder.first.weight": gradient}
        optimiser.update(nested(now) if name == "mlx" else list(now.values()))
        return gradient

    state = [model.state, optimiser.state] if name == "mlx" else optimiser.state
    submit = framework.compile_step(step, state, compiled)
    expected = exact(np.zeros(gradients[0].shape), gradients.astype(np.float64))
    for gradient, after in zip(gradients, expected, strict=True):
        framework.wait(submit(framework.put(gradient)), state)
        found = framework.read_parameters(model)["encoder.first.weight"]
        error = np.linalg.norm(found - after) / np.linalg.norm(after)
        assert error < 1e-6


def nested(named: dict) -> dict:
    """As MLX's gradients come."""
    found: dict = {}
    for key, value in named.items():
        *path, last = key.split(".")
        inner = found
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return found

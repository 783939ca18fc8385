"""Settings and fixtures that every folder of tests shares."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

# Before MLX is imported: float32 is IEEE float32, as the supervisor has it for a worker.
os.environ["MLX_ENABLE_TF32"] = "0"

# Machines that test are shared: no example is judged by its time.
settings.register_profile(
    "project",
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("project")


@pytest.fixture(scope="session")
def project() -> Path:
    """The project's folder."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)

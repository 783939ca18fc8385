"""Settings and fixtures that every folder of tests shares."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from entrypoints import environment
from measurement.errors import InputError
from tests import own_environment

# Before MLX is imported: float32 is IEEE float32, as the supervisor has it for a worker.
os.environ["MLX_ENABLE_TF32"] = "0"

# Two test processes share two cores: a thread that waits for another must not keep it from running. A step
# of two threads beside a busy process took 500 times as long where they spun.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("KMP_BLOCKTIME", "0")

# Machines that test are shared: no example is judged by its time.
settings.register_profile(
    "project",
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("project")


@pytest.fixture(autouse=True)
def own_search_path() -> Iterator[None]:
    """A model that MLflow loads puts its own copy of this code before ours, for all processes that a
    later test starts."""
    before = sys.path[:]
    yield
    sys.path[:] = before


@pytest.fixture(scope="session")
def project() -> Path:
    """The project's folder."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test that needs a framework's own environment waits until it is made: TensorFlow's is
    600 MB of download."""
    for item in items:
        if {"in_environment", "in_tensorflow"}.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.timeout(1800))


@pytest.fixture(scope="session")
def in_environment(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """in_environment("jax", "-m", "pytest", ...): Python with those words in a framework's own
    environment, which is made in the user's cache by the first test that needs it."""
    lent = tmp_path_factory.mktemp("lent")
    own_environment.lend(lent)

    def run(framework: str, *words: str) -> subprocess.CompletedProcess[str]:
        try:
            python = environment.python(framework)
        except InputError as error:
            if os.environ.get("CI") == "true":
                pytest.fail(str(error))
            pytest.skip(str(error))
        return own_environment.run(python, lent, *words)

    return run


@pytest.fixture(scope="session")
def in_tensorflow(
    in_environment: Callable[..., subprocess.CompletedProcess[str]],
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`in_environment` of TensorFlow; skips where that cannot be made."""
    in_environment("tensorflow", "-c", "")
    return functools.partial(in_environment, "tensorflow")

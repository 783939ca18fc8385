"""Adapters with an environment of their own: all tests of this folder run there, one process a framework."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import frameworks

HERE = Path(__file__).parent
REASONS = ("PyTorch", "MLX", "GPU", "'s own environment", "that environment", "empty parameter set")


@pytest.mark.skipif(
    any(map(frameworks.available, frameworks.OWN_ENVIRONMENT)), reason="this is that environment"
)
@pytest.mark.parametrize("name", frameworks.OWN_ENVIRONMENT)
def test_every_promise_of_an_adapter_is_kept_in_its_environment(
    name: str, in_environment: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    # without the options of pyproject.toml: pytest-xdist is not among that environment's packages
    done = in_environment(
        name, "-m", "pytest", "-o", "addopts=-q --strict-markers", str(HERE), "-rs"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    skipped = [line for line in done.stdout.splitlines() if line.startswith("SKIPPED")]
    assert not [line for line in skipped if not any(reason in line for reason in REASONS)], (
        done.stdout
    )

"""Simulated trials have no threads that have to come to rest before their clock is checked."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from measurement import phases


@pytest.fixture(autouse=True, scope="module")
def no_rest(request: pytest.FixtureRequest) -> Iterator[None]:
    usual = phases._REST_SECONDS
    if hasattr(request.module, "PLAN"):  # see simulated.py
        phases._REST_SECONDS = 0.0
    yield
    phases._REST_SECONDS = usual

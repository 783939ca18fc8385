"""Simulated trials have no threads that have to come to rest before their clock is checked, and
nothing imported or compiled that would have to be collected."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from measurement import phases


@pytest.fixture(autouse=True, scope="module")
def nothing_before(request: pytest.FixtureRequest) -> Iterator[None]:
    usual = phases._REST_SECONDS, phases._collect
    if hasattr(request.module, "PLAN"):  # see simulated.py
        phases._REST_SECONDS, phases._collect = 0.0, lambda: 0
    yield
    phases._REST_SECONDS, phases._collect = usual

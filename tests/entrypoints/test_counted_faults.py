"""Each fault of counted operations, made in this process, is refused by the words it promises; the
same evidence without the counts says nothing."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from entrypoints import worker
from entrypoints.faults.operations import FAULTS
from measurement.audit import parity_difference
from tests.models.twins import config_of, needs_all, session

OTHER = {"mlx": "pytorch", "pytorch": "mlx"}


def opened(workload: str, framework: str) -> Any:
    return session(workload, framework, config_of(workload))


@cache
def sound(workload: str, framework: str) -> dict[str, Any]:
    found: dict[str, Any] = opened(workload, framework).evidence().summary()
    return found


@needs_all
@pytest.mark.parametrize(
    ("fault", "framework"),
    [
        pytest.param(f, name, id=f"{f.name}-{name}")
        for f in FAULTS
        if f.workload == "bert_tiny"  # the others: test_selftest.py
        for name in f.frameworks
    ],
)
def test_a_fault_is_refused_by_the_words_it_promises(fault, framework, monkeypatch):
    reference = sound(fault.workload, OTHER[framework])
    spec = opened(fault.workload, framework).spec
    fault.worker(monkeypatch.setattr, spec)
    broken = worker.open_session(spec).evidence().summary()
    said = parity_difference(reference, broken) or ""
    assert any(words in said for words in fault.caught_by), said
    if "loss of step" in said:  # enough of a difference to be seen without counts
        return
    del broken["counted"]
    assert parity_difference({k: v for k, v in reference.items() if k != "counted"}, broken) is None

"""Broken arms: each worker's fault in this process, and the command itself on one of them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import models
from entrypoints import faults, selftest, worker
from entrypoints.faults import CLASSES, FAULTS, settings
from entrypoints.selftest import OTHER, SOUND, Outcome
from measurement import doubts
from measurement.audit import parity_difference, receipt_difference
from measurement.doubts import above_ceiling as above
from measurement.errors import InputError
from measurement.schedule import Condition
from tests.models.twins import needs_all

ROOT = Path(__file__).resolve().parents[2]
PLAN = {
    "epochs": 2,
    "target": 0.5,
    "warmup_steps": 3,
    "audit_seconds": 0.0,
    "audit_repetitions": 3,
    "waited_steps": 20,
    "latency_calls": 20,
    "inference_seconds": 0.02,
    "ceiling_seconds": 0.01,
}
# Of the worker alone: what only the supervisor's clock or the study's conditions show is left to the
# command. The language model's mistakes are among those of tests/models/test_transformer_lm_broken.py.
HERE = [
    fault
    for fault in FAULTS.values()
    if fault.worker
    and fault.kind != "E"  # meters: tests/entrypoints/test_machine_faults.py
    and fault not in settings.FAULTS  # whose processes are spoilt for good: below
    and fault.workload in ("mnist", "device_switch", "tinyllama")
]
# One framework each, in turn: the command makes every fault in all that it can be made in.
CASES = [(f.name, f.frameworks[number % len(f.frameworks)]) for number, f in enumerate(HERE)]


def spec_of(workload: str, framework: str, fault: str) -> dict[str, Any]:
    config = models.load(workload, "config")
    return {
        "action": "measure",
        "workload": workload,
        "framework": framework,
        "device": "cpu-cpu" if config.KIND == "switch" else "cpu",
        "dtype": "float32",
        "compile": "off",
        "blas": "shipped",
        "threads": 1,
        "sizes": asdict(config.SMOKE),
        "seed": 0,
        "dataset": "synthetic",
        "data_dir": "/nonexistent",
        "mode": config.KIND,
        "checkpoint": "random",
        "plan": PLAN if config.KIND == "train" else {},
        "fault": fault,
    }


def measured(spec: dict[str, Any], folder: Path) -> tuple[dict[str, Any], bool]:
    """(the worker's result, whether the two clocks contradict each other)."""
    import time

    events, stopwatch = [], doubts.Stopwatch()

    def emit(event: str, values: dict[str, Any]) -> None:
        stopwatch.see({"event": event, **values}, time.monotonic())
        events.append((event, values))

    worker.measure(spec, folder, emit)  # type: ignore[arg-type]
    return next(values for event, values in events if event == "result"), stopwatch.untimed()


@cache
def sound(workload: str, framework: str, folder: Path) -> dict[str, Any]:
    return measured(spec_of(workload, framework, "none"), folder)[0]


def said(result: dict[str, Any], untimed: bool, other: dict[str, Any]) -> str:
    """What the pipeline makes of a result beside a sound one, without the study."""
    found = [
        parity_difference(result["parity"], other["parity"]),
        receipt_difference(result["trial"]["receipt"], other["trial"]["receipt"]),
        *doubts.flags(result["trial"], result["conditions"], 1),
        *(["ABOVE-CEILING"] * bool(above(result["trial"], result["parity"].get("counted")))),
        *([] if result["completed"] else ["AUDIT"]),
        *(["UNTIMED"] if untimed else []),
        f"device is {result['conditions']['device']}" * (result["conditions"]["device"] != "cpu"),
        "TF32" * (result["conditions"]["numerics"]["tf32"] == "on"),
    ]
    return "; ".join(filter(None, found))


@needs_all
@pytest.mark.parametrize(("name", "framework"), CASES)
def test_a_broken_worker_is_caught_by_name(name, framework, monkeypatch, tmp_path, shared):
    fault = FAULTS[name]
    other = sound(fault.workload, OTHER[framework], shared)
    spec = spec_of(fault.workload, framework, name)
    if name == "one_thread_unsaid":
        spec["threads"] = 2
    assert fault.worker is not None
    fault.worker(monkeypatch.setattr, spec)
    try:
        result, untimed = measured(spec, tmp_path)
    except RuntimeError as error:
        text = f"the worker ended: {error}"
    else:
        text = said(result, untimed, other)
        if name == "one_thread_unsaid":
            text += "; ".join(doubts.flags(result["trial"], result["conditions"], 2))
    assert any(word in text for word in fault.caught_by), text


@needs_all
@pytest.mark.parametrize("fault", settings.FAULTS, ids=lambda fault: fault.name)
def test_a_process_that_is_set_otherwise_says_so(fault):
    code = (
        "import sys; from entrypoints.faults import FAULTS; from measurement import settings; import frameworks\n"
        "usual = settings.of_process({}); FAULTS[sys.argv[1]].worker(setattr, {})\n"
        "print('settings is' * (settings.of_process({}) != usual))\n"
        "if sys.argv[2] == 'SWITCHED':\n"
        "    print('SWITCHED' * bool(frameworks.load('pytorch', 'cpu').numerics()['switched']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, fault.name, *fault.caught_by],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split("\n")[-2] == fault.caught_by[0], done.stdout + done.stderr


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sound")


@needs_all
@pytest.mark.parametrize("workload", sorted({FAULTS[name].workload for name, _ in CASES}))
def test_sound_arms_are_not(workload, shared):
    first, second = (sound(workload, framework, shared) for framework in ("mlx", "pytorch"))
    assert parity_difference(first["parity"], second["parity"]) is None
    assert receipt_difference(first["trial"]["receipt"], second["trial"]["receipt"]) is None
    for result in (first, second):
        assert above(result["trial"], result["parity"]["counted"]) == []
        named = set(doubts.flags(result["trial"], result["conditions"], 1))
        assert not named & {"IN-CLOCK", "THREADS", "REDUCED-PRECISION", "SWITCHED"}


def test_every_class_has_two_faults_or_more():
    kinds = [fault.kind for fault in selftest.ALL.values()]
    assert {kind: kinds.count(kind) >= 2 for kind in CLASSES} == dict.fromkeys(CLASSES, True)


def test_every_fault_says_where_it_is_made_and_who_catches_it():
    for fault in selftest.ALL.values():
        made = [fault.worker, fault.supervisor, fault.arm, fault.study, fault.around]
        assert sum(map(bool, made)) == 1 and fault.caught_by and fault.what


def test_a_fault_that_a_framework_cannot_have_is_refused():
    faults.check("none", "mlx")
    faults.check("no_barrier", "mlx")
    for name, framework in (("no_such", "mlx"), ("state_left", "pytorch")):
        with pytest.raises(InputError, match=f"fault={name}: unknown in {framework}; choose one"):
            faults.check(name, framework)
    assert Condition("mlx").fault == "none"


@pytest.mark.parametrize("only", ["Q", "W,nothing", ""])
def test_an_unknown_choice_is_one_line(only):
    with pytest.raises(InputError, match="expected classes"):
        selftest.chosen(only)


def test_the_table_counts_what_was_caught():
    outcomes = [
        Outcome(SOUND, "", "mlx", "as it should be", "nothing", "", "analysis", ""),
        Outcome("sleep", "T", "mlx fault=sleep", "sleeps", "IDLE", "IDLE", "trial", "IDLE: ..."),
        Outcome("no_mask", "M", "mlx", "no mask", "evidence", "", "nowhere", ""),
    ]
    assert [o.right for o in outcomes] == [True, True, False]
    text = selftest.table(outcomes)
    assert "| T | `sleep`: sleeps | mlx | IDLE | trial |" in text
    assert "**NOTHING**" in text
    assert "2 broken arms of 2 faults, 1 caught; 1 sound arms, 0 refused." in text
    json.dumps([asdict(o) for o in outcomes])

"""What a process is set to is named, and a process as it comes is called default."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from measurement import doubts, settings

ROOT = Path(__file__).resolve().parents[2]
GIVEN = {"OMP_NUM_THREADS": "2"}
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="Linux's calls")
CASES = {
    "nothing": ("", {}, "default"),
    "as given": ("", {"OMP_NUM_THREADS": "2", "PATH": "/usr/bin", "HOME": "/home/x"}, "default"),
    "other threads": ("", {"OMP_NUM_THREADS": "7"}, "OMP_NUM_THREADS=7"),
    "policy": ("", {"OMP_WAIT_POLICY": "PASSIVE"}, "OMP_WAIT_POLICY=PASSIVE"),
    "a path": ("", {"LD_PRELOAD": "/home/somebody/x.so"}, "LD_PRELOAD=#"),
    "places": ("", {"CUDA_HOME": "/a", "TORCHINDUCTOR_CACHE_DIR": "/b", "PYTHONPATH": "/c"}, "default"),
    "priority": ("os.nice(3)", {}, "nice="),
    "collector": ("gc.disable()", {}, "garbage collector=off"),
    "rarer": ("gc.set_threshold(100_000)", {}, "garbage collector=(100000, "),
    "profile": ("sys.setprofile(lambda *a: None)", {}, "traced or profiled"),
    "optimised": ("", {"PYTHONOPTIMIZE": "1"}, "interpreter=dev False optimize 1"),
    "switching": ("sys.setswitchinterval(0.1)", {}, "switch interval=0.1 s"),
    "processor": ("os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})", {}, "processors="),
}  # fmt: skip


@LINUX
def test_each_setting_is_named_and_nothing_else() -> None:
    """One process after the other: a priority cannot be taken back."""
    code = (
        "import gc, json, os, sys; from measurement import settings\n"
        "{0}\nprint(json.dumps(settings.of_process({1!r})))"
    )
    running = {
        name: subprocess.Popen(
            [sys.executable, "-c", code.format(line, GIVEN)],
            cwd=ROOT,
            env=variables,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name, (line, variables, _) in CASES.items()
    }
    usual = json.loads(running["nothing"].communicate()[0])  # a container may hold fewer processors
    for name, (_, _, said) in CASES.items():
        if name == "nothing":
            continue
        found = json.loads(running[name].communicate()[0])
        assert found == usual if said == "default" else said in found, name
        assert "somebody" not in found


def test_a_value_that_may_hold_a_path_is_hashed() -> None:
    found = settings._variables({"MKL_X": "/home/me", "OMP_Y": "a b", "MLX_Z": "1"}, {})
    assert [part.split("=")[1][:1] for part in found] == ["#", "#", "1"]


def test_variables_that_a_library_sets_do_not_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    before = dict(os.environ)
    with suppress(ZeroDivisionError), settings.same_variables():
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
        os.environ["CUDA_VISIBLE_DEVICES"] = "0"
        del os.environ["PATH"]
        raise ZeroDivisionError
    assert dict(os.environ) == before


def test_the_thresholds_of_this_python_are_usual() -> None:
    assert gc.get_threshold() in settings._COLLECTOR


@pytest.mark.parametrize(
    ("changes", "calls"),
    [
        ({}, []),
        ({"inference_seconds": [1e-6] * 5}, ["pass over the test set"]),
        ({"inference_seconds": [1e-6, 1.0, 1.0]}, []),  # a sample alone is no proof
        ({"step_seconds": [1e-7], "latency_seconds": [1e-9]}, ["step", "answer"]),
        ({"step_seconds": [1e-7], "reduce_bytes": 8}, []),  # ranks share it
        ({"step_seconds": [1e-7], "ceiling_flops_per_second": 0.0}, []),
        ({"step_seconds": []}, []),
    ],
)
def test_what_is_faster_than_the_machine_is_named(changes, calls) -> None:
    products = {"step": 3e9, "answer": 1e6, "pass over the test set": 1e9}
    counted = {"products": {name: {"float32": flops} for name, flops in products.items()}}
    sound = {
        "ceiling_flops_per_second": 1e11,
        "step_seconds": [0.04],
        "latency_seconds": [1e-4],
        "inference_seconds": [0.02],
    }
    assert doubts.above_ceiling({**sound, **changes}, counted) == calls
    assert doubts.above_ceiling({**sound, **changes}, None) == []

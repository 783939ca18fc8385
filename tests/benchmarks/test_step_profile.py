"""The kernels of a step, from a trace as NVIDIA's tool writes it; on a GPU, of a real step."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import step_profile

ROOT = Path(__file__).resolve().parents[2]
ON_GPU = "no NVIDIA GPU here that PyTorch sees"


def run(*words: str, timeout: float = 200) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.step_profile", *words],
        cwd=ROOT, capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip


def gpu() -> bool:
    torch = pytest.importorskip("torch")
    return bool(torch.cuda.is_available())


def test_a_trace_is_added_up_by_name_longest_first_copies_too(tmp_path):
    events = [
        {"cat": "kernel", "name": "product", "dur": 30.0},
        {"cat": "kernel", "name": "product", "dur": 50.0},
        {"cat": "gpu_memcpy", "name": "Memcpy HtoD", "dur": 200.0},
        {"cat": "cuda_runtime", "name": "cudaGraphLaunch", "dur": 9e9},
        {"name": "no category", "dur": 9e9},
    ]
    trace = tmp_path / "trace.json"
    trace.write_text(json.dumps({"traceEvents": events}))
    found = step_profile.kernels(trace, steps=2)
    assert [row["name"] for row in found] == ["Memcpy HtoD", "product"]
    assert found[0]["seconds"] == pytest.approx(100e-6)
    assert found[1]["seconds"] == pytest.approx(40e-6)
    assert [row["calls"] for row in found] == [0.5, 1.0]


def test_steps_in_a_row_are_waited_for_at_the_end_alone():
    log = []
    session = SimpleNamespace(
        framework=SimpleNamespace(wait=lambda *values: log.append("wait")),
        config=SimpleNamespace(batch_size=4),
        batches=lambda epoch: [("short", 2), ("full", 4)],
        step=lambda rows: log.append(rows),
        state=[],
    )
    assert step_profile.in_a_row(session, 3) > 0
    assert log == ["wait", "full", "full", "full", "wait"]
    assert step_profile.in_a_row(SimpleNamespace(), 3) is None


def test_a_steps_share_of_the_ceiling_is_that_of_steps_in_a_row(monkeypatch):
    monkeypatch.setattr(step_profile, "matmul_ceiling", lambda framework, seconds: 8e12)
    config = SimpleNamespace(batch_size=4, train_flops_per_item=lambda: 10**9)
    session = SimpleNamespace(framework=None, config=config)
    found = step_profile.rates(session, row_seconds=1e-3)
    assert found == {"flops_per_second": 4e12, "ceiling_flops_per_second": 8e12}
    conditions = {"versions": {"framework": "1"}, "dtype": "float32", "compile": "on"}
    found |= {"framework": "mlx", "conditions": conditions, "kernels": [], "busy_seconds": 0.0}
    line = step_profile.text(found | {"step_seconds": [2e-3], "row_seconds": 1e-3}).splitlines()[0]
    assert "in a row 50.0% of the matrix-product ceiling of 8.0 TFLOP/s" in line
    assert set(step_profile.rates(session, None).values()) == {None}


PROFILES = sorted((ROOT / "results/h200-profiles").glob("*.json"))


def test_there_are_recorded_profiles():
    assert PROFILES


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_a_recorded_profile_reads_as_a_table(path):
    for found in json.loads(path.read_text())["results"]:
        lines = step_profile.text(found).splitlines()
        assert found["framework"] in lines[0]
        assert found["conditions"]["dtype"] in lines[0]
        assert len(lines) == 1 + min(step_profile.ROWS + 1, len(found["kernels"]))
        assert sum(row["seconds"] for row in found["kernels"]) == pytest.approx(
            found["busy_seconds"]
        )


@pytest.mark.parametrize(
    ("words", "preset"),
    [("", "paper"), ("--device cpu", "cpu"), ("--preset smoke", "smoke")],
)
def test_a_preset_that_is_not_named_is_that_of_the_device(words, preset, monkeypatch):
    asked = []

    def each(measure, chosen, options, workload):
        asked.append(options.preset)
        return []

    monkeypatch.setattr(step_profile.common, "each_in_process", each)
    line = f"step_profile --workload transformer_lm --device gpu {words}"
    monkeypatch.setattr(sys, "argv", line.split())
    assert step_profile.main() == 0
    assert asked == [preset]


def test_without_a_gpu_it_is_one_line():
    if gpu():
        pytest.skip("there is a GPU here")
    done = run("--workload", "mnist", "--framework", "pytorch", "--preset", "smoke")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("Error: no NVIDIA GPU that this PyTorch sees")
    assert "Traceback" not in done.stderr


@pytest.mark.gpu
@pytest.mark.parametrize("framework", ["mlx", "pytorch"])
def test_a_step_on_a_gpu_has_kernels(framework, tmp_path):
    if not gpu():
        pytest.skip(ON_GPU)
    output = tmp_path / "profile.json"
    words = f"--workload mnist --framework {framework} --preset smoke --device gpu --pairs 2"
    done = run(*words.split(), "--output", str(output))
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(output.read_text())["results"]
    assert found["busy_seconds"] > 0
    assert found["row_seconds"] > 0
    assert any("gemm" in row["name"] or "nvjet" in row["name"] for row in found["kernels"])

"""Jobs of several ranks: equal to one process, refused when their ranks do not do one work, ended in
time when one of them fails, with nothing left behind, and going on from the last epoch."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
from mlflow.tracking import MlflowClient
from safetensors.numpy import load_file

import frameworks
from entrypoints import distributed, launch, record, supervisor, verify
from entrypoints.launch import END_SECONDS, JobFailed, run_job
from entrypoints.processes import run_worker
from measurement.audit import receipt_difference
from measurement.errors import InputError
from tests.entrypoints.conftest import ROOT
from tracking import names

SMOKE = ("--preset", "smoke", "--dataset", "synthetic", "--compile", "off", "--epochs", "4")
NAMES = [name for name in frameworks.BACKENDS if frameworks.available(name)]
pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="jobs are started on Linux and macOS"
)
needs_mlx = pytest.mark.skipif("mlx" not in NAMES, reason="MLX is not installed")
needs_torch = pytest.mark.skipif("pytorch" not in NAMES, reason="PyTorch is not installed")


def specification(framework: str, *words: str, workload: str = "mnist") -> supervisor.TrialSpec:
    command = distributed.command(workload, framework)
    context = command.make_context("job", [*SMOKE, *words])
    return distributed.job_specification(workload, framework, context.params)


def job(
    tmp_path: Path,
    spec: supervisor.TrialSpec,
    action: str = "measure",
    listen: Callable[[dict[str, Any]], None] = lambda event: None,
    broken: str | None = None,
    restarts: int = 0,
) -> dict[str, Any]:
    given = supervisor.worker_spec(spec, action)
    tmp_path.mkdir(exist_ok=True)
    module = launch.MODULE
    if broken:
        os.environ["BROKEN"] = broken
        module = "tests.entrypoints.broken_rank"
    result = run_job(given, "", restarts, tmp_path, listen, module)
    assert result is not None
    return result


def alive(pids: list[int]) -> list[tuple[int, str]]:
    """Of those the ones that still run; one that nobody has buried does not."""
    found = []
    for pid in pids:
        try:
            status = psutil.Process(pid).status()
        except psutil.NoSuchProcess:
            continue
        if status != psutil.STATUS_ZOMBIE:
            found.append((pid, status))
    return found


# --- equal to one process


@pytest.mark.parametrize(
    ("framework", "ranks"),
    [
        pytest.param("mlx", 2, marks=needs_mlx),
        pytest.param("mlx", 4, marks=needs_mlx),
        pytest.param("pytorch", 4, marks=needs_torch),
    ],
)
def test_losses_and_weights_are_those_of_one_process(
    framework: str, ranks: int, store: Path, tmp_path: Path
) -> None:
    """A batch of 250 that four ranks cannot share evenly, and a short last one of 48."""
    sizes = ("--ranks", str(ranks), "--global_batch_size", "250")
    spec = specification(framework, *sizes)
    trace = job(tmp_path / "job", spec, "trace")
    alone = tmp_path / "alone"
    alone.mkdir()
    given = supervisor.worker_spec(specification(framework, *sizes), "trace") | {"ranks": 1}
    reference = run_worker(given, alone)
    checks = verify.compare(
        "mnist", framework, tmp_path / "job", alone, trace["parity"], reference["parity"]
    )
    assert [check.what for check in checks if check.difference] == []
    assert len(checks) == 6


@needs_mlx
@pytest.mark.parametrize(
    ("mistake", "found_by"),
    [
        ("summed", "every gradient"),
        ("unweighted", "every gradient"),
        ("same_part", "every gradient"),
    ],
)
def test_a_job_that_computes_something_else_is_found(
    mistake: str, found_by: str, store: Path, tmp_path: Path
) -> None:
    spec = specification("mlx", "--ranks", "4", "--global_batch_size", "250")
    trace = job(tmp_path / "job", spec, "trace", broken=mistake)
    alone = tmp_path / "alone"
    alone.mkdir()
    reference = run_worker(supervisor.worker_spec(spec, "trace") | {"ranks": 1}, alone)
    checks = verify.compare(
        "mnist", "mlx", tmp_path / "job", alone, trace["parity"], reference["parity"]
    )
    assert found_by in [check.what for check in checks if check.difference]


@needs_mlx
@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        ("not_averaged", "other weights than rank 0|rank 1 against rank 0: the evidence differs"),
        ("same_part", "not each of the 2048 once"),
        ("last_batch_dropped", "the epochs ran"),
    ],
)
def test_ranks_that_do_not_do_one_work_end_the_job(
    mistake: str, said: str, store: Path, tmp_path: Path
) -> None:
    with pytest.raises(JobFailed, match=said):
        job(tmp_path / "job", specification("mlx"), broken=mistake)


@needs_mlx
@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        ("other_data", "rank 1 has data '0000"),
        ("missing_data", "rank 1: train-images"),
        ("other_version", "rank 1 has version of the framework '0.0.1'"),
    ],
)
def test_a_rank_that_has_something_else_is_named(
    mistake: str, said: str, store: Path, tmp_path: Path
) -> None:
    start = time.monotonic()
    with pytest.raises(InputError, match=said):
        job(tmp_path / "job", specification("mlx"), broken=mistake)
    assert time.monotonic() - start < 60


# --- the run


@pytest.mark.parametrize("framework", NAMES)
def test_a_job_is_one_run_with_its_ranks_in_it(framework: str, store: Path) -> None:
    distributed.command("mnist", framework).main(list(SMOKE))
    client = MlflowClient()
    (run,) = client.search_runs(["0"])
    assert run.info.status == "FINISHED"
    assert (run.data.tags["ranks"], run.data.tags["hosts"]) == ("2", "1")
    assert run.data.tags["backend"] == {"pytorch": "gloo", "mlx": "ring"}[framework]
    rates = {
        m.step: m.value for m in client.get_metric_history(run.info.run_id, "rank/items_per_second")
    }
    peaks = [m.value for m in client.get_metric_history(run.info.run_id, "rank/process_peak_bytes")]
    metrics = run.data.metrics
    assert sorted(rates) == [0, 1]
    # A rank's rate is that of its own share: together they are the job's, but for the slower one.
    assert metrics["train/items_per_second"] <= sum(rates.values()) * 1.001
    assert metrics["memory/process_peak_bytes"] == sum(peaks)
    assert metrics["communication/step_share"] > 0
    assert metrics["communication/bytes_per_step"] == 4 * 26_506
    assert "inference/items_per_second" not in metrics
    receipt = json.loads(run.data.tags["receipt"])
    assert (receipt["items"], receipt["steps"]) == (4 * 2_048, 4 * 8)
    assert {names.TRAINED, names.PREDICTED} <= run.data.tags.keys()  # so that it can be a champion


@needs_mlx
def test_a_job_and_a_process_have_the_same_receipt(store: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    spec = specification("mlx")
    result = job(tmp_path / "job", spec)
    one = replace(spec, condition=replace(spec.condition, ranks=1))
    alone = supervisor.measure(one)
    assert receipt_difference(result["trial"]["receipt"], alone.result["trial"]["receipt"]) is None
    seen = [rank["seen"] for rank in result["ranks"]]
    assert all(items == 1_024 for rank in seen for items, _ in rank)
    assert len({digest for rank in seen for _, digest in rank}) == 8  # no two parts are the same


def test_the_samples_of_another_host_carry_its_number() -> None:
    sample = {"time": 5.0, "cpu_utilization_percentage": 40.0}
    measured: Any = SimpleNamespace(result={"nodes": [[sample], [sample]]})
    points = record._node_points(measured)
    names = [f"system/{node}/cpu_utilization_percentage" for node in (1, 2)]
    assert [(point.name, point.value, point.seconds) for point in points] == [
        (name, 40.0, 5.0) for name in names
    ]


# --- failures


@pytest.mark.parametrize("framework", NAMES)
def test_a_killed_rank_ends_the_job_and_marks_the_run(
    framework: str,
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen: dict[str, Any] = {}

    def progress(spec: Any) -> Any:
        def listen(event: dict[str, Any]) -> None:
            if event["event"] == "epoch" and not seen:
                seen.update(pids=event["pids"], at=time.monotonic())
                os.kill(event["pids"][2], signal.SIGKILL)

        return listen

    monkeypatch.setattr(distributed, "progress", progress)
    with pytest.raises(SystemExit) as stop:
        # so many epochs that the job is still training when the signal comes
        distributed.command("mnist", framework).main([*SMOKE[:-1], "2000"])
    assert stop.value.code == 1
    assert time.monotonic() - seen["at"] < END_SECONDS
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("Error")]
    assert "rank 1 of 2 ended with signal SIGKILL" in line
    assert alive(seen["pids"]) == []
    (run,) = MlflowClient().search_runs(["0"])
    assert run.info.status == "FAILED"
    assert run.data.tags["flags"] == "CRASHED"
    assert "SIGKILL" in run.data.tags["crash"]


@needs_mlx  # PyTorch's silent ranks: test_two_hosts.py
def test_a_rank_that_hangs_is_not_waited_for_for_ever(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "END_SECONDS", 4.0)
    seen: dict[str, Any] = {}

    def listen(event: dict[str, Any]) -> None:
        if event["event"] == "epoch" and not seen:
            seen.update(pids=event["pids"], at=time.monotonic())
            os.kill(event["pids"][2], signal.SIGSTOP)

    spec = specification("mlx", "--epochs", "2000", "--timeout_seconds", "4")
    with pytest.raises(JobFailed, match="rank 1 of 2 is gone or silent; rank 0 says"):
        job(tmp_path / "job", spec, listen=listen)
    assert time.monotonic() - seen["at"] < 4 + 2 * 4
    assert alive(seen["pids"]) == []


@needs_mlx
def test_a_rank_that_does_not_come_ends_the_start(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "START_SECONDS", 3.0)
    monkeypatch.setattr(launch, "END_SECONDS", 2.0)
    with pytest.raises(InputError, match="not all 2 ranks joined within 3 s"):
        job(tmp_path / "job", specification("mlx"), broken="late")


@pytest.mark.skipif(sys.platform != "linux", reason="a child ends with its parent on Linux only")
@pytest.mark.parametrize("framework", NAMES)
def test_a_killed_supervisor_leaves_nothing_behind(framework: str, store: Path) -> None:
    command = [sys.executable, "-m", "entrypoints.distributed", "mnist", framework]
    process = subprocess.Popen(
        [*command, *SMOKE[:-1], "200000"], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    while not process.stderr.readline().startswith("epoch"):
        assert process.poll() is None
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 3  # a launcher and its ranks
    process.kill()
    process.wait()
    gone, left = psutil.wait_procs(children, timeout=10)
    assert left == []


@needs_torch
def test_a_restarted_job_ends_with_the_weights_of_an_undisturbed_one(
    store: Path, tmp_path: Path
) -> None:
    spec = specification("pytorch", "--max_restarts", "1", workload="mnist")
    whole = job(tmp_path / "whole", spec)
    again = job(tmp_path / "again", spec, broken="dies_once", restarts=1)
    assert (whole["restarts"], again["restarts"]) == (0, 1)
    assert again["trial"]["resumed_epochs"] == 2
    a, b = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "again"))
    assert all(np.array_equal(a[name], b[name]) for name in a)
    assert again["trial"]["epoch_loss"] == whole["trial"]["epoch_loss"]
    assert again["trial"]["receipt"]["items"] == whole["trial"]["receipt"]["items"]
    files = sorted(p.name for p in (tmp_path / "again" / "checkpoints").iterdir())
    assert files == [f"epoch-{n}.{end}" for n in (3, 4) for end in ("json", "safetensors")]


# --- a user's mistakes


@pytest.mark.parametrize(
    ("framework", "words", "said"),
    [
        ("mlx", ["--max_restarts", "1"], "mlx.launch restarts nothing"),
        ("mlx", ["--ranks", "4", "--global_batch_size", "3"], "expected 4 or more"),
        ("pytorch", ["--backend", "ring"], "'ring' is not one of"),
        ("pytorch", ["--hostfile", "nowhere.json"], "hostfile nowhere.json"),
        pytest.param(
            "mlx",
            ["--backend", "mpi"],
            "there is no mpirun here",
            marks=pytest.mark.skipif(shutil.which("mpirun") is not None, reason="there is one"),
        ),
        ("pytorch", ["--backend", "nccl", "--device", "cpu"], "needs NVIDIA GPUs"),
        ("mlx", ["--device", "gpu"], "MLX sees no GPU here"),
    ],
)
def test_a_mistake_is_one_line(
    framework: str, words: list[str], said: str, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        distributed.command("mnist", framework).main([*SMOKE, *words])
    assert stop.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_a_rank_that_never_said_its_number_is_ended_too_and_nobody_else(tmp_path: Path) -> None:
    """Its launcher was killed while it still imported: nobody knows its process. Other programs may have
    the job's folder, or a word of it, on their command lines: who looks at its log, who started this."""
    folder = tmp_path / "job"

    def started(*words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", "input()", *words], stdin=subprocess.PIPE)

    launcher = subprocess.Popen([sys.executable, "-c", ""])
    others = started("--job", "tests/test_jobs.py"), started(str(folder / "worker.log"))
    rank = started(json.dumps({"ranks": 2, "folder": str(folder)}))
    # Its number was another process's when psutil looked last: killed as that one, it would stay.
    list(psutil.process_iter())
    psutil._pmap[rank.pid]._ident = (rank.pid, 0.0)
    try:
        launch._sweep(launcher, SimpleNamespace(pids={}, folder=folder))  # type: ignore[arg-type]
        assert not psutil.pid_exists(rank.pid)
        assert [other.poll() for other in others] == [None, None]
    finally:
        for process in (*others, rank):
            process.kill()
            process.wait()

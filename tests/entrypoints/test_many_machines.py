"""One study name on several machines against one server: nothing is divided, nothing is mixed."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from benchmarks import stores
from entrypoints.stored import studies_of
from measurement import machine
from measurement.errors import InputError
from tests.entrypoints.conftest import ROOT, use_store
from tracking import read

sys.path.append(str(Path(__file__).resolve().parents[1] / "analysis"))
from fleet import MLX, TORCH, measured  # noqa: E402
from stored import store as keep  # noqa: E402

Run = Callable[..., tuple[int, str, str]]

TINY = (
    "--name", "fleet", "--arms", "mlx compile=off, mlx compile=off threads=1", "--pairs", "1",
    "--epochs", "1", "--preset", "smoke", "--dataset", "synthetic", "--device", "cpu",
    "--gap_seconds", "0",
)  # fmt: skip
NODES = ("node-a", "node-b")


def fingerprint_of(node: str) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(machine.IDENTITY, node)
        return machine.fingerprint()


# --- two machines that start at the same moment


@pytest.fixture(scope="module")
def started(
    empty_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, subprocess.CompletedProcess[str]]]:
    """node -> the finished command that started the study there; both had one server."""
    folder = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        path = use_store(empty_store, folder, patch)
        with stores.server(f"sqlite:///{path}", folder) as address:
            patch.setenv("MLFLOW_TRACKING_URI", address)
            mlflow.set_tracking_uri(None)
            running = {}
            for node in NODES:
                (folder / node).mkdir()
                running[node] = subprocess.Popen(
                    [sys.executable, "-m", "entrypoints.study", *TINY],
                    env={**os.environ, "PYTHONPATH": str(ROOT), machine.IDENTITY: node},
                    cwd=folder / node,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            outputs = {node: process.communicate(timeout=200) for node, process in running.items()}
            yield {
                node: subprocess.CompletedProcess([], running[node].returncode, *outputs[node])
                for node in NODES
            }


@pytest.mark.slow
def test_each_of_two_machines_has_its_own_run_and_pairs(
    started: dict[str, subprocess.CompletedProcess[str]],
) -> None:
    for node, done in started.items():
        assert done.returncode == 0, (node, done.stderr)
    machines = {fingerprint_of(node) for node in NODES}
    parts = read.machines_of("fleet")
    assert {part.machine for part in parts} == machines and len(parts) == 2
    assert len({part.run_id for part in parts}) == 2
    for part in parts:
        rows = read.trials_of(part)
        assert {row.machine for row in rows} == {part.machine}
        assert {row.parent for row in rows} == {part.run_id}
        assert sorted((row.pair, row.arm) for row in rows) == sorted((0, arm) for arm in part.arms)
        report = [f.path for f in MlflowClient().list_artifacts(part.run_id, "report")]
        assert "report/report.html" in report
    assert len(read.trials("fleet", finished=False)) == 6


@pytest.mark.slow
def test_resuming_looks_at_the_trials_of_this_machine_only(
    started: dict[str, subprocess.CompletedProcess[str]], monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    """The other machine's trial that runs now is left alone, and its finished ones count nothing."""
    here, there = (read.study("fleet", fingerprint_of(node)) for node in NODES)
    client, open_ones = MlflowClient(), {}
    for part in (here, there):
        tags = {"kind": "trial", "study": "fleet", "arm": part.arms[0], "pair": "0",
                "mlflow.parentRunId": part.run_id}  # fmt: skip
        marked = {"machine": part.machine} if part is there else {}  # cut off early: no fingerprint
        open_ones[part.machine] = client.create_run("0", tags=tags | marked).info.run_id
    mine = {row.arm: row.run_id for row in read.trials_of(here, finished=True)}
    client.delete_run(mine[here.arms[1]])
    monkeypatch.setenv(machine.IDENTITY, NODES[0])
    code, out, err = run("study", *TINY)
    assert code == 0, err
    assert "2 of 3 trials are done already" in err
    assert f"study fleet also runs on {there.machine}" in out
    assert client.get_run(open_ones[here.machine]).info.status == "KILLED"
    assert client.get_run(open_ones[there.machine]).info.status == "RUNNING"
    again = {row.arm: row.run_id for row in read.trials_of(here, finished=True)}
    assert {arm for arm in mine if mine[arm] != again[arm]} == {here.arms[1]}
    client.delete_run(open_ones[there.machine])


@pytest.mark.slow
def test_another_machine_with_another_option_is_refused_before_it_runs(
    started: dict[str, subprocess.CompletedProcess[str]], monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    monkeypatch.setenv(machine.IDENTITY, "node-c")
    code, _, err = run("study", *TINY, "--seed", "7")
    error = [line for line in err.splitlines() if line.startswith("Error")]
    assert code == 2 and len(error) == 1
    assert "with another seed (0 there, 7 here)" in error[0]
    assert len(read.machines_of("fleet")) == 2


@pytest.mark.slow
def test_the_analysis_puts_two_machines_together(
    started: dict[str, subprocess.CompletedProcess[str]], run: Run, tmp_path: Path
) -> None:
    code, out, err = run("analyze", "--study", "fleet", "--output", str(tmp_path / "out"))
    assert code == 0, err
    assert "study fleet on 2 machines, each by itself" in out
    for node in NODES:
        assert f"\n{fingerprint_of(node)}: " in out
        with (tmp_path / "out" / fingerprint_of(node) / "trials.csv").open() as file:
            assert {row["machine"] for row in csv.DictReader(file)} == {fingerprint_of(node)}
    with (tmp_path / "out/machines.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["machine"] for row in rows) == sorted(map(fingerprint_of, NODES))
    with (tmp_path / "out/pooled.csv").open() as file:
        assert [(row["low"], row["high"]) for row in csv.DictReader(file)] == [("", "")]
    code, out, _ = run("analyze", "--study", "fleet", "--machine", fingerprint_of("node-a"),
                       "--output", str(tmp_path / "one"))  # fmt: skip
    assert code == 0 and not list(tmp_path.glob("one/*/report.html"))


@pytest.mark.slow
def test_recordings_of_two_machines_have_a_folder_each(
    started: dict[str, subprocess.CompletedProcess[str]], run: Run, tmp_path: Path
) -> None:
    code, out, err = run("export_results", "--study", "fleet", "--output", str(tmp_path))
    assert code == 0, err
    assert "6 trials in " in out
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(map(fingerprint_of, NODES))
    for folder in tmp_path.iterdir():
        assert sum("train" in path.name for path in folder.iterdir()) == 3


# --- three machines, made by hand


@pytest.fixture
def three(store: Path) -> Path:
    """One study on three machines, with known truths, and one study on one machine beside it."""
    truths = (0.78, 0.80, 0.82)
    made = [
        measured("fleet", f"m{i}", {MLX: truth}, 6, float(i), seed=i, arms=(MLX, TORCH))
        for i, truth in enumerate(truths)
    ]
    keep([*made, measured("alone", "m0", {MLX: 0.5}, 6, 9.0, arms=(MLX, TORCH))])
    return store


def test_three_machines_give_an_interval_and_each_counts_once(
    three: Path, undrawn: None, run: Run
) -> None:
    code, out, err = run("analyze", "--study", "fleet")
    assert code == 0, err
    for name in ("m0", "m1", "m2"):
        assert f"\n{name}: " in out
        assert "study fleet\n" in out and Path(f"results/fleet/{name}/report.html").is_file()
    assert "on machines like these mlx blas=mkl is faster than pytorch blas=mkl" in out
    with Path("results/fleet/pooled.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["machines"] == "3"
    assert 0.7 < float(row["low"]) < 0.8 < float(row["high"]) < 0.9
    page = Path("results/fleet/report.html").read_text()
    assert all(f'href="{name}/report.html"' in page for name in ("m0", "m1", "m2"))


def test_machines_under_unlike_conditions_are_shown_and_not_pooled(
    store: Path, undrawn: None, run: Run
) -> None:
    gpu = {"*": {"device": "gpu"}}
    arms = (MLX, TORCH)
    keep([measured("fleet", "m0", {MLX: 0.8}, 6, 0.0, arms=arms),
          measured("fleet", "m1", {MLX: 0.4}, 6, 1.0, arms=arms, cells=gpu)])  # fmt: skip
    code, out, err = run("analyze", "--study", "fleet")
    assert code == 0, err
    assert "not pooled with 1: device is " in out
    with Path("results/fleet/pooled.csv").open() as file:
        assert [row["machines"] for row in csv.DictReader(file)] == ["1", "1"]
    code, _, err = run("machines", "--studies", "fleet")
    assert code == 2 and "device is 'gpu' in fleet on m1 and 'cpu' in fleet on m0" in err


def test_a_machine_that_cannot_be_compared_is_named(store: Path, undrawn: None, run: Run) -> None:
    study, rows = measured("fleet", "m1", {MLX: 0.8}, 6, 1.0, arms=(MLX, TORCH))
    keep([measured("fleet", "m0", {MLX: 0.8}, 6, 0.0, arms=(MLX, TORCH)),
          (study, [row for row in rows if row.arm == TORCH])])  # fmt: skip
    code, out, err = run("analyze", "--study", "fleet")
    assert code == 0, err
    assert "left out: study fleet on m1: no trial of mlx blas=mkl finished" in out


def test_no_reader_mixes_machines(three: Path, run: Run) -> None:
    with pytest.raises(InputError, match="ran on 3 machines, which are not mixed.*m2, m1, m0"):
        read.study("fleet")
    with pytest.raises(InputError, match="has not run on the machine 'm9'; there are: m2, m1, m0"):
        read.study("fleet", "m9")
    for words in (("plan", "--study", "fleet"), ("analyze", "--study", "fleet,alone")):
        code, _, err = run(*words)
        assert code == 2 and "Error: study 'fleet' ran on 3 machines" in err
    found = studies_of("mnist", ("fleet",))
    assert [(study.machine, {row.machine for row in rows}) for study, rows in found] == [
        (name, {name}) for name in ("m2", "m1", "m0")
    ]
    assert len(read.machines_of(None)) == 1  # the newest study


def test_a_plan_is_made_from_one_machine(
    three: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from analysis import planning

    monkeypatch.setattr(planning, "STUDIES", 20)
    code, out, err = run("plan", "--study", "fleet", "--machine", "m1")
    assert code == 0, err
    assert "To see a difference of 5 %" in out

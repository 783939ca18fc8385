"""The largest batch by real workers that die: of the watch, of a signal, of an allocation."""

from __future__ import annotations

import csv
import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow.tracking import MlflowClient

import frameworks
import models
from entrypoints import max_batch, supervisor
from entrypoints.max_batch import GIB, Limits, attempt
from entrypoints.processes import TrialFailed
from entrypoints.supervisor import TrialSpec
from measurement import machine
from measurement.bisection import Probe
from measurement.errors import InputError
from measurement.schedule import Condition

Run = Callable[..., tuple[int, str, str]]
MLX = pytest.mark.skipif(not frameworks.available("mlx"), reason="MLX is not installed")
# 2048 x 4 layers: 55 MB of weights; 60,000 items of MNIST at most.
WIDE = {"hidden_size": 2048, "layers": 4}
ROOMY = Limits(4 * GIB, None, True, 120.0)


def spec(framework: str = "mlx", mode: str = "train", **sizes: Any) -> TrialSpec:
    condition = Condition(framework, "cpu", compile="off")
    resolved = supervisor.resolve("mnist", "smoke", sizes, "synthetic", condition)
    return TrialSpec(
        "mnist", condition, "smoke", resolved, 0, 0, "synthetic", "auto", 0.0, mode=mode
    )


def left_over(folder: Path) -> list[int]:
    """Workers of this test that are still there."""
    return [
        process.pid
        for process in psutil.process_iter(["cmdline", "status"])
        if any(str(folder) in word for word in process.info["cmdline"] or ())
        and process.info["status"] != psutil.STATUS_ZOMBIE
    ]


@pytest.mark.parametrize("mode", ["train", "infer"])
@pytest.mark.parametrize("framework", ["mlx", "pytorch"])
def test_a_batch_that_fits(framework: str, mode: str, tmp_path: Path) -> None:
    if not frameworks.available(framework):
        pytest.skip(f"{framework} is not installed")
    probe, ready = attempt(spec(framework, mode), 300, ROOMY, tmp_path)
    assert (probe.items, probe.outcome, probe.reason) == (300, "fits", "")
    assert probe.peak_bytes is not None and 2**25 < probe.peak_bytes < 2 * GIB
    assert ready["device"] == "cpu" and ready["data"]["train_items"] == 300
    assert ready["data"]["name"] == "synthetic" and not left_over(tmp_path)


@MLX
def test_rows_repeat_where_the_data_set_ends(tmp_path: Path) -> None:
    probe, ready = attempt(spec(), 61_000, ROOMY, tmp_path)
    assert probe.outcome == "fits" and ready["data"]["train_items"] == 60_000


@MLX
def test_the_watch_ends_a_probe_in_time(tmp_path: Path) -> None:
    limit = int(0.6 * GIB)
    probe, _ = attempt(spec(**WIDE), 60000, replace(ROOMY, process_bytes=limit), tmp_path)
    assert (probe.outcome, probe.reason) == ("too large", "ended by the watch")
    assert probe.peak_bytes is not None and limit < probe.peak_bytes < 2 * limit
    assert not left_over(tmp_path)


def dying(monkeypatch: pytest.MonkeyPatch, number: int, log: str = "") -> None:
    """Every worker gets this signal when it is ready."""
    real = max_batch.run_worker

    def run_worker(values: dict[str, Any], folder: Path, listen: Any, guard: Any) -> dict[str, Any]:
        def hit(event: dict[str, Any]) -> None:
            listen(event)
            if event["event"] == "ready":
                (folder / "worker.log").write_text(log)
                os.kill(event["pid"], number)

        return real(values, folder, hit, guard=guard)

    monkeypatch.setattr(max_batch, "run_worker", run_worker)


@MLX
@pytest.mark.parametrize(
    ("number", "log", "kernel", "reason"),
    [
        (signal.SIGSEGV, "", 0, "SIGSEGV, as when an allocation fails"),
        (signal.SIGKILL, "", 1, "killed by the system, out of memory"),
        (signal.SIGABRT, "what(): std::bad_alloc", 0, "SIGABRT after an allocation that failed"),
    ],
)
def test_deaths_that_mean_too_little_memory(
    number: int,
    log: str,
    kernel: int,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counts = iter([0, kernel])
    monkeypatch.setattr(machine, "memory_kills", lambda: next(counts))
    dying(monkeypatch, number, log)
    probe, ready = attempt(spec(**WIDE), 5000, ROOMY, tmp_path)
    assert (probe.outcome, probe.reason) == ("too large", reason) and ready
    assert not left_over(tmp_path)


@MLX
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGABRT, signal.SIGBUS])
def test_any_other_death_is_an_error(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying(monkeypatch, number)
    with pytest.raises(TrialFailed, match=signal.Signals(number).name):
        attempt(spec(**WIDE), 5000, ROOMY, tmp_path)
    assert not left_over(tmp_path)


def test_memory_that_the_system_refuses_is_too_little(tmp_path: Path) -> None:
    framework = next(name for name in ("mlx", "pytorch") if frameworks.available(name))
    probe, _ = attempt(spec(framework), 10**14, ROOMY, tmp_path)
    assert (probe.outcome, probe.reason) == ("too large", "the framework: out of memory")


@MLX
def test_a_probe_that_takes_too_long_has_no_answer(tmp_path: Path) -> None:
    probe, _ = attempt(spec(**WIDE), 60000, replace(ROOMY, seconds=0.05), tmp_path)
    assert probe.outcome == "no answer" and "longer than 0.05 s" in probe.reason
    assert not left_over(tmp_path)


def test_a_peak_above_the_limit_does_not_fit_though_it_ended_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {"process_peak_bytes": 3 * GIB, "device_peak_bytes": 5 * GIB}
    monkeypatch.setattr(max_batch, "run_worker", lambda *a, **k: said)
    tight = replace(ROOMY, process_bytes=2 * GIB)
    assert attempt(spec(), 8, tight, tmp_path)[0].reason == "its peak is above the limit"
    gpu = Limits(GIB, 4 * GIB, False, 1.0)
    assert attempt(spec(), 8, gpu, tmp_path)[0].outcome == "too large"
    assert attempt(spec(), 8, replace(gpu, device_bytes=None), tmp_path)[0].outcome == "fits"
    assert attempt(spec(), 8, replace(gpu, device_bytes=6 * GIB), tmp_path)[0].peak_bytes == 5 * GIB


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(max_batch, "available_bytes", lambda: 10 * GIB)
    monkeypatch.setattr("sys.platform", "linux")
    assert max_batch.limits("auto", "cpu", 9.0) == Limits(5 * GIB, None, True, 9.0)
    assert max_batch.limits(2.0, "cpu", 9.0) == Limits(2 * GIB, None, True, 9.0)
    assert max_batch.limits("auto", "gpu", 9.0) == Limits(5 * GIB, None, False, 9.0)
    assert max_batch.limits(70.0, "gpu", 9.0) == Limits(5 * GIB, 70 * GIB, False, 9.0)
    with pytest.raises(InputError, match="10.00 GiB available now; expected at most 9.50"):
        max_batch.limits(9.6, "cpu", 9.0)
    monkeypatch.setattr("sys.platform", "darwin")  # the GPU shares the machine's memory
    assert max_batch.limits(3.0, "gpu", 9.0) == Limits(3 * GIB, 3 * GIB, True, 9.0)


def test_memory_that_others_took_meanwhile_ends_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(max_batch, "available_bytes", lambda: GIB)
    with pytest.raises(InputError, match="only 1.00 GiB of memory are available now"):
        attempt(spec(), 8, ROOMY, tmp_path)


def simulated(monkeypatch: pytest.MonkeyPatch, threshold: int) -> None:
    ready = {
        "device": "cpu", "dtype": "float32", "compile": "on", "compile_inference": "off",
        "numerics": {"blas_loaded": "mkl"}, "versions": {"framework": "1.0"},
    }  # fmt: skip

    def fake(spec: TrialSpec, items: int, given: Limits, base: Path) -> Any:
        if items <= threshold:
            return Probe(items, "fits", "", GIB + items * 2**20, 0.1), ready
        return Probe(items, "too large", "ended by the watch", 3 * GIB, 0.1), {}

    monkeypatch.setattr(max_batch, "attempt", fake)


def test_what_is_logged_and_shown(store: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    simulated(monkeypatch, 700)
    words = (
        "--workload",
        "mnist",
        "--framework",
        "pytorch",
        "--memory_limit_gib",
        "2",
        "--resolution",
        "0",
    )
    code, out, err = run("max_batch", *words, "--device", "cpu")
    assert code == 0, err
    assert "the largest batch that fits in 2.00 GiB is 700 (1.68 GiB at its peak)" in out
    assert "701 does not: ended by the watch; 1 MiB an item on top of 1.00 GiB" in out
    assert "s left" in err and "batch 512: fits" in err
    found = MlflowClient().search_runs(["0"])
    (parent,) = [r for r in found if r.data.tags["kind"] == "max_batch"]
    (part,) = [r for r in found if r.data.tags["kind"] == "max_batch part"]
    assert part.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert {r.info.status for r in found} == {"FINISHED"}
    assert part.data.metrics["memory/max_batch_items"] == 700
    assert part.data.metrics["memory/too_large_items"] == 701
    assert part.data.metrics["memory/bytes_per_item"] == pytest.approx(2**20)
    assert part.data.params["compile"] == "on" and part.data.tags["censored"] == "no"
    history = MlflowClient().get_metric_history(part.info.run_id, "memory/batch_peak_bytes")
    assert {p.step: p.value for p in history}[512] == GIB + 512 * 2**20
    text = MlflowClient().download_artifacts(part.info.run_id, "probes.json")
    assert json.loads(Path(text).read_text())[0]["outcome"] == "fits"
    folder = Path("results/max-batch-mnist")
    assert (folder / "figures/memory_by_batch.png").stat().st_size > 10_000
    with (folder / "probes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {"fits", "too large"} == {row["outcome"] for row in rows}
    for name in ("report.md", "report.html"):
        assert "701" in (folder / name).read_text() and "None" not in (folder / name).read_text()


def test_none_fits_and_at_least(store: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("--workload", "mnist", "--framework", "pytorch", "--device", "cpu")
    simulated(monkeypatch, 0)
    code, out, _ = run("max_batch", *words)
    assert code == 0 and "not even a batch of 1 fits" in out
    simulated(monkeypatch, 10**9)
    code, out, _ = run("max_batch", *words, "--most", "100")
    assert code == 0 and "is at least 100 " in out and "most=100" in out


def test_an_error_of_one_framework_is_no_answer(
    store: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: Any) -> Any:
        raise TrialFailed("the worker ended with exit code 1: oh")

    monkeypatch.setattr(max_batch, "attempt", fails)
    code, out, err = run("max_batch", "--framework", "pytorch", "--device", "cpu")
    assert code == 1 and "fits" not in out
    assert "Error: pytorch: the worker ended with exit code 1: oh" in err
    assert {r.info.status for r in MlflowClient().search_runs(["0"])} == {"FAILED"}


@MLX
@pytest.mark.slow
@pytest.mark.long
def test_a_real_search_under_a_limit(store: Path, run: Run) -> None:
    words = (
        "--framework",
        "mlx",
        "--device",
        "cpu",
        "--compile",
        "off",
        "--memory_limit_gib",
        "0.5",
    )
    more = ("--preset", "smoke", "--sizes", "hidden_size=2048 layers=4", "--resolution", "0.5")
    code, out, err = run("max_batch", "--workload", "mnist", *words, *more, "--confirm", "false")
    assert code == 0, err
    assert "the largest batch that fits in 0.50 GiB is " in out and "ended by the watch" in out


@pytest.mark.parametrize(
    "workload", [n for n in models.names() if "batch_size" in models.options(n)]
)
def test_every_trained_workload_can_be_probed(workload: str, tmp_path: Path) -> None:
    options = {
        "workload": workload, "framework": "all", "device": "cpu", "preset": "smoke", "sizes": "preset",
        "dtype": "float32", "compile": "off", "threads": 0, "blas": "auto", "mode": "train",
    }  # fmt: skip
    for number, one in enumerate(max_batch.chosen(options)):
        folder = tmp_path / str(number)
        folder.mkdir()
        probe, ready = attempt(one, 3, ROOMY, folder)
        assert (probe.outcome, probe.reason) == ("fits", "")
        assert ready["data"]["train_items"] >= 1

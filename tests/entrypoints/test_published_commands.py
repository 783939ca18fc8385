"""import_results and export_results: once, complete, apart from our own studies, there and back."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mlflow.entities import Metric
from mlflow.tracking import MlflowClient

from analysis.published import recordings, runs, sources
from measurement.errors import InputError
from tracking import names, published, read, write

Run = Callable[..., tuple[int, str, str]]
M1 = sources.DATA / "richiksc_mlx-benchmarks"


def published_runs(kind: str) -> list:
    return MlflowClient().search_runs(["0"], f"tags.source = 'published' and tags.kind = '{kind}'")


def test_one_source_becomes_runs_once(store: Path, run: Run) -> None:
    code, out, err = run("import_results", "--source", "mnist_mlx_ddp")
    assert code == 0, err
    assert "8 runs written from 2 files and tables; 0 runs were there" in out
    rows = published_runs("published row")
    assert len(rows) == 8 and len(published_runs("published table")) == 2
    mlx = next(r for r in rows if r.data.tags["stated"].count("7–8 s"))
    assert mlx.info.status == "FINISHED" and mlx.data.tags["arm"] == "mlx gpu"
    assert mlx.data.metrics["published/inference_seconds.low"] == 7
    assert {"S0a", "S0b", "S0c", "S0e"} <= set(mlx.data.tags["faults"].split(","))
    assert "seeds" in mlx.data.tags["missing"] and mlx.data.tags["licence"] == "not stated"
    assert "eval/accuracy" in mlx.data.tags["approximate"]
    code, out, err = run("import_results", "--source", "mnist_mlx_ddp")
    assert code == 0 and "0 runs written" in out and "8 runs were there already" in out
    assert len(published_runs("published row")) == 8
    folder = Path("results/published/mnist_mlx_ddp")
    assert {path.name for path in folder.iterdir()} == {
        "report.md", "report.html", "tables.csv", "figures"}  # fmt: skip
    cells = list(csv.DictReader((folder / "tables.csv").open(encoding="utf-8")))
    assert len(cells) == sum(len(line.cells) for t in sources.load("mnist_mlx_ddp").tables for line in t.lines)  # fmt: skip
    assert list((folder / "figures").glob("*.png"))
    kept = [r for r in MlflowClient().search_runs(["0"]) if r.data.tags["kind"] == "import"]
    assert [r.info.status for r in kept] == ["FINISHED", "FINISHED"]
    assert MlflowClient().list_artifacts(kept[0].info.run_id, "report")


def test_a_folder_becomes_runs_apart_from_our_own(store: Path, tmp_path: Path, run: Run) -> None:
    folder = tmp_path / "m1"
    folder.mkdir()
    for name in ("mlx-test-DeviceType.cpu-n11.csv", "torch-train-cpu-n11-e10-vbatch.csv"):
        (folder / name).write_bytes((M1 / name).read_bytes())
    words = ("--folder", str(folder), "--machine", "an M1", "--licence", "MIT", "--url", "u")
    code, out, err = run("import_results", *words)
    assert code == 0, err
    assert "22 runs written from 2 files and tables" in out
    trials = published_runs("published trial")
    assert len(trials) == 22 and not read.trials(finished=False)
    sweep = [r for r in trials if "batch_size" in r.data.tags]
    assert sorted(int(r.data.tags["batch_size"]) for r in sweep) == [2**i for i in range(4, 15)]
    assert {r.data.tags["machine"] for r in trials} == {"an M1"}
    first = next(r for r in sweep if r.data.tags["order"] == "1")
    history = MlflowClient().get_metric_history(first.info.run_id, "train/epoch_seconds")
    original = recordings.read(M1 / "torch-train-cpu-n11-e10-vbatch.csv")
    assert tuple(m.value for m in history) == original.epoch_seconds[0]
    assert first.data.metrics["train/total_seconds"] == original.total_seconds[0]
    parent = MlflowClient().get_run(first.data.tags["mlflow.parentRunId"])
    assert parent.data.tags[published.DIGEST] == original.sha256
    kept = {file.path for file in MlflowClient().list_artifacts(parent.info.run_id)}
    assert kept == {original.file}
    assert (Path("results/published/m1/report.md")).exists()


def test_an_import_that_was_cut_off_is_completed(store: Path) -> None:
    group = runs.groups(sources.load("mnist_mlx_ddp"))[0]

    def cut(done: int) -> None:
        if published_runs("published row"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        published.write(group, cut)
    half = MlflowClient().create_run("0", tags={
        "kind": "published row", "source": "published", "order": "2",
        "mlflow.parentRunId": published_runs("published table")[0].info.run_id})  # fmt: skip
    seen: list[int] = []
    done = published.write(group, seen.append)
    assert (done.written, done.present) == (4, 1) and sum(seen) == 5
    rows = published_runs("published row")
    assert sorted(r.data.tags["order"] for r in rows) == ["1", "2", "3", "4", "5"]
    assert half.info.run_id not in {r.info.run_id for r in rows}
    assert published.write(group, seen.append).written == 0


def trial(
    study: str, arm: str, seconds: list[float], passes: list[float], device: str = "cpu"
) -> str:
    """A finished trial as the supervisor writes it, without the measuring."""
    framework = arm.split()[0]
    run_id = write.begin("trial", arm, {
        "study": study, "arm": arm, "framework": framework, "device": device, "workload": "mnist",
        "dtype": "float32", "batch_size": "256", "machine": "m", "mode": "train"}, parent="p")  # fmt: skip
    client = MlflowClient()
    metrics = [Metric("train/epoch_seconds", s, 0, i) for i, s in enumerate(seconds)]
    client.log_batch(run_id, [*metrics, Metric(names.PRIMARY["train"], sum(seconds), 0, 0)])
    path = Path(names.SAMPLES)
    write.write_samples(path, {"epoch_seconds": seconds, "inference_seconds": passes})
    client.log_artifact(run_id, str(path))
    write.finish(run_id)
    return run_id


@pytest.fixture
def study(store: Path) -> dict[str, list[list[float]]]:
    """Three arms of four trials of three epochs, under a study's run."""
    rng = np.random.default_rng(7)
    arms = {arm: rng.lognormal(-3, 1, (4, 3)).tolist()
            for arm in ("mlx blas=mkl", "pytorch blas=mkl", "pytorch blas=mkl again")}  # fmt: skip
    design = {"pairs": 4, "margin": 0.05, "metric": names.PRIMARY["train"], "target": 0.9, "family": [],
              "arms": list(arms), "comparisons": []}  # fmt: skip
    write.finish(write.begin("study", "s", {"study": "s", "design": json.dumps(design)}))
    for i in range(4):
        for arm, seconds in arms.items():
            trial("s", arm, seconds[i], [seconds[i][0] / 7, seconds[i][1] / 7, seconds[i][2] / 7])
    return arms


def test_export_and_import_bit_for_bit(study: dict, tmp_path: Path, run: Run) -> None:
    code, out, err = run("export_results", "--study", "s", "--output", str(tmp_path / "csv"))
    assert code == 0, err
    assert "12 trials in 6 files" in out
    found = {r.arm + r.phase: r for r in recordings.read_folder(tmp_path / "csv")}
    for arm, label in (("mlx blas=mkl", "mlx cpu blas_mkl"), ("pytorch blas=mkl", "pytorch cpu blas_mkl"),
                       ("pytorch blas=mkl again", "pytorch cpu blas_mkl_again")):  # fmt: skip
        train, test = found[label + "train"], found[label + "test"]
        assert [list(row) for row in train.epoch_seconds] == study[arm]  # in time order
        assert list(train.total_seconds) == [sum(row) for row in study[arm]]
        assert list(test.total_seconds) == [
            float(np.median(np.array(row) / 7)) for row in study[arm]
        ]
    code, out, err = run("import_results", "--folder", str(tmp_path / "csv"), "--workload", "mnist")
    assert code == 0, err
    assert (
        "24 runs written from 6 files" in out and "mlx cpu blas_mkl / pytorch cpu blas_mkl" in out
    )
    again = [
        r for r in published_runs("published trial") if r.data.tags["arm"] == "mlx cpu blas_mkl"
    ]
    totals = {r.data.metrics.get(names.PRIMARY["train"]) for r in again} - {None}
    assert totals == {sum(row) for row in study["mlx blas=mkl"]}
    assert len(read.trials("s")) == 12  # the imported copies are no trials of the study


def test_export_of_single_trials(study: dict, run: Run) -> None:
    rows = read.trials("s")
    wanted = [row.run_id for row in rows if row.arm == "mlx blas=mkl"][1:3]
    code, out, err = run("export_results", "--run_id", ", ".join(wanted))
    assert code == 0, err
    folder = Path("results/export")
    train = recordings.read(folder / "mlx-train-cpu.blas_mkl-n2-e3.csv")
    assert [list(row) for row in train.epoch_seconds] == study["mlx blas=mkl"][1:3]


def test_runs_that_cannot_share_a_file(store: Path, run: Run) -> None:
    ids = [trial("x", "mlx", [0.1, 0.2], [0.1]), trial("x", "mlx", [0.1], [0.1])]
    code, _, err = run("export_results", "--run_id", ",".join(ids))
    assert code == 2 and "the runs of mlx have 1 to 2 epochs" in err
    ids = [trial("x", "mlx a=1", [0.1], [0.1]), trial("x", "mlx a-1", [0.2], [0.1])]
    code, _, err = run("export_results", "--run_id", ",".join(ids))
    assert code == 2 and "two arms would be written to mlx-train-cpu.a_1-n1-e1.csv" in err


@pytest.mark.parametrize("mode", [mode for mode in names.PRIMARY if mode != "train"])
def test_trials_without_epochs(store: Path, run: Run, mode: str) -> None:
    run_id = write.begin("trial", "mlx", {
        "study": "g", "arm": "mlx", "framework": "mlx", "device": "gpu", "workload": "w",
        "dtype": "float32", "batch_size": "1", "machine": "m", "mode": mode}, parent="p")  # fmt: skip
    MlflowClient().log_metric(run_id, names.PRIMARY[mode], 4.5)
    write.write_samples(Path(names.SAMPLES), {"inference_seconds": [0.5, 0.25, 1.0]})
    MlflowClient().log_artifact(run_id, names.SAMPLES)
    write.finish(run_id)
    code, _, err = run("export_results", "--run_id", run_id)
    if mode in ("stream", "switch"):
        assert code == 2 and f"the runs of mlx are of mode {mode}; the format has epochs" in err
    else:
        assert code == 0, err
        test = recordings.read(Path("results/export/mlx-test-gpu-n1.csv"))
        assert list(test.total_seconds) == [4.5 if mode == "generate" else 0.5]


MISTAKES = [
    (("import_results", "--source", "x"), "unknown source 'x'; choose one of: all, eis_predictor"),
    (("import_results", "--folder", "/no/such"), "'/no/such' is no folder"),
    (("import_results", "--folder", "."), "holds no CSV file"),
    (("import_results", "--folder", "bad"), "run 1: iter_total is 'nan'"),
    (("import_results", "--folder", "twice"), "is a duplicate of mlx-test-cpu-n1.csv"),
    (("import_results", "--folder", "bad", "--source", "vit_plan"), "exclude each other"),
    (("import_results", "--machine", "M1"), "describe the files of folder"),
    (("import_results", "--source", "vit_plan", "--output", "/proc/x"), "cannot write the report"),
    (("export_results", "--study", "never-run"), "no study named 'never-run'"),
    (("export_results", "--run_id", "0" * 32), "no run '" + "0" * 32),
]


@pytest.mark.parametrize(("words", "expected"), MISTAKES, ids=lambda v: " ".join(v)[:60])
def test_one_line_and_exit_code_two(
    store: Path, run: Run, words: tuple[str, ...], expected: str
) -> None:
    Path("bad").mkdir()
    Path("bad/mlx-test-cpu-n1.csv").write_text("iter_total\nnan\n")
    Path("twice").mkdir()
    for arm in ("mlx", "torch"):
        Path(f"twice/{arm}-test-cpu-n1.csv").write_text("iter_total\n0.5\n")
    code, out, err = run(*words)
    lines = [line for line in err.splitlines() if line.startswith("Error")]
    assert code == 2, (out, err)
    assert len(lines) == 1 and expected in lines[0], err
    assert "Traceback" not in err
    assert not published_runs("published trial")  # a refusal leaves nothing behind


def test_an_export_that_cannot_be_written(study: dict, run: Run) -> None:
    code, _, err = run("export_results", "--study", "s", "--output", "/proc/x")
    assert code == 2 and "cannot write to '/proc/x'" in err


def test_a_store_that_cannot_be_used(
    store: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////proc/no/mlflow.db")
    code, _, err = run("import_results", "--source", "vit_plan")
    assert code == 2 and "cannot be used" in err
    with pytest.raises(InputError):
        read.studies()

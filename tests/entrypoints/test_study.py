"""A study survives being killed, runs only what is missing, and compares nothing half-written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

import models
from benchmarks import kill_soak, kill_state
from benchmarks.kill_soak import Aim
from entrypoints import so_far, study, study_plan
from entrypoints.deliver import Courier
from measurement.errors import InputError
from measurement.schedule import blocks
from tests.entrypoints.conftest import invoke
from tracking import names, outbox, read

Run = Callable[..., tuple[int, str, str]]

AIMS = (Aim("study", "artifacts"), Aim("group", "report writing"))


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[kill_soak.Soak, Path]:
    """The short form of benchmarks/kill_soak: a study of two pairs, killed twice, and its folder."""
    scratch = tmp_path_factory.mktemp("soak")
    soak = kill_soak.Soak(seed=0, scratch=scratch, pairs=2, keep=True)
    soak.study(iter(AIMS))
    return soak, scratch / "study-0"


@pytest.fixture
def killed_folder(killed: tuple[kill_soak.Soak, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of that study, where a command finds itself with its store."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{killed[1]}/mlflow.db")
    monkeypatch.chdir(killed[1])
    return killed[1]


def test_a_killed_study_goes_on_where_it_stopped(
    killed: tuple[kill_soak.Soak, Path], killed_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    points, (study,) = killed[0].points, killed[0].studies
    assert [(point.stage, point.problems) for point in points] == [(a.stage, []) for a in AIMS]
    assert (study["starts"], study["finished_trials"], study["problems"]) == (3, 6, [])
    log = (killed_folder / "log").read_text()
    assert "1 of 6 trials are done already" in log and "6 of 6 trials are done already" in log

    _, *words = kill_soak.words("soak-0", kill_soak.ARMS[0], pairs=2)
    assert invoke("study", *words, "--epochs", "2") == 2
    assert "exists with another epochs (4 against 2)" in capsys.readouterr().err


def test_every_pair_has_one_seed_and_the_order_is_recorded(killed_folder: Path) -> None:
    design = read.study("soak-0")
    rows = read.trials("soak-0")
    assert design.arms == ("mlx", "mlx threads=1", "mlx threads=1 (again)")
    assert [row.arm for row in rows] == design.design["order"]
    assert {row.pair: row.seed for row in rows} == {0: 0, 1: 1}
    assert {row.cell["threads"] for row in rows if row.arm == "mlx threads=1"} == {"1"}


def test_what_a_killed_study_must_not_do_is_seen(
    killed_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each check of benchmarks/kill_state speaks where something is wrong."""
    shutil.copytree(killed_folder, copy := tmp_path / "copy")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{copy}/mlflow.db")
    before = kill_state.finished(copy / "mlflow.db")
    assert len(before) == 6 and kill_state.whole("soak-0", copy) == []
    client, (first, second, *_, last) = MlflowClient(), read.trials("soak-0")
    client.set_tag(first.run_id, "flags", "")  # a run that is changed,
    client.set_terminated(second.run_id, "RUNNING")  # one that is lost, left open, not in its slot,
    twin = client.create_run("0", tags=dict(client.get_run(last.run_id).data.tags))
    client.set_terminated(twin.info.run_id)  # one that is there twice and has no values,
    (copy / "mlruns/records/x.new").touch()  # and a file of nobody.
    kill_soak.compare(copy, point := kill_soak.Point(0, "", "", ""), before)
    assert {problem.split()[-1] for problem in point.problems} == {"changed", "lost"}
    found = " ".join(kill_state.whole("soak-0", copy))
    for words in (
        "missing: {(",
        "twice: [(",
        "artifacts: ",
        "RUNNING: ",
        "left in ",
        "has the runs",
    ):
        assert words in found


def test_a_condition_that_changes_ends_a_study_at_once(killed_folder: Path) -> None:
    """As a variable that a library put into the supervisor's environment did, after the first trial."""
    machine = read.study("soak-0").machine
    kept = outbox.of_study("soak-0", machine)
    so_far.check_condition("soak-0", kept, "mlx")
    later = [one for one in kept if one.record.tags.get("arm") == "mlx"][-1]
    changed = replace(
        later.record, tags={**later.record.tags, "settings": "KMP_INIT_AT_FORK=FALSE"}
    )
    found = [replace(one, record=changed) if one is later else one for one in kept]
    so_far.check_condition("soak-0", found, "mlx threads=1")
    said = (
        "arm 'mlx' mixes conditions: settings is '.*' in record .* and 'KMP_INIT_AT_FORK=FALSE' in"
    )
    with pytest.raises(InputError, match=said):
        so_far.check_condition("soak-0", found, "mlx")


def test_unequal_work_is_said_when_a_block_shows_it(
    killed_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once a pairing, and the study goes on; the report would have said it at the end."""
    machine, plan = read.study("soak-0").machine, read.study("soak-0").design
    kept = outbox.of_study("soak-0", machine)
    slots = list(blocks(tuple(plan["arms"]), plan["pairs"], plan["seed"]))
    assert [found for slot in slots for found in so_far.unequal(kept, plan, slot)] == []

    def other(one: outbox.Kept) -> outbox.Kept:
        if one.record.tags.get("arm") != "mlx":
            return one
        parity = json.loads(one.record.tags["parity"])
        parity["output"] = [2 * x for x in parity["output"]]
        tags = {**one.record.tags, "parity": json.dumps(parity)}
        return replace(one, record=replace(one.record, tags=tags))

    found = [other(one) for one in kept]
    monkeypatch.setattr(outbox, "of_study", lambda name, machine: found)
    monkeypatch.setattr(study, "_run_slot", lambda slot, *_: None)
    study.run_slots(
        {**plan, "gap_seconds": 0},
        "soak-0",
        ("", ""),
        dict.fromkeys(plan["arms"]),
        set(),
        Courier(),
    )
    said = [
        line for line in capsys.readouterr().err.splitlines() if "did not do the same work" in line
    ]
    assert len(said) == 1
    assert (
        "mlx and mlx threads=1 did not do the same work in block 0: the evidence differs in output"
        in said[0]
    )


def test_default_arms_compare_like_with_like() -> None:
    arms, comparisons = study_plan.default_arms("gpu")
    assert arms == ["mlx", "pytorch", "pytorch (again)"]
    assert [pairing["role"] for pairing in comparisons] == ["headline", "resolution"]


# --- workloads of every kind


ASKED = {
    "name": "auto", "mode": "auto", "preset": "auto", "arms": "mlx, pytorch", "pairs": 2,
    "epochs": "auto", "device": "cpu", "dtype": "float32", "threads": 0, "dataset": "auto",
    "checkpoint": "random", "data_dir": "auto", "seed": 0, "target": "auto", "margin": 0.05,
    "price_per_hour": 0.0, "price_table": "none", "slowdown_percent": 0.0, "until_resolved": False, "gap_seconds": 0.0,
}  # fmt: skip


@pytest.mark.parametrize("workload", models.names())
def test_auto_is_what_workload_and_device_say(workload: str) -> None:
    config = models.load(workload, "config")
    device = "cpu-cpu" if config.KIND == "switch" else "cpu"
    found, base = study_plan.complete(ASKED | {"workload": workload, "device": device})
    assert found["preset"] == config.DEFAULT_PRESET["cpu"] and base.device == device
    assert found["dataset"] == config.DATASETS[0] and found["mode"] == config.KIND
    plan = study_plan.design(found, base)
    assert plan["metric"] == names.PRIMARY[config.KIND]
    trained = config.KIND == "train"
    assert plan["quality"] == (config.QUALITY if trained else "none")
    assert (plan["epochs"] > 0) == (plan["target"] > 0) == trained
    assert "auto" not in json.dumps({k: v for k, v in plan.items() if k != "condition"})


def test_two_devices_are_never_one_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ASKED | {"workload": "device_switch"}
    missing: dict[str, list[dict[str, str]]] = {"devices": [{}, {"missing": "no GPU"}]}
    monkeypatch.setattr(study_plan, "probe", lambda framework: missing)
    for device in ("auto", "cpu-gpu"):
        with pytest.raises(InputError, match="nothing to switch to; device=cpu-cpu") as error:
            study_plan.complete(asked | {"device": device})
        assert "mlx and pytorch see no GPU" in str(error.value)
    monkeypatch.setattr(study_plan, "probe", lambda framework: {"devices": [{}, {}]})
    found, base = study_plan.complete(asked | {"device": "auto"})
    assert (base.device, found["preset"]) == ("cpu-gpu", "study")


def test_arms_that_multiply_on_a_cpu_get_one_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_plan.blas, "better", lambda: "mkl")
    monkeypatch.setattr(study_plan.sys, "platform", "linux")
    for device, arm in (("cpu-gpu", "mlx blas=mkl"), ("cpu-cpu", "mlx blas=mkl"), ("gpu", "mlx")):
        assert study_plan.default_arms(device, as_shipped=False)[0][0] == arm


def test_a_design_names_no_folder() -> None:
    asked = ASKED | {"workload": "tinyllama", "checkpoint": "/home/someone/stories"}
    found, base = study_plan.complete(asked)
    assert study_plan.design(found, base)["checkpoint"] == "stories"
    assert study_plan.sources_of(found).checkpoint == "/home/someone/stories"


def test_two_workloads_make_two_studies_and_one_report(store: Path, run: Run) -> None:
    small = ("--preset", "smoke", "--dataset", "synthetic", "--device", "cpu", "--pairs", "1")
    code, out, err = run(
        "study", "--workload", "tinyllama,mnist", "--arms", "mlx compile=off, mlx threads=1",
        *small, "--name", "both", "--gap_seconds", "0",
    )  # fmt: skip
    assert code == 0, err
    assert {s.name for s in read.studies()} == {"tinyllama-both", "mnist-both"}
    (report,) = Path("results").rglob("workloads.csv")
    assert "tinyllama" in report.read_text() and "mnist" in report.read_text()

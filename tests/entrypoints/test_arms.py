"""What arms ask, arms of known truth, two versions in one study, and a study that may stop early."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import models
from analysis.stopping import Look
from entrypoints import overlay, study, study_plan
from entrypoints.deliver import Courier
from entrypoints.processes import environment
from measurement.errors import InputError
from measurement.schedule import Condition, Slot, blocks
from tracking import read

BASE = Condition("pytorch", "cpu")
SIZES = models.options("mnist")
OPTIONS = {
    "workload": "mnist", "preset": "smoke", "pairs": 8, "epochs": 1, "seed": 0, "margin": 0.05,
    "dataset": "synthetic", "target": 0.9, "price_per_hour": 0.0, "price_table": "none", "gap_seconds": 0.0,
    "mode": "train", "checkpoint": "random", "arms": "mlx, pytorch", "slowdown_percent": 0.0, "until_resolved": False,
}  # fmt: skip


@pytest.mark.parametrize(
    ("arms", "role"),
    [
        ("mlx, pytorch", "headline"),
        ("mlx version=0.31.2, mlx", "version"),
        ("mlx blas=shipped, mlx blas=mkl", "wheel"),
        ("pytorch slowdown_percent=5, pytorch", "injected"),
        ("mlx batch_size=64, pytorch batch_size=64", "headline"),
        ("mlx threads=1, mlx", "headline"),
    ],
)
def test_the_first_pairing_asks_what_differs_in_it(arms: str, role: str) -> None:
    named, comparisons = study_plan.given_arms(arms, BASE, SIZES)
    second = arms.split(", ")[1]
    assert [pairing["role"] for pairing in comparisons] == [role, "resolution"]
    assert named[-1] == f"{second} (again)"


def test_a_slowed_copy_of_the_reference_joins_the_study() -> None:
    plan = study_plan.design({**OPTIONS, "slowdown_percent": 5.0}, BASE)
    assert plan["arms"][-1] == "pytorch slowdown_percent=5"
    assert plan["comparisons"][-1] == {
        "numerator": "pytorch slowdown_percent=5",
        "denominator": "pytorch",
        "role": "injected",
    }
    assert plan["stopping"] == "fixed"


def test_looking_needs_pairs_enough_for_the_first_look() -> None:
    assert study_plan.design({**OPTIONS, "until_resolved": True}, BASE)["stopping"] == "anytime"
    with pytest.raises(InputError, match="expected 8 or more"):
        study_plan.design({**OPTIONS, "until_resolved": True, "pairs": 7}, BASE)


def test_an_arm_has_sizes_of_its_own() -> None:
    arms = {"arms": "mlx batch_size=64, pytorch batch_size=64"}
    specs = study_plan.specifications(
        study_plan.design({**OPTIONS, **arms}, BASE), study_plan.Sources("auto", "synthetic")
    )
    assert {spec.sizes["batch_size"] for spec in specs.values()} == {64}


@pytest.mark.parametrize("version", ["0.31 2", "../mlx", "latest", "-1", ""])
def test_a_version_is_a_number(version: str) -> None:
    with pytest.raises(InputError, match="expected a version number"):
        overlay.folder("mlx", version)


def test_a_version_that_is_there_is_not_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("subprocess.run", lambda *a, **k: pytest.fail("fetched"))
    place = tmp_path / "mlruns/versions/mlx-0.31.2"
    place.mkdir(parents=True)
    assert overlay.folder("mlx", "0.31.2") == place
    assert overlay.folder("mlx", "installed") is None
    found = environment(1, str(place))["PYTHONPATH"].split(":")
    assert found[0] == str(place)


def test_a_version_that_does_not_exist_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failed:
        returncode, stderr = 1, "noise\nERROR: No matching distribution found for mlx==99.0\n"

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("subprocess.run", lambda *a, **k: Failed)
    with pytest.raises(InputError, match="pip finds no mlx==99.0.*No matching distribution"):
        overlay.folder("mlx", "99.0")
    assert list((tmp_path / "mlruns/versions").iterdir()) == []


@pytest.mark.parametrize(("decided", "run"), [(8, 8), (10, 10), (99, 12)])
def test_a_study_that_looks_stops_when_it_is_decided(
    monkeypatch: pytest.MonkeyPatch, decided: int, run: int
) -> None:
    ran: list[str] = []
    plan = study_plan.design({**OPTIONS, "pairs": 12, "until_resolved": True}, BASE)
    monkeypatch.setattr(study, "_run_slot", lambda slot, *_: ran.append(slot.arm))
    monkeypatch.setattr(read, "study", lambda name, machine: None)
    monkeypatch.setattr(read, "trials_of", lambda study, finished: len(ran) // 3)
    looks: list[int] = []

    def look(_: object, blocks: int) -> Look:
        looks.append(blocks)
        return Look(blocks >= decided, "")

    monkeypatch.setattr(study.stopping, "look", look)
    assert study.run_slots(plan, "x", ("", ""), dict.fromkeys(plan["arms"]), set(), Courier()) == []
    assert len(ran) == 3 * run
    assert looks == list(range(8, min(run, 11) + 1))  # after whole blocks, never before eight


def test_a_study_of_fixed_size_never_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = study_plan.design({**OPTIONS, "pairs": 12}, BASE)
    monkeypatch.setattr(study, "_run_slot", lambda slot, *_: None)
    monkeypatch.setattr(study.stopping, "look", lambda *_: pytest.fail("looked"))
    assert study.run_slots(plan, "x", ("", ""), dict.fromkeys(plan["arms"]), set(), Courier()) == []


def test_some_blocks_of_a_study_run_alone_and_in_the_order_drawn_for_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran: list[Slot] = []
    plan = study_plan.design({**OPTIONS, "pairs": 12}, BASE)
    specs = dict.fromkeys(plan["arms"])
    monkeypatch.setattr(study, "_run_slot", lambda slot, *_: ran.append(slot))
    for only in ("5-9", "11"):
        assert study.run_slots(plan, "x", ("", ""), specs, set(), Courier(), only) == []
    drawn = blocks(tuple(plan["arms"]), 12, plan["seed"])
    assert ran == [slot for slot in drawn if slot.pair in (5, 6, 7, 8, 9, 11)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("--blocks", "0-4", "--until_resolved", "true"),
            "blocks=0-4 with until_resolved: expected",
        ),
        (("--blocks", "3-12"), "blocks='3-12': expected all, or numbers from 0 to 11 as in 0-11"),
    ],
)
def test_blocks_that_cannot_be_run_alone_are_one_line(
    run: Callable[..., tuple[int, str, str]], words: tuple[str, ...], said: str
) -> None:
    code, out, err = run("study", "--pairs", "12", *words)
    (line,) = err.splitlines()
    assert (code, out) == (2, "") and said in line

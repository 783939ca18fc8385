"""`plan` and `calibrate` as a user runs them: files, runs, exit codes, one line for a mistake."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from analysis import calibration, planning
from analysis.calibration import Preset
from entrypoints import calibrate
from entrypoints import plan as command
from measurement.errors import InputError
from tests.analysis.rows import rows, study
from tracking import read

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def pilot(store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store whose newest study has eight pairs."""

    def find(name: str | None, machine: str | None) -> read.Study:
        if name not in (None, "mnist-cpu"):
            raise InputError(f"no study named '{name}' in this store; there are: mnist-cpu")
        return study(pairs=8)

    monkeypatch.setattr(command.read, "study", find)
    monkeypatch.setattr(command.read, "trials_of", lambda study: rows(pairs=8))
    monkeypatch.setattr(planning, "STUDIES", 50)
    return store


def test_plan_writes_a_folder_and_a_run(pilot: Path, run: Run) -> None:
    code, out, err = run("plan", "--power", "0.9")
    assert code == 0, err
    assert "To see a difference of 5 % in training time" in out
    assert "with all arms of the pilot or" in out
    folder = pilot.parent / "results" / "plan-mnist-cpu"
    names = {path.name for path in folder.rglob("*") if path.is_file()}
    assert names == {"report.md", "report.html", "power.csv", "power.png", "power_dark.png"}
    found = MlflowClient().search_runs(["0"])[0]
    assert found.data.tags["kind"] == "plan" and found.info.status == "FINISHED"
    assert found.data.params["power"] == "0.9" and found.data.params["pilot"] == "mnist-cpu"
    assert found.data.metrics["plan/difference_pairs_safe"] >= 6


def test_plan_of_another_pairing_and_metric(pilot: Path, run: Run) -> None:
    words = ("--pairing", "mlx over pytorch", "--metric", "train/items_per_second")
    code, out, err = run("plan", *words, "--margin", "0.1", "--difference", "-0.1")
    assert code == 0, err
    assert "the same within 10 %" in out and "(mlx / pytorch)" in out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--study", "nope"), "no study named 'nope'"),
        (("--pairing", "mlx over jax"), "pairing 'mlx over jax': study mnist-cpu has headline"),
        (("--metric", "eval/accuracy"), "metric 'eval/accuracy' is not compared"),
        (("--metric", "energy/joules"), "no ratio of energy/joules"),
        (("--margin", "five"), "margin 'five': expected auto or a share"),
        (("--margin", "-1"), "margin -1"),
        (("--difference", "0"), "difference 0"),
        (("--difference", "five"), "'five' is not a valid float"),
        (("--power", "80"), "power 80"),
        (("--family", "0"), "0 is not in the range"),
        (("--seed", "-1"), "-1 is not in the range"),
        (("--output", "/proc/no"), "cannot write to '/proc/no'"),
    ],
)
def test_plan_refuses_in_one_line(
    pilot: Path, run: Run, words: tuple[str, ...], expected: str
) -> None:
    code, _, err = run("plan", *words)
    assert code == 2
    said = [line for line in err.splitlines() if line.startswith("Error")]
    assert len(said) == 1 and expected in said[0], err
    assert MlflowClient().search_runs(["0"]) == []


def test_plan_refuses_a_pilot_of_five_pairs(
    pilot: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command.read, "trials_of", lambda study: rows(pairs=5))
    code, _, err = run("plan")
    assert code == 2 and "the pilot has 5 pairs" in err


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A preset of seconds: four cells."""
    cells = [
        cell for cell in calibration.chosen(calibration.PRESETS["quick"]) if cell.question == "Q3"
    ]
    tiny = Preset(40, 10, one_size=True)
    monkeypatch.setitem(calibration.PRESETS, "quick", tiny)
    for module in (calibration, calibration.run):
        monkeypatch.setattr(module, "chosen", lambda preset: cells)
    monkeypatch.setattr(calibrate.drawings, "draw", lambda rates: [])


def test_calibrate_writes_a_folder_and_a_run(store: Path, few: None, run: Run) -> None:
    code, out, err = run("calibrate", "--preset", "quick", "--seed", "4")
    assert code == 0, err
    folder = store.parent / "results" / "calibration-quick"
    with (folder / "calibration.csv").open() as file:
        records = list(csv.DictReader(file))
    assert f"{len(records)} of {len(records)} rates lie in their bands" in out
    assert "Q3" in (folder / "report.md").read_text()
    found = MlflowClient().search_runs(["0"])[0]
    assert found.info.status == "FINISHED" and found.data.tags["kind"] == "calibration"
    assert found.data.params["seed"] == "4"
    assert len(found.data.metrics) == len(records)
    name = "calibration/power_percent/Q3/equivalence/ratio_1_margin_5_percent/lognormal/n6"
    assert name in found.data.metrics


def test_calibrate_fails_when_a_rate_lies_outside(
    store: Path, few: None, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = [
        replace(cell, study=lambda rng: True)
        for cell in calibration.chosen(calibration.PRESETS["quick"])
    ]
    monkeypatch.setattr(calibration.run, "chosen", lambda preset: broken)
    code, _, err = run("calibrate", "--preset", "quick")
    assert code == 1
    assert "Outside: false_positives/Q3/equivalence" in err
    assert MlflowClient().search_runs(["0"])[0].info.status == "FAILED"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--preset", "huge"), "'huge' is not one of 'full', 'quick'"),
        (("--seed", "-1"), "-1 is not in the range"),
        (("--seed", "one"), "'one' is not a valid integer"),
        (("--output", "/proc/no"), "cannot write to '/proc/no'"),
    ],
)
def test_calibrate_refuses_in_one_line(
    store: Path, run: Run, words: tuple[str, ...], expected: str
) -> None:
    code, _, err = run("calibrate", *words)
    assert code == 2
    assert err.startswith("Error: ") and expected in err and err.count("\n") == 1

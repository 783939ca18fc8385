"""MLflow's own pages as a user opens them, in Debian's Chromium, on a study that was recorded by this
project's writers without being trained. Pictures of every page go to the folder UI_SCREENSHOTS.

MLflow's server runs in this process, which saves its own start; benchmarks.ui_pages has `mlflow server`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from mlflow.tracking import MlflowClient

from benchmarks import recorded, ui_pages
from benchmarks.ui_pages import Page
from tests.entrypoints.faulty_server import serving

STUDY = "mnist-shown"
PAIRS = 2
said = ui_pages.missing()
pytestmark = [pytest.mark.skipif(bool(said), reason=said), pytest.mark.timeout(300)]


class Shown(NamedTuple):
    """A browser on a server. study, trial: ids of runs. pictures: folder of screenshots."""

    driver: Any
    address: str
    study: str
    trial: str
    pictures: Path
    pages: dict[str, Page]

    def open(self, name: str) -> str:
        """Opens a page, keeps a picture of it, returns its text."""
        ui_pages.visit(self.driver, self.address, self.pages[name])
        text = self.text()
        time.sleep(0.3)  # what is drawn last
        ui_pages.shoot(self.driver, self.pictures, name)
        return text

    def text(self) -> str:
        return str(self.driver.execute_script("return document.body.innerText;"))

    def count(self, selector: str) -> int:
        script = "return document.querySelectorAll(arguments[0]).length;"
        return int(self.driver.execute_script(script, selector))


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    """One store, one server, one browser for all tests of this file."""
    folder = tmp_path_factory.mktemp("ui")
    pictures = Path(os.environ.get("UI_SCREENSHOTS") or folder / "screenshots").absolute()
    pictures.mkdir(parents=True, exist_ok=True)
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
            patch.delenv(name, raising=False)
        recorded.write(STUDY, PAIRS, models_of=1)
        study, trial = ui_pages.found(uri, STUDY)
        store = folder / "mlflow.db"
        with serving(store, folder / "artifacts") as server, ui_pages.browser() as driver:
            pages = {page.name: page for page in ui_pages.pages("0", STUDY, study, trial)}
            yield Shown(driver, server.address, study, trial, pictures, pages)


def test_the_experiment_says_what_it_holds(shown: Shown) -> None:
    assert "Default" in shown.open("experiments")
    tags = MlflowClient().get_experiment("0").tags
    assert "viewStateShareKey=studies" in tags["mlflow.note.content"]


def test_trials_fold_below_their_study(shown: Shown) -> None:
    text = shown.open("runs, MLflow's own columns")
    assert f"study {STUDY}" in text and "mlx block" not in text
    fold = ".ag-cell[col-id*='Run Name'] button"
    shown.driver.find_element("css selector", fold).click()
    _until(lambda: "mlx block 0" in shown.text())
    assert "mnist (" in shown.text() and "mnist_mlx" in shown.text()
    ui_pages.shoot(shown.driver, shown.pictures, "runs, unfolded")


def test_columns_that_matter_are_in_the_view_of_studies(shown: Shown) -> None:
    text = shown.open("runs, view of studies")
    for column in ("verdict", "workload", "framework", "train/total_seconds", "flags"):
        assert column in text


def test_a_study_has_a_view_of_its_own(shown: Shown) -> None:
    text = shown.open("runs, arm by arm")
    for column in ("train/total_seconds", "eval/accuracy"):
        assert column in text
    for arm in ("mlx", "pytorch", "pytorch (again)"):
        assert arm in text


def test_charts_by_epoch_compare_the_arms(shown: Shown) -> None:
    text = shown.open("charts by epoch, arm by arm")
    assert "arms, by epoch" in text and "train/loss" in text


def test_a_trial_says_what_it_is(shown: Shown) -> None:
    text = shown.open("trial, overview")
    assert "trains mnist" in text  # its description
    assert "mnist (" in text and "Train" in text  # its data set
    assert "mnist_mlx" in text  # its model, and what it is of
    assert f"study {STUDY}" in text  # what it is below


def test_system_metrics_are_drawn(shown: Shown) -> None:
    assert "cpu_utilization_percentage" in shown.open("trial, system metrics")


def test_a_study_says_what_it_found(shown: Shown) -> None:
    text = shown.open("study, overview")
    assert "Verdict" in text and "like with like" in text.lower() and "The report" in text


def test_the_report_shows_among_the_artifacts(shown: Shown) -> None:
    shown.open("report among the artifacts")  # which waits for its last part


def test_models_carry_their_metrics(shown: Shown) -> None:
    (model,) = MlflowClient().search_logged_models(["0"])
    assert {"train/total_seconds", "eval/accuracy"} <= {metric.key for metric in model.metrics}
    assert model.params["framework"] == "mlx"


def test_views_are_small_and_come_once(shown: Shown) -> None:
    tags = MlflowClient().get_experiment("0").tags
    views = {key: text for key, text in tags.items() if key.startswith("mlflow.sharedViewState.")}
    assert len(views) == 3 and max(map(len, views.values())) < 5000  # of any server


def test_pictures_are_kept(shown: Shown) -> None:
    assert len(list(shown.pictures.glob("*.png"))) >= 9


def _until(done: Any) -> None:
    end = time.monotonic() + 20
    while not done():
        assert time.monotonic() < end
        time.sleep(0.05)

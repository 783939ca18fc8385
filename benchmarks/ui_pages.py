"""How long MLflow's own pages of a study take to open, each from an empty tab to its content.

    python -m benchmarks.ui_pages --runs 200 --screenshots shots

The study is recorded by this project's own writers without being trained (benchmarks.recorded), stands in
SQLite, and is shown by `mlflow server` with one worker on this machine. The browser is the system's
Chromium without a window: apt-get install -y chromium chromium-driver.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import mlflow
import psutil
from mlflow.tracking import MlflowClient

from benchmarks import recorded, stores
from benchmarks.common import say, whole
from measurement import machine
from measurement.errors import InputError
from tracking import views

STUDY = "pages"
LIMIT_SECONDS = 3.0
_LOST_SECONDS = 30.0
NEEDED = "apt-get install -y chromium chromium-driver, and pip install -r requirements-dev.txt"


@dataclass(frozen=True)
class Page:
    """path: after the server's name. ready: JavaScript, true once the content is there; `text` is the
    text on the page, `lines` the number of lines in its charts. inside: text of the frame on the page."""

    name: str
    path: str
    ready: str
    inside: str = ""


def pages(experiment: str, study: str, study_run: str, trial: str) -> tuple[Page, ...]:
    """What a user opens to read a study. study_run, trial: ids of its run and of one below it."""
    plain = f"#/experiments/{experiment}/runs?workflowType=machine_learning"
    name, arms = f"study {study}", f"study-{study}"
    of_trial = partial(views.run_page, experiment, trial)
    return (
        Page(
            "experiments", "#/experiments?workflowType=machine_learning", "text.includes('Default')"
        ),
        Page("runs, MLflow's own columns", plain, f"text.includes('{name}')"),
        Page(
            "runs, view of studies",
            views.page(experiment, "studies"),
            f"text.includes('{name}') && text.includes('verdict')",
        ),
        Page(
            "runs, arm by arm",
            views.page(experiment, arms),
            "text.includes('pytorch (again)') && text.includes('train/total_seconds')",
        ),
        Page(
            "charts by epoch, arm by arm", views.page(experiment, arms, charts=True), "lines >= 3"
        ),
        Page("study, overview", views.run_page(experiment, study_run), "text.includes('Verdict')"),
        Page(
            "trial, overview",
            of_trial(),
            "text.includes('trains mnist') && text.includes('Dataset')",
        ),
        Page("trial, model metrics", of_trial("model-metrics"), f"{_CHART} >= 1"),
        Page("trial, system metrics", of_trial("system-metrics"), "lines >= 3"),
        Page(
            "report among the artifacts",
            views.report_page(experiment, study_run),
            "document.querySelector('iframe') !== null",
            inside="like with like",
        ),
        Page(
            "models",
            f"#/experiments/{experiment}/models?workflowType=machine_learning",
            "text.includes('mnist_mlx')",
        ),
    )


_CHART = "document.querySelectorAll('.js-plotly-plot .main-svg').length"


def missing() -> str:
    """What a browser needs and is not here; "" where nothing is."""
    found = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    try:
        import selenium  # noqa: F401
    except ImportError:
        found.append("selenium")
    return f"{' and '.join(found)} not installed; {NEEDED}" if found else ""


@contextmanager
def browser(width: int = 1920, height: int = 1080) -> Iterator[Any]:
    """Chromium without a window, its own profile, ended with the block. Raises InputError."""
    if said := missing():
        raise InputError(said)
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    words = ["--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    words += ["--disable-extensions", "--disable-background-networking"]
    if os.geteuid() == 0:
        words.append("--no-sandbox")  # which Chromium refuses to root
    for word in [*words, f"--window-size={width},{height}"]:
        options.add_argument(word)
    # Given, so that nothing is looked for on the network.
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


_CLOSED = """
localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true');
localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false');
"""
_STATE = """
const text = document.body ? document.body.innerText : '';
const lines = document.querySelectorAll('.js-plotly-plot .scatterlayer .trace').length;
return Boolean(%s);
"""


def visit(driver: Any, address: str, page: Page) -> float:
    """Opens a page in an emptied tab; seconds until its content is there. Raises InputError where it
    does not come, with what is there instead."""
    driver.switch_to.default_content()
    if driver.current_url.startswith(
        address
    ):  # as whoever has closed the panel of the assistant once
        driver.execute_script(_CLOSED)
    driver.get("about:blank")
    start = time.perf_counter()
    driver.get(f"{address}/{page.path}")
    until = start + _LOST_SECONDS
    _wait(driver, _STATE % page.ready, page, until)
    if page.inside:
        driver.switch_to.frame(driver.find_element("css selector", "iframe"))
        _wait(driver, f"return document.body.innerText.toLowerCase().includes({page.inside!r});", page, until)  # fmt: skip
    return time.perf_counter() - start


def _wait(driver: Any, script: str, page: Page, until: float) -> None:
    while not driver.execute_script(script):
        if time.perf_counter() > until:
            shown = driver.execute_script("return document.body.innerText;")
            raise InputError(f"{page.name}: its content did not come; there is: {shown[:2000]}")
        time.sleep(0.02)


def shoot(driver: Any, folder: Path, name: str) -> None:
    """Keeps a picture of the page."""
    driver.switch_to.default_content()
    words = "".join(c if c.isalnum() else "-" for c in name.lower())
    (folder / f"{words}.png").write_bytes(driver.get_screenshot_as_png())


def made(folder: Path, runs: int) -> str:
    """A store with a study of at least so many runs; returns its URI. The working folder becomes
    `folder`."""
    os.chdir(folder)
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    mlflow.set_tracking_uri(uri)
    arms = len(recorded.ARMS) + 1  # and the second copy of the second
    recorded.write(STUDY, -(-runs // arms), models_of=1)
    return uri


def found(uri: str, study: str) -> tuple[str, str]:
    """(run of a study, run of the first of its trials that has a model)."""
    client = MlflowClient(uri)
    (top,) = client.search_runs(["0"], f"tags.kind = 'study' and tags.study = '{study}'")
    below = f"tags.kind = 'trial' and tags.study = '{study}' and tags.arm = 'mlx'"
    first = client.search_runs(["0"], below, order_by=["start_time ASC"], max_results=1)[0]
    return top.info.run_id, first.info.run_id


Visits = dict[str, list[tuple[float, float]]]


def measure(
    uri: str, folder: Path, repeats: int, pictures: Path | None, report: Any = say
) -> Visits:
    """Page -> (its seconds, those of processors in the server and the browser) of each visit, all pages
    once before any of them comes again."""
    found_runs = found(uri, STUDY)
    visits: Visits = {}
    with stores.server(uri, folder) as address, browser() as driver:
        for number in range(repeats):
            for page in pages("0", STUDY, *found_runs):
                before = _processors()
                taken = visit(driver, address, page)
                used = sum(now - before.get(pid, 0.0) for pid, now in _processors().items())
                visits.setdefault(page.name, []).append((taken, used))
                report(
                    f"{number + 1}/{repeats} {page.name}: {taken:.2f} s, {used:.2f} of processors"
                )
                if pictures and number == 0:
                    time.sleep(1)  # what is drawn last
                    shoot(driver, pictures, page.name)
    return visits


def _processors() -> dict[int, float]:
    """Seconds of processors that each process below this one has used so far."""
    used = {}
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # a tab's, ended meanwhile
            times = process.cpu_times()
            used[process.pid] = times.user + times.system
    return used


def table(visits: Visits) -> str:
    """Markdown: a line for each page."""
    lines = [
        "| page | first visit, s | later ones, median, s | longest, s | processors, median, s |",
        "|---|---|---|---|---|",
    ]
    for name, found in visits.items():
        seconds = [taken for taken, _ in found]
        later = median(seconds[1:] or seconds)
        over = " (over the limit)" if later > LIMIT_SECONDS else ""
        used = median(used for _, used in found)
        lines.append(
            f"| {name}{over} | {seconds[0]:.2f} | {later:.2f} | {max(seconds):.2f} | {used:.2f} |"
        )
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=whole, default=200, help="trials of the study, at least")
    parser.add_argument("--repeats", type=whole, default=4, help="visits of each page")
    parser.add_argument("--screenshots", type=Path, help="folder for a picture of each page")
    parser.add_argument("--output", type=Path, help="also write the times to this JSON file")
    options = parser.parse_args(words)
    pictures = options.screenshots and options.screenshots.absolute()
    output = options.output and options.output.absolute()
    try:
        if said := missing():
            raise InputError(said)
        if pictures:
            pictures.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as name:
            say(f"recording a study of {options.runs} trials")
            uri = made(Path(name), options.runs)
            visits = measure(uri, Path(name), options.repeats, pictures)
            os.chdir("/")
    except InputError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    print(table(visits))
    if output:
        facts = {"runs": options.runs, "machine": machine.facts(), "visits": visits}
        output.write_text(json.dumps(facts, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())

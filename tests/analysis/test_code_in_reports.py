"""The size of the code stands beside the speed and is never tested."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import rows as made
from fleet import analysed, measured
from mlflow.tracking import MlflowClient
from stored import store

from analysis import code_size, report, workloads, workloads_report
from analysis.comparison import analyse
from entrypoints import analyze as command
from tracking.names import CODE, METRICS

LINES = {"mlx": 58.0, "pytorch": 49.0}


def counted(row, lines=None):
    found = {name: float(10 + i) for i, name in enumerate(CODE)}
    found["code/source_lines"] = lines or LINES[row.cell["framework"]]
    found["code/shared_complexity"] = 0.0
    return replace(row, metrics={**row.metrics, **found})


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    path = tmp_path_factory.mktemp("code")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}/mlflow.db")
        patch.chdir(path)
        MlflowClient().get_experiment("0")
        store([(made.study(), [counted(row) for row in made.rows()])], made.samples)
        yield path


def test_the_report_shows_it_once_a_framework_with_how_it_is_counted(server, tmp_path):
    done = command.analyze("mnist-cpu", tmp_path)
    text, html = (tmp_path / "report.md").read_text(), (tmp_path / "report.html").read_text()
    assert "## Size of the code" in text and ">Size of the code</h2>" in html
    assert "| mlx | 58 | 11 | 12 | 13 | 14 | 0 |" in text
    assert "| pytorch | 49 | 11 | 12 | 13 | 14 | 0 |" in text
    assert text.count("| 58 |") == text.count("| 49 |") == html.count('<td class="n">58</td>') == 1
    for page in (text, html):
        assert "counted by radon" in page and "nothing is tested" in page
    assert "mlx 58 source lines, complexity 12; pytorch 49 source lines" in done.text
    for word in ("code/", "source lines"):
        assert word not in (tmp_path / "comparisons.csv").read_text()
    assert "code/source_lines" in (tmp_path / "trials.csv").read_text()


def test_it_is_exact_and_gets_no_ratio():
    assert CODE and all(METRICS[name].exact and METRICS[name].better is None for name in CODE)
    findings = analyse(made.study(), [counted(r) for r in made.rows()], np.random.default_rng(0))
    assert not [c for c in findings.comparisons if c.metric.startswith("code/")]
    same = analyse(made.study(), made.rows(), np.random.default_rng(0))
    assert findings.headline == same.headline and findings.comparisons == same.comparisons


def test_studies_from_before_it_was_counted_say_so():
    findings = analyse(made.study(), made.rows(), np.random.default_rng(0))
    assert code_size.grid(findings.arms) is None and code_size.line(findings.arms) == ""
    assert "Size of the code" not in report.terminal(findings)
    for page in (report.markdown(findings), report.html(findings, [])):
        assert "Not measured: these trials did not count it." in page


def test_a_file_that_was_changed_between_trials_is_seen():
    found = [counted(row, 58.0 if row.pair else 60.0) for row in made.rows()]
    findings = analyse(made.study(), found, np.random.default_rng(0))
    assert "58 to 60 (changed meanwhile)" in report.markdown(findings)


def test_several_studies_show_it_without_a_ratio():
    studies = [measured(name) for name in ("one", "two")]
    found = workloads.collect(analysed(*((s, [counted(r) for r in rows]) for s, rows in studies)))
    (section,) = (
        s for s in workloads_report.page(found, [], {}).sections if s.title == "Key numbers"
    )
    rows = [row for row in section.grid.rows if row[1] == "source lines"]
    assert [row[2:] for row in rows] == [("58 lines", "49 lines", "")] * 2

"""`versions` end to end: a store with two sessions, the report, one line for a mistake."""

from __future__ import annotations

import csv
import re

import pytest
from fleet import MLX, TORCH, measured
from mlflow.tracking import MlflowClient
from stored import store
from test_versions import NEW, OLD, merged, run, two

from analysis import page, versions_report
from entrypoints import versions as command


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A store with a regression of 20 % on m1, and sessions of unlike threads on m2."""
    path = tmp_path_factory.mktemp("versions")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}/mlflow.db")
        MlflowClient().get_experiment("0")
        shape = {"pairs": 8, "arms": (MLX, TORCH)}
        store(
            [
                measured("old", "m1", {MLX: 0.8}, cells=OLD, **shape),
                measured("new", "m1", {MLX: 0.96}, day=365, session_speed=1.4, cells=NEW, **shape),
                measured(
                    "m2", "m2", {MLX: 0.8}, cells=merged(OLD, {MLX: {"threads": "8"}}), **shape
                ),
            ]
        )
        yield path


def call(*arguments: str) -> int:
    try:
        command.main.main(args=list(arguments), prog_name="versions")
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_a_framework_developer_sees_the_regression(server, tmp_path, capsys):
    folder = tmp_path / "out"
    assert call("--output", str(folder)) == 0
    assert "regression: mlx 0.32.4 is slower than mlx 0.31.2" in capsys.readouterr().out
    with (folder / "changes.csv").open() as file:
        [change] = csv.DictReader(file)
    assert (change["evidence"], change["outcome"]) == ("control", "regression")
    assert float(change["low"]) < 1.2 < float(change["high"])
    with (folder / "versions.csv").open() as file:
        assert [row["version"] for row in csv.DictReader(file)] == ["0.31.2", "0.32.4"]
    html = (folder / "report.html").read_text()
    assert not re.search(r"https?://|<script|<link", html)
    assert {p.name for p in (folder / "figures").glob("*.png")} == {"changes.png", "versions_1.png"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--framework", "pytorch"), "a change needs two versions of pytorch"),
        (("--old", "0.1", "--new", "0.2"), "no study of mnist with mlx 0.1; there are: 0.31.2"),
        (("--machine", "m2"), "no two versions of mlx ran mnist under one condition"),
        (("--machine", "m7"), "no trial of mlx from the machine 'm7'; there are: m1, m2"),
        (("--workload", "whisper"), "no study of whisper in this store"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(server, tmp_path, capsys, arguments, said):
    assert call(*arguments, "--output", str(tmp_path)) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"Error: {said}")
    assert error.count("\n") == 1


def test_pages_are_regular_and_name_what_was_not_compared():
    found = run([*two(1.2, pairs=8), *two(1.2, "m2", pairs=8, new={MLX: {"threads": "8"}})])
    text = page.markdown(versions_report.page(found))
    for block in re.findall(r"(?:^\|.*\n)+", text, re.M):
        assert len({line.count("|") for line in block.splitlines()}) == 1
    assert "## Not compared" in text
    assert "threads is '2' in old-m2 and '8' in new-m2" in text
    assert found.changes[0].verdict in text
    assert found.changes[0].verdict in versions_report.terminal(found)


def test_what_has_no_ratio_is_reported_without_figure():
    found = run(two(1.2, pairs=8), metric="energy/joules")
    report = versions_report.page(found)
    assert report.drawings == ()
    assert "not measured: no meter on this machine" in page.html(report)
    assert "nan" not in page.markdown(report)

"""`machines` end to end: a store of several machines' studies, the report, one line for a mistake."""

from __future__ import annotations

import csv
import re

import pytest
from fleet import MLX, TORCH, analysed, fleet, measured
from mlflow.tracking import MlflowClient
from stored import store

from analysis import machines_report, page
from analysis.machines import Asked, across
from entrypoints import machines as command


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A store with three machines under one condition and one under another."""
    path = tmp_path_factory.mktemp("fleet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}/mlflow.db")
        MlflowClient().get_experiment("0")
        arms = (MLX, TORCH)
        made = fleet([0.78, 0.8, 0.82], pairs=6, arms=arms)
        odd = measured(
            "bf16", "m7", {MLX: 0.5}, 6, 5.0, arms=arms, cells={"*": {"dtype": "bfloat16"}}
        )
        store([*made, odd])
        yield path


def call(*arguments: str) -> int:
    try:
        command.main.main(args=list(arguments), prog_name="machines")
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_the_report_of_a_store(server, tmp_path, capsys):
    folder = tmp_path / "out"
    assert call("--output", str(folder)) == 0
    text = capsys.readouterr().out
    assert "on machines like these mlx blas=mkl is faster than pytorch blas=mkl" in text
    assert "not pooled with 1: dtype is 'float32' in the first and 'bfloat16' in this one" in text
    with (folder / "machines.csv").open() as file:
        found = list(csv.DictReader(file))
    assert [row["machine"] for row in found] == ["m0", "m1", "m2", "m7"]
    assert found[0]["machine_cpu"] == "chip of m0"
    with (folder / "pooled.csv").open() as file:
        pooled = list(csv.DictReader(file))
    assert [row["machines"] for row in pooled] == ["3", "1"]
    assert pooled[1]["numerator/dtype"] == "bfloat16"
    assert 0.7 < float(pooled[0]["low"]) < 0.8 < float(pooled[0]["high"]) < 0.9
    assert pooled[1]["low"] == ""
    html = (folder / "report.html").read_text()
    assert not re.search(r"https?://|<script|<link", html)
    assert html.count("<img alt=") == 2
    assert "chip of m1" in (folder / "report.md").read_text()
    assert len(list((folder / "figures").glob("*.png"))) == 2


def test_named_studies_of_other_conditions_are_refused_by_key(server, tmp_path, capsys):
    assert call("--studies", "s0, s1, bf16", "--output", str(tmp_path)) == 2
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("Error:")]
    assert len(lines) == 1
    assert "dtype is 'float32' in s0 and 'bfloat16' in bf16 (numerator and denominator)" in lines[0]
    assert "Traceback" not in error


def test_named_studies_of_one_condition_are_pooled(server, tmp_path, capsys):
    assert call("--studies", "s0,s1", "--output", str(tmp_path)) == 0
    assert "these machines only (m0, m1)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--studies", "s0,nope"), "no study 'nope' of mnist in this store; there are: bf16, s2"),
        (("--workload", "whisper"), "no study of whisper in this store"),
        (("--metric", "speed"), "'speed' is no metric"),
        (("--numerator", "mlx"), "numerator and denominator: expected both or neither"),
        (("--role", "wheel"), "no study of mnist has a pairing of the role 'wheel'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(server, tmp_path, capsys, arguments, said):
    assert call(*arguments, "--output", str(tmp_path)) == 2
    error = capsys.readouterr().err
    assert f"Error: {said}" in error
    assert "Traceback" not in error


def test_a_folder_that_cannot_be_written_is_one_line(server, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert call("--output", str(tmp_path / "file")) == 2
    assert "cannot write the report to" in capsys.readouterr().err


def test_pages_are_regular_and_escape_names():
    made = [measured("<b>x", "m<1>", {MLX: 0.8}), *fleet([0.8] * 2)]
    report = machines_report.page(across("mnist", analysed(*made), Asked()))
    html, text = page.html(report), page.markdown(report)
    assert "<b>x" not in html
    assert "&lt;b&gt;x" in html
    for block in re.findall(r"(?:^\|.*\n)+", text, re.M):
        assert len({line.count("|") for line in block.splitlines()}) == 1
    assert report.verdict[0] in html.replace("&#39;", "'")


def test_machines_without_ratio_are_reported_without_figure():
    found = across("mnist", analysed(*fleet([0.8] * 2, pairs=6)), Asked(metric="energy/joules"))
    report = machines_report.page(found)
    assert len(report.drawings) == 1  # the declared metric has one
    assert "not measured: no meter" in page.markdown(report)
    assert "not measured: no meter" in machines_report.terminal(found)

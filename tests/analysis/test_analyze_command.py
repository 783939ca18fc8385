"""The command: files, exit codes, one line for a mistake."""

from __future__ import annotations

import pytest
from rows import rows, samples, study

from analysis.findings import Drawing
from entrypoints import analyze as command
from measurement.errors import InputError

DRAWN = [Drawing("ratio_by_pairing", "Ratio", "Ratio of every pair", b"light", b"dark")]


@pytest.fixture
def store(monkeypatch):
    """A tracking server that holds one study; what was attached is kept."""
    attached = []

    def find(name, machine):
        if name not in (None, "mnist-cpu"):
            raise InputError(f"no study named '{name}' in this store; there are: mnist-cpu")
        return [study()]

    monkeypatch.setattr(command.read, "machines_of", find)
    monkeypatch.setattr(command.read, "trials_of", lambda study: rows())
    monkeypatch.setattr(
        command.read, "samples_of", lambda run_ids: {r.run_id: samples(r) for r in rows()}
    )
    monkeypatch.setattr(command.read, "every_study", list)
    monkeypatch.setattr(command.figures, "draw", lambda findings: DRAWN)
    monkeypatch.setattr(command.write, "attach", lambda *given: attached.append(given))
    monkeypatch.setattr(command.views, "conclude", lambda *given: None)
    return attached


def call(*arguments: str) -> int:
    try:
        command.main.main(args=list(arguments), prog_name="analyze")
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_writes_and_attaches_the_report(store, tmp_path, capsys):
    folder = tmp_path / "out"
    assert call("--output", str(folder)) == 0
    assert "is faster than" in capsys.readouterr().out
    written = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert {"comparisons.csv", "trials.csv", "report.html", "report.md"} <= written
    assert "figures/ratio_by_pairing.png" in written
    assert store == [("parent", folder, "report")]


def test_the_default_folder_is_named_after_the_study(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = command.analyze()
    assert str(done.folder) == "results/mnist-cpu"
    assert done.verdict in done.text
    assert (tmp_path / done.folder / "report.html").exists()


def test_every_metric_of_every_pairing_on_request(store, tmp_path, capsys):
    printed = []
    for value in ("false", "true"):
        assert call("--output", str(tmp_path), "--every_metric", value) == 0
        printed.append(capsys.readouterr().out.count("training step, median"))
    assert printed == [1, 4]


def test_twice_gives_the_same(store, tmp_path):
    one, other = (command.analyze(None, tmp_path / name) for name in "ab")
    assert one.text == other.text
    for name in ("comparisons.csv", "report.html"):
        assert (one.folder / name).read_bytes() == (other.folder / name).read_bytes()


def test_an_unknown_study_is_one_line_and_exit_2(store, capsys):
    assert call("--study", "nope") == 2
    error = capsys.readouterr().err
    assert error == "Error: no study named 'nope' in this store; there are: mnist-cpu\n"


def test_a_folder_that_cannot_be_written_is_one_line_and_exit_2(store, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert call("--output", str(tmp_path / "file")) == 2
    error = capsys.readouterr().err
    assert error.startswith("Error: cannot write the report to")
    assert error.count("\n") == 1

"""Four studies in one report: the numbers, the page, the command, and what it refuses."""

from __future__ import annotations

import csv
import re
import struct
from dataclasses import replace

import language
import pytest
from language import MLX, TORCH, spoilt
from mlflow.tracking import MlflowClient
from stored import store

from analysis import page, workloads_figures, workloads_report
from analysis.sessions import session
from analysis.workloads import collect
from entrypoints import analyze as command
from measurement.errors import InputError


def four(pairs: int = 8):
    return [
        language.tinyllama(pairs=pairs),
        language.whisper(pairs=pairs),
        language.transformer(pairs=pairs),
        language.bert_of_other_work(),
    ]


def collected(made):
    return collect([session(*one) for one in made])


@pytest.fixture(scope="module")
def found():
    return collected(four())


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    path = tmp_path_factory.mktemp("workloads")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}/mlflow.db")
        patch.chdir(path)
        MlflowClient().get_experiment("0")
        mixed = replace(language.tinyllama()[0], name="mixed")
        wrong = {"inference/total_seconds": 700.0}
        rows = [
            replace(r, study="mixed", run_id=f"mixed-{r.run_id}")
            for r in spoilt(language.tinyllama(), MLX, metrics=wrong)[1]
        ]
        store([*four(), (mixed, rows)], language.kept)
        yield path


def call(*arguments: str) -> int:
    try:
        command.main.main(args=list(arguments), prog_name="analyze")
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_p_is_adjusted_over_all_of_them(found):
    assert [h.workload for h in found.headlines] == [
        "tinyllama", "whisper_tiny", "transformer_lm", "bert_tiny",
    ]  # fmt: skip
    # Eight pairs on one side are p = 2**-7; Holm's smallest is four times that, the rest no less.
    assert [h.comparison.p for h in found.headlines[:3]] == pytest.approx([2**-5] * 3)
    assert [h.comparison.outcome for h in found.headlines] == ["better", "worse", "better", "none"]
    assert [h.comparison.family for h in found.headlines[:3]] == [4, 4, 4]
    assert found.needed_pairs == 8


def test_a_refused_study_stays_in_the_family(found):
    last = found.headlines[-1]
    assert last.refused.startswith("not equal work (pair 0): the receipts differ in steps")
    assert last.verdict == f"no ratio: {last.refused}"
    three = collected(four()[:3])
    assert three.headlines[0].comparison.p == pytest.approx(3 * 2**-7)


def test_six_pairs_answer_one_question_and_not_four():
    few = collected(four(pairs=6)[:3] + four()[3:])
    for h, alone in zip(few.headlines[:3], ("better", "worse", "better"), strict=True):
        assert (h.alone, h.comparison.outcome) == (alone, "undecided")
        assert "HOLM-FEW" in [flag.name for flag in h.comparison.flags]
        assert h.verdict.startswith("undecided with 6 pairs")
    assert "better in its study alone" in workloads_report.terminal(few)


def test_a_blocking_flag_still_forbids_a_verdict():
    plan, rows = language.tinyllama()
    apart = [replace(r, start_seconds=1e6 * plan.arms.index(r.arm) + (r.pair or 0)) for r in rows]
    h = collected([(plan, apart), language.transformer()]).headlines[0]
    assert h.comparison.outcome == "undecided" and "NOT-INTERLEAVED forbids" in h.verdict


def test_a_study_that_was_refused_whole_is_a_row():
    wrong = spoilt(language.tinyllama(), MLX, metrics={"inference/total_seconds": 700.0})
    found = collected([wrong, language.transformer()])
    assert found.headlines[0].comparison is None
    assert "units are mixed" in found.headlines[0].verdict
    drawings = workloads_figures.draw(found)
    shown = page.markdown(workloads_report.page(found, drawings, {"lm": "lm/report.html"}))
    assert "| tinyllama | generation | cpu |" in shown and "refused: run llama-mlx" in shown
    assert "(lm/report.html)" in shown and "(llama/report.html)" not in shown


def test_several_machines_and_devices_are_said():
    plan, rows = language.transformer()
    far = [replace(r, machine="m2", cell={**r.cell, "device": "gpu"}) for r in rows]
    notes = " ".join(collected([language.tinyllama(), (plan, far)]).notes)
    assert "ran on 2 machines (m1, m2)" in notes and "device (cpu, gpu)" in notes
    assert collected(four()).notes == ()


@pytest.mark.parametrize("count", [1, 2])
def test_the_same_study_twice_or_one_alone_is_refused(count):
    with pytest.raises(InputError, match="expected two or more different ones"):
        collected([language.tinyllama()] * count)


def test_figures_say_what_was_refused_and_show_the_machine_against_itself(found):
    drawings = workloads_figures.draw(found)
    assert [d.name for d in drawings] == ["workloads", "workloads_memory"]
    assert "Training of bert_tiny (cpu, float32, preset cpu)" in drawings[0].alt
    assert "no ratio: not equal work" in drawings[0].alt
    assert "tinyllama: pytorch blas=mkl against itself" in drawings[0].alt
    for d in drawings:
        assert d.light.startswith(b"\x89PNG")
        assert struct.unpack(">I", d.light[16:20])[0] >= 1200
        assert d.svg and d.narrow and d.grid is not None


def test_nothing_to_draw_is_no_figure_and_still_a_page():
    made = [spoilt(one, MLX, receipt={"items": 1}) for one in (four()[2], four()[3])]
    made = [(plan, [replace(r, parity=None) for r in rows]) for plan, rows in made]
    for _, rows in made:
        for r in rows:
            r.metrics.pop("train/items_per_second")
    found = collected(made)
    assert workloads_figures.draw(found) == []
    text = page.markdown(workloads_report.page(found, [], {}))
    assert text.count("no ratio: not equal work") == 4
    assert "None" not in text


def test_the_tables_are_regular_and_names_are_escaped(found):
    made = [*four()[:1], spoilt(four()[1], MLX, cell={"preset": "<b>x|y"})]
    other = collected(made)
    html = page.html(workloads_report.page(other, workloads_figures.draw(other), {}))
    assert "<b>x" not in html and "&lt;b&gt;x" in html
    text = page.markdown(workloads_report.page(found, workloads_figures.draw(found), {}))
    for block in re.findall(r"(?:^\|.*\n)+", text, re.M):
        assert len({line.replace("\\|", "").count("|") for line in block.splitlines()}) == 1


def test_four_studies_of_a_store_in_one_report(server, tmp_path, capsys):
    folder = tmp_path / "out"
    assert call("--study", "llama, speech,lm,bert", "--output", str(folder)) == 0
    text = capsys.readouterr().out
    assert "Generation by tinyllama: mlx blas=mkl is faster than pytorch blas=mkl" in text
    assert "Training of bert_tiny: no ratio: not equal work (pair 0)" in text
    html = (folder / "report.html").read_text()
    assert not re.search(r"https?://|<script|<link", html)
    assert html.count('role="img"') == 2 * 2 and html.count("prefers-color-scheme: dark") == 1
    for name in ("llama", "speech", "lm", "bert"):
        assert f'href="{name}/report.html"' in html
        assert (folder / name / "report.html").is_file()
    assert (folder / "figures/workloads.png").is_file()
    assert (folder / "llama/figures/generation.png").is_file()
    assert MLX in html and TORCH in html and "Holm, 4" in html
    with (folder / "workloads.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["primary"] == "True"]
    assert [row["study"] for row in rows] == ["llama", "speech", "lm", "bert"]
    assert [row["outcome"] for row in rows] == ["better", "worse", "better", "none"]
    assert float(rows[0]["p"]) == pytest.approx(2**-5)
    assert (rows[3]["ratio"], rows[3]["family"]) == ("", "4")


def test_a_refused_study_of_a_store_has_no_report_of_its_own(server, tmp_path, capsys):
    assert call("--study", "lm,mixed", "--output", str(tmp_path)) == 0
    assert "units are mixed" in capsys.readouterr().out
    assert not (tmp_path / "mixed").exists()


@pytest.mark.parametrize(
    ("studies", "said"),
    [
        ("lm,nope", "no study named 'nope' in this store; there are:"),
        ("lm,lm", "studies lm, lm: expected two or more different ones"),
        ("lm,", "no study named ''"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(server, tmp_path, capsys, studies, said):
    assert call("--study", studies, "--output", str(tmp_path / "out")) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error")]
    assert len(error) == 1 and said in error[0]
    assert not (tmp_path / "out").exists()

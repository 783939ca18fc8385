"""A sweep with a known crossing: curves, sentences, page, figures, files."""

from __future__ import annotations

import csv
import re
import struct
from dataclasses import replace

import numpy as np
import pytest
from rows import changed, rows, study
from sweeps import AGAIN, CROSSING, MLX, TORCH, VALUES, sweep_rows, sweep_study

from analysis import page, sweep, sweep_figures, sweep_report
from analysis.comparison import analyse
from entrypoints import analyze as command


def found(plan=None, **truth):
    plan = plan or sweep_study()
    return analyse(plan, sweep_rows(plan, **truth), np.random.default_rng(0))


@pytest.fixture(scope="module")
def findings():
    return found()


@pytest.fixture(scope="module")
def swept(findings):
    return sweep.trace(findings)


@pytest.fixture(scope="module")
def drawings(swept):
    return sweep_figures.draw(swept)


def test_another_study_is_no_sweep():
    assert sweep.trace(analyse(study(), rows(), np.random.default_rng(0))) is None


def test_the_curve_crosses_where_the_rows_do(swept):
    assert (swept.numerator, swept.denominator) == ("mlx blas=mkl", "pytorch blas=mkl")
    assert swept.primary.metric == "train/total_seconds"
    one = swept.primary.crossings.found[0]
    assert one.low < CROSSING < one.high
    assert one.between == (64.0, 128.0) and not one.rising
    assert swept.primary.sentences == (
        "training time (all timed epochs): the ratio passes 1 at batch_size 90.9 (95 % interval "
        "87.1 to 94.8); mlx blas=mkl is slower than pytorch blas=mkl at 64, is faster than it at 128",
    )


def test_a_metric_where_more_is_better_is_said_in_its_own_direction(swept):
    curve = next(c for c in swept.curves if c.metric == "train/items_per_second")
    assert curve.crossings.found[0].rising
    assert "is slower than pytorch blas=mkl at 64, is faster than it at 128" in curve.sentences[0]


def test_one_arm_ahead_everywhere(swept):
    curve = next(c for c in swept.curves if c.metric == "memory/process_peak_bytes")
    assert curve.crossings.found == ()
    assert curve.sentences == (
        "peak memory of the process, or of all ranks: no crossing shown, mlx blas=mkl uses less "
        "memory than pytorch blas=mkl at every value of batch_size from 16 to 512",
    )


def test_single_values_are_said_after_holm():
    plan = sweep_study(pairs=6)  # six values need nine pairs, so that only the curve speaks
    one = sweep.trace(found(plan, octave=0.0, spread=0.05))
    assert "no crossing shown, " in one.primary.sentences[0]
    assert "undecided" in one.primary.sentences[0]
    assert "faster" not in one.primary.sentences[0]


def test_five_pairs_and_fewer_than_planned_give_no_crossing():
    assert "undecided at every value" in sweep.trace(found(sweep_study(5))).primary.sentences[0]
    plan = sweep_study()
    missing = [
        r for r in sweep_rows(plan) if not (r.arm == MLX.format(64) and r.pair == plan.pairs - 1)
    ]
    one = sweep.trace(analyse(plan, missing, np.random.default_rng(0)))
    assert one.primary.crossings is None
    assert one.primary.sentences == (
        "training time (all timed epochs): no verdict, a value has 9 to 10 pairs where 10 were "
        "planned",
    )


def test_a_value_without_equal_work_has_no_point():
    plan = sweep_study()
    faulty = sweep_rows(plan)
    for pair in range(plan.pairs):
        faulty = changed(faulty, MLX.format(16), pair, receipt={"steps": 1})
    one = sweep.trace(analyse(plan, faulty, np.random.default_rng(0)))
    assert [value for value, _ in one.primary.points] == list(VALUES[1:])
    assert "the receipts differ in steps" in one.primary.missing[0][1]
    assert len(one.primary.crossings.found) == 1
    assert "batch_size 16: no ratio: not equal work" in sweep_report.terminal(
        analyse(plan, faulty, np.random.default_rng(0)), one
    )


def test_runs_out_of_order_forbid_a_crossing():
    plan = sweep_study()
    sorted_by_arm = [
        replace(r, start_seconds=1e6 * plan.arms.index(r.arm) + r.pair) for r in sweep_rows(plan)
    ]
    one = sweep.trace(analyse(plan, sorted_by_arm, np.random.default_rng(0)))
    assert one.primary.crossings is None
    assert "NOT-INTERLEAVED forbids" in one.primary.sentences[0]


def test_terminal_has_a_line_a_value_and_ends_with_the_crossing(findings, swept):
    text = sweep_report.terminal(findings, swept)
    assert text.rstrip().endswith(swept.primary.sentences[0])
    lines = re.findall(r"^ +(\d+)  .* / .*\]  +(above|below|open) +(\w+), p", text, re.M)
    assert [int(value) for value, _, _ in lines] == list(VALUES)
    assert [side for _, side, _ in lines] == ["above"] * 3 + ["below"] * 3
    assert [word for _, _, word in lines] == ["worse"] * 3 + ["better"] * 3
    assert text.count("! COMPILE-DIFFERS") == 1
    every = sweep_report.terminal(findings, swept, every_metric=True)
    assert every.count("side of 1, outcome") == sum(bool(c.points) for c in swept.curves)


def test_page_starts_with_the_crossing_and_shows_every_figure(findings, swept, drawings):
    shown = sweep_report.page(findings, swept, drawings)
    text, html = page.markdown(shown), page.html(shown)
    assert text.index("passes 1 at batch_size 90.9") < text.index("## ")
    assert len(re.findall(r"!\[", text)) == len(drawings)
    assert html.count("<img") == len(drawings)
    assert "None" not in text.replace("compile (mx.compile, none)", "")
    for block in re.findall(r"(?:^\|.*\n)+", text, re.M):
        assert len({line.count("|") for line in block.splitlines()}) == 1
    assert "not measured: no meter on this machine" in text
    assert f"{TORCH.format(128)} against itself" in text


def test_a_figure_a_metric_in_both_themes(swept, drawings):
    assert [d.name for d in drawings] == [
        f"sweep_{c.metric.replace('/', '_')}" for c in swept.curves if c.points
    ]
    assert drawings[0].name == "sweep_train_total_seconds"
    assert "passes 1 at batch_size 90.9" in drawings[0].alt
    for d in drawings:
        for png in (d.light, d.dark):
            assert png.startswith(b"\x89PNG")
            assert struct.unpack(">I", png[16:20])[0] >= 1200
        assert d.light != d.dark


def test_analyze_writes_the_sweep(monkeypatch, tmp_path):
    plan, attached = sweep_study(pairs=6, values=(64, 128)), []
    monkeypatch.setattr(command.read, "machines_of", lambda name, machine: [plan])
    monkeypatch.setattr(command.read, "trials_of", lambda study: sweep_rows(plan))
    monkeypatch.setattr(command.read, "every_study", list)
    monkeypatch.setattr(command.read, "samples_of", lambda run_ids: {})
    monkeypatch.setattr(command.write, "attach", lambda *given: attached.append(given))
    monkeypatch.setattr(command.views, "conclude", lambda *given: None)
    done = command.analyze(None, tmp_path)
    assert "passes 1 at batch_size" in done.verdict
    assert attached == [("parent", tmp_path, "report")]
    written = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert {
        "comparisons.csv", "trials.csv", "crossings.csv", "report.md", "report.html",
        "figures/sweep_train_total_seconds.png",
    } <= written  # fmt: skip
    with (tmp_path / "crossings.csv").open() as file:
        records = list(csv.DictReader(file))
    first = records[0]
    assert (first["metric"], first["ratio"]) == ("train/total_seconds", "falls")
    assert (first["left"], first["right"]) == ("64.0", "128.0")
    assert float(first["low"]) < float(first["value"]) < float(first["high"])
    memory = next(r for r in records if r["metric"] == "memory/process_peak_bytes")
    assert memory["value"] == "" and "at every value" in memory["sentence"]


def test_the_same_arm_is_kept_apart(swept):
    assert {c.numerator for c in swept.same_arm} == {AGAIN}
    assert all(AGAIN not in c.numerator for curve in swept.curves for _, c in curve.points)

"""Reports hold what was found, in words, files and pictures that stand alone."""

from __future__ import annotations

import csv
import re
import struct
from dataclasses import replace

import numpy as np
import pytest
from rows import rows, samples, study

from analysis import figures, report
from analysis.comparison import COMPARED, Around, analyse
from tracking.read import Pairing


@pytest.fixture(scope="module")
def findings():
    around = Around({row.run_id: samples(row) for row in rows()})
    return analyse(study(), rows(), np.random.default_rng(0), around)


@pytest.fixture(scope="module")
def drawings(findings):
    return figures.draw(findings)


@pytest.fixture(scope="module")
def page(findings, drawings):
    return report.html(findings, drawings)


def test_terminal_shows_every_headline_metric_and_ends_with_the_verdict(findings):
    text = report.terminal(findings)
    assert text.rstrip().endswith(findings.headline)
    assert "ratio 0.794, 95 % interval 0.775 to 0.847" in text
    assert "mlx blas=mkl better in 6 of 6 pairs; resolution ±3.2 %; p 0.031" in text
    assert "not measured: no meter on this machine" in text
    assert "! COMPILE-DIFFERS" in text
    assert text.count("training step, median") == 1
    assert report.terminal(findings, every_metric=True).count("training step, median") == 4


def test_a_flag_of_the_whole_pairing_is_said_once(findings):
    assert report.terminal(findings).count("! REFERENCE-BLAS:") == 2  # two pairings carry it


def test_csv_has_one_row_per_pairing_and_metric_at_full_precision(findings, tmp_path):
    report.write_csv(tmp_path / "c.csv", report.comparison_records(findings))
    with (tmp_path / "c.csv").open() as file:
        found = list(csv.DictReader(file))
    known = rows()[0].metrics.keys() | rows()[0].not_measured.keys()
    assert len(found) == 4 * sum(name in known for name in COMPARED)
    first = next(c for c in findings.comparisons if c.ratio)
    row = next(r for r in found if r["role"] == first.role and r["metric"] == first.metric)
    assert float(row["ratio"]) == first.ratio.estimate
    assert [float(r) for r in row["pair_ratios"].split()] == [p.ratio for p in first.points]
    energy = next(r for r in found if r["metric"] == "energy/joules")
    assert (energy["ratio"], energy["verdict"]) == ("", "not measured: no meter on this machine")


def test_trials_csv_is_tidy(findings, tmp_path):
    report.write_csv(tmp_path / "t.csv", findings.trials)
    with (tmp_path / "t.csv").open() as file:
        found = list(csv.DictReader(file))
    assert len(found) == 30
    assert {r["evidence"] for r in found} == {"True"}
    assert {r["condition/device"] for r in found} == {"cpu"}
    assert float(found[0]["train/total_seconds"]) > 0
    assert found[0]["energy/joules"] == ""


def test_html_stands_alone(page):
    assert not re.search(r"https?://|<script|@import|<link", page)
    assert len(re.findall(r'role="img" aria-label="[^"]{20,}"', page)) == 2 * len(DRAWN)
    assert page.startswith("<!doctype html>")


def test_html_escapes_names():
    found = [replace(r, arm=r.arm.replace("mlx", "<b>mlx")) for r in rows()]
    plan = study(
        arms=tuple(dict.fromkeys(r.arm for r in found)),
        comparisons=(Pairing("<b>mlx blas=mkl", "pytorch blas=mkl", "headline"),),
    )
    findings = analyse(plan, found, np.random.default_rng(0))
    page = report.html(findings, figures.draw(findings))
    assert "<b>mlx" not in page
    assert "&lt;b&gt;mlx" in page


def test_html_and_markdown_carry_the_verdict(findings, page):
    for line in findings.headline.splitlines():
        assert line in page
        assert f"- {line} n = 6 pairs; " in report.markdown(findings)


def test_markdown_tables_are_regular(findings):
    for block in re.findall(r"(?:^\|.*\n)+", report.markdown(findings), re.M):
        assert len({line.count("|") for line in block.splitlines()}) == 1


DRAWN = [
    "ratio_by_pairing", "ratio_by_metric", "epoch_times", "latency", "convergence", "time_to_target",
    "memory", "cost", "roofline",
]  # fmt: skip


def test_a_figure_is_a_png_for_files_and_drawn_for_the_page(drawings):
    assert [d.name for d in drawings] == DRAWN
    for d in drawings:
        assert d.light.startswith(b"\x89PNG")
        assert struct.unpack(">I", d.light[16:20])[0] >= 1200
        assert d.svg.startswith("<svg") and d.narrow.startswith("<svg") and d.grid is not None


def test_figures_need_no_samples_and_no_ratio():
    without = [replace(r, parity=None) for r in rows()]
    findings = analyse(study(), without, np.random.default_rng(0))
    drawn = figures.draw(findings)
    assert [d.name for d in drawn] == ["time_to_target", "memory", "cost", "roofline"]
    assert "no ratio: not equal work" in report.terminal(findings)
    assert "no ratio: not equal work" in report.html(findings, drawn)
    assert "no ratio: not equal work" in report.markdown(findings)


def test_five_pairs_are_reported_without_interval():
    findings = analyse(study(pairs=5), rows(pairs=5), np.random.default_rng(0))
    drawn = figures.draw(findings)
    for text in (
        report.terminal(findings),
        report.markdown(findings),
        report.html(findings, drawn),
    ):
        assert "no interval" in text
        assert "None" not in text


def test_a_run_that_never_arrives_is_drawn():
    never = [
        replace(r, metrics={k: v for k, v in r.metrics.items() if not k.startswith("target/")})
        for r in rows()
    ]
    findings = analyse(study(), never, np.random.default_rng(0))
    assert "time_to_target" in [d.name for d in figures.draw(findings)]
    assert "0 of 6 arrived" in report.terminal(findings)

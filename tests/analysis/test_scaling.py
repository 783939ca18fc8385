"""A scaling study with known efficiencies: numbers, refusals, sentences, page, figures, files."""

from __future__ import annotations

import csv
import inspect
import re
import struct
from dataclasses import replace

import numpy as np
import pytest
from rows import changed
from scalings import (
    AGAIN,
    EFFICIENCY,
    SHARE,
    STEMS,
    members,
    scaling_rows,
    scaling_study,
)

from analysis import page, scaling, scaling_figures, scaling_report
from analysis.comparison import analyse
from analysis.scaling_jobs import Job, Share, Spread
from entrypoints import analyze as command
from measurement.errors import InputError
from tracking.names import METRICS, RANKED

MLX, TORCH = STEMS
ONE, TWO, WEAK = members()[0].name, members()[1].name, members()[3].name
TIMES = [label for name, label in ((n, METRICS[n].label) for n in METRICS) if "seconds" in name]


def found(plan=None, rows=None):
    plan = plan or scaling_study()
    rows = scaling_rows(plan) if rows is None else rows
    findings = analyse(plan, rows, np.random.default_rng(0))
    return findings, scaling.trace(findings, rows)


def gain(scaled, kind="strong", framework=MLX, ranks=2):
    return next(
        one
        for one in scaled.whole.gains
        if (one.kind, one.framework, one.ranks) == (kind, framework, ranks)
    )


def everywhere(rows, arm, **changes):
    """The rows with every trial of an arm changed."""
    for pair in {row.pair for row in rows}:
        rows = changed(rows, arm, pair, **changes)
    return rows


@pytest.fixture(scope="module")
def result():
    return found()


@pytest.fixture(scope="module")
def drawings(result):
    return scaling_figures.draw(result[1].whole)


@pytest.fixture(scope="module")
def shown(result, drawings):
    return scaling_report.page(*result, drawings)


def test_known_efficiencies_are_inside_their_intervals(result):
    whole = result[1].whole
    assert len(whole.strong) == len(whole.weak) == 4
    for one in whole.gains:
        truth = EFFICIENCY[one.framework, one.kind]
        assert one.efficiency.low < truth < one.efficiency.high, one.sentence
        assert one.efficiency.high / one.efficiency.low < 1.1
        assert one.refused is None and len(one.points) == 8


def test_speed_up_is_efficiency_times_ranks_and_only_of_equal_work(result):
    for one in result[1].whole.strong:
        assert one.speed_up.estimate == pytest.approx(one.ranks * one.efficiency.estimate)
        assert one.speed_up.low == pytest.approx(one.ranks * one.efficiency.low)
        assert one.speed_up.high == pytest.approx(one.ranks * one.efficiency.high)
    assert all(one.speed_up is None for one in result[1].whole.weak)


def test_the_interval_has_its_error_rate():
    """In 60 studies of 8 blocks the 95 % interval of the efficiency misses it in 3; 8 is 1 in 100."""
    missed = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        one = np.exp(rng.normal(0, 0.05, 8))
        many = one / (2 * 0.8) * np.exp(rng.normal(0, 0.03, 8))
        ratio = scaling.statistics.paired_ratio(one, 2 * many)
        missed += not ratio.low < 0.8 < ratio.high
    assert missed <= 8


def test_five_blocks_have_no_interval_and_no_verdict():
    one = gain(found(scaling_study(5))[1])
    assert one.efficiency.low is None
    assert "no verdict from 5 pairs; the efficiencies are 0." in one.sentence
    assert "FEW" in [flag.name for flag in one.flags]
    assert "FEW" in [flag.name for flag in gain(found(scaling_study(5))[1], "weak").flags]


def test_missing_blocks_are_no_verdict_yet():
    plan = scaling_study()
    rows = [r for r in scaling_rows(plan) if not (r.arm in (TWO, WEAK) and r.pair == 7)]
    scaled = found(plan, rows)[1]
    for kind in ("strong", "weak"):
        one = gain(scaled, kind)
        assert "no verdict from 7 pairs where 8 were planned; it is between" in one.sentence
        assert {"INCOMPLETE", "LEFT-OUT"} <= {flag.name for flag in one.flags}


def test_runs_out_of_order_forbid_a_verdict():
    plan = scaling_study()
    rows = [
        replace(r, start_seconds=1e6 * plan.arms.index(r.arm) + r.pair) for r in scaling_rows(plan)
    ]
    scaled = found(plan, rows)[1]
    assert all("NOT-INTERLEAVED forbids one" in one.sentence for one in scaled.whole.gains)


def test_the_frameworks_at_every_number_of_ranks_are_one_family(result):
    asked = [(n, c) for n, c in result[1].whole.headlines if c.metric == "train/total_seconds"]
    assert [n for n, _ in asked] == [1, 2, 4]
    assert {c.family for _, c in asked} == {3}
    assert [c.outcome for _, c in asked] == ["better"] * 3
    truth = 0.8 / 0.8 * 0.6  # seconds of one process, then efficiencies
    assert asked[1][1].ratio.low < truth < asked[1][1].ratio.high
    assert result[1].sentences[1].startswith(f"2 ranks: {TWO} is faster than ")


def test_one_framework_has_no_question_of_two():
    plan = scaling_study(stems=(TORCH,))
    findings, scaled = found(plan)
    assert scaled.whole.headlines == ()
    assert [one.framework for one in scaled.whole.gains] == [TORCH] * 4
    text = page.markdown(scaling_report.page(findings, scaled, []))
    assert "over pytorch" not in text and "Strong scaling" in text


REFUSALS = [
    (TWO, {"cell": {"threads": "2"}}, "threads of a rank differ: 2 for"),
    (TWO, {"cell": {"dtype": "float16"}}, "not like with like: dtype is 'float16'"),
    (TWO, {"cell": {"version_framework": "0.31"}}, "a pairing of the role 'scaling' is of one version"),
    (TWO, {"receipt": {"steps": 1}}, "the receipts differ in steps"),
    (TWO, {"receipt": None}, "a work receipt is missing"),
    (TWO, {"parity": None}, "evidence of equal work is missing"),
    (TWO, {"flags": ("AUDIT",)}, "failed the completion audit"),
    (WEAK, {"cell": {"threads": "2"}}, "threads of a rank differ"),
    (WEAK, {"cell": {"batch_size": "300"}}, "the batch of a rank does not stay: 300 over 2 ranks"),
    (WEAK, {"cell": {"dtype": "float16"}}, "not like with like: dtype is 'float16'"),
    (WEAK, {"receipt": {"eval_items": 1}}, "the receipts differ in eval_items"),
    (WEAK, {"receipt": None}, "has no work receipt"),
    (WEAK, {"parity": None}, "has no evidence of its work"),
    (WEAK, {"parity": {"losses": [2.3, 2.1]}}, "not equal work with pytorch blas=mkl ranks=2"),
    (WEAK, {"flags": ("AUDIT",)}, "failed the completion audit"),
]  # fmt: skip


@pytest.mark.parametrize(("arm", "wrong", "sentence"), REFUSALS, ids=[r[2] for r in REFUSALS])
def test_a_refusal_is_one_sentence_and_no_number(arm, wrong, sentence):
    plan = scaling_study(6, (1, 2))
    rows = everywhere(scaling_rows(plan), arm, **wrong)
    findings, scaled = found(plan, rows)
    one = gain(scaled, "weak" if arm == WEAK else "strong")
    assert sentence in one.refused
    assert one.efficiency is None and one.speed_up is None and one.points == ()
    assert one.sentence == (f"{one.kind} scaling of {MLX} to 2 ranks: no efficiency: {one.refused}")
    assert one.sentence in page.markdown(scaling_report.page(findings, scaled, []))
    record = next(r for r in scaling.records(findings, scaled.whole) if r["arm"] == arm)
    assert record["efficiency"] is None and record["speed_up_low"] is None
    others = [g for g in scaled.whole.gains if g.framework == TORCH and g.kind == "strong"]
    assert all(g.refused is None for g in others)


def test_half_of_the_items_is_no_whole_data_set():
    plan = scaling_study(6)
    half = [
        replace(
            r,
            receipt={**r.receipt, "items": r.receipt["items"] // 2},
            ranks={},
            metrics={
                **r.metrics, "train/items_per_second": r.metrics["train/items_per_second"] / 2
            },
        )
        if r.arm == WEAK
        else r
        for r in scaling_rows(plan)
    ]  # fmt: skip
    said = gain(found(plan, half)[1], "weak").refused
    assert "the receipts differ in items (90000 against 180000)" in said
    assert "not that of the whole data set" in said


def test_without_an_arm_of_one_rank_there_is_nothing_to_be_relative_to():
    plan = scaling_study(6)
    arms = [arm for arm in plan.design["scaling_arms"] if arm["name"] != ONE]
    cut = replace(
        plan,
        arms=tuple(arm for arm in plan.arms if arm != ONE),
        comparisons=tuple(p for p in plan.comparisons if ONE not in (p.numerator, p.denominator)),
        design={**plan.design, "scaling_arms": arms},
    )
    rows = [r for r in scaling_rows(plan) if r.arm != ONE]
    scaled = found(cut, rows)[1]
    assert "no arm of 1 rank" in gain(scaled).refused
    assert gain(scaled, framework=TORCH).refused is None
    failed = found(plan, rows)[1]  # designed, but no trial of it finished
    assert gain(failed).refused == f"no trial of {ONE} finished"
    assert gain(failed, "weak").refused == f"no trial of {ONE} finished"


@pytest.mark.parametrize(
    ("cell", "sentence"),
    [
        ({"ranks": "4"}, "was to have 2 ranks and ran on 4"),
        ({"ranks": "1"}, "was to have 2 ranks and ran on 1"),
        ({"hosts": "2"}, "was to have 1 host and ran on 2"),
    ],
)
@pytest.mark.parametrize("arm", [TWO, WEAK])
def test_other_ranks_or_hosts_than_declared_refuse_the_study(arm, cell, sentence):
    plan = scaling_study(6, (1, 2))
    with pytest.raises(InputError, match=sentence):
        found(plan, everywhere(scaling_rows(plan), arm, cell=cell))


def test_two_machines_are_refused_as_everywhere():
    plan = scaling_study(6)
    with pytest.raises(InputError, match="mixes the machines"):
        found(plan, everywhere(scaling_rows(plan), TWO, machine="m2"))


@pytest.mark.parametrize("arm", [TWO, WEAK])
@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({0: 1.0}, "is recorded of rank 0, expected 0 to 1"),
        ({0: 1.0, 1: 1.0}, "their parts add up to"),  # each with the rate of the whole data set
        ({0: 0.25, 1: 0.25}, "their parts add up to"),
        ({0: 0.5, 1: 0.5, 2: 0.5}, "is recorded of rank 0, 1, 2, expected 0 to 1"),
    ],
)
def test_jobs_whose_ranks_disagree_give_no_number(arm, wrong, sentence):
    plan = scaling_study(6)
    rows = scaling_rows(plan)
    bad = next(r for r in rows if r.arm == arm)
    rate = bad.metrics["train/items_per_second"]
    parts = {**bad.ranks, "rank/items_per_second": {k: v * rate for k, v in wrong.items()}}
    rows = [replace(r, ranks=parts) if r is bad else r for r in rows]
    findings, scaled = found(plan, rows)
    one = gain(scaled, "weak" if arm == WEAK else "strong")
    assert sentence in one.refused and one.efficiency is None
    assert all(job.arm != arm for job in scaled.whole.jobs)
    assert all(share.arm != arm for share in scaled.parts)
    assert all(c.ratio is None and c.p is None for c in findings.comparisons if c.numerator == arm)
    assert gain(scaled, ranks=4).refused is None


def test_ranks_that_recorded_nothing_leave_the_job_and_say_so():
    rows = [replace(r, ranks={}) for r in scaling_rows(scaling_study())]
    findings, scaled = found(rows=rows)
    assert scaled.parts == () and gain(scaled).refused is None
    assert f"{TWO}: nothing was recorded by rank" in scaled.without_parts
    assert "nothing was recorded by rank" in page.markdown(
        scaling_report.page(findings, scaled, [])
    )


def test_more_ranks_than_cores_are_flagged():
    plan = scaling_study(6)
    rows = [replace(r, facts={"machine_cores": "2"}) for r in scaling_rows(plan)]
    scaled = found(plan, rows)[1]
    assert "OVERSUBSCRIBED" not in [flag.name for flag in gain(scaled).flags]
    for kind in ("strong", "weak"):
        warned = next(f for f in gain(scaled, kind, ranks=4).flags if f.name == "OVERSUBSCRIBED")
        assert "above 0.5 is not to be had" in warned.sentence


def test_communication_has_median_range_and_interval(result):
    job = next(job for job in result[1].whole.jobs if job.arm == TWO)
    share = job.values["communication/step_share"]
    assert share.least <= share.low < SHARE < share.high <= share.most
    all_reduce, rest = job.parts
    step = job.values["train/step_seconds_p50"].median
    assert all_reduce + rest == pytest.approx(step)
    assert all_reduce == pytest.approx(share.median * step)
    assert Spread.of([0.2] * 5).low is None


# A rank's own part never beside a whole job: by type, in the page, in the figures, in the files.


def test_a_job_takes_no_value_of_a_rank_and_a_rank_none_of_a_job(result):
    job = result[1].whole.jobs[0]
    share = result[1].parts[0]
    with pytest.raises(ValueError, match="is of one rank"):
        replace(job, values={**job.values, "rank/items_per_second": Spread.of([1.0])})
    with pytest.raises(ValueError, match="is of a whole job"):
        replace(share, values={**share.values, "train/total_seconds": Spread.of([1.0])})
    for of, metric in ((job, "rank/epoch_seconds_p50"), (share, "train/total_seconds")):
        with pytest.raises(ValueError, match="is no value of"):
            scaling_report._cell(of, metric)


def test_no_table_holds_both(shown, result):
    ranked = {METRICS[name].label for name in RANKED}
    for section in shown.sections:
        if section.grid is None:
            continue
        header = set(section.grid.header)
        if section.title == "Each rank's own part":
            assert header == {"arm", "rank", *ranked}
            assert len(section.grid.rows) == 2 * (2 + 2 + 4 + 4)
            assert "no time here may be set beside one of a whole job" in " ".join(section.text)
        else:
            assert not header & ranked
            assert not any(label in cell for row in section.grid.rows for cell in row for label in ranked)  # fmt: skip


def test_no_figure_and_no_record_of_jobs_can_reach_a_rank(result):
    findings, scaled = result
    assert list(inspect.signature(scaling_figures.draw).parameters) == ["whole"]
    assert not any(
        isinstance(item, Share)
        for value in vars(scaled.whole).values()
        for item in (value if isinstance(value, tuple) else (value,))
    )
    assert all(isinstance(job, Job) for job in scaled.whole.jobs)
    jobs = {key for record in scaling.records(findings, scaled.whole) for key in record}
    trials = {key for record in findings.trials for key in record}
    ranks = {key for record in scaling.share_records(findings, scaled.parts) for key in record}
    assert not any(key.startswith("rank/") for key in jobs | trials)
    assert not any(key.split("/")[0] in ("train", "memory", "energy") for key in ranks)


def test_weak_scaling_shows_no_time(shown):
    section = next(s for s in shown.sections if s.title.startswith("Weak scaling"))
    assert "the work is not equal, on purpose" in section.text[0]
    assert not any("time" in title or title in TIMES for title in section.grid.header)
    assert [row[3] for row in section.grid.rows[:3]] == ["256", "512", "1024"]
    assert [row[4] for row in section.grid.rows[:3]] == ["705", "354", "177"]
    assert not any(re.search(r"\d (s|ms)$", cell) for row in section.grid.rows for cell in row)


def test_the_page_says_who_ran_what(shown, result):
    text = page.markdown(shown)
    strong = next(s for s in shown.sections if s.title.startswith("Strong scaling"))
    assert [row[2] for row in strong.grid.rows] == [
        "single process", "MLX distributed, ring", "MLX distributed, ring",
        "single process", "PyTorch DDP, gloo", "PyTorch DDP, gloo",
    ]  # fmt: skip
    assert strong.grid.rows[0][5:] == ("", "")
    assert re.fullmatch(r"0\.\d+ \[0\.\d+, 0\.\d+\]", strong.grid.rows[1][6])
    assert "energy of the timed work not measured: no meter on this machine" in text
    label = METRICS["rank/energy_joules"].label
    assert f"{label} not measured: no meter on this machine" in text
    assert "may overlap with compute" in text
    assert f"{AGAIN[:-8]} against itself" in text
    assert "| not measured |" in text
    assert "None" not in text.replace("compile (mx.compile, none)", "")
    for block in re.findall(r"(?:^\|.*\n)+", text, re.M):
        assert len({line.count("|") for line in block.splitlines()}) == 1
    for sentence in result[1].sentences:
        assert f"- {sentence}\n" in text


def test_three_figures_in_both_themes(drawings, shown):
    assert [d.name for d in drawings] == [
        "scaling_throughput", "scaling_efficiency", "scaling_step",
    ]  # fmt: skip
    assert page.html(shown).count("<img") == 3
    for d in drawings:
        for png in (d.light, d.dark):
            assert png.startswith(b"\x89PNG")
            assert struct.unpack(">I", png[16:20])[0] >= 900
        assert d.light != d.dark
    assert "efficiency 0." in drawings[1].alt


def test_terminal_has_a_line_a_job_and_ends_with_the_verdict(result):
    text = scaling_report.terminal(*result)
    assert text.rstrip().endswith(result[1].sentences[-1])
    assert (
        len(re.findall(r"^  (?:mlx|pytorch).*ranks=\d threads=1: [\d.]+ s, .* items/s", text, re.M))
        == 6
    )
    assert len(re.findall(r"^  .*: batch \d+, ", text, re.M)) == 6
    assert "All-reduce over step, measured apart" in text


def test_analyze_writes_the_report_and_two_kinds_of_table(monkeypatch, tmp_path):
    plan, attached = scaling_study(6), []
    rows = scaling_rows(plan)
    monkeypatch.setattr(command.read, "machines_of", lambda name, machine: [plan])
    monkeypatch.setattr(command.read, "trials_of", lambda study: rows)
    monkeypatch.setattr(command.read, "every_study", list)
    monkeypatch.setattr(command.read, "samples_of", lambda run_ids: {})
    monkeypatch.setattr(command.write, "attach", lambda *given: attached.append(given))
    monkeypatch.setattr(command.views, "conclude", lambda *given: None)
    monkeypatch.setattr(command.scaling_figures, "draw", lambda whole: [])
    done = command.analyze(None, tmp_path)
    assert "strong scaling of mlx blas=mkl to 2 ranks: " in done.verdict
    assert attached == [("parent", tmp_path, "report")]
    with (tmp_path / "scaling.csv").open() as file:
        first = next(csv.DictReader(file))
    assert (first["scaling"], first["ranks"]) == ("strong", "2")
    assert float(first["efficiency_low"]) < 0.8 < float(first["efficiency_high"])
    assert len(first["pair_efficiencies"].split()) == 6
    with (tmp_path / "ranks.csv").open() as file:
        ranks = list(csv.DictReader(file))
    assert len(ranks) == 24 and ranks[0]["rank/energy_joules"] == ""
    assert {"comparisons.csv", "trials.csv", "report.md", "report.html"} <= {
        path.name for path in tmp_path.iterdir()
    }

"""Decisions from studies of known truth: what is chosen, with what certainty, what would change it, and
that nothing is chosen which the analysis does not allow."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import language
import numpy as np
import pytest
from fleet import MLX, TORCH, measured
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import changed

from analysis import alternatives, decision_report, page, planning
from analysis.answers import (
    ALONE,
    CERTAINTIES,
    INDICATED,
    NONE,
    NOT_MEASURED,
    SAME,
    SHOWN,
    UNDECIDED,
    Answer,
    Decision,
)
from analysis.decision import decide
from analysis.priorities import PRIORITIES
from analysis.sessions import session
from measurement.errors import InputError
from tracking.names import METRICS
from tracking.read import Pairing, Row, Study

Made = tuple[Study, list[Row]]


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Few simulated studies behind a number of pairs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alternatives, "pairs_for", partial(planning.pairs_for, studies=20))
        yield


def card(priority: str, *made: Made, prices: dict[str, float] | None = None) -> Decision:
    rng = np.random.default_rng(1)
    return decide(priority, [session(*one) for one in made], rng, prices)


def only(priority: str, *made: Made, prices: dict[str, float] | None = None) -> Answer:
    (answer,) = card(priority, *made, prices=prices).answers
    return answer


def spoil(made: Made, change: Callable[[Row], Row]) -> Made:
    return made[0], [change(row) for row in made[1]]


# --- what is chosen


def test_speed_is_the_study_s_own_verdict():
    answer = only("speed", measured("first", speed={MLX: 0.8}))
    assert (answer.choice, answer.framework, answer.certainty) == (MLX, "mlx", SHOWN)
    assert answer.sentence.startswith(f"{MLX} is faster than {TORCH}: training time")
    assert "95 % interval" in answer.sentence and answer.adjusted[0].family == 1
    assert answer.settle == "" and answer.place == "cpu of chip of m1"
    assert re.search(rf"{TORCH} needs \d+ % to \d+ % more than {MLX}", answer.changes[0])


def test_priorities_disagree_and_each_says_so():
    study = measured("first", speed={MLX: 1.3})  # slower, with half the memory
    speed, memory = only("speed", study), only("memory", study)
    assert (speed.framework, memory.framework) == ("pytorch", "mlx")
    assert memory.certainty == INDICATED  # nobody declared memory
    assert "UNDECLARED" in [flag.name for flag in memory.flags]
    (other,) = [e for e in speed.elsewhere if e.where == "priority=memory"]
    assert other.better == MLX and "peak memory" in other.comparison.verdict
    assert any(line.startswith("With priority=memory: mlx") for line in speed.changes)
    assert [e.where for e in memory.elsewhere if e.where == "priority=speed"]


def test_two_that_are_the_same_are_no_choice_and_no_doubt():
    answer = only("speed", measured("first", spread=0.005, pairs=20))
    assert (answer.certainty, answer.choice) == (SAME, "")
    assert answer.contenders == (MLX, TORCH) and answer.settle == ""
    assert decision_report.taken(answer) == f"either of {MLX}, {TORCH}"


def test_undecided_says_how_many_pairs_would_decide_it():
    answer = only("speed", measured("first", speed={MLX: 0.97}, spread=0.08, seed=5))
    assert (answer.certainty, answer.choice) == (UNDECIDED, "")
    (more,) = [line for line in answer.changes if "plan a new study" in line]
    pairs = re.search(r"plan a new study of (\d+) pairs", more)
    assert pairs and int(pairs[1]) > 10
    looks = "-P pairs=400 -P until_resolved=true"  # too many to plan
    assert (f"-P pairs={pairs[1]}" if int(pairs[1]) <= 100 else looks) in answer.settle
    assert f"-P arms='{MLX}, {TORCH}'" in answer.settle and "-P workload=mnist" in answer.settle


def test_few_pairs_give_no_verdict_and_are_told_how_many_would():
    answer = only("speed", measured("first", speed={MLX: 0.5}, pairs=4))
    assert (answer.certainty, answer.choice, answer.contenders) == (NONE, "", ())
    assert "no verdict from 4 pairs" in answer.sentence
    assert "6 are the fewest, 20 are advised" in " ".join(answer.changes)
    assert "-P pairs=20" in answer.settle


def test_a_study_that_was_cut_off_is_to_be_resumed():
    plan, rows = measured("first", speed={MLX: 0.5}, pairs=8)
    answer = only("speed", (plan, [row for row in rows if (row.pair or 0) < 7]))
    assert answer.certainty == NONE and "7 of 8 planned pairs" in answer.sentence
    assert "-P name=first" in answer.settle and "-P pairs=8" in answer.settle


# --- what is refused


def test_unequal_work_is_no_ratio():
    made = language.bert_of_other_work()
    answer = only("speed", made)
    assert answer.certainty == NONE and answer.choice == ""
    assert "not equal work" in answer.sentence
    assert answer.settle == "mlflow run . -e verify -P workload=bert_tiny"
    assert only("memory", made).certainty == NONE


def test_unlike_conditions_send_to_the_usual_arms():
    answer = only("speed", measured("first", cells={MLX: {"blas": "shipped"}}))
    assert answer.certainty == NONE and "not like with like" in answer.sentence
    assert answer.settle == "mlflow run . -e study -P workload=mnist -P device=cpu -P pairs=10"


def test_a_failed_audit_sends_to_a_quiet_machine():
    made = spoil(measured("first"), lambda row: replace(row, flags=("AUDIT",)))
    answer = only("speed", made)
    assert answer.certainty == NONE and "-P wait_quiet=300" in answer.settle


def test_a_blocking_flag_chooses_nothing():
    plan, rows = measured("first", speed={MLX: 0.5})
    apart = [
        replace(r, start_seconds=1e6 * plan.arms.index(r.arm) + 100 * (r.pair or 0)) for r in rows
    ]
    answer = only("speed", (plan, apart))
    assert answer.certainty == UNDECIDED and answer.choice == ""
    assert "NOT-INTERLEAVED forbids" in answer.sentence
    assert not [line for line in answer.changes if "plan a new study" in line]
    assert "-P wait_quiet" not in answer.settle


@pytest.mark.parametrize(
    ("priority", "said", "settle"),
    [
        ("energy", "not measured: no meter on this machine", "mlflow run . -e doctor"),
        ("cost", "not measured: no price given", "mlflow run . -e decide -P priority=cost"),
    ],
)
def test_what_was_not_measured_is_not_made_up(priority: str, said: str, settle: str):
    def without(row: Row) -> Row:
        metrics = {k: v for k, v in row.metrics.items() if k != "cost/usd"}
        missing = {**row.not_measured, "cost/usd": "no price given (parameter price_per_hour)"}
        return replace(row, metrics=metrics, not_measured=missing)

    answer = only(priority, spoil(measured("first", speed={MLX: 0.5}), without))
    assert (answer.certainty, answer.choice, answer.values) == (NOT_MEASURED, "", {})
    assert answer.sentence.startswith(said) and answer.settle.startswith(settle)
    shown = decision_report.record(
        card(priority, spoil(measured("first", speed={MLX: 0.5}), without))
    )
    assert shown["answers"][0]["comparisons"][0]["ratio"] is None
    assert shown["answers"][0]["decided"] is False


def test_a_price_given_now_is_measured_time_at_that_price():
    def without(row: Row) -> Row:
        return replace(row, metrics={k: v for k, v in row.metrics.items() if k != "cost/usd"})

    made = spoil(measured("first", speed={MLX: 0.8}), without)
    by_chip = only("cost", made, prices={"chip of m1": 3.6})
    by_machine = only("cost", made, prices={"m1": 3.6})
    speed = only("speed", made)
    assert by_chip.choice == by_machine.choice == speed.choice == MLX
    assert by_chip.certainty == SHOWN  # time was declared, and the price is the same for both
    assert by_chip.comparisons[0].ratio == speed.comparisons[0].ratio
    for arm, (middle, least, most) in by_chip.values.items():
        seconds = speed.values[arm]
        assert (middle, least, most) == pytest.approx(tuple(s * 3.6 / 3600 for s in seconds))
    assert "3.6 USD an hour" in by_chip.sentence
    assert only("cost", made, prices={"another chip": 3.6}).certainty == NOT_MEASURED


def test_nothing_is_trained_so_nobody_arrives():
    answer = only("accuracy", language.tinyllama())
    assert (answer.certainty, answer.metric, answer.settle) == (NOT_MEASURED, "", "")
    assert "nothing is trained" in answer.sentence


def test_accuracy_is_who_reaches_the_target_first():
    answer = only("accuracy", measured("first", speed={MLX: 0.8}))
    assert (answer.choice, answer.certainty) == (MLX, INDICATED)
    assert f"{MLX} reaches the target sooner than {TORCH}" in answer.sentence
    assert any(line.startswith("Medians of test accuracy: ") for line in answer.changes)


def test_runs_that_never_arrive_are_no_times():
    plan, rows = measured("first", speed={MLX: 0.8})
    late = {k: v for k, v in rows[0].metrics.items() if not k.startswith("target/")}
    rows = [replace(r, metrics=late) if r.arm == MLX and r.pair == 0 else r for r in rows]
    answer = only("accuracy", (plan, rows))
    assert answer.certainty == NONE and "never arrived has no time" in answer.sentence
    assert "NEVER" in [flag.name for flag in answer.flags]


def test_memory_on_a_gpu_sends_to_the_largest_batch():
    def on_gpu(row: Row) -> Row:
        return replace(row, cell={**row.cell, "device": "gpu"})

    answer = only("memory", spoil(measured("first"), on_gpu))
    assert answer.certainty == NONE and "memory of the process" in answer.sentence
    assert answer.settle == "mlflow run . -e max_batch -P workload=mnist -P device=gpu"


def test_a_study_that_was_refused_whole_says_why():
    wrong = changed(measured("first")[1], MLX, 0, metrics={"train/total_seconds": 700.0})
    answer = only("speed", (measured("first")[0], wrong))
    assert answer.certainty == NONE and "no ratio: run first-mlx" in answer.sentence
    assert answer.comparisons == () and answer.flags == ()


# --- many studies


def test_p_is_adjusted_over_every_question_of_the_card():
    found = card("speed", language.tinyllama(), language.whisper(), language.bert_of_other_work())
    assert found.family == 3
    by_workload = {answer.workload: answer for answer in found.answers}
    assert by_workload["tinyllama"].adjusted[0].p == pytest.approx(3 * 2**-7)
    assert by_workload["tinyllama"].comparisons[0].p == pytest.approx(2**-7)
    assert by_workload["tinyllama"].certainty == SHOWN
    assert by_workload["tinyllama"].framework == "mlx"
    assert by_workload["whisper_tiny"].framework == "pytorch"
    assert by_workload["bert_tiny"].choice == ""
    six = [language.tinyllama(pairs=6), language.whisper(pairs=6)]
    few = card("speed", *six)
    assert {answer.certainty for answer in few.answers} == {ALONE}
    assert [answer.framework for answer in few.answers] == ["mlx", "pytorch"]
    for answer in few.answers:
        names = [flag.name for flag in answer.flags]
        assert "HOLM-FEW" in names and "UNDECIDED" not in names
        assert answer.adjusted[0].outcome == "undecided" and "-P pairs=7" in answer.settle
    assert "Holm-adjusted over the 2 questions" in few.notes[0]


def test_another_condition_with_another_answer_is_named():
    cells = {"*": {"dtype": "bfloat16"}}
    old = measured("half", speed={MLX: 1.4}, cells=cells)
    new = measured("first", speed={MLX: 0.8}, day=1.0)
    found = card("speed", old, new)
    (answer,) = found.answers
    assert (answer.study, answer.framework) == ("first", "mlx")
    (other,) = [e for e in answer.elsewhere if "dtype" in e.where]
    assert other.where == "dtype bfloat16 in place of float32 (study half)"
    assert other.better == TORCH
    assert any("1 other stud" in note for note in found.notes)


def test_the_wheels_as_they_ship_are_another_condition():
    arms = (MLX, TORCH, "mlx", "pytorch")
    pairs = (Pairing(MLX, TORCH, "headline"), Pairing("mlx", "pytorch", "as shipped"))
    made = measured("first", speed={MLX: 0.8, "mlx": 4.0}, arms=arms, comparisons=pairs)
    answer = only("speed", made)
    assert answer.framework == "mlx"
    (other,) = [e for e in answer.elsewhere if e.better == "pytorch"]
    assert "blas" in other.where and "shipped in place of mkl" in other.where


def test_the_newest_complete_study_answers_whatever_it_says():
    old = measured("old", speed={MLX: 0.5})
    new = measured("new", speed={MLX: 0.97}, spread=0.08, seed=5, day=1.0)
    cut = measured("cut", speed={MLX: 0.5}, day=2.0)
    cut = cut[0], [row for row in cut[1] if (row.pair or 0) < 3]
    answer = only("speed", old, new, cut)
    assert (answer.study, answer.certainty) == ("new", UNDECIDED)


def test_devices_are_answers_of_their_own_and_separate_runs_no_verdict():
    def on_gpu(row: Row) -> Row:
        return replace(row, cell={**row.cell, "device": "gpu"})

    cpu = measured("slow", speed={MLX: 0.8})
    gpu = spoil(measured("quick", speed={MLX: 1.5}, session_speed=0.01), on_gpu)
    found = card("speed", cpu, gpu)
    assert [(a.device, a.framework) for a in found.answers] == [("cpu", "mlx"), ("gpu", "pytorch")]
    (text,) = found.across
    assert "every run on gpu of chip of m1 is better" in text and "no verdict" in text
    assert any("On gpu of chip of m1: pytorch" in line for line in found.answers[0].changes)
    other = spoil(gpu, lambda row: replace(row, cell={**row.cell, "preset": "study"}))
    (text,) = card("speed", cpu, other).across
    assert "Not the same work (preset is cpu and study), so nothing follows" in text


def test_three_frameworks_and_one_that_beats_them_all():
    tensorflow = "pytorch as tensorflow"
    cells = {tensorflow: {"framework": "tensorflow", "blas": "mkl"}}
    arms = MLX, TORCH, tensorflow
    pairs = (Pairing(MLX, TORCH, "headline"), Pairing(tensorflow, TORCH, "headline"))
    more = {"arms": arms, "cells": cells, "comparisons": pairs, "pairs": 12}
    slow = only("speed", measured("first", speed={MLX: 0.8, tensorflow: 2.0}, **more))
    assert slow.framework == "mlx" and len(slow.comparisons) == 2
    fast = only("speed", measured("first", speed={MLX: 0.8, tensorflow: 0.5}, **more))
    assert (fast.certainty, fast.choice) == (UNDECIDED, "")
    assert fast.contenders == (MLX, tensorflow)
    assert f"{MLX} and {tensorflow} were not compared with each other" in fast.sentence
    assert f"-P arms='{MLX}, {tensorflow}'" in fast.settle


def test_versions_of_one_framework_choose_no_framework():
    pairs = (Pairing("mlx version=2", "mlx version=1", "headline"),)
    made = measured("v", arms=("mlx version=2", "mlx version=1"), comparisons=pairs)
    with pytest.raises(InputError, match=r"no study compares two frameworks \(looked at: v\)"):
        card("speed", made)


@pytest.mark.parametrize(
    ("priority", "made", "said"),
    [
        ("beauty", [measured("first")], "priority='beauty': expected one of speed, latency"),
        ("speed", [], "no study compares two frameworks .looked at: none, there is no study"),
    ],
)
def test_a_mistake_is_one_sentence(priority: str, made: list[Made], said: str):
    with pytest.raises(InputError, match=said):
        card(priority, *made)


# --- what holds always


@settings(max_examples=12)
@given(
    truth=st.floats(0.5, 2.0),
    spread=st.floats(0.001, 0.2),
    pairs=st.integers(1, 12),
    seed=st.integers(0, 10_000),
    priority=st.sampled_from(["speed", "latency", "memory", "energy", "accuracy"]),
)
def test_a_choice_is_a_verdict(truth: float, spread: float, pairs: int, seed: int, priority: str):
    """Whatever was measured: a choice needs a verdict with an interval that leaves 1 out; the same
    study with its arms exchanged chooses the same framework."""
    made = measured("first", speed={MLX: truth}, spread=spread, pairs=pairs, seed=seed)
    answer = only(priority, made)
    assert answer.certainty in CERTAINTIES
    (c,) = answer.comparisons
    if answer.choice:
        assert c.ratio and c.ratio.low and c.ratio.high and c.ratio.n == pairs >= 6
        assert not c.ratio.low <= 1 <= c.ratio.high and c.significant
        assert answer.settle == "" or answer.certainty == INDICATED
        ahead = answer.values[answer.choice][0]
        assert ahead == min(v for v, _, _ in answer.values.values())
        assert METRICS[answer.metric].better == "lower"
    else:
        assert answer.framework == "" and not [e for e in answer.elsewhere if "priority" in e.where]
    study = made[0]
    turned = replace(study, comparisons=(Pairing(TORCH, MLX, "headline"), *study.comparisons[1:]))
    other = only(priority, (turned, made[1]))
    assert (other.framework, other.certainty) == (answer.framework, answer.certainty)


@settings(max_examples=3)
@given(extra=st.integers(1, 2), seed=st.integers(0, 1000))
def test_a_further_question_never_makes_another_surer(extra: int, seed: int):
    first = measured("first", speed={MLX: 0.8}, seed=seed)
    more = [measured(f"s{i}", f"other{i}", {MLX: 0.7}, 8, seed=seed + i) for i in range(extra)]
    alone, together = only("speed", first), card("speed", first, *more).answers
    own = next(a for a in together if a.machine == "m1")
    assert (own.adjusted[0].p or 0) >= (alone.adjusted[0].p or 0)
    assert own.choice == alone.choice


# --- for people and machines


@pytest.fixture(scope="module")
def whole() -> Decision:
    made = [
        measured("first", speed={MLX: 1.3}),
        measured("unsure", "m2", {MLX: 0.97}, spread=0.08, seed=5),
        language.tinyllama(),
        language.bert_of_other_work(),
    ]
    return card("memory", *made)


def test_the_terminal_has_two_lines_an_answer_then_warnings(whole: Decision):
    text = decision_report.terminal(whole)
    blocks = text.split("\n\n")[1:]
    for answer, block in zip(whole.answers, blocks, strict=False):
        first, second, *rest = block.strip("\n").split("\n")
        assert first == decision_report.headline(answer)
        assert second.strip() == answer.sentence
        assert all(line.strip().startswith("!") for line in rest)
    assert "None" not in text and "nan" not in text


def test_the_page_holds_all_of_it(whole: Decision):
    shown = decision_report.page(whole)
    text, html = page.markdown(shown), page.html(shown)
    for answer in whole.answers:
        assert answer.sentence in text
        for line in (*answer.changes, answer.settle):
            assert line in text
    assert "None" not in text and not re.search(r"https?://|<script|<link", html)
    for block in re.findall(r"(?:^\|.*\n)+", text, re.M):
        assert len({line.replace("\\|", "").count("|") for line in block.splitlines()}) == 1


@pytest.mark.parametrize("priority", PRIORITIES)
def test_the_record_is_json(priority: str):
    found = card(priority, measured("first", speed={MLX: 0.8}), language.tinyllama())
    record = json.loads(json.dumps(decision_report.record(found), allow_nan=False))
    assert [a["workload"] for a in record["answers"]] == ["mnist", "tinyllama"]
    for a in record["answers"]:
        assert (a["choice"] is None) == (a["framework"] is None)
        assert a["certainty"] in CERTAINTIES and a["sentence"]

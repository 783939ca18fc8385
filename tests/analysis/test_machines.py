"""Across machines: what is pooled, what never is, and what may be said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fleet import AGAIN, MLX, PRIMARY, TORCH, analysed, fleet, measured

from analysis.machines import Across, Asked, Question, across
from analysis.statistics import Machines
from measurement.errors import InputError
from tracking.names import CELL
from tracking.read import Pairing


def run(made, **asked) -> Across:
    return across("mnist", analysed(*made), Asked(**asked))


def only(found: Across) -> Question:
    assert len(found.groups) == 1
    return found.groups[0].questions[0]


def pooled(q: Question) -> Machines:
    assert q.pooled is not None
    return q.pooled


def names(q: Question) -> list[str]:
    return [flag.name for flag in q.flags]


def excluded(q: Question) -> dict[str, str]:
    return {m.machine: m.excluded for m in q.members if m.excluded}


@pytest.mark.parametrize("k", [1, 2])
def test_under_three_machines_only_these_are_spoken_of(k):
    q = only(run(fleet([0.8] * k)))
    assert (pooled(q).low, q.p, q.outcome) == (None, None, "none")
    assert q.verdict.startswith("these machines only (")
    assert all(f"m{i}" in q.verdict for i in range(k))
    assert f"{3 - k} more for a claim" in q.verdict
    assert names(q) == ["K-FEW"]
    assert pooled(q).these_low < 0.8 < pooled(q).these_high


def test_three_machines_give_an_interval_and_a_warning():
    q = only(run(fleet([0.78, 0.80, 0.82])))
    assert pooled(q).k == 3
    assert names(q) == ["K-FEW"]
    assert q.outcome == "better"
    assert q.verdict.startswith("on machines like these mlx blas=mkl is faster than pytorch")
    assert "the next machine's ratio is expected between" in q.verdict
    m = pooled(q)
    assert m.prediction_low < m.low < 0.8 < m.high < m.prediction_high


def test_six_machines_need_no_warning():
    q = only(run(fleet([0.76, 0.78, 0.80, 0.82, 0.84, 0.80])))
    assert names(q) == []
    assert q.outcome == "better"


def test_the_interval_is_the_t_interval_of_the_machines_own_ratios():
    from scipy import stats

    q = only(run(fleet([0.7, 0.8, 0.9, 1.0])))
    logs = np.log([m.comparison.ratio.estimate for m in q.members])
    expected = stats.ttest_1samp(logs, 0)
    interval = expected.confidence_interval(0.95)
    assert pooled(q).low == pytest.approx(np.exp(interval.low))
    assert pooled(q).high == pytest.approx(np.exp(interval.high))
    assert q.p == pytest.approx(expected.pvalue)


def test_higher_is_better_is_worded_the_right_way_round():
    q = only(run(fleet([0.78, 0.8, 0.82]), metric="train/items_per_second"))
    assert pooled(q).estimate > 1
    assert q.outcome == "better"


def test_machines_that_disagree_are_undecided():
    q = only(run(fleet([0.5, 1.0, 2.0])))
    assert q.outcome == "undecided"
    assert q.verdict.startswith("undecided over machines")


def test_the_same_needs_the_narrow_interval_inside_the_margin():
    q = only(run(fleet([1.0] * 6, spread=0.005)))
    assert q.p > 0.05
    assert q.outcome == "same"
    assert "are the same within 5 %" in q.verdict


def test_truth_is_covered_in_ninety_five_percent_of_fleets():
    """tau = 0.1 between machines: the mean of the population is held by the t interval."""
    rng, held, next_held = np.random.default_rng(11), [], []
    template = analysed(*fleet([0.8] * 4, pairs=6))
    for _ in range(400):
        truths = np.exp(np.log(0.8) + rng.normal(0, 0.1, 5))
        found = []
        for session, truth in zip(template, truths, strict=False):
            noise = float(np.exp(rng.normal(0, 0.01)))
            ratios = session.findings.comparisons
            c = next(c for c in ratios if c.metric == PRIMARY and c.role == "headline")
            made = replace(c, ratio=replace(c.ratio, estimate=float(truth) * noise), p=None)
            found.append(replace(session, findings=replace(session.findings, comparisons=(made,))))
        m = pooled(only(across("mnist", found, Asked())))
        held.append(m.low <= 0.8 <= m.high)
        next_held.append(m.prediction_low <= truths[4] <= m.prediction_high)
    assert 91.5 <= 100 * np.mean(held) <= 98
    assert 91.5 <= 100 * np.mean(next_held) <= 98


@pytest.mark.parametrize("key", CELL)
@pytest.mark.parametrize("arm", [MLX, TORCH])
def test_no_condition_is_ever_pooled_with_another(key, arm):
    cells = {arm: {key: "9"}}
    if arm == TORCH:
        cells[AGAIN] = {key: "9"}
    made = [*fleet([0.8, 0.8]), measured("odd", "m9", {MLX: 0.8}, day=9, cells=cells)]
    found = run(made)
    assert len(found.groups) == 2
    assert [len(g.questions[0].members) for g in found.groups] == [2, 1]
    assert f"{key} is " in found.groups[1].differs
    side = "numerator" if arm == MLX else "denominator"
    with pytest.raises(InputError, match=f"not pooled: {key} is '.*' in .* and '.*' in .*{side}"):
        run(made, studies=("s0", "s1", "odd"))


def test_a_key_that_differs_in_both_arms_is_said_once():
    made = [*fleet([0.8]), measured("odd", "m9", cells={"*": {"threads": "8"}})]
    with pytest.raises(InputError) as error:
        run(made, studies=("s0", "odd"))
    assert "threads is '2' in s0 and '8' in odd (numerator and denominator)" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"metric": "train/items_per_second"}, "metric"),
        ({"margin": 0.1}, "margin"),
        ({"family": (PRIMARY, "train/first_step_seconds")}, "family"),
    ],
)
def test_another_declaration_is_not_pooled(change, key):
    made = [*fleet([0.8]), measured("odd", "m9", **change)]
    with pytest.raises(InputError, match=f"{key} is '.*' .*design"):
        run(made, studies=("s0", "odd"))


def test_one_machine_twice_counts_once_and_the_newest_speaks():
    made = [*fleet([0.8, 0.8, 0.8]), measured("again", "m1", {MLX: 0.7}, day=30)]
    found = run(made)
    q = only(found)
    assert pooled(q).k == 3
    assert {m.machine: m.study for m in q.members}["m1"] == "again"
    assert found.groups[0].left_out == ("study s1 (m1): an older study of the same machine",)


def test_an_incomplete_newer_study_does_not_replace_a_complete_one():
    study, rows = measured("again", "m1", {MLX: 0.7}, day=30)
    found = run([*fleet([0.8, 0.8, 0.8]), (study, [r for r in rows if (r.pair or 0) < 4])])
    q = only(found)
    assert {m.machine: m.study for m in q.members}["m1"] == "s1"
    assert "study again (m1): incomplete" in found.groups[0].left_out[0]


def test_an_incomplete_study_alone_is_listed_and_not_pooled():
    study, rows = measured("short", "m9", {MLX: 0.8}, day=30)
    q = only(run([*fleet([0.8, 0.8, 0.8]), (study, [r for r in rows if (r.pair or 0) < 8])]))
    assert pooled(q).k == 3
    assert excluded(q) == {"m9": "8 of 10 planned pairs"}


def test_a_machine_whose_work_is_not_equal_is_listed_with_the_reason():
    study, rows = measured("bad", "m9", {MLX: 0.8}, day=30)
    rows = [replace(r, parity=None) if r.arm == MLX else r for r in rows]
    q = only(run([*fleet([0.8, 0.8, 0.8]), (study, rows)]))
    assert pooled(q).k == 3
    assert excluded(q)["m9"].startswith("no ratio: not equal work (pair 0)")


def test_a_machine_that_differs_from_itself_is_not_pooled():
    made = measured("noisy", "m9", {MLX: 0.8, AGAIN: 0.8}, day=30)
    q = only(run([*fleet([0.8, 0.8, 0.8]), made]))
    assert pooled(q).k == 3
    assert excluded(q)["m9"].startswith("A/A: pytorch blas=mkl differs from itself")


@pytest.mark.parametrize("flag", ["NOT-INTERLEAVED", "ONE-PROCESS"])
def test_a_machine_with_a_blocking_flag_is_not_pooled(flag):
    study, rows = measured("odd", "m9", {MLX: 0.8}, day=30)
    if flag == "ONE-PROCESS":
        rows = [replace(r, flags=("ONE-PROCESS",)) for r in rows]
    else:
        rows = [
            replace(r, start_seconds=1e7 + 1e4 * study.arms.index(r.arm) + r.pair) for r in rows
        ]
    q = only(run([*fleet([0.8, 0.8, 0.8]), (study, rows)]))
    assert pooled(q).k == 3
    assert excluded(q)["m9"].startswith(flag)


def test_a_study_that_stopped_by_its_result_is_not_pooled():
    made = measured("stopped", "m9", {MLX: 0.8}, day=30, design={"stopping": "anytime"})
    q = only(run([*fleet([0.8, 0.8, 0.8]), made]))
    assert "looking at the result" in excluded(q)["m9"]


def test_five_pairs_a_machine_give_no_pooled_ratio():
    q = only(run(fleet([0.8, 0.8, 0.8], pairs=5)))
    assert q.pooled is None
    assert "no machine gives a ratio" in q.verdict
    assert excluded(q)["m0"].startswith("no verdict from 5 pairs")


def test_a_study_that_is_refused_as_a_whole_is_named():
    study, rows = measured("mixed", "m9")
    rows[3] = replace(rows[3], machine="m8")
    found = run([*fleet([0.8] * 3), (study, rows)])
    assert found.left_out == (
        "study mixed: study mixed mixes the machines m8, m9: its run names none of them, so their "
        "pairs cannot be told apart; start it anew on each",
    )
    with pytest.raises(InputError, match="mixes the machines"):
        run([*fleet([0.8]), (study, rows)], studies=("s0", "mixed"))


def test_trials_without_a_fingerprint_are_no_machine():
    study, rows = measured("nameless", "")
    found = run([*fleet([0.8] * 3), (study, rows)])
    assert found.left_out == ("study nameless: its trials carry no machine fingerprint",)


def test_holm_over_the_declared_family():
    family = (PRIMARY, "train/first_step_seconds")
    truths = [0.78, 0.8, 0.82, 0.79]
    alone = only(run(fleet(truths)))
    both = run(fleet(truths, family=family)).groups[0].questions
    assert [q.metric for q in both] == list(family)
    assert [q.family for q in both] == [2, 2]
    assert both[0].p == pytest.approx(2 * alone.p, rel=1e-6)


def test_a_declared_metric_that_no_machine_measured_stays_in_the_family():
    found = run(fleet([0.78, 0.8, 0.82], family=(PRIMARY, "energy/joules")))
    first, energy = found.groups[0].questions
    assert first.p == pytest.approx(2 * pooled(first).p)
    assert energy.pooled is None
    assert excluded(energy)["m0"] == "not measured: no meter on this machine"


def test_another_metric_is_a_hint():
    questions = (
        run(fleet([0.78, 0.8, 0.82]), metric="memory/process_peak_bytes").groups[0].questions
    )
    assert [(q.metric, q.family) for q in questions] == [
        ("memory/process_peak_bytes", 0),
        (PRIMARY, 1),
    ]


def test_a_ratio_that_is_the_same_everywhere_has_no_spread_to_test():
    q = only(
        run(
            fleet([0.8] * 4),
            metric="memory/process_peak_bytes",
        )
    )
    assert pooled(q).estimate == pytest.approx(0.5)


def test_a_ratio_of_exactly_one_everywhere_is_the_same():
    q = run(fleet([0.8] * 4, family=(PRIMARY, "target/epochs"))).groups[0].questions[1]
    assert (q.metric, pooled(q).estimate, q.outcome) == ("target/epochs", 1.0, "same")


def test_other_pairings_by_role_or_by_name():
    made = fleet([0.8, 0.8, 0.8])
    assert only(run(made, role="resolution")).numerator == AGAIN
    q = only(run(made, numerator=MLX, denominator=TORCH))
    assert (q.numerator, q.family) == (MLX, 0)
    with pytest.raises(InputError, match="no study of mnist has the arms 'a' and 'b'"):
        run(made, numerator="a", denominator="b")
    with pytest.raises(InputError, match="no study of mnist has a pairing of the role 'wheel'"):
        run(made, role="wheel")


def test_two_headline_pairings_are_two_questions_of_one_family():
    comparisons = (
        Pairing(MLX, TORCH, "headline"), Pairing(MLX, AGAIN, "headline"),
    )  # fmt: skip
    found = run(fleet([0.78, 0.8, 0.82], comparisons=comparisons))
    assert [(q.denominator, q.family) for q in found.groups[0].questions] == [
        (TORCH, 2),
        (AGAIN, 2),
    ]


def test_wrong_metrics_are_one_line():
    with pytest.raises(InputError, match="'speed' is no metric"):
        run(fleet([0.8]), metric="speed")
    with pytest.raises(InputError, match="metric 'eval/accuracy' is not divided; choose one of"):
        run(fleet([0.8]), metric="eval/accuracy")


def test_no_study_at_all_is_one_line():
    with pytest.raises(InputError, match="no study of mnist has a pairing .*; run `study` first"):
        run([])


def test_order_of_the_studies_changes_nothing_in_the_numbers():
    made = fleet([0.78, 0.8, 0.82, 0.9])
    assert pooled(only(run(made))) == pooled(only(run(made[::-1])))

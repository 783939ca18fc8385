"""From rows to verdicts: what may be said, and every named refusal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from rows import ARMS, changed, rows, study

from analysis.comparison import COMPARED, analyse
from analysis.findings import Comparison, Findings
from measurement.errors import InputError
from tracking.names import METRICS
from tracking.read import Pairing

PRIMARY = "train/total_seconds"
HEADLINE = "mlx blas=mkl"


def run(found=None, plan=None) -> Findings:
    return analyse(plan or study(), rows() if found is None else found, np.random.default_rng(0))


def pick(findings: Findings, role: str = "headline", metric: str = PRIMARY) -> Comparison:
    return next(c for c in findings.comparisons if c.role == role and c.metric == metric)


def names(c: Comparison) -> list[str]:
    return [flag.name for flag in c.flags]


def with_cell(found, arm, **cell):
    for pair in range(40):
        found = changed(found, arm, pair, cell=cell)
    return found


def test_one_comparison_per_pairing_and_metric():
    findings = run()
    known = rows()[0].metrics.keys() | rows()[0].not_measured.keys()
    assert len(findings.comparisons) == 4 * sum(name in known for name in COMPARED)
    assert set(COMPARED) <= METRICS.keys()
    assert len(findings.trials) == 6 * len(ARMS)
    assert [arm.name for arm in findings.arms] == list(ARMS)


def test_a_true_difference_is_called_by_its_side():
    c = pick(run())
    assert c.outcome == "better"
    assert c.verdict.startswith("mlx blas=mkl is faster than pytorch blas=mkl")
    assert c.wins == 6
    assert c.ratio.low < 0.8 < c.ratio.high
    assert c.resolution == pytest.approx(0.032, abs=0.001)
    assert c.p == pytest.approx(2**-5)


def test_higher_is_better_is_worded_the_right_way_round():
    findings = run()
    throughput = pick(findings, metric="train/items_per_second")
    assert throughput.ratio.estimate > 1
    assert throughput.outcome == "better"
    assert throughput.wins == 6
    assert "is faster than" in throughput.verdict
    wheel = pick(findings, "wheel", "inference/items_per_second")
    assert wheel.ratio.estimate < 1
    assert (wheel.outcome, wheel.wins) == ("worse", 0)
    assert "mlx is slower than mlx blas=mkl" in wheel.verdict


def test_memory_is_compared_process_with_process():
    findings = run()
    assert "uses less memory than" in pick(findings, metric="memory/process_peak_bytes").verdict
    device = pick(findings, metric="memory/device_peak_bytes")
    assert device.ratio is None
    assert "allocator" in device.refused
    assert pick(findings, "wheel", "memory/device_peak_bytes").ratio is not None


def test_not_measured_keeps_its_reason():
    c = pick(run(), metric="energy/joules")
    assert c.ratio is None
    assert c.verdict == "not measured: no meter on this machine"


def test_the_same_needs_the_interval_inside_the_margin():
    found = rows(pairs=30, speed={})
    c = pick(run(found, study(pairs=30)))
    assert c.outcome == "same"
    assert "are the same within 5 %" in c.verdict
    wide = pick(run(rows(speed={}), study(margin=0.001)))
    assert wide.outcome == "undecided"
    assert wide.verdict.startswith("undecided with 6 pairs; the ratio is between")
    assert "UNDECIDED" in names(wide)


def test_a_small_sure_difference_says_that_it_is_small():
    found = rows(pairs=30, speed={HEADLINE: 0.97})
    c = pick(run(found, study(pairs=30)))
    assert c.outcome == "better"
    assert "by less than the margin of 5 %" in c.verdict


def test_five_pairs_get_ratios_and_no_verdict():
    c = pick(run(rows(pairs=5), study(pairs=5)))
    assert (c.ratio.low, c.ratio.high, c.p, c.outcome) == (None, None, None, "none")
    assert c.verdict.startswith("no verdict from 5 pairs; the ratios are 0.")
    assert c.verdict.count(",") == 4
    assert "FEW" in names(c)


def test_an_unfinished_study_gets_no_verdict_and_a_longer_one_neither():
    early = pick(run(plan=study(pairs=10)))
    assert early.verdict.startswith("no verdict yet, 6 of 10 planned pairs")
    assert "INCOMPLETE" in names(early)
    late = pick(run(rows(pairs=8)))
    assert late.verdict.startswith("no verdict from 8 pairs where 6 were planned")
    assert "PEEKED" in names(late)


@pytest.mark.parametrize("evidence", ["parity", "receipt"])
def test_no_ratio_without_evidence(evidence):
    found = [replace(r, **{evidence: None}) if r.arm == HEADLINE else r for r in rows()]
    findings = run(found)
    c = pick(findings)
    assert c.ratio is None
    assert c.verdict.startswith("no ratio: not equal work (pair 0)")
    assert "missing" in c.refused
    assert pick(findings, "as shipped").ratio is not None


def test_no_ratio_when_one_pair_did_other_work():
    c = pick(run(changed(rows(), HEADLINE, 3, receipt={"items": 170_000})))
    assert "pair 3" in c.refused
    assert "items" in c.refused
    c = pick(run(changed(rows(), HEADLINE, 2, parity={"output": [1.1, 0.5]})))
    assert "pair 2" in c.refused
    assert "output" in c.refused


@pytest.mark.parametrize("key", ["device", "dtype", "tf32", "threads", "blas_loaded", "epochs"])
def test_headline_refuses_unlike_conditions_and_names_the_key(key):
    c = pick(run(with_cell(rows(), HEADLINE, **{key: "99"})))
    assert c.ratio is None
    assert c.refused.startswith(f"not like with like: {key} is '99' for mlx blas=mkl")


def test_headline_allows_each_framework_its_own_compile_mode_and_says_so():
    c = pick(run())
    assert "COMPILE-DIFFERS" in names(c)
    assert c.ratio is not None


def test_headline_allows_products_of_a_frameworks_own_and_says_so():
    """TensorFlow takes no BLAS: it has no other like. Everything else stays alike."""
    own = {"blas": "own", "blas_loaded": "onednn+eigen"}
    c = pick(run(with_cell(rows(), HEADLINE, **own)))
    assert c.ratio is not None and "BLAS-DIFFERS" in names(c)
    c = pick(run(with_cell(rows(), HEADLINE, **own, threads="99")))
    assert c.refused.startswith("not like with like: threads is '99'")


def test_a_cpus_library_is_no_condition_of_work_on_gpus():
    """MLX's wheel for CUDA brings the reference BLAS, PyTorch's brings MKL; neither multiplies there."""
    found = [replace(row, cell={**row.cell, "device": "gpu"}) for row in rows()]
    other = with_cell(found, HEADLINE, blas_loaded="reference 3.10", blas_threads="1")
    c = pick(run(other))
    assert c.ratio is not None and "BLAS-DIFFERS" not in names(c)
    one_half = [
        replace(row, cell={**row.cell, "device": "cpu-gpu"})
        for row in with_cell(rows(), HEADLINE, blas_loaded="x")
    ]
    assert pick(run(one_half)).refused.startswith("not like with like: blas_loaded is 'x'")


def test_headline_refuses_the_reference_blas():
    found = [replace(r, flags=("REFERENCE-BLAS",)) if r.arm == HEADLINE else r for r in rows()]
    c = pick(run(found))
    assert "mlx blas=mkl ran on the reference BLAS" in c.refused


@pytest.mark.parametrize("role", ["wheel", "as shipped"])
def test_other_roles_may_differ_in_blas_only(role):
    c = pick(run(), role)
    assert c.ratio is not None
    assert "BLAS-DIFFERS" in names(c)
    assert "REFERENCE-BLAS" in names(c)
    refused = pick(run(with_cell(rows(), "mlx", tf32="on")), role)
    assert "tf32 is 'on' for mlx" in refused.refused


def test_resolution_needs_the_same_framework():
    plan = study(comparisons=(Pairing(HEADLINE, "pytorch blas=mkl", "resolution"),))
    assert "one framework with itself" in pick(run(plan=plan), "resolution").refused


def test_a_pair_with_one_arm_is_left_out_and_counted():
    found = [r for r in rows(pairs=7) if not (r.arm == HEADLINE and r.pair == 4)]
    c = pick(run(found, study(pairs=7)))
    assert c.ratio.n == 6
    assert [point.pair for point in c.points] == [0, 1, 2, 3, 5, 6]
    assert "LEFT-OUT" in names(c)
    assert "INCOMPLETE" in names(c)


@pytest.mark.parametrize("status", ["RUNNING", "FAILED", "KILLED"])
def test_half_written_trials_are_not_compared(status):
    extra = [replace(r, status=status, run_id="half") for r in rows() if r.pair == 0]
    whole, both = run(), run([*rows(), *extra])
    (again,) = (flag for flag in pick(both).flags if flag.name == "RERUN")
    assert again.sentence.startswith("2 trials ended early and were run again (mlx blas=mkl 1, ")
    others = tuple(flag for flag in pick(both).flags if flag is not again)
    assert pick(whole) == replace(pick(both), flags=others)
    assert "5 trials did not finish and are left out." in both.notes


def test_trials_outside_the_design_are_left_out_and_counted():
    stray = [replace(r, pair=None) for r in rows() if r.pair == 0][:2]
    findings = run([*rows(), *stray])
    assert "2 trials belong to no pair of this study and are left out." in findings.notes


def test_no_finished_trial_is_one_line():
    with pytest.raises(InputError, match="no finished trial"):
        run([])


def test_a_doubled_trial_is_refused_by_name():
    twice = replace(rows()[0], run_id="second")
    with pytest.raises(InputError, match=f"arm '{twice.arm}' has pair 0 twice.*second"):
        run([*rows(), twice])


def test_mixed_conditions_within_an_arm_name_the_key():
    found = changed(rows(), HEADLINE, 4, cell={"threads": "8"})
    with pytest.raises(InputError, match="mixes conditions: threads is '2' in run .* and '8'"):
        run(found)


def test_two_machines_are_refused():
    with pytest.raises(InputError, match="mixes the machines m1, m2"):
        run(changed(rows(), HEADLINE, 4, machine="m2"))


@pytest.mark.parametrize(
    ("value", "said"),
    [(np.nan, "not a number"), (np.inf, "infinite"), (-1.0, "is -1"), (0, "is 0")],
)
def test_a_wrong_number_is_refused_by_name(value, said):
    found = changed(rows(), HEADLINE, 1, metrics={PRIMARY: value})
    with pytest.raises(InputError, match=f"mlx-mkl-1 .*{PRIMARY} is.*") as error:
        run(found)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_sequential_arms_are_never_called_faster():
    found = [replace(r, start_seconds=10_000.0 * ARMS.index(r.arm) + (r.pair or 0)) for r in rows()]
    c = pick(run(found))
    assert "NOT-INTERLEAVED" in names(c)
    assert c.outcome == "undecided"
    assert "NOT-INTERLEAVED forbids" in c.verdict


def test_runs_of_one_process_are_never_called_faster():
    c = pick(run([replace(r, flags=(*r.flags, "ONE-PROCESS")) for r in rows()]))
    assert c.outcome == "undecided"


def test_one_resumed_pair_is_only_a_warning():
    found = changed(rows(), HEADLINE, 2, start_seconds=99_999.0)
    c = pick(run(found))
    assert "LATE-PAIR" in names(c)
    assert c.outcome == "better"


def test_flags_of_trials_are_counted_and_an_audit_that_mostly_fails_refuses():
    found = changed(rows(), HEADLINE, 2, flags=("LOAD",))
    load = next(flag for flag in pick(run(found)).flags if flag.name == "LOAD")
    assert load.sentence.startswith("1 of 12 trials")
    failed = [replace(r, flags=("AUDIT",)) if r.arm == HEADLINE else r for r in rows()]
    assert "completion audit" in pick(run(failed)).refused


def test_a_family_too_large_for_the_pairs_finds_nothing():
    plan = study(family=(PRIMARY, "inference/latency_seconds_p50"))
    c = pick(run(plan=plan))
    assert c.p == pytest.approx(2 * 2**-5)
    assert c.family == 2
    assert "HOLM-FEW" in names(c)
    assert c.outcome == "undecided"
    seven = pick(run(rows(pairs=7), study(pairs=7, family=plan.family)))
    assert seven.outcome == "better"


def test_declared_rows_that_came_to_nothing_stay_in_the_family():
    c = pick(run(plan=study(family=(PRIMARY, "energy/joules"))))
    assert c.p == pytest.approx(2 * 2**-5)


def test_an_arm_that_differs_from_itself_warns_everywhere():
    speed = {HEADLINE: 0.8, "pytorch blas=mkl (again)": 0.9}
    findings = run(rows(speed=speed))
    assert "A/A" in names(pick(findings))
    assert "differs from itself" in pick(findings, "resolution").verdict


def test_a_ratio_inside_the_resolution_is_flagged():
    c = pick(run(rows(speed={})))
    assert "BELOW-RESOLUTION" in names(c)


def test_no_a_a_is_said():
    plan = study(comparisons=(Pairing(HEADLINE, "pytorch blas=mkl", "headline"),))
    findings = run(plan=plan)
    assert pick(findings).resolution is None
    assert any("resolution is unknown" in note for note in findings.notes)


def without_target(found, arm, pairs):
    return [
        replace(r, metrics={k: v for k, v in r.metrics.items() if not k.startswith("target/")})
        if r.arm == arm and r.pair in pairs
        else r
        for r in found
    ]


def test_a_run_that_never_arrived_is_infinite_and_gets_no_ratio():
    findings = run(without_target(rows(), HEADLINE, {1, 3}))
    c = pick(findings, metric="target/seconds")
    assert c.ratio is None
    assert "never arrived" in c.refused
    assert names(c) == ["NEVER"]
    a = findings.arrivals[HEADLINE, "epochs"]
    assert (a.arrived, a.n) == (4, 6)
    epochs = next(t for t in findings.targets if t.role == "headline" and t.unit == "epochs")
    seconds = next(t for t in findings.targets if t.role == "headline" and t.unit == "s")
    assert epochs.test.p is not None
    assert "budgets differ" in seconds.test.refused


def test_order_of_the_rows_changes_nothing():
    found = rows()
    np.random.default_rng(5).shuffle(found)
    assert run(found) == run()


def test_latencies_are_flagged_by_percentile():
    findings = run()
    assert "FEW-LATENCIES" not in names(pick(findings, metric="inference/latency_seconds_p90"))
    assert "FEW-LATENCIES" in names(pick(findings, metric="inference/latency_seconds_p99"))


def test_drift_is_told_for_the_primary_metric():
    found = [
        replace(r, metrics={**r.metrics, PRIMARY: r.metrics[PRIMARY] * (1 + 0.08 * (r.pair or 0))})
        for r in rows(pairs=12)
    ]
    findings = run(found, study(pairs=12))
    assert "DRIFT" in names(pick(findings))
    assert "DRIFT" not in names(pick(findings, metric="cost/usd"))
    assert pick(findings).outcome == "better"


def test_the_declared_metric_is_compared_even_if_it_is_no_default():
    findings = run(plan=study(metric="target/epochs", family=("target/epochs",)))
    c = pick(findings, metric="target/epochs")
    assert c.outcome == "same"
    assert c.verdict in findings.headline
    with pytest.raises(InputError, match="'speed' is no metric"):
        run(plan=study(metric="speed"))

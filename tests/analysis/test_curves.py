"""What a report draws is computed in the analysis, and is what the samples and evidence say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import rows as made
import shown

from analysis import cells, equal_work, roofline, study_method, study_page
from analysis.comparison import Around, analyse
from analysis.table import build
from tracking.read import Row

ARM = "mlx blas=mkl"


@pytest.fixture(scope="module")
def findings():
    return shown.findings()


def mine(found):
    return next(one for one in found if one.arm == ARM)


def of_arm(pairs: int = 6) -> list[Row]:
    return [row for row in shown.trials(pairs) if row.arm == ARM]


def test_spans_are_every_epoch_of_every_trial(findings):
    spans = mine(findings.curves.spans["epoch"])
    values = [made.samples(row)["epoch_seconds"] for row in of_arm()]
    assert [pair for pair, _ in spans.trials] == list(range(6))
    assert spans.trials[2][1] == tuple(values[2].tolist())
    assert spans.every.median == pytest.approx(float(np.median(np.concatenate(values))))
    assert spans.every.n == 18 and set(findings.curves.spans) == {"epoch"}


def test_a_latency_curve_is_the_median_trial_of_each_share(findings):
    found = mine(findings.curves.latencies["latency_seconds"])
    quantiles = [np.quantile(made.samples(row)["latency_seconds"], 0.9) for row in of_arm()]
    assert found.shares[90] == pytest.approx(0.9)
    assert found.seconds[90] == pytest.approx(float(np.median(quantiles)))
    assert (found.low[90], found.high[90]) == (min(quantiles), max(quantiles))
    assert (found.trials, found.calls) == (6, 6 * 301)
    p90 = next(a for a in findings.arms if a.name == ARM).values["inference/latency_seconds_p90"][0]
    assert found.seconds[90] == pytest.approx(p90)


def test_convergence_is_quality_over_training_time_without_evaluation(findings):
    found = mine(findings.curves.learning)
    after = [np.cumsum(made.samples(row)["epoch_seconds"])[1] for row in of_arm()]
    assert found.epochs == (1, 2, 3)
    assert found.seconds[1].median == pytest.approx(float(np.median(after)))
    assert found.quality[1].median == pytest.approx(0.962)


def test_a_diverged_epoch_is_left_out_and_older_names_are_read():
    trials = shown.trials()
    samples = {row.run_id: made.samples(row) for row in trials}
    for series in samples.values():
        series["epoch_quality"] = np.array([0.9, np.nan, 0.95])
    found = analyse(made.study(), trials, np.random.default_rng(0), Around(samples))
    assert mine(found.curves.learning).epochs == (1, 3)


def test_no_samples_are_no_curves():
    found = analyse(made.study(), made.rows(), np.random.default_rng(0))
    assert (found.curves.spans, found.curves.latencies, found.curves.learning) == ({}, {}, ())


def test_a_roof_is_counted_work_over_the_median_step_against_the_own_ceiling(findings):
    roof = mine(findings.roofs)
    rates = [shown.STEP_FLOPS / row.metrics["train/step_seconds_p50"] for row in of_arm()]
    assert roof.achieved.median == pytest.approx(float(np.median(rates)))
    assert roof.ceiling.median == shown.CEILING
    assert roof.fraction.median == pytest.approx(float(np.median(rates)) / shown.CEILING)
    # At most: parameters and state of 4 bytes, read once and written once.
    assert roof.intensity == pytest.approx(shown.STEP_FLOPS / (2 * 4 * shown.STORED))
    assert roof.how == "counted FLOPs of one step over training step, median"


def roofs(trials: list[Row]) -> roofline.Roof:
    return mine(roofline.trace(build(made.study(), trials)))


def test_without_a_ceiling_the_report_says_so():
    roof = roofs(made.rows())
    assert roof.ceiling is None and roof.fraction is None and roof.intensity is None
    assert roof.missing == "no ceiling: not every trial measured a matrix product"
    assert roof.how == "FLOPs by the sizes of the layers over the timed seconds"
    found = analyse(made.study(), made.rows(), np.random.default_rng(0))
    section = next(s for s in study_page.page(found, []).sections if s.title == "Roofline")
    assert f"{ARM}: {roof.missing}." in section.points


def test_without_flops_there_is_no_roof_and_a_reason():
    bare = [
        replace(r, metrics={k: v for k, v in r.metrics.items() if not k.startswith("hardware/")})
        for r in made.rows()
    ]
    assert (roofs(bare).achieved, roofs(bare).missing) == (
        None, "not every trial recorded its FLOPs",
    )  # fmt: skip
    found = analyse(made.study(), bare, np.random.default_rng(0))
    section = next(s for s in study_page.page(found, []).sections if s.title == "Roofline")
    assert section.text == ("Not measured: no trial recorded its FLOPs.",)


@pytest.mark.parametrize(
    "counted", [None, 7, {"products": 3}, {"products": {"step": {"float32": "x"}}, "stored": []}]
)
def test_a_tag_that_was_cut_is_no_count(counted):
    trials = [replace(r, parity={**r.parity, "counted": counted}) for r in shown.trials()]
    assert roofs(trials).how == "FLOPs by the sizes of the layers over the timed seconds"


def test_an_unknown_dtype_has_no_bytes():
    odd = shown.COUNTED | {"stored": {"float8": 5}}
    trials = [replace(r, parity={**r.parity, "counted": odd}) for r in shown.trials()]
    assert roofs(trials).intensity is None and roofs(trials).fraction is not None


def test_proofs_count_pairs_and_name_the_first_difference():
    trials = made.changed(shown.trials(), ARM, 3, receipt={"steps": 704})
    found = equal_work.proofs(build(made.study(), trials))[0]
    assert (found.pairs, found.equal) == (6, 5)
    assert found.difference.startswith("pair 3: the receipts differ in steps")
    assert "equal work in 5 of 6 pairs; pair 3" in study_method.proof_text(found)


def test_what_trials_did_is_said_with_its_range():
    trials = made.changed(shown.trials(), ARM, 3, receipt={"check_value": 0.213})
    one = mine(equal_work.done(build(made.study(), trials)))
    assert (one.trials, one.evidence, one.receipts, one.signed) == (6, 6, 6, 0)
    assert one.facts["items"] == "180,000" and one.facts["check_value"] == "0.21 to 0.213"
    assert one.facts["work"] == "a1" and "loops" not in one.facts


def test_the_report_holds_every_raw_pair(findings):
    sections = {s.title: s for s in study_page.page(findings, []).sections}
    folded = dict(sections["Every raw pair"].folded)
    assert len(folded) == 2 * len(findings.study.comparisons)
    for heading, _, found in cells.by_pairing(findings):
        primary = folded[f"{heading}: {found[0].label}"]
        assert [row[3] for row in primary.rows] == [f"{p.ratio:.4g}" for p in found[0].points]
        others = folded[f"{heading}: ratio of every other metric"]
        assert len(others.header) == sum(bool(c.points) for c in found)
        assert len(others.rows) == 6 and all(all(row) for row in others.rows)


def test_what_is_not_measured_is_said_with_its_reason(findings):
    sections = {s.title: s for s in study_page.page(findings, []).sections}
    assert sections["Energy"].text[0].startswith("Not measured: no meter on this machine (energy")
    assert "every arm ran with 1 rank;" in sections["Scaling"].text[0]
    assert sections["Cost"].grid is not None and sections["Memory"].grid is not None
    assert list(sections)[:3] == ["Time", "Latency", "Time to 96 % test accuracy"]

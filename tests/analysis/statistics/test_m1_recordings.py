"""Every number known for the published M1 recordings, from data to the last digit stated.

They were computed by an independent program. None of the intervals is evidence on the frameworks:
each arm is one process, run one after the other.
"""

from __future__ import annotations

import numpy as np
import pytest
from recordings import ARMS, column, epochs, totals
from scipy import stats

from analysis.statistics import (
    autocorrelation,
    average_ratio,
    equivalence,
    holm,
    paired_ratio,
    percentile_ratio,
    run_percentile,
    tail_ratio,
    unpaired_ratio,
)
from analysis.statistics.orderstat import nyblom

MLX, TORCH, MLX_CPU, TORCH_CPU = (totals(arm) for arm in ARMS)


def three(result) -> tuple[float, float, float]:
    return result.estimate, result.low, result.high


def names(result) -> list[str]:
    return [flag.name for flag in result.warnings]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (MLX, TORCH, (0.56399348, 0.55716732, 0.56944843)),
        (MLX[:10], TORCH[:10], (0.53545908, 0.49475000, 0.55168316)),
        (MLX[:6], TORCH[:6], (0.50300928, 0.40777367, 0.53261844)),
        (MLX, MLX_CPU, (3.5744959, 3.5309549, 3.6147777)),
        (TORCH, TORCH_CPU, (6.3992137, 6.3756475, 6.4209792)),
        (
            column("mlx-test-cpu-n100.csv"),
            column("torch-test-cpu-n100.csv"),
            (0.89043893, 0.88232258, 0.90567909),
        ),
    ],
)
def test_ratio_of_medians(first, second, expected):
    assert three(unpaired_ratio(first, second)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("n", "p"), [(100, 1.5777218e-30), (10, 2.0**-9), (6, 0.03125)])
def test_p_by_inversion(n, p):
    assert unpaired_ratio(MLX[:n], TORCH[:n]).p == pytest.approx(p, rel=1e-7)


def test_flags_of_the_ratio():
    assert names(unpaired_ratio(MLX, TORCH)) == ["NOT-INTERLEAVED", "SPLIT", "RARE"]
    few = unpaired_ratio(MLX[:5], TORCH[:5])
    assert (few.low, few.high, few.p) == (None, None, None)
    assert names(few) == ["NOT-INTERLEAVED", "FEW", "RARE"]


def test_interval_of_the_equivalence_test():
    same = equivalence(MLX, TORCH, paired=False)
    assert (same.low, same.high) == pytest.approx((0.55932423, 0.56831228), abs=1e-6)
    assert not same.same
    assert equivalence(MLX_CPU, TORCH_CPU, paired=False).same


def test_ratio_of_geometric_means():
    average = average_ratio(MLX, TORCH, paired=False)
    assert three(average) == pytest.approx((0.51404167, 0.49816000, 0.53042967), abs=1e-6)
    assert average.df == pytest.approx(134.87611, abs=1e-5)
    assert unpaired_ratio(MLX, TORCH).geometric_mean == pytest.approx(0.51404167, abs=1e-6)


def test_ratio_of_the_p90_over_runs():
    expected = (0.40635088, 0.36506261, 0.47446013)
    assert three(tail_ratio(MLX, TORCH)) == pytest.approx(expected, abs=1e-6)
    assert names(tail_ratio(MLX, TORCH)) == ["RARE"]  # a tail is no typical run: no SPLIT
    assert tail_ratio(MLX[:35], TORCH[:35]).low is None
    assert tail_ratio(MLX[:36], TORCH[:36]).low is not None


def test_ratio_of_the_p90_inside_runs():
    per_run = [[run_percentile(run) for run in epochs(arm)] for arm in ("MLX GPU", "PyTorch MPS")]
    ratio = percentile_ratio(*per_run, calls=19, paired=False)
    assert three(ratio) == pytest.approx((0.58057218, 0.57663052, 0.58309309), abs=1e-6)
    assert "FEW-LATENCIES" in names(ratio)


def test_paired_code_on_runs_that_were_no_pairs():
    ratio = paired_ratio(MLX, TORCH)
    assert three(ratio) == pytest.approx((0.55482677, 0.53579595, 0.56421493), abs=1e-6)
    assert (ratio.wins, ratio.ties, ratio.n) == (100, 0, 100)


def test_views_that_the_library_does_not_take():
    """scipy alone, on the same file: what other tools would say of it."""
    relative = [arm.var(ddof=1) / len(arm) / arm.mean() ** 2 for arm in (MLX, TORCH)]
    df = sum(relative) ** 2 / sum(v**2 / 99 for v in relative)
    half = stats.t.ppf(0.975, df) * np.sqrt(sum(relative))
    means = MLX.mean() / TORCH.mean()
    assert (means, means * np.exp(-half), means * np.exp(half)) == pytest.approx(
        (0.50910947, 0.49141416, 0.52744197), abs=1e-6
    )
    assert stats.mannwhitneyu(MLX, TORCH).pvalue == pytest.approx(2.5621437e-34, rel=1e-6)
    blocks = [np.log(arm).reshape(10, 10).mean(axis=1) for arm in (MLX, TORCH, MLX_CPU, TORCH_CPU)]
    between = np.exp(blocks[0][:, None] - blocks[1])
    assert (between.min(), between.max()) == pytest.approx((0.39968277, 0.57605135), abs=1e-6)
    batches = stats.ttest_ind(blocks[0], blocks[1], equal_var=False)
    assert np.exp(batches.confidence_interval()) == pytest.approx(
        (0.48102416, 0.54932551), abs=1e-6
    )
    p = [
        stats.ttest_ind(blocks[i], blocks[j], equal_var=False).pvalue
        for i, j in ((0, 2), (0, 1), (2, 3))
    ]
    assert holm(p).adjusted == pytest.approx((4.5e-14, 3.9e-12, 0.385), rel=0.01)


@pytest.mark.parametrize(
    ("arm", "median", "p90", "lag1", "halves"),
    [
        ("MLX GPU", (7.3113, 7.2196, 7.3859), (7.4657, 7.4464, 7.5057), 0.818, 1.0328),
        ("PyTorch MPS", (12.9634, 12.9453, 12.9748), (18.3726, 15.6622, 20.4499), 0.825, 1.1449),
        ("MLX CPU", (2.0454, 2.0333, 2.0488), (2.0655, 2.0607, 2.0776), 0.599, 1.0133),
        ("PyTorch CPU", (2.0258, 2.0191, 2.0328), (2.0778, 2.0581, 2.1184), 0.349, 1.0141),
    ],
)
def test_state_of_an_arm(arm, median, p90, lag1, halves):
    values = totals(arm)
    ordered = np.sort(values)
    for q, expected in ((0.5, median), (0.9, p90)):
        exact = [ordered[nyblom(100, q, 0.025)[0] - 1], ordered[-nyblom(100, 1 - q, 0.025)[0]]]
        assert [np.quantile(values, q), *exact] == pytest.approx(expected, abs=6e-5)
    found = autocorrelation(values, np.random.default_rng(0), arm)
    assert found.lag1 == pytest.approx(lag1, abs=5e-4)
    assert found.p < 2e-3
    assert names(found) == ["DRIFT"]
    average = average_ratio(values[:50], values[50:], paired=False)
    assert average.estimate == pytest.approx(halves, abs=5e-5)
    assert not average.low <= 1 <= average.high  # each arm differs from itself

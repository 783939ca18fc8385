"""What is no measurement, and what so few runs cannot say, is refused by name."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.statistics import (
    across_machines,
    anytime_ratio,
    arrival,
    autocorrelation,
    average_ratio,
    equivalence,
    expected_time,
    holm,
    holm_pairs,
    log_rank,
    models_ratio,
    order_effect,
    paired_ratio,
    percentile_ratio,
    run_percentile,
    tail_ratio,
    unpaired_ratio,
    wins_share,
)
from measurement.errors import InputError

GOOD = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5]


def average_unpaired(a, b):
    return average_ratio(a, b, paired=False)


def equivalence_unpaired(a, b):
    return equivalence(a, b, paired=False)


def percentiles(a, b):
    return percentile_ratio(a, b, calls=100)


PAIRED = [paired_ratio, equivalence, average_ratio, anytime_ratio, percentiles, wins_share]
UNPAIRED = [unpaired_ratio, equivalence_unpaired, average_unpaired, tail_ratio]
EVERY = [*PAIRED, *UNPAIRED]
NO_NUMBERS = [
    ([*GOOD[:5], np.nan], "nan is no measurement"),
    ([*GOOD[:5], np.inf], "inf is no measurement; .* never arrived belongs to a time-to-target"),
    ([*GOOD[:5], -np.inf], "-inf is no measurement"),
    ([*GOOD[:5], 0.0], "0.0 is no measurement"),
    ([*GOOD[:5], -1.0], "-1.0 is no measurement"),
    ([GOOD, GOOD], r"shape \(2, 6\)"),
    ([[1.0], [1.0, 2.0]], "nested lists"),
    (np.float64(1.0), "one number a run"),
    (["1.0"] * 6, "'1.0' is no number"),
    ([*GOOD[:5], "fast"], "'fast' is no number"),
    ([*GOOD[:5], None], "None is no number"),
    ([True] * 6, "True is no number"),
    ([1j] * 6, "1j is no number"),
]


@pytest.mark.parametrize(("wrong", "said"), NO_NUMBERS)
@pytest.mark.parametrize("function", EVERY)
def test_no_measurement(function, wrong, said):
    for arms in ((wrong, GOOD), (GOOD, wrong)):
        with pytest.raises(InputError, match=said):
            function(*arms)
    with pytest.raises(InputError, match="second arm"):
        function(GOOD, wrong)


@pytest.mark.parametrize("function", EVERY)
def test_an_empty_arm(function):
    for arms in (([], GOOD), (GOOD, []), ([], [])):
        with pytest.raises(InputError, match="empty|no pairs|6 and 0|0 and 6"):
            function(*arms)


@pytest.mark.parametrize("function", PAIRED)
def test_arms_that_do_not_pair(function):
    with pytest.raises(InputError, match="pairs need both arms, got 6 and 5 runs"):
        function(GOOD, GOOD[:5])


@pytest.mark.parametrize("confidence", [0, 1, -0.5, 95, float("nan")])
@pytest.mark.parametrize(
    "function",
    [
        paired_ratio,
        unpaired_ratio,
        average_ratio,
        average_unpaired,
        anytime_ratio,
        tail_ratio,
        wins_share,
        arrival,
    ],
)
def test_confidence_outside_its_range(function, confidence):
    if function is average_unpaired:
        with pytest.raises(InputError, match="confidence"):
            average_ratio(GOOD, GOOD, confidence, paired=False)
        return
    with pytest.raises(InputError, match="expected a number between 0 and 1"):
        function(GOOD, [2.0] * 6, confidence=confidence)
    with pytest.raises(InputError, match="confidence"):
        across_machines([paired_ratio(GOOD, GOOD)] * 3, confidence)
    with pytest.raises(InputError, match="confidence"):
        models_ratio([paired_ratio(GOOD, GOOD)] * 3, confidence)


@pytest.mark.parametrize("margin", [0, -0.05, float("nan"), float("inf")])
def test_margin_outside_its_range(margin):
    with pytest.raises(InputError, match="margin"):
        equivalence(GOOD, GOOD, margin=margin)


@pytest.mark.parametrize("alpha", [0, 0.5, 5, float("nan")])
def test_alpha_outside_its_range(alpha):
    with pytest.raises(InputError, match="alpha"):
        equivalence(GOOD, GOOD, alpha=alpha)


@pytest.mark.parametrize("percentile", [0, 0.9, 100, -1, 900, float("nan")])
def test_percentile_outside_its_range(percentile):
    with pytest.raises(InputError, match="from 1 to below 100"):
        tail_ratio(GOOD, GOOD, percentile)
    with pytest.raises(InputError, match="from 1 to below 100"):
        percentile_ratio(GOOD, GOOD, 100, percentile)
    with pytest.raises(InputError, match="from 1 to below 100"):
        run_percentile(GOOD, percentile)


@pytest.mark.parametrize(
    ("p", "said"),
    [([], "one or more"), ([1.5], "0 to 1"), ([-0.1], "0 to 1"), ([np.nan], "0 to 1"),
     ([None], "None is no number"), (["0.1"], "no number")],
)  # fmt: skip
def test_no_p_values(p, said):
    with pytest.raises(InputError, match=said):
        holm(p)


def test_no_family():
    for wrong in ((0, 0.05), (3, 0), (3, 1)):
        with pytest.raises(InputError, match="family"):
            holm_pairs(*wrong)


def test_nothing_to_combine():
    for function in (across_machines, models_ratio):
        with pytest.raises(InputError, match="no ratio"):
            function([])


@pytest.mark.parametrize(
    ("times", "budgets", "said"),
    [
        ([], [], "one time and one budget"),
        ([1.0], [3.0, 3.0], "1 times, 2 budgets"),
        ([1.0, np.nan], [3.0, 3.0], "above 0"),
        ([1.0, 0.0], [3.0, 3.0], "above 0"),
        ([1.0, -2.0], [3.0, 3.0], "above 0"),
        ([1.0, 2.0], [3.0, np.inf], "above 0"),
        ([1.0, 2.0], [3.0, np.nan], "above 0"),
        ([[1.0, 2.0]], [[3.0, 3.0]], "shape"),
        (["never", 2.0], [3.0, 3.0], "no number"),
        ([None, 2.0], [3.0, 3.0], "None is no number"),
    ],
)
def test_no_arrival_times(times, budgets, said):
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match=said):
        arrival(times, budgets)
    with pytest.raises(InputError, match=said):
        expected_time(times, budgets)
    with pytest.raises(InputError, match=said):
        log_rank(times, [1.0] * 4, budgets, [3.0] * 4, rng)
    with pytest.raises(InputError, match=said):
        log_rank([1.0] * 4, times, [3.0] * 4, budgets, rng)


def test_diagnostics_take_measurements_only():
    with pytest.raises(InputError, match="no measurement"):
        autocorrelation([1.0, np.nan, 2.0, 3.0], np.random.default_rng(0))
    with pytest.raises(InputError, match="no measurement"):
        order_effect([1.0, 0.0], [True, False])
    with pytest.raises(InputError, match="2 ratios and 1 orders"):
        order_effect([1.0, 2.0], [True])
    with pytest.raises(InputError, match="none"):
        run_percentile([])


@pytest.mark.parametrize(
    ("function", "few", "enough", "flag"),
    [
        (paired_ratio, 5, 6, "FEW"),
        (unpaired_ratio, 5, 6, "FEW"),
        (percentiles, 5, 6, "FEW"),
        (anytime_ratio, 7, 8, "FEW"),
        (tail_ratio, 35, 36, "P90-FEW"),
        (average_ratio, 29, 30, "AVERAGE-FEW"),
        (average_unpaired, 29, 30, "AVERAGE-FEW"),
        (equivalence, 4, 5, "FEW"),
        (equivalence_unpaired, 4, 5, "FEW"),
    ],
)
def test_few_runs_get_a_number_and_no_interval(function, few, enough, flag):
    values = np.linspace(1, 2, enough)
    refused, given = function(values[:few], values[:few]), function(values, values)
    assert refused.estimate == given.estimate == 1
    assert (refused.low, refused.high, refused.p) == (None, None, None)
    assert flag in [f.name for f in refused.warnings]
    assert str(few) in next(f.sentence for f in refused.warnings if f.name == flag)
    assert None not in (given.low, given.high, given.p)
    assert flag not in [f.name for f in given.warnings]


def test_an_interval_that_the_confidence_forbids_is_not_infinite():
    r = paired_ratio(GOOD, [2.0] * 6, confidence=0.99)
    assert (r.low, r.high, r.p) == (None, None, None)
    assert "Run at least 8" in next(f.remedy for f in r.warnings if f.name == "FEW")
    assert paired_ratio([*GOOD, 1.6, 1.7], [2.0] * 8, confidence=0.99).high < 1
    few = arrival([3.0] * 6, [9.0] * 6, confidence=0.99)
    assert (few.low, few.high) == (None, None)


def test_refused_sameness_is_never_same():
    refused = equivalence([1.0] * 4, [1.0] * 4)
    assert not refused.same
    assert "87.5 % and p < 0.05 is out of reach" in refused.warnings[0].sentence


def test_five_pairs_may_be_the_same_and_may_not_differ():
    assert equivalence([1.0, 1.01, 0.99, 1.0, 1.0], [1.0] * 5).same
    assert paired_ratio([1.0, 1.01, 0.99, 1.0, 1.0], [1.0] * 5).p is None


def test_every_result_is_frozen():
    for result in (
        paired_ratio(GOOD, GOOD),
        average_ratio(GOOD, GOOD),
        equivalence(GOOD, GOOD),
        wins_share(GOOD, GOOD),
        holm([0.1]),
        across_machines([paired_ratio(GOOD, GOOD)]),
        arrival(GOOD, [9.0] * 6),
        log_rank(GOOD, GOOD, [9.0] * 6, [9.0] * 6, np.random.default_rng(0)),
        autocorrelation(GOOD, np.random.default_rng(0)),
    ):
        with pytest.raises(AttributeError):
            result.warnings = ()

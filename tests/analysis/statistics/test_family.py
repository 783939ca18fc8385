"""Holm's adjustment against its definition as a closed test, and against published values."""

from __future__ import annotations

from itertools import chain, combinations

import numpy as np
import pytest

from analysis.statistics import holm, holm_pairs, paired_ratio


def closed_test(p):
    """Adjusted p of a row: the largest Bonferroni p of any set of rows that holds it."""
    rows = range(len(p))
    sets = list(chain.from_iterable(combinations(rows, size) for size in range(1, len(p) + 1)))
    return [max(min(1.0, len(s) * min(p[i] for i in s)) for s in sets if row in s) for row in rows]


@pytest.mark.parametrize("m", (1, 2, 5, 9))
def test_holm_is_the_closed_test_of_bonferroni(m):
    rng = np.random.default_rng(m)
    for _ in range(20):
        p = np.round(rng.random(m) ** 3, 2).tolist()  # with ties and zeros
        assert holm(p).adjusted == pytest.approx(closed_test(p))


def test_holm_as_statsmodels_and_r_give_it():
    p = [0.01, 0.02, 0.03, 0.04, 0.05]
    assert holm(p).adjusted == pytest.approx((0.05, 0.08, 0.09, 0.09, 0.09))


def test_a_family_too_large_for_the_pairs_is_flagged():
    least = paired_ratio([2.0] * 8, [1.0 + i / 10 for i in range(8)]).p
    for m in (1, 6, 7, 30):
        family = holm([least] * m, pairs=8)
        assert family.needed_pairs == holm_pairs(m)
        reachable = min(family.adjusted) <= 0.05
        assert reachable == (family.needed_pairs <= 8)
        assert [flag.name for flag in family.warnings] == ([] if reachable else ["HOLM-FEW"])


def test_rows_that_came_to_nothing_stay_in_the_family():
    assert holm([0.01, 1.0, 1.0]).adjusted[0] == pytest.approx(0.03)

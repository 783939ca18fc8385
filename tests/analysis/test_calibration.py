"""Error rates of the shipped functions, quick and seeded. Bands are those of the method's study."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.statistics import equivalence, paired_ratio, unpaired_ratio
from analysis.statistics.diagnostics import autocorrelation

REPLICATES = 2000


def lognormal(rng, n):
    return np.exp(rng.normal(0, 0.05, n))


def throttled(rng, n):
    return np.exp(rng.normal(0, 0.02, n)) * np.where(rng.random(n) < 0.2, 1.3, 1.0)


def ramp(rng, n):
    """Two runs a pair on a machine that slows down by 10 %, order drawn: interleaved columns."""
    drift = np.linspace(0, 0.1, 2 * n).reshape(n, 2)
    swapped = rng.random(n) < 0.5
    drift[swapped] = drift[swapped, ::-1]
    return np.exp(drift + rng.normal(0, 0.02, (n, 2))).T


def rate(outcomes) -> float:
    return 100 * float(np.mean(list(outcomes)))


@pytest.mark.parametrize("n", [6, 10, 30])
@pytest.mark.parametrize("shape", [lognormal, throttled])
def test_paired_median_calls_equal_arms_different_in_five_percent(shape, n):
    rng = np.random.default_rng([n, 1])
    found = rate(paired_ratio(shape(rng, n), shape(rng, n)).p <= 0.05 for _ in range(REPLICATES))
    assert 3.5 <= found <= 6.5


def test_a_ramp_of_the_machine_does_not_fool_random_pairs():
    rng = np.random.default_rng(3)
    found = rate(paired_ratio(*ramp(rng, 10)).p <= 0.05 for _ in range(REPLICATES))
    assert 3.5 <= found <= 6.5


def test_unpaired_ratio_stays_below_its_level():
    rng = np.random.default_rng(4)
    found = rate(
        unpaired_ratio(lognormal(rng, 10), lognormal(rng, 10)).p <= 0.05 for _ in range(500)
    )
    assert 1 <= found <= 5


def test_equivalence_at_the_edge_of_the_margin_errs_in_at_most_five_percent():
    rng = np.random.default_rng(5)
    found = rate(
        equivalence(1.05 * lognormal(rng, 10), lognormal(rng, 10)).same for _ in range(REPLICATES)
    )
    assert found <= 6.5


def test_drift_flag_fires_by_chance_in_five_percent():
    rng = np.random.default_rng(6)
    found = rate(
        autocorrelation(lognormal(rng, 10), rng, permutations=199).p < 0.05 for _ in range(1000)
    )
    assert 3 <= found <= 7

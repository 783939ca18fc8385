"""Intervals and p-values against programs that share no line with the library."""

from __future__ import annotations

from fractions import Fraction
from math import comb, exp, hypot, inf, log

import numpy as np
import pytest
from scipy import integrate, stats

from analysis.statistics import (
    anytime_ratio,
    average_ratio,
    equivalence,
    paired_ratio,
    tail_ratio,
    unpaired_ratio,
    wins_share,
)
from analysis.statistics.anytime import pairs_needed
from analysis.statistics.limits import smallest_tail
from analysis.statistics.orderstat import interval, runs_needed

SIZES = (6, 7, 9, 10, 23, 36, 60)


def lower(values, q: Fraction, tail: float) -> float:
    """Nyblom's lower limit in exact arithmetic, straight from the formula."""
    x, n, tail = sorted(values), len(values), Fraction(tail)
    cumulative = [Fraction(0)]
    for i in range(n):
        cumulative.append(cumulative[-1] + comb(n, i) * q**i * (1 - q) ** (n - i))
    r = max(i for i, t in enumerate(cumulative) if t <= tail)
    if r == 0:
        return -inf
    if r == n or cumulative[r] == tail:
        return x[r - 1]
    odds = Fraction(r) * (1 - q) / ((n - r) * q)
    weight = float(1 / (1 + odds * (cumulative[r + 1] - tail) / (tail - cumulative[r])))
    return (1 - weight) * x[r - 1] + weight * x[r]


def both(values, q: Fraction, tail: float) -> tuple[float, float]:
    return lower(values, q, tail), -lower([-x for x in values], 1 - q, tail)


def square_and_add(a, b, q: Fraction, tail: float) -> tuple[float, float]:
    at_a, at_b = np.quantile(a, float(q)), np.quantile(b, float(q))
    (low_a, high_a), (low_b, high_b) = both(a, q, tail), both(b, q, tail)
    return (
        at_a - at_b - hypot(max(at_a - low_a, 0), max(high_b - at_b, 0)),
        at_a - at_b + hypot(max(high_a - at_a, 0), max(at_b - low_b, 0)),
    )


def smallest_alpha(excludes) -> float:
    """Bisection on the logarithm of the one-sided error; 2 * tail."""
    inside, outside = -200.0, log(0.5)
    if not excludes(exp(outside)):
        return 1.0
    while outside - inside > 1e-11:
        middle = (inside + outside) / 2
        inside, outside = (inside, middle) if excludes(exp(middle)) else (middle, outside)
    return 2 * exp(outside)


def samples(n: int, arms: int = 2):
    rng = np.random.default_rng(n)
    for effect in (0.0, 0.02, 0.1):
        yield [np.exp(rng.normal(effect * i, 0.05, n + 2 * i * (arms > 2))) for i in range(2)]


@pytest.mark.parametrize("n", SIZES)
def test_paired_ratio_to_the_last_digits(n):
    for first, second in samples(n):
        d = np.log(first / second)
        ours = paired_ratio(first, second)
        assert np.log([ours.low, ours.high]) == pytest.approx(
            both(d, Fraction(1, 2), 0.025), abs=1e-12
        )
        p = smallest_alpha(lambda t, d=d: not lower(d, Fraction(1, 2), t) <= 0 <= both(
            d, Fraction(1, 2), t)[1])  # fmt: skip
        assert ours.p == pytest.approx(p, rel=1e-9)


@pytest.mark.parametrize("n", SIZES)
def test_unpaired_and_tail_ratio_to_the_last_digits(n):
    for function, q in ((unpaired_ratio, Fraction(1, 2)), (tail_ratio, Fraction(9, 10))):
        if n < runs_needed(float(q), 0.025):
            continue
        for first, second in samples(n, arms=3):  # of unequal size
            a, b = np.log(first), np.log(second)
            ours = function(first, second)
            expected = square_and_add(a, b, q, 0.025)
            assert np.log([ours.low, ours.high]) == pytest.approx(expected, abs=1e-12)

            def excludes(t, a=a, b=b, q=q):
                low, high = square_and_add(a, b, q, t)
                return not low <= 0 <= high

            assert ours.p == pytest.approx(smallest_alpha(excludes), rel=1e-8)


@pytest.mark.parametrize("n", (6, 10, 31))
def test_p_of_the_equivalence_test(n):
    rng = np.random.default_rng(n)
    for centre in (0.0, 0.02, 0.2):
        d = rng.normal(centre, 0.04, n)

        def leaves(t, d=d):
            low, high = both(d, Fraction(1, 2), t)
            return -log(1.05) < low and high < log(1.05)

        ours = equivalence(np.exp(d), np.ones(n))
        if leaves(0.5):
            assert ours.p == pytest.approx(smallest_alpha(leaves) / 2, rel=1e-9)
        else:
            assert ours.p == 1
        assert ours.same == leaves(0.05)


@pytest.mark.parametrize(("n", "tail"), [(8, 0.025), (15, 0.05), (100, 0.005)])
def test_median_interval_as_hettmansperger_and_sheather_wrote_it(n, tail):
    x = np.sort(np.random.default_rng(n).normal(size=n))
    covered = {d: 1 - 2 * stats.binom.cdf(d - 1, n, 0.5) for d in range(1, n // 2 + 1)}
    d = max(d for d, c in covered.items() if c >= 1 - 2 * tail)
    i = (covered[d] - (1 - 2 * tail)) / (covered[d] - covered[d + 1])
    weight = (n - d) * i / (d + (n - 2 * d) * i)
    expected = (
        (1 - weight) * x[d - 1] + weight * x[d],
        (1 - weight) * x[n - d] + weight * x[n - d - 1],
    )
    assert interval(x, 0.5, tail) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("n", SIZES)
def test_p_lies_between_two_exact_sign_tests(n):
    for first, second in samples(n):
        slower = int(np.sum(first > second))
        few = min(slower, n - slower)
        exact = [stats.binomtest(k, n).pvalue for k in (few - 1, few) if k >= 0]
        assert exact[0] - 1e-12 <= paired_ratio(first, second).p <= exact[-1] + 1e-12


def test_agrees_with_wilcoxon_on_clean_data():
    """Not the same test; on lognormal runs the two should mostly say the same."""
    rng = np.random.default_rng(5)
    verdicts = []
    for _ in range(200):
        a, b = np.exp(rng.normal(0.04, 0.05, 30)), np.exp(rng.normal(0, 0.05, 30))
        theirs = stats.wilcoxon(np.log(a / b)).pvalue < 0.05
        verdicts.append((paired_ratio(a, b).p < 0.05) == theirs)
    assert np.mean(verdicts) > 0.8


@pytest.mark.parametrize("n", (30, 47))
def test_average_ratio_by_hand(n):
    for first, second in samples(n, arms=3):
        d = np.log(first / second[:n])
        ours = average_ratio(first, second[:n])
        half = stats.t.ppf(0.975, n - 1) * d.std(ddof=1) / np.sqrt(n)
        assert np.log([ours.low, ours.high]) == pytest.approx((d.mean() - half, d.mean() + half))
        assert ours.df == n - 1
        a, b = np.log(first), np.log(second)
        ours = average_ratio(first, second, paired=False)
        va, vb = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
        df = (va + vb) ** 2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1))
        t = (a.mean() - b.mean()) / np.sqrt(va + vb)
        assert (ours.df, ours.p) == pytest.approx((df, 2 * stats.t.sf(abs(t), df)))
        half = stats.t.ppf(0.975, df) * np.sqrt(va + vb)
        assert np.log(ours.high / ours.estimate) == pytest.approx(half)


@pytest.mark.parametrize("n", (8, 9, 20, 51))
def test_anytime_interval_by_integration(n):
    """Which medians survive, by integrating the mixture; no beta function, no ranks."""
    x = np.sort(np.random.default_rng(n).normal(size=n))

    def evidence(k):
        return integrate.quad(lambda s: 2.0**n * s**k * (1 - s) ** (n - k), 0, 1)[0]

    gaps = [x[0] - 1, *(x[:-1] + x[1:]) / 2, x[-1] + 1]  # k values lie below gap k
    kept = [k for k in range(n + 1) if evidence(k) < 20]
    ours = anytime_ratio(np.exp(x), np.ones(n))
    low, high = np.log([ours.low, ours.high])
    assert [k for k, gap in enumerate(gaps) if low <= gap <= high] == kept
    for below, gap in enumerate(gaps):
        p = anytime_ratio(np.exp(x - gap), np.ones(n)).p
        assert p == pytest.approx(min(1.0, 1 / evidence(below)), rel=1e-7)


@pytest.mark.parametrize("before", [-inf, -1.0])
def test_a_limit_that_jumps_is_found_exactly(before):
    calls = []

    def margin(tail):
        calls.append(tail)
        return before if tail < 0.3 else 1.0

    assert smallest_tail(margin, (0.1, 0.3, 0.5)) == 0.3
    assert len(calls) < 6  # a root finder would halve its way there


def test_pairs_before_the_first_anytime_interval():
    assert pairs_needed(0.05) == 8  # 2^7 / 8 = 16 < 20 <= 2^8 / 9


def test_anytime_interval_errs_at_most_at_its_level_over_all_looks():
    rng = np.random.default_rng(9)
    wrong = 0
    for _ in range(1000):
        signs = np.cumsum(rng.integers(0, 2, 200))
        looks = np.arange(1, 201)
        below = np.minimum(signs, looks - signs)
        wrong += any(anytime_p(n, k) <= 0.05 for n, k in zip(looks[7:], below[7:], strict=True))
    assert 15 <= wrong <= 50


def anytime_p(n: int, below: int) -> float:
    key = (int(n), int(below))
    if key not in KNOWN:
        values = np.exp(np.concatenate([-np.ones(below), np.ones(n - below)]))
        KNOWN[key] = anytime_ratio(values, np.ones(n)).p
    return KNOWN[key]


KNOWN: dict[tuple[int, int], float] = {}


def test_share_of_wins_is_clopper_pearson():
    for wins in range(8):
        share = wins_share([0.5] * wins + [2.0] * (7 - wins), [1.0] * 7)
        exact = stats.binomtest(wins, 7).proportion_ci(method="exact")
        assert (share.low, share.high) == pytest.approx((exact.low, exact.high), abs=1e-9)
        assert share.estimate == wins / 7


@pytest.mark.parametrize(("q", "n"), [(0.5, 6), (0.9, 36), (0.1, 36), (0.95, 72), (0.99, 368)])
def test_runs_needed_is_where_the_first_interval_exists(q, n):
    assert runs_needed(q, 0.025) == n
    assert np.isfinite(interval(np.arange(float(n)), q, 0.025)).all()
    assert not np.isfinite(interval(np.arange(float(n - 1)), q, 0.025)).all()

"""The quick calibration lies in its bands, and the bands can fail: broken functions fall out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import betaln
from scipy.stats import norm, ttest_1samp

from analysis import calibration, simulate, statistics
from analysis.calibration import CELLS, PRESETS, Band, Rate, measure, ratios, report, verdicts
from analysis.calibration import figures as drawings
from analysis.calibration.studies import EVER_WRONG, RESOLVED

QUICK = PRESETS["quick"]
FORMULAS = {"p_by_inversion", "rare_share", "resolution", "run_percentile", "equivalence_of"}
"""Public functions without a rate of their own: parts of others that have one."""


@pytest.fixture(scope="module")
def rates() -> list[Rate]:
    return report.in_order(calibration.measure_all(QUICK, seed=1, processes=1))


def test_every_rate_lies_in_its_band(rates: list[Rate]) -> None:
    assert [str(rate) for rate in rates if not rate.inside] == []


def test_every_function_has_a_rate() -> None:
    public = {
        name
        for name in statistics.__all__
        if callable(getattr(statistics, name)) and name[0].islower()
    }
    assert public - FORMULAS <= {cell.function for cell in CELLS.values()}
    assert {f"Q{i}" for i in range(1, 12)} - {"Q2"} <= {cell.question for cell in CELLS.values()}
    powered = {cell.question for cell in CELLS.values() if cell.kind == "power"}
    assert {"Q1", "Q3", "Q9"} <= powered


def broken(cell_name: str, method: ratios.Method, study: str = "equal") -> Rate:
    """The rate of a cell of paired_ratio with another function in its place."""
    cell = CELLS[cell_name]
    built = {
        "equal": lambda: ratios.two_arms(
            method, verdicts.differs, cell.n, simulate.lognormal, simulate.lognormal
        ),
        "sequential": lambda: ratios.drifting(method, cell.n, cell.variant, sequential=True),
    }[study]()
    return measure(replace(cell, study=built), QUICK.of(cell), seed=1)


class Limits:
    """What a verdict needs of a result."""

    def __init__(self, low: float, high: float, p: float) -> None:
        self.low, self.high, self.p = low, high, p


def t_on_three(first: np.ndarray, second: np.ndarray) -> Limits:
    """A t test that has seen the three most extreme pairs only."""
    logs = np.log(first / second)
    test = ttest_1samp(logs[np.argsort(np.abs(logs))[-3:]], 0)
    return Limits(*np.exp(test.confidence_interval()), test.pvalue)


def wrong_tail(first: np.ndarray, second: np.ndarray) -> statistics.Ratio:
    """One side's error taken for both sides': a 90 % interval called 95 %."""
    found = statistics.paired_ratio(first, second)
    return replace(found, p=None if found.p is None else found.p / 2)


def too_cautious(first: np.ndarray, second: np.ndarray) -> statistics.Ratio:
    """A correction that nobody asked for: blind to half of what there is."""
    found = statistics.paired_ratio(first, second)
    return replace(found, p=None if found.p is None else 3 * found.p)


EQUAL = "false_positives/Q1/paired_ratio/equal_arms/lognormal/n6"
DRIFT = "false_positives/Q1/paired_ratio/drift_pairs_in_random_order/ramp/n6"


def test_the_shipped_function_passes_where_the_broken_ones_fail() -> None:
    assert broken(EQUAL, statistics.paired_ratio).inside


@pytest.mark.parametrize("method", [t_on_three, wrong_tail, too_cautious])
def test_a_broken_function_falls_out_of_its_band(method: ratios.Method) -> None:
    assert not broken(EQUAL, method).inside


def test_sequential_order_falls_out_of_the_band_of_random_pairs() -> None:
    assert not broken(DRIFT, statistics.unpaired_ratio, "sequential").inside
    assert not broken(DRIFT, statistics.paired_ratio, "sequential").inside


def test_a_power_below_the_known_one_falls_out() -> None:
    cell = CELLS["power/Q1/paired_ratio/ratio_1.05/lognormal/n30"]
    weaker = ratios.two_arms(
        too_cautious, verdicts.differs, 30, simulate.lognormal, simulate.lognormal, 1.05
    )
    assert not measure(replace(cell, study=weaker), 1000, seed=1).inside


def test_coverage_of_too_narrow_an_interval_falls_out() -> None:
    cell = CELLS["coverage/Q1/paired_ratio/unlike_arms/bimodal20/n10"]

    def narrower(first: np.ndarray, second: np.ndarray) -> statistics.Ratio:
        return statistics.paired_ratio(first, second, confidence=0.9)

    shape = simulate.bimodal20
    study = ratios.covering(
        narrower, 10, shape, lambda: verdicts.true_median_of_pairs(shape, verdicts.narrow)
    )
    assert not measure(replace(cell, study=study), 2000, seed=1).inside


def decided_by(share: float, pairs: int) -> float:
    """Percent of anytime studies that exclude 1 within so many pairs, by recursion over the wins."""
    waiting, decided = {0: 1.0}, 0.0
    for n in range(1, pairs + 1):
        reached: dict[int, float] = {}
        for wins, p in waiting.items():
            reached[wins + 1] = reached.get(wins + 1, 0.0) + p * share
            reached[wins] = reached.get(wins, 0.0) + p * (1 - share)
        out = {k for k in reached if n * np.log(2) + betaln(1 + k, 1 + n - k) >= np.log(20)}
        decided += sum(reached[k] for k in out)
        waiting = {k: p for k, p in reached.items() if k not in out}
    return 100 * decided


def test_the_exact_rates_of_the_anytime_interval() -> None:
    wins = float(norm.cdf(np.log(1.05) / np.sqrt(2 * np.log1p(0.05**2))))
    for pairs, percent in RESOLVED.items():
        assert decided_by(wins, pairs) == pytest.approx(percent, abs=0.01)
    assert decided_by(0.5, 200) == pytest.approx(EVER_WRONG, abs=0.01)


def test_a_cell_depends_on_seed_and_name_alone() -> None:
    cell = CELLS[EQUAL]
    assert measure(cell, 300, seed=3).hits == measure(cell, 300, seed=3).hits
    hits = {measure(cell, 2000, seed).hits for seed in range(3)}
    renamed = measure(replace(cell, variant="other"), 2000, seed=0).hits
    assert len({*hits, renamed}) > 1


def test_processes_do_not_change_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    few = replace(QUICK, replicates=20, dear_replicates=2)
    some = [cell for cell in calibration.chosen(few) if cell.question in ("Q3", "Q8")]
    monkeypatch.setattr("analysis.calibration.run.chosen", lambda preset: some)
    one, two = (
        {rate.cell.name: rate.hits for rate in calibration.measure_all(few, 5, processes)}
        for processes in (1, 2)
    )
    assert one == two and len(one) == len(some)


@pytest.mark.parametrize(
    ("percent", "inside"), [(3.0, False), (3.7, True), (5.0, True), (6.4, True), (6.7, False)]
)
def test_a_band_widens_with_few_studies_only(percent: float, inside: bool) -> None:
    cell = replace(CELLS[EQUAL], band=Band(4.3, 5.7, "nominal"))
    assert Rate(cell, 8000, round(80 * percent)).inside is inside
    assert Rate(cell, 200, 10).inside
    assert not Rate(replace(cell, band=verdicts.REFUSED), 50, 49).inside


def test_the_page_says_what_is_outside(rates: list[Rate]) -> None:
    worse = [replace(rates[0], hits=rates[0].replicates), *rates[1:]]
    page = report.page(worse, "quick", 1)
    assert page.verdict[0].startswith(f"{len(rates) - 1} of {len(rates)} rates lie in their bands")
    assert rates[0].cell.name in page.verdict[1]
    summary = page.sections[0].grid
    assert summary is not None and summary.rows[0][-1].startswith("no: 1 of")
    assert {len(row) for row in summary.rows} == {len(summary.header)}


def test_records_and_metrics_name_every_rate_once(rates: list[Rate]) -> None:
    assert len({record["name"] for record in report.records(rates, 1)}) == len(rates)
    names = report.metrics(rates)
    assert len(names) == len(rates)
    name = "calibration/false_positives_percent/Q1/paired_ratio/equal_arms/lognormal/n6"
    assert 0 < names[name] < 10
    assert all(len(name) <= 250 for name in names)


def test_figures_show_every_panel(rates: list[Rate]) -> None:
    for panel in (*drawings.FALSE_POSITIVES, *drawings.COVERAGE, *drawings.POWER):
        assert panel.lines(rates), panel
    found = drawings.draw(rates)
    assert [d.name for d in found] == ["false_positives", "coverage", "power", "order_of_runs"]
    assert all(d.light[:4] == b"\x89PNG" and d.light != d.dark and d.alt for d in found)

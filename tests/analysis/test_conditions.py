"""Machines and meters that did not treat both arms alike are named; those that did are not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from analysis import comparison, conditions, fairness, report
from measurement import energy
from tests.analysis.rows import rows, study
from tracking.read import Row

A, B = "mlx blas=mkl", "pytorch blas=mkl"
PEAK = "memory/process_peak_bytes"


def arms(n: int = 6) -> tuple[list[Row], list[Row]]:
    found = rows(n)
    return [r for r in found if r.arm == A], [r for r in found if r.arm == B]


def flagged(arm: list[Row], flag: str, count: int) -> list[Row]:
    return [replace(r, flags=(*r.flags, flag)) if i < count else r for i, r in enumerate(arm)]


def said(flag: str, n: int, first: int, second: int) -> str | None:
    a, b = arms(n)
    return conditions.machine_asymmetry(flagged(a, flag, first), flagged(b, flag, second))


@pytest.mark.parametrize("flag", conditions.CHANCE)
@pytest.mark.parametrize(
    ("n", "first", "second"), [(6, 6, 0), (6, 4, 0), (6, 5, 1), (20, 12, 4), (30, 15, 5), (3, 3, 0)]
)
def test_a_state_of_one_arm_is_named_whichever_it_is(
    flag: str, n: int, first: int, second: int
) -> None:
    sentence = said(flag, n, first, second)
    assert sentence and f"{flag} in {first} of {n} trials of {A}" in sentence
    assert f"trials of {B}" in (said(flag, n, second, first) or "")


@pytest.mark.parametrize(
    ("n", "first", "second"),
    [(6, 0, 0), (6, 6, 6), (6, 3, 0), (6, 2, 0), (6, 4, 1), (20, 9, 0), (30, 20, 15), (2, 2, 0)],
)
def test_states_of_both_arms_or_of_few_trials_are_none(n: int, first: int, second: int) -> None:
    assert said("LOAD", n, first, second) is None


@pytest.mark.parametrize("flag", conditions.SET)
def test_what_somebody_sets_needs_no_chance(flag: str) -> None:
    assert said(flag, 2, 2, 0) and said(flag, 1, 0, 1)
    assert said(flag, 2, 2, 1) is None and said(flag, 6, 1, 0) is None


def test_a_noisy_machine_that_hits_both_arms_alike_is_refused_in_one_of_twenty() -> None:
    rng, (a, b) = np.random.default_rng(0), arms(6)
    refused = 0
    for _ in range(400):
        hits = [[flagged([r], "LOAD", int(rng.random() < 0.5))[0] for r in arm] for arm in (a, b)]
        refused += conditions.machine_asymmetry(*hits) is not None
    assert refused / 400 < 0.06


def test_other_flags_are_no_state_of_the_machine() -> None:
    assert said("SYNTHETIC", 6, 6, 0) is None


def test_a_study_refuses_the_ratio_and_keeps_every_trial() -> None:
    a, b = arms(6)
    pairs = list(zip(range(6), flagged(a, "THERMAL", 6), b, strict=True))
    assert "THERMAL" in (fairness.refusal("headline", pairs) or "")
    assert fairness.refusal("headline", list(zip(range(6), a, b, strict=True))) is None


def test_flagged_trials_stay_and_their_flags_stand_with_every_verdict() -> None:
    """Both arms met it alike: the ratio stands, of all pairs, with the flag beside it wherever it is
    shown."""
    clean = rows()
    given = [replace(r, flags=("LOAD",)) if r.pair in (0, 1, 2) else r for r in clean]
    found = comparison.analyse(study(), given, np.random.default_rng(0))
    headline = next(c for c in found.comparisons if c.role == "headline")
    assert headline.ratio and headline.ratio.n == 6
    said = "LOAD in 6 of 12 trials"
    assert said in found.headline.splitlines()[0]
    assert said in report.terminal(found) and said in report.markdown(found)
    assert said in report.html(found, [])
    assert "LOAD" in {flag.name for flag in headline.flags}
    assert "LOAD" not in comparison.analyse(study(), clean, np.random.default_rng(0)).headline


# --- meters


def changed(arm: list[Row], **changes: Any) -> list[Row]:
    values = {k: changes.pop(k, {}) for k in ("metrics", "cell", "facts", "tags", "parity")}
    return [
        replace(r, **{k: {**(getattr(r, k) or {}), **v} for k, v in values.items()}, **changes)
        for r in arm
    ]


def test_memory_of_a_process_says_nothing_of_a_gpus_of_its_own() -> None:
    a, b = arms()
    assert conditions.meter_refusal(PEAK, a, b) is None
    gpu = {"cell": {"device": "gpu"}, "facts": {"machine_os": "Linux 6.1"}}
    a, b = changed(a, **gpu), changed(b, **gpu)
    assert "does not hold that of the GPU" in (conditions.meter_refusal(PEAK, a, b) or "")
    assert conditions.meter_refusal("train/total_seconds", a, b) is None
    assert conditions.meter_refusal(PEAK, b, b) is None  # one framework with itself
    mac = {"facts": {"machine_os": "Darwin 24.1"}}
    assert conditions.meter_refusal(PEAK, changed(a, **mac), changed(b, **mac)) is None


def test_memory_smaller_than_the_weights_is_refused() -> None:
    a, b = arms()
    small = (
        changed(a[:1], metrics={PEAK: 150_000.0}) + a[1:]
    )  # 26,506 weights, and as many gradients
    assert "less than the" in (conditions.meter_refusal(PEAK, small, b) or "")


@pytest.mark.parametrize(
    ("source", "watts", "sentence"),
    [
        (energy.RAPL_PACKAGE, 60.0, None),
        (f"{energy.RAPL_PACKAGE} + {energy.NVML}", 400.0, None),
        ("typical watts", 60.0, "'typical watts' is no counter"),
        ("none", 60.0, "no counter"),
        ("", 60.0, "no counter"),
        (energy.NVML, 5000.0, "more than a device takes"),
        (energy.APPLE, 0.01, "less than a device"),
    ],
)
def test_energy_of_no_known_counter_is_refused(
    source: str, watts: float, sentence: str | None
) -> None:
    a, b = arms()
    measured = {"energy/joules": 500.0, "energy/watts_mean": watts}
    a = changed(a, metrics=measured, tags={"energy_source": source})
    b = changed(b, metrics=measured, tags={"energy_source": energy.RAPL_PACKAGE})
    found = conditions.meter_refusal("energy/joules", a, b)
    assert (found is None) if sentence is None else sentence in (found or "")

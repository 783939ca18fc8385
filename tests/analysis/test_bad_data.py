"""What a study may hold that must not become a number: each with its own refusal, in one line."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import rows as made

from analysis import comparison
from measurement.errors import InputError
from tracking.read import Row

ARM, OTHER, PRIMARY = "mlx blas=mkl", "pytorch blas=mkl", "train/total_seconds"
Rows = list[Row]


def metric(value: float) -> Callable[[Rows], Rows]:
    return lambda found: made.changed(found, ARM, 2, metrics={PRIMARY: value})


def doubled(found: Rows) -> Rows:
    return [*found, found[0]]


def milliseconds(found: Rows) -> Rows:
    row = next(r for r in found if r.arm == ARM and r.pair == 2)
    return made.changed(found, ARM, 2, metrics={PRIMARY: 1000 * row.metrics[PRIMARY]})


def per_batch(found: Rows) -> Rows:
    row = next(r for r in found if r.arm == ARM and r.pair == 2)
    rate = row.metrics["train/items_per_second"] / 256
    return made.changed(found, ARM, 2, metrics={"train/items_per_second": rate})


REFUSED_WHOLE = {
    "NaN": (metric(np.nan), "is not a number"),
    "infinite": (metric(np.inf), "is infinite"),
    "zero": (metric(0.0), "is 0"),
    "negative": (metric(-2.0), "is -2"),
    "doubled pair": (doubled, "twice"),
    "milliseconds": (milliseconds, "units are mixed"),
    "a rate per batch": (per_batch, "units are mixed"),
    "two dtypes": (lambda f: made.changed(f, ARM, 2, cell={"dtype": "bfloat16"}), "mixes cond"),
    "two machines": (lambda f: made.changed(f, ARM, 2, machine="m2"), "mixes the machines"),
    "nothing": (lambda f: [], "no finished trial"),
}
NO_VERDICT = {
    "one arm empty": (lambda f: [r for r in f if r.arm != ARM], "no pair in which both arms"),
    "five pairs": (lambda f: [r for r in f if r.pair != 5], "no verdict from 5 pairs"),
    "no evidence": (lambda f: made.changed(f, ARM, 2, parity=None), "not equal work"),
    "no receipt": (lambda f: made.changed(f, OTHER, 2, receipt=None), "not equal work"),
    "cut evidence": (
        lambda f: made.changed(f, ARM, 2, parity={"losses": []}),
        "not equal work",
    ),
}


@pytest.mark.parametrize("case", REFUSED_WHOLE)
def test_refused_as_a_whole(case: str) -> None:
    spoil, said = REFUSED_WHOLE[case]
    with pytest.raises(InputError, match=said) as error:
        comparison.analyse(made.study(), spoil(made.rows()), np.random.default_rng(1))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("case", NO_VERDICT)
def test_listed_without_a_verdict(case: str) -> None:
    spoil, said = NO_VERDICT[case]
    findings = comparison.analyse(made.study(), spoil(made.rows()), np.random.default_rng(1))
    c = next(c for c in findings.comparisons if c.role == "headline" and c.metric == PRIMARY)
    assert said in c.verdict and c.outcome == "none"
    assert "faster" not in c.verdict and "slower" not in c.verdict


def test_infinity_is_allowed_as_never_only() -> None:
    never = dict.fromkeys(("target/seconds", "target/epochs"))
    found = [
        Row(**{**vars(r), "metrics": {k: v for k, v in r.metrics.items() if k not in never}})
        if r.arm == ARM and r.pair == 2
        else r
        for r in made.rows()
    ]
    findings = comparison.analyse(made.study(), found, np.random.default_rng(1))
    arrival = findings.arrivals[ARM, "epochs"]
    assert (arrival.arrived, arrival.n, arrival.expected > arrival.median) == (5, 6, True)

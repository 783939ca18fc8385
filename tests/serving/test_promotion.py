"""A challenger becomes champion on the study's own verdict and complete evidence, or is told what is
missing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis import comparison
from analysis.findings import Findings
from measurement.errors import InputError
from serving import promotion
from serving.promotion import Grounds
from tracking import read
from tracking.read import Row, Study

sys.path.append(str(Path(__file__).resolve().parents[1] / "analysis"))
import signed  # noqa: E402

MLX, TORCH, AGAIN = signed.ARMS
QUALITY = "eval/accuracy"
Judge = Callable[..., Grounds]


@cache
def sound() -> tuple[Study, tuple[Row, ...]]:
    """A study in which MLX takes 0.8 of PyTorch's time at the same accuracy."""
    plan = signed.study()
    return plan, tuple(signed.rows(plan)[0])


def of(rows: list[Row], arm: str, pair: int = 0) -> Row:
    return next(row for row in rows if (row.arm, row.pair) == (arm, pair))


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Judge:
    """judge(rows of a study, ...) with one study in the store, or two."""

    def call(
        rows: list[Row],
        champion: str = TORCH,
        challenger: str = MLX,
        metric: str = QUALITY,
        margin: float = 0.01,
        plan: Study | None = None,
        others: list[Row] | None = None,
    ) -> Grounds:
        plan = plan or sound()[0]
        other = replace(plan, name="later", run_id="later")
        by_name = {plan.name: (plan, rows), "later": (other, others or [])}
        monkeypatch.setattr(read, "study", lambda name, machine=None: by_name[name][0])
        monkeypatch.setattr(read, "trials_of", lambda study: by_name[study.name][1])

        def analysed(study: Study) -> Findings:
            return comparison.analyse(study, rows, np.random.default_rng(0))

        second = of(others or rows, challenger)
        return promotion.judge(of(rows, champion), second, metric, margin, analysed)

    return call


def changed(rows: list[Row], arm: str, **values: Any) -> list[Row]:
    """The rows of one arm with other values; `metrics` are merged, factors of what was there."""

    def one(row: Row) -> Row:
        if row.arm != arm:
            return row
        more = dict(values)
        if factors := more.pop("metrics", None):
            noise = 1 + 1e-4 * (row.pair or 0) * any(f != 1 for f in factors.values())
            more["metrics"] = row.metrics | {
                k: row.metrics[k] * f * noise for k, f in factors.items()
            }
        return replace(row, **more)

    return [one(row) for row in rows]


def test_the_same_quality_and_faster_is_promoted_with_its_numbers(judge: Judge) -> None:
    grounds = judge(list(sound()[1]))
    assert grounds.studies == ("mnist-cpu",)
    said = " ".join(grounds.sentences)
    assert "same within 1 %" in said and "is faster than" in said and "95 % interval" in said


def test_the_slower_of_two_equals_stays_a_challenger(judge: Judge) -> None:
    with pytest.raises(
        InputError, match="not promoted: the same by eval/accuracy, but .* is faster"
    ):
        judge(list(sound()[1]), champion=MLX, challenger=TORCH)


def test_a_better_quality_needs_nothing_else(judge: Judge) -> None:
    rows = changed(list(sound()[1]), TORCH, metrics={QUALITY: 1.02})
    grounds = judge(rows, champion=MLX, challenger=TORCH)
    assert "is better on the test set" in grounds.sentences[0] or "worse on" in grounds.sentences[0]


def test_a_worse_quality_is_refused_however_fast(judge: Judge) -> None:
    rows = changed(list(sound()[1]), MLX, metrics={QUALITY: 0.98})
    with pytest.raises(InputError, match="not promoted: worse by eval/accuracy") as refused:
        judge(rows)
    assert "\n" not in str(refused.value)


def test_a_difference_below_the_margin_is_the_same_as_stated(judge: Judge) -> None:
    rows = changed(list(sound()[1]), MLX, metrics={QUALITY: 0.995})
    assert "by less than the margin of 1 %" in judge(rows).sentences[0]
    with pytest.raises(InputError, match="not promoted: worse by eval/accuracy"):
        judge(rows, margin=0.002)


def test_faster_alone_is_not_enough_where_the_quality_is_worse(judge: Judge) -> None:
    rows = changed(list(sound()[1]), MLX, metrics={QUALITY: 0.98})
    with pytest.raises(InputError, match="worse by eval/accuracy"):
        judge(rows, metric="train/total_seconds")
    assert judge(list(sound()[1]), metric="train/total_seconds").studies == ("mnist-cpu",)


def test_nothing_better_leaves_the_champion(judge: Judge) -> None:
    """A difference of time that is none does not help."""

    def even(row: Row) -> Row:
        noise = 1 + 0.01 * np.sin(7 * (row.pair or 0) + len(row.arm))
        return replace(row, metrics=row.metrics | {"train/total_seconds": float(noise)})

    with pytest.raises(
        InputError, match="not promoted: the same within 1 % by eval/accuracy, and noth"
    ):
        judge([even(row) for row in sound()[1]])


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "not finished": ({"status": "RUNNING"}, "not finished"),
    "no evidence": ({"parity": None}, "no evidence of equal work"),
    "no receipt": ({"receipt": None}, "no work receipt"),
    "synthetic": ({"flags": ("SYNTHETIC",)}, "flag SYNTHETIC"),
    "diverged": ({"flags": ("DIVERGED",)}, "flag DIVERGED"),
    "edited": ({"altered": ("eval/accuracy",)}, "eval/accuracy of .* not as it was recorded"),
    "no study": ({"study": ""}, "a trial by itself, n = 1"),
    "other data": ({"tags": {"data_sha256": "0ther"}}, "data_sha256 is '0ther'"),
    "no quality": ({"metrics_without": QUALITY}, "eval/accuracy not measured"),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("who", ["champion", "challenger"])
def test_what_is_missing_is_named_in_one_line(judge: Judge, name: str, who: str) -> None:
    values, said = BROKEN[name]
    rows, arm = list(sound()[1]), {"champion": TORCH, "challenger": MLX}[who]
    spoilt = of(rows, arm)
    if without := values.get("metrics_without"):
        values = {"metrics": {k: v for k, v in spoilt.metrics.items() if k != without}}
    if "tags" in values:
        values = {"tags": spoilt.tags | values["tags"]}
    rows = [replace(row, **values) if row is spoilt else row for row in rows]
    wanted = said if name != "other data" or who == "challenger" else "data_sha256 is 'da7a'"
    with pytest.raises(InputError, match=f"not promoted: .*{wanted}") as refused:
        judge(rows)
    assert "\n" not in str(refused.value)


def test_unequal_work_is_no_comparison(judge: Judge) -> None:
    rows = [
        replace(row, receipt={**(row.receipt or {}), "steps": 704}, altered=())
        if row.arm == MLX
        else row
        for row in sound()[1]
    ]
    with pytest.raises(InputError, match="not promoted: eval/accuracy of study .* equal work"):
        judge(rows)


def test_too_few_pairs_give_no_verdict(judge: Judge) -> None:
    rows = [row for row in sound()[1] if (row.pair or 0) < 4]
    with pytest.raises(InputError, match="not promoted: no verdict from 4 pairs"):
        judge(rows)


def test_six_pairs_are_too_few_for_two_metrics(judge: Judge) -> None:
    plan = signed.study(6)
    with pytest.raises(
        InputError, match="nothing .* is significantly better; .*HOLM-FEW.* takes 7"
    ):
        judge(signed.rows(plan)[0], plan=plan)


def test_two_seeds_of_one_arm_differ_by_chance(judge: Judge) -> None:
    rows = list(sound()[1])
    with pytest.raises(InputError, match="better by chance"):
        judge(rows, champion=TORCH, challenger=TORCH)


def test_arms_that_no_one_compared_are_named(judge: Judge) -> None:
    plan = replace(sound()[0], comparisons=sound()[0].comparisons[1:])  # the machine with itself
    with pytest.raises(
        InputError, match="compares no 'mlx blas=mkl' with 'pytorch blas=mkl' by eval"
    ):
        judge(list(sound()[1]), plan=plan)


def test_the_second_copy_of_an_arm_is_that_arm(judge: Judge) -> None:
    rows = list(sound()[1])
    assert judge(rows, champion=AGAIN).sentences == judge(rows).sentences
    with pytest.raises(InputError, match="better by chance"):
        judge(rows, champion=AGAIN, challenger=TORCH)


def test_times_of_a_busy_machine_decide_nothing(judge: Judge) -> None:
    rows = [replace(row, flags=("LOAD",)) for row in sound()[1]]
    with pytest.raises(InputError, match="not promoted: the same by .*LOAD in 8 of 8 trials"):
        judge(rows)
    better = changed(rows, MLX, metrics={QUALITY: 1.02})
    assert judge(better).studies == ("mnist-cpu",)  # of a quality they say nothing
    some = [replace(r, flags=("LOAD",)) if r.pair == 1 else r for r in sound()[1]]
    assert judge(some).studies == ("mnist-cpu",)


@pytest.mark.parametrize("margin", [0.0, -1.0, 0.5, float("nan")])
def test_a_margin_that_is_none(judge: Judge, margin: float) -> None:
    with pytest.raises(InputError, match="margin="):
        judge(list(sound()[1]), margin=margin)


# --- of two studies


def later(factor: float) -> list[Row]:
    rows = changed(list(sound()[1]), MLX, metrics={QUALITY: factor})
    return [replace(row, study="later", run_id=f"later-{row.run_id}") for row in rows]


def test_of_two_studies_a_better_quality_is_promoted(judge: Judge) -> None:
    grounds = judge(list(sound()[1]), others=later(1.02))
    assert grounds.studies == ("later", "mnist-cpu") and "ratio 1.02" in grounds.sentences[0]


@pytest.mark.parametrize(
    ("factor", "metric", "said"),
    [
        (0.98, QUALITY, "worse by eval/accuracy"),
        (1.0, QUALITY, "the same within 1 % .*NOT-INTERLEAVED"),
        (1.02, "train/total_seconds", "cannot be compared .NOT-INTERLEAVED"),
    ],
)
def test_of_two_studies_nothing_else_is(
    judge: Judge, factor: float, metric: str, said: str
) -> None:
    with pytest.raises(InputError, match=f"not promoted: .*{said}"):
        judge(list(sound()[1]), others=later(factor), metric=metric)


def test_of_two_studies_each_must_be_complete(judge: Judge) -> None:
    some = [row for row in later(1.02) if (row.pair or 0) < 7]
    with pytest.raises(InputError, match="has 7 of 8 planned trials"):
        judge(list(sound()[1]), others=some)

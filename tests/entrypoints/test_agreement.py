"""Parts of one study on many machines: what must be equal, and what a machine may choose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from entrypoints import agreement, opening, study_plan, sweep
from entrypoints.deliver import Courier
from measurement.errors import InputError
from measurement.schedule import Condition
from tracking import read
from tracking.read import Study

OPTIONS: dict[str, Any] = {
    "workload": "mnist", "mode": "train", "checkpoint": "random", "preset": "smoke", "pairs": 6,
    "epochs": 1, "seed": 0, "dataset": "synthetic", "target": 0.9, "price_per_hour": 0.0,
    "price_table": "none", "gap_seconds": 0.0, "margin": 0.05, "arms": "mlx, pytorch",
    "slowdown_percent": 0.0, "until_resolved": False, "device": "cpu",
}  # fmt: skip
CPU, GPU = Condition("pytorch", "cpu"), Condition("pytorch", "gpu")
A, B = "linux-x86_64-2c-aaaaaa", "mac-arm64-8c-bbbbbb"


def plan_of(machine: str, base: Condition = CPU, **options: Any) -> dict[str, Any]:
    return {**study_plan.design({**OPTIONS, **options}, base), "machine": machine}


def part(plan: dict[str, Any]) -> Study:
    """A part of the study `fleet` as the server knows it."""
    recorded = json.loads(json.dumps(plan))
    return Study("fleet", f"run of {plan['machine']}", plan["pairs"], 0.05, plan["metric"], 0.9, (),
                 (), (), recorded, plan["machine"])  # fmt: skip


def left(base: Condition = CPU, **options: Any) -> dict[str, Any]:
    """Options of which some were `auto`, as they are when complete."""
    opened = agreement.left_open({**OPTIONS, **dict.fromkeys(options, "auto")})
    return {**options, "by_machine": opened, "base": base}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"pairs": 8}, "another pairs (8 there, 6 here)"),
        ({"seed": 1}, "another seed (1 there, 0 here)"),
        ({"margin": 0.1}, "another margin (0.1 there, 0.05 here)"),
        ({"epochs": 3}, "another epochs (3 there, 1 here)"),
        ({"preset": "cpu"}, "another preset (cpu there, smoke here)"),
        ({"target": 0.5}, "another target (0.5 there, 0.9 here)"),
        ({"gap_seconds": 2.0}, "another gap_seconds"),
        ({"dataset": "mnist"}, "another dataset (mnist there, synthetic here)"),
        ({"price_per_hour": 1.0}, "another price_per_hour"),
        ({"arms": "mlx, mlx threads=1"}, "another arms (mlx, mlx threads=1, "),
        ({"slowdown_percent": 5.0}, "another slowdown_percent (5.0 there, 0.0 here)"),
        ({"pairs": 8, "until_resolved": True}, "another pairs"),
        ({"base": GPU}, "another device (gpu there, cpu here)"),
        ({"base": Condition("pytorch", "cpu", "float16")}, "another dtype (float16 there"),
        ({"base": Condition("pytorch", "cpu", threads=1)}, "another threads (1 there, 0 here)"),
        ({"workload": "transformer_lm"}, "another workload (transformer_lm there, mnist here)"),
    ],
)
def test_an_option_that_differs_is_refused_by_name(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as error:
        agreement.check(plan_of(A), [part(plan_of(B, **options))])
    assert f"study 'fleet' runs on {B} with {said}" in str(error.value)
    assert "\n" not in str(error.value)


def test_the_first_look_is_named_by_its_option() -> None:
    there = plan_of(B, pairs=8, until_resolved=True)
    with pytest.raises(InputError, match=r"another until_resolved \(anytime there, fixed here\)"):
        agreement.check(plan_of(A, pairs=8), [part(there)])


def test_the_same_options_agree_on_any_machine() -> None:
    agreement.check(plan_of(A), [part(plan_of(B)), part(plan_of("mac-arm64-8c-cccccc"))])


def test_what_auto_comes_to_may_differ_where_both_left_it_open() -> None:
    """A Mac and a Linux machine, everything left open: another device, preset, epochs and arms."""
    mac = left(GPU, device="gpu", preset="study", epochs=10, arms="auto")
    linux = left(CPU, device="cpu", preset="cpu", epochs=3, arms="auto")
    assert mac["by_machine"] == linux["by_machine"] == ["device", "preset", "epochs", "arms"]
    agreement.check(plan_of(A, **linux), [part(plan_of(B, **mac))])
    fixed = left(CPU, device="cpu", preset="cpu", arms="auto")
    with pytest.raises(InputError, match=r"another epochs \(10 there, 1 here\)"):
        agreement.check(plan_of(A, **fixed), [part(plan_of(B, **mac))])


def test_a_slowed_arm_is_told_from_arms_that_are_left_open() -> None:
    one, other = left(arms="auto"), left(arms="auto", slowdown_percent=5.0)
    other["by_machine"] = one["by_machine"]
    with pytest.raises(InputError, match="another slowdown_percent"):
        agreement.check(plan_of(A, **one), [part(plan_of(B, **other))])


def test_a_sweep_and_a_study_are_not_one() -> None:
    options = {k: v for k, v in OPTIONS.items() if k != "arms"} | {"parameter": "hidden_size"}
    swept = {**sweep.design(options, CPU, [16, 32]), "machine": B}
    assert swept["by_machine"] == ["arms"]
    with pytest.raises(InputError, match="another sweep"):
        agreement.check(plan_of(A, **left(arms="auto")), [part(swept)])
    agreement.check({**swept, "machine": A}, [part(swept)])


def test_this_machine_with_other_cores_is_not_another_machine() -> None:
    with pytest.raises(InputError, match="expected the same cores"):
        agreement.check(plan_of(A), [part(plan_of(A.replace("2c", "1c")))])


def test_a_design_from_before_a_key_existed_is_compared_by_what_it_has() -> None:
    old = plan_of(B)
    for key in ("by_machine", "slowdown_percent"):
        del old[key]
    agreement.check(plan_of(A), [part(old)])
    assert agreement.changed(old, plan_of(B)) == []
    with pytest.raises(InputError, match="another pairs"):
        agreement.check(plan_of(A), [part({**old, "pairs": 7})])


def test_two_that_start_at_once_do_not_both_go_on(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither is there when the other looks; each looks again when its own run is written."""
    with opening.open_study("fleet", plan_of(B), Courier()) as opened:
        there, other = opened.run_id, plan_of(A, pairs=8)
    real, looks = read.studies, []

    def look() -> list[Study]:
        looks.append(real())
        return looks[-1] if len(looks) > 1 else []

    monkeypatch.setattr(read, "studies", look)
    with (
        pytest.raises(InputError, match="another pairs"),
        opening.open_study("fleet", other, Courier()),
    ):
        pytest.fail("it went on")
    assert [(s.machine, s.run_id) for s in real()] == [(B, there)]
    (taken_back,) = [r for r in MlflowClient().search_runs(["0"]) if r.info.run_id != there]
    assert (taken_back.info.status, taken_back.data.tags["kind"]) == ("FAILED", "study refused")

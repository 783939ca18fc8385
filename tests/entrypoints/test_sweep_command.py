"""The sweep: its values, its design, a user's mistakes, and one small one from end to end."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from entrypoints import study_plan, sweep
from measurement.schedule import Condition
from tests.entrypoints.conftest import invoke
from tracking import read

SMOKE = ("--preset", "smoke", "--dataset", "synthetic", "--device", "cpu")


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("16..128", int, [16, 32, 64, 128]),
        ("16..16384", int, [2**power for power in range(4, 15)]),
        ("3..6", int, [3, 6]),
        ("16,64,256", int, [16, 64, 256]),
        (" 256, 16 ", int, [16, 256]),
        ("0.05..0.2", float, [0.05, 0.1, 0.2]),
    ],
)
def test_values(text: str, kind: type, expected: list[float]) -> None:
    assert sweep.parse_values(text, "batch_size", kind) == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--values", "16"), "expected two or more values"),
        (("--values", "16..16"), "doubling 16 never gives 16"),
        (("--values", "16..100"), "doubling 16 never gives 100"),
        (("--values", "64..16"), "doubling 64 never gives 16"),
        (("--values", "1..2..4"), "expected two or more values"),
        (("--values", "16,16"), "16 is given twice"),
        (("--values", "0,16"), "batch_size='0': expected a whole number above 0"),
        (("--values", "-4..8"), "batch_size='-4': expected a whole number above 0"),
        (("--values", "16,many"), "batch_size='many': expected a whole number above 0"),
        (("--values", "16.5,32"), "batch_size='16.5': expected a whole number above 0"),
        (("--values", "16,"), "batch_size='': expected a whole number above 0"),
        (("--values", ""), "batch_size='': expected a whole number above 0"),
        (("--values", "16..4096", *SMOKE), "batch_size=4096: expected 2048 or less"),
        (("--parameter", "threads", "--values", "0,1"), "threads='0': expected a whole number"),
        (("--parameter", "threads", "--values", "1,65536"), "threads=65536: expected "),
        (("--parameter", "learning_rate", "--values", "nan,1"), "learning_rate='nan'"),
        (("--parameter", "depth"), "parameter='depth' is none of workload 'mnist'; choose one of"),
        (("--parameter", "train_items"), "parameter='train_items' is none of workload"),
        (("--workload", "mnits"), "unknown workload 'mnits'"),
        (("--preset", "huge"), "unknown preset 'huge'"),
        (("--pairs", "0"), "0 is not in the range"),
        (("--name", "a b", "--values", "16,32", *SMOKE), "use letters, digits"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_mistake_is_one_line_and_exit_code_two(
    store: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], expected: str
) -> None:
    assert invoke("sweep", *words) == 2
    err = capsys.readouterr().err
    lines = [line for line in err.splitlines() if line.startswith("Error")]
    assert len(lines) == 1 and expected in lines[0], err
    assert "Traceback" not in err


OPTIONS: dict[str, Any] = {
    "parameter": "hidden_size",
    "values": "8..32",
    "workload": "mnist",
    "mode": "train",
    "checkpoint": "random",
    "preset": "smoke",
    "pairs": 2,
    "epochs": 1,
    "seed": 0,
    "dataset": "synthetic",
    "target": 0.9,
    "price_per_hour": 0.0,
    "price_table": "none",
    "gap_seconds": 0.0,
    "margin": 0.05,
}


def test_every_value_has_one_pairing_and_the_middle_one_a_second_copy() -> None:
    values = sweep.checked(OPTIONS)
    plan = sweep.design(OPTIONS, Condition("pytorch", "gpu"), values)
    assert plan["sweep"] == {"parameter": "hidden_size", "values": [8, 16, 32]}
    assert [p["role"] for p in plan["comparisons"]] == ["sweep"] * 3 + ["resolution"]
    assert plan["arms"] == [
        "mlx hidden_size=8", "mlx hidden_size=16", "mlx hidden_size=32",
        "pytorch hidden_size=8", "pytorch hidden_size=16", "pytorch hidden_size=32",
        "pytorch hidden_size=16 (again)",
    ]  # fmt: skip
    assert len(plan["order"]) == 14
    assert sorted(plan["order"][:7]) == sorted(plan["arms"])
    assert plan["order"][:7] != plan["order"][7:]


def test_on_a_linux_cpu_both_frameworks_get_the_better_blas(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(study_plan.blas, "better", lambda: "mkl")
    monkeypatch.setattr(study_plan.sys, "platform", "linux")
    plan = sweep.design(OPTIONS, Condition("pytorch", "cpu"), [8, 16])
    assert {arm.rsplit(" hidden_size", 1)[0] for arm in plan["arms"]} == {
        "mlx blas=mkl", "pytorch blas=mkl",
    }  # fmt: skip


@pytest.mark.long
def test_a_sweep_over_work_that_has_no_quality_is_reported(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--preset", "smoke", "--device", "cpu-cpu", "--pairs", "1", "--gap_seconds", "0")
    asked = ("--workload", "device_switch", "--parameter", "size", "--values", "16,32")
    assert invoke("sweep", "--name", "sizes", *asked, *words) == 0
    assert "time of all loops" in capsys.readouterr().out
    assert {row.cell["size"] for row in read.trials("sizes")} == {"16", "32"}
    assert "Time to" not in Path("results/sizes/report.html").read_text()


@pytest.mark.long
def test_a_sweep_from_end_to_end_goes_on_under_its_name(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--name", "small", "--values", "64,2048", "--pairs", "1", "--gap_seconds", "0", *SMOKE)
    assert invoke("sweep", *words) == 0
    out, err = capsys.readouterr()
    assert "sweep over batch_size: 2 values, 5 trials" in err
    assert "Verdict\ntraining time (all timed epochs): " in out
    found = read.trials("small")
    assert len(found) == 5
    assert {row.cell["batch_size"] for row in found} == {"64", "2048"}
    recorded = read.study("small")
    assert recorded.design["sweep"] == {"parameter": "batch_size", "values": [64, 2048]}
    assert [row.arm for row in found] == recorded.design["order"]
    folder = Path("results/small")
    with (folder / "crossings.csv").open() as file:
        assert next(csv.DictReader(file))["metric"] == "train/total_seconds"
    page = (folder / "report.html").read_text()
    assert "a sweep over batch_size" in page
    # A busy machine fails the completion audit, and then there is no ratio and no figure.
    assert len(list((folder / "figures").glob("sweep_*.png"))) == page.count("<img")

    assert invoke("sweep", *words) == 0
    assert "5 of 5 trials are done already" in capsys.readouterr().err
    changed = [word if word != "64,2048" else "64,1024" for word in words]
    assert invoke("sweep", *changed) == 2
    assert "exists with another" in capsys.readouterr().err

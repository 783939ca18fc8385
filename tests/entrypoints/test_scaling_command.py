"""The scaling study: its numbers of ranks, its design, and a user's mistakes."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from entrypoints import agreement, scaling, study_plan
from measurement.errors import InputError
from measurement.schedule import Condition
from tests.analysis import rows as made
from tests.entrypoints.conftest import invoke
from tracking import read

SMOKE = ("--preset", "smoke", "--dataset", "synthetic", "--device", "cpu")
OPTIONS: dict[str, Any] = {
    "ranks": "1,2,4",
    "scaling": "both",
    "framework": "both",
    "backend": "auto",
    "batch_size": "preset",
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
BASE = Condition("pytorch", "gpu", threads=1)


def roles(plan: dict[str, Any], role: str) -> list[tuple[str, str]]:
    return [(p["numerator"], p["denominator"]) for p in plan["comparisons"] if p["role"] == role]


def test_every_framework_at_every_number_of_ranks_with_the_same_threads() -> None:
    plan = scaling.design(OPTIONS, BASE)
    assert plan["arms"] == [
        "mlx ranks=1 threads=1",
        "mlx ranks=2 threads=1",
        "mlx ranks=4 threads=1",
        "mlx ranks=2 threads=1 batch_size=512",
        "mlx ranks=4 threads=1 batch_size=1024",
        "pytorch ranks=1 threads=1",
        "pytorch ranks=2 threads=1",
        "pytorch ranks=4 threads=1",
        "pytorch ranks=2 threads=1 batch_size=512",
        "pytorch ranks=4 threads=1 batch_size=1024",
        "pytorch ranks=1 threads=1 (again)",
    ]
    assert roles(plan, "headline") == [
        (f"mlx ranks={n} threads=1", f"pytorch ranks={n} threads=1") for n in (1, 2, 4)
    ]
    assert roles(plan, "scaling") == [
        (f"{f} ranks={n} threads=1", f"{f} ranks=1 threads=1")
        for f in ("mlx", "pytorch")
        for n in (2, 4)
    ]
    assert roles(plan, "resolution") == [(plan["arms"][-1], "pytorch ranks=1 threads=1")]
    assert not any("batch_size" in arm for pair in plan["comparisons"] for arm in pair.values())
    assert len(plan["order"]) == 22 and sorted(plan["order"][:11]) == sorted(plan["arms"])
    assert plan["scaling"] == {
        "ranks": [1, 2, 4], "kinds": ["strong", "weak"], "threads": 1, "hosts": 1,
    }  # fmt: skip
    told = plan["scaling_arms"]
    assert [one["name"] for one in told] == plan["arms"][:-1]
    assert [(one["kind"], one["batch_size"]) for one in told[:5]] == [
        ("single", 256), ("strong", 256), ("strong", 256), ("weak", 512), ("weak", 1024),
    ]  # fmt: skip


def test_two_machines_may_differ_in_what_each_has_and_not_in_what_was_asked() -> None:
    plan = scaling.design(OPTIONS, BASE) | {"machine": "linux-2c-aaaaaa"}
    other = replace(made.study(), design=plan, machine="mac-8c-bbbbbb")
    mac = [
        arm | {"name": arm["name"].replace("mlx", "mlx blas=mkl")} for arm in plan["scaling_arms"]
    ]
    agreement.check(plan | {"scaling_arms": mac}, [other])
    fewer = scaling.design(OPTIONS | {"ranks": "1,2"}, BASE) | {"machine": "linux-2c-aaaaaa"}
    with pytest.raises(InputError, match="with another scaling"):
        agreement.check(fewer, [other])


def test_strong_alone_weak_alone_and_one_framework() -> None:
    strong = scaling.design(OPTIONS | {"scaling": "strong", "ranks": "1,2"}, BASE)
    assert len(strong["arms"]) == 5 and not any("batch_size" in arm for arm in strong["arms"])
    weak = scaling.design(OPTIONS | {"scaling": "weak", "ranks": "1,2", "batch_size": 64}, BASE)
    assert weak["arms"][:2] == [
        "mlx ranks=1 threads=1 batch_size=64", "mlx ranks=2 threads=1 batch_size=128",
    ]  # fmt: skip
    assert roles(weak, "scaling") == []  # the work is not equal
    assert [pair[0] for pair in roles(weak, "headline")] == weak["arms"][:2]
    alone = scaling.design(OPTIONS | {"framework": "mlx", "ranks": "1,2"}, BASE)
    assert roles(alone, "headline") == []
    assert alone["arms"][-1] == "mlx ranks=1 threads=1 (again)"


def test_backends_are_of_jobs_and_one_a_framework() -> None:
    asked = OPTIONS | {"backend": "mlx=ring,pytorch=gloo", "ranks": "1,2", "scaling": "strong"}
    assert scaling.design(asked, BASE)["arms"][:4] == [
        "mlx ranks=1 threads=1", "mlx ranks=2 threads=1 backend=ring",
        "pytorch ranks=1 threads=1", "pytorch ranks=2 threads=1 backend=gloo",
    ]  # fmt: skip
    assert scaling.parse_backends("nccl", ("mlx", "pytorch")) == {"mlx": "nccl", "pytorch": "nccl"}
    assert scaling.parse_backends("mlx=jaccl", ("mlx", "pytorch"))["pytorch"] == "auto"
    with pytest.raises(InputError, match="frameworks here: mlx$"):
        scaling.parse_backends("pytorch=gloo", ("mlx",))


def test_on_a_linux_cpu_both_frameworks_get_the_better_blas(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(study_plan.blas, "better", lambda: "mkl")
    monkeypatch.setattr(study_plan.sys, "platform", "linux")
    plan = scaling.design(OPTIONS, Condition("pytorch", "cpu", threads=1))
    assert {arm.split(" ranks")[0] for arm in plan["arms"]} == {"mlx blas=mkl", "pytorch blas=mkl"}


@pytest.mark.parametrize(
    ("asked", "cores", "ranks", "expected"),
    [(0, 8, [1, 2, 4], 2), (0, 2, [1, 2, 4], 1), (0, 6, [1, 4], 1), (3, 8, [1, 2], 3)],
)
def test_threads_of_a_rank_are_those_that_the_largest_job_has_cores_for(
    asked: int, cores: int, ranks: list[int], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaling.machine, "physical_cores", lambda: cores)
    monkeypatch.setattr(scaling.os, "cpu_count", lambda: cores)
    assert scaling.threads_for(asked, ranks) == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--ranks", "2,4"), "ranks='2,4': expected 1 among them"),
        (("--ranks", "1"), "ranks='1': expected two or more values"),
        (("--ranks", "1,2,2"), "ranks='1,2,2': 2 is given twice"),
        (("--ranks", "0,1"), "ranks='0': expected a whole number above 0"),
        (("--ranks", "1,two"), "ranks='two': expected a whole number above 0"),
        (("--ranks", "1..6"), "ranks='1..6': doubling 1 never gives 6"),
        (("--scaling", "linear"), "'linear' is not one of"),
        (("--framework", "jax"), "'jax' is not one of"),
        (("--threads", "-1"), "-1 is not in the range"),
        (("--threads", "65536"), "threads=65536: expected "),
        (("--batch_size", "0", *SMOKE), "0 is not in the range"),
        (("--batch_size", "3", *SMOKE), "batch_size=3: expected 4 or more, an item for each rank"),
        (("--batch_size", "1024", *SMOKE), "the global batch of 4 ranks is 4096, expected 2048"),
        (("--batch_size", "4096", "--scaling", "strong", *SMOKE), "is 4096, expected 2048 or less"),
        (("--backend", "ring gloo", *SMOKE), "backend='ring gloo': expected auto, a name, or"),
        (("--backend", "jax=ring", *SMOKE), "backend='jax=ring': expected"),
        (("--workload", "mnits"), "unknown workload 'mnits'"),
        (("--workload", "tinyllama"), "mode='train': workload 'tinyllama' has"),
        (("--preset", "huge"), "unknown preset 'huge'"),
        (("--pairs", "0"), "0 is not in the range"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_mistake_is_one_line_and_exit_code_two(
    store: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], expected: str
) -> None:
    assert invoke("scaling", "--device", "cpu", *words) == 2
    err = capsys.readouterr().err
    lines = [line for line in err.splitlines() if line.startswith("Error")]
    assert len(lines) == 1 and expected in lines[0], err
    assert "Traceback" not in err


def test_no_arm_of_the_study_measures_inference_that_a_job_cannot(store: Path) -> None:
    plan = scaling.design(OPTIONS | {"ranks": "1,2"}, Condition("pytorch", "cpu", threads=1))
    specs = study_plan.specifications(plan, study_plan.Sources("auto", "synthetic"))
    assert not any(spec.inference for spec in specs.values())
    assert {spec.condition.threads for spec in specs.values()} == {1}
    by_name = {one["name"]: one for one in plan["scaling_arms"]}
    for name, one in by_name.items():
        assert specs[name].condition.ranks == one["ranks"]
        weak = one["ranks"] if one["kind"] == "weak" else 1
        assert specs[name].sizes["batch_size"] == 256 * weak


@pytest.mark.slow
def test_a_small_one_from_end_to_end(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--ranks", "1,2", "--framework", "mlx", "--pairs", "1", "--gap_seconds", "0")
    assert invoke("scaling", "--name", "small", *words, "--scaling", "strong", *SMOKE) == 0
    assert "Verdict\nstrong scaling of mlx" in capsys.readouterr().out
    rows = read.trials("small")
    assert {row.cell["ranks"] for row in rows} == {"1", "2"}
    job = next(row for row in rows if row.cell["ranks"] == "2")
    assert set(job.ranks["rank/items_per_second"]) == {0, 1}
    assert not any(name.startswith("rank/") for name in job.metrics)
    assert job.receipt is not None and job.receipt["items"] == rows[0].receipt["items"]  # type: ignore[index]
    folder = Path("results/small")
    with (folder / "ranks.csv").open() as file:
        assert [record["rank"] for record in csv.DictReader(file)] == ["0", "1"]
    assert "Each rank's own part" in (folder / "report.md").read_text()

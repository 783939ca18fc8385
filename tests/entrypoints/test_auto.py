"""What `auto` chooses from runs in a real store, and why; the probes are made up."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

import models
from entrypoints import choice, trial
from entrypoints.auto import values_for
from entrypoints.choice import choose, usual
from measurement import blas, machine
from measurement.errors import InputError
from tracking.read import Row, Study

sys.path.append(str(Path(__file__).resolve().parents[1] / "analysis"))
from fleet import MLX, TORCH, measured  # noqa: E402
from rows import row  # noqa: E402
from stored import store as keep  # noqa: E402

Run = Callable[..., tuple[int, str, str]]
VERSIONS = {"mlx": "0.32.4", "pytorch": "2.13.0"}
SIZES = {
    f"size.{k}": str(v) for k, v in asdict(models.load("mnist", "config").PRESETS["cpu"]).items()
}
CELL = {
    **SIZES,
    "mode": "train", "dataset": "mnist", "threads": "2", "preset": "cpu", "dtype": "float32",
    "slowdown_percent": "0", "checkpoint": "random", "compile": "on", "compile_inference": "off",
}  # fmt: skip
CPU_ONLY = dict.fromkeys(VERSIONS, ("cpu",))


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> Callable[[Mapping[str, tuple[str, ...]]], None]:
    """devices({"mlx": ("cpu", "gpu"), ...}): what is installed here and what it sees."""

    def there(found: Mapping[str, tuple[str, ...]]) -> None:
        def probe(name: str) -> dict[str, Any]:
            return {
                "devices": [
                    {"device": device, "versions": {"framework": VERSIONS.get(name, "1.0")}}
                    if device in found[name]
                    else {"device": device, "missing": "no GPU"}
                    for device in ("cpu", "gpu")
                ]
            }

        monkeypatch.setattr(choice, "probe", probe)
        monkeypatch.setattr(
            choice.environment, "ready", lambda name: Path("python") if name in found else None
        )
        monkeypatch.setattr(blas, "find", lambda word: [])
        monkeypatch.setattr(sys, "platform", "linux")

    there(CPU_ONLY)
    return there


def here(
    truth: float,
    name: str = "s",
    pairs: int = 10,
    day: float = 0.0,
    spread: float = 0.02,
    **cell: str,
) -> tuple[Study, list[Row]]:
    """A study of this machine: MLX takes `truth` times as long as PyTorch."""
    return measured(
        name,
        machine.fingerprint(),
        {MLX: truth},
        pairs,
        day,
        spread=spread,
        cells={"*": {**CELL, **cell}},
    )


def single(arm: str, seconds: float, number: int, flags: tuple[str, ...] = (), **cell: str) -> Row:
    """A trial outside any study."""
    made = row(arm, number, 0, seconds)
    return replace(
        made, run_id=f"{arm}-{number}", study="", pair=None, machine=machine.fingerprint(),
        cell={**made.cell, **CELL, **cell}, flags=flags,
    )  # fmt: skip


def keep_single(*rows: Row) -> None:
    """A store takes rows under a study; these belong to none."""
    study, _ = measured("none")
    keep([(study, list(rows))])


def decide(framework: str = "auto", **given: Any) -> choice.Decision:
    options = {"preset": "cpu", "threads": 2, "mode": "auto", "device": "auto", **given}
    full = {"blas": "auto", "compile": "auto", "dataset": "auto", **options}
    return choose("mnist", framework, values_for("mnist", full))


@pytest.mark.parametrize(("truth", "winner"), [(1.5, "pytorch"), (0.6, "mlx")])
def test_a_verdict_of_a_study_decides(store: Path, devices: Any, truth: float, winner: str) -> None:
    keep([here(truth)])
    found = decide()
    assert (found.framework, found.tags["auto_basis"]) == (winner, "verdict")
    assert found.values["blas"] == "mkl" and found.values["device"] == "cpu"
    assert found.values["compile"] == "auto"  # ran with two modes, as only auto does
    reason = found.tags["auto_reason"]
    word = "slower" if winner == "pytorch" else "faster"
    assert reason.startswith(f"study s, 10 pairs: {MLX} is {word} than {TORCH}: training time")
    assert "ratio" in reason and "95 % interval" in reason
    assert len(found.lines) == 3 and f"auto: {winner} on cpu, blas=mkl" in found.lines[0]
    assert reason in found.lines[1] and "30 runs: " in found.lines[2]
    assert len(json.loads(found.tags["auto_runs"])) == 30


def test_the_newest_study_has_the_word(store: Path, devices: Any) -> None:
    keep([here(0.6, "old"), here(1.5, "new", day=1.0)])
    assert decide().framework == "pytorch" and "study new" in decide().tags["auto_reason"]


@pytest.mark.parametrize(
    ("spread", "basis", "said"),
    [(0.2, "undecided", "undecided with 6 pairs"), (0.02, "same", "are the same within 5 %")],
)
def test_a_study_without_a_difference_leaves_the_usual_choice_and_says_so(
    store: Path, devices: Any, spread: float, basis: str, said: str
) -> None:
    keep([here(1.02, pairs=6, spread=spread)])
    found = decide()
    assert (found.framework, found.tags["auto_basis"]) == ("pytorch", basis)
    assert found.tags["auto_reason"].startswith("study s, 6 pairs: ")
    assert said in found.tags["auto_reason"]
    assert "taken: the usual choice of this platform" in found.tags["auto_reason"]


def test_few_single_runs_decide_nothing(store: Path, devices: Any) -> None:
    keep_single(single(MLX, 0.5, 0), single(TORCH, 1.0, 1))
    found = decide()
    assert (found.framework, found.tags["auto_basis"]) == ("pytorch", "undecided")
    reason = found.tags["auto_reason"]
    assert "360000 items/s (n=1)" in reason and "180000 items/s (n=1)" in reason
    assert "unpaired runs carry no verdict, and fewer than 3 runs of one" in reason


def test_single_runs_apart_decide_without_a_verdict(store: Path, devices: Any) -> None:
    keep_single(
        *(single(arm, s + n / 50, n) for n in range(3) for arm, s in ((MLX, 0.5), (TORCH, 1.0)))
    )
    found = decide()
    assert (found.framework, found.tags["auto_basis"]) == ("mlx", "medians")
    assert "carry no verdict" in found.tags["auto_reason"] and "(n=3)" in found.tags["auto_reason"]


def test_single_runs_that_overlap_decide_nothing(store: Path, devices: Any) -> None:
    keep_single(*(single(arm, s + n, n) for n in range(3) for arm, s in ((MLX, 0.9), (TORCH, 1.0))))
    found = decide()
    assert (found.framework, found.tags["auto_basis"]) == ("pytorch", "undecided")
    assert "and their runs overlap" in found.tags["auto_reason"]


def test_runs_that_nothing_spoilt_come_first(store: Path, devices: Any) -> None:
    clean = [single(arm, s, n) for n in range(3) for arm, s in ((MLX, 0.5), (TORCH, 1.0))]
    keep_single(*clean, *(single(MLX, 9.0, n, ("LOAD",)) for n in range(3, 9)))
    assert decide().framework == "mlx" and "(n=3)" in decide().tags["auto_reason"]


def test_spoilt_runs_alone_are_used_and_named(store: Path, devices: Any) -> None:
    keep_single(
        *(single(arm, s, n, ("LOAD",)) for n in range(3) for arm, s in ((MLX, 0.5), (TORCH, 1.0)))
    )
    assert "(n=3, flagged LOAD)" in decide().tags["auto_reason"]


@pytest.mark.parametrize(
    "other",
    [
        {"preset": "study"}, {"dtype": "bfloat16"}, {"threads": "1"}, {"dataset": "synthetic"},
        {"size.hidden_size": "64"}, {"mode": "infer"}, {"version_framework": "0.1"},
        {"slowdown_percent": "5"}, {"blas": "libown.so"}, {"device": "gpu"}, {"ranks": "2"},
    ],
    ids=str,
)  # fmt: skip
def test_other_work_and_conditions_do_not_count(
    store: Path, devices: Any, other: dict[str, str]
) -> None:
    keep([here(0.5, **other)])
    found = decide()
    assert (found.framework, found.tags["auto_basis"]) == ("pytorch", "platform")
    assert "nothing like it was measured here" in found.tags["auto_reason"]
    assert "30 other runs of mnist here" in found.lines[2]


def test_runs_of_other_machines_do_not_count(store: Path, devices: Any) -> None:
    study, rows = here(0.5)
    keep([(study, [replace(r, machine="linux-x86_64-64c-abcdef") for r in rows])])
    assert decide().tags["auto_basis"] == "platform" and len(decide().lines) == 2


def test_devices_are_candidates_of_their_own(store: Path, devices: Any) -> None:
    devices({"mlx": ("cpu",), "pytorch": ("cpu", "gpu")})
    on_gpu = [single(TORCH, 0.1, n, device="gpu", blas="shipped") for n in range(3)]
    keep_single(*on_gpu, *(single(MLX, 0.5, n + 3) for n in range(3)))
    found = decide()
    assert (found.framework, found.values["device"], found.values["blas"]) == (
        "pytorch",
        "gpu",
        "shipped",
    )
    assert (
        "pytorch on gpu, compiled" in found.tags["auto_reason"]
        and "mlx on cpu" in found.tags["auto_reason"]
    )
    assert decide(device="cpu").values["device"] == "cpu"


def test_what_the_user_fixed_stays(store: Path, devices: Any) -> None:
    keep([here(0.6, compile="on", compile_inference="on")])
    assert decide().values["compile"] == "on"
    assert decide(compile="on").tags["auto_basis"] == "verdict"
    for fixed in ({"compile": "off"}, {"blas": "shipped"}):
        found = decide(**fixed)
        assert found.tags["auto_basis"] == "platform"
        assert fixed.items() <= found.values.items()
    found = decide("pytorch")
    assert found.framework == "pytorch" and "only pytorch on cpu" in found.tags["auto_reason"]


def test_frameworks_that_are_not_installed_are_no_choice(store: Path, devices: Any) -> None:
    devices({"mlx": ("cpu",)})
    keep([here(1.5)])
    found = decide()
    assert found.framework == "mlx" and "pytorch is not installed" in found.lines[-1]
    devices({})
    with pytest.raises(InputError, match="no framework of workload 'mnist' can be used here"):
        decide()


BOTH, ONE = {"cpu": {}, "gpu": {}}, {"cpu": {}}
PLATFORMS = [
    ("darwin", "arm64", {"mlx": BOTH, "pytorch": BOTH}, "auto", "mlx", "gpu", "Apple silicon"),
    ("darwin", "arm64", {"pytorch": BOTH}, "auto", "pytorch", "gpu", "Apple silicon"),
    ("darwin", "arm64", {"mlx": BOTH, "pytorch": BOTH}, "cpu", "pytorch", "cpu", "device=cpu"),
    ("linux", "x86_64", {"mlx": BOTH, "pytorch": BOTH}, "auto", "pytorch", "gpu", "NVIDIA"),
    ("linux", "x86_64", {"mlx": BOTH, "pytorch": ONE}, "auto", "mlx", "gpu", "mlx sees an NVIDIA"),
    ("linux", "x86_64", {"tensorflow": BOTH, "pytorch": ONE}, "gpu", "tensorflow", "gpu", "NVIDIA"),
    ("linux", "x86_64", {"mlx": ONE, "pytorch": ONE}, "auto", "pytorch", "cpu", "no framework sees"),
    ("linux", "aarch64", {"mlx": ONE}, "auto", "mlx", "cpu", "no framework sees a GPU"),
    ("linux", "x86_64", {"mlx": BOTH, "pytorch": ONE}, "cpu-gpu", "mlx", "cpu-gpu", "NVIDIA"),
    ("linux", "x86_64", {"mlx": ONE, "pytorch": ONE}, "cpu-cpu", "pytorch", "cpu-cpu", "cpu-cpu"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("system", "chip", "found", "asked", "framework", "device", "why"), PLATFORMS
)
def test_without_a_measurement_the_platform_decides(
    monkeypatch: pytest.MonkeyPatch,
    system: str,
    chip: str,
    found: Any,
    asked: str,
    framework: str,
    device: str,
    why: str,
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(choice.platform, "machine", lambda: chip)
    said = usual(found, asked)
    assert said[:2] == (framework, device) and why in said[2]


def test_a_gpu_that_nobody_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="device=gpu: none of mlx, pytorch sees a GPU here; use"):
        usual({"mlx": ONE, "pytorch": ONE}, "gpu")


def test_mlx_on_a_linux_cpu_gets_a_tuned_blas(
    store: Path, devices: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blas, "better", lambda: "openblas")
    devices({"mlx": ("cpu",)})
    assert decide().values["blas"] == "openblas"
    assert decide(blas="shipped").values["blas"] == "shipped"


SMOKE = ("--preset", "smoke", "--dataset", "synthetic", "--compile", "off", "--epochs", "1")


@pytest.mark.parametrize("spelling", [("auto", "--workload", "mnist"), ("trial", "mnist", "auto")])
def test_it_runs_that_trial_and_the_run_says_why(
    store: Path, run: Run, spelling: tuple[str, ...]
) -> None:
    code, out, err = run(*spelling, *SMOKE)
    assert code == 0, err
    (found,) = MlflowClient().search_runs(["0"])
    tags = found.data.tags
    assert out.startswith(f"auto: {tags['auto_choice']}\n  because (platform): ")
    assert tags["auto_reason"] in out and tags["auto_basis"] == "platform"
    assert tags["auto_choice"].startswith(f"{tags['framework']} on {tags['device']}")
    assert tags["arm"] == tags["framework"] and tags["kind"] == "trial"
    assert found.info.status == "FINISHED"


def test_a_server_that_does_not_answer_says_nothing_and_stops_nobody(
    run: Run, devices: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    chosen: list[str] = []
    monkeypatch.setattr(trial, "perform", lambda _, framework, *rest: chosen.append(framework))
    code, out, _ = run("auto", *SMOKE)
    assert code == 0 and len(chosen) == 1
    assert (
        "measured runs are not asked: the tracking store http://127.0.0.1:9 cannot be used" in out
    )

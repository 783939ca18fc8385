"""What a trial's numbers become, from fabricated measurements."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

import models
from analysis.flags import meaning
from entrypoints import record
from entrypoints.supervisor import Measured, TrialSpec, _seen_by_meter
from measurement.energy import Energy
from measurement.monitor import Seen
from measurement.schedule import Condition

SIZES = {"hidden_size": 8, "layers": 2, "batch_size": 4, "train_items": 8, "test_items": 4}
SPEC = TrialSpec(
    "mnist", Condition("mlx"), "smoke", SIZES, 0, 2, "mnist", "auto", 0.9, price_per_hour=3600.0
)
STATE = {
    "busy_fraction": 0.0,
    "on_battery": False,
    "low_power_mode": False,
    "thermal_pressure": None,
    "swap_used_fraction": 0.0,
    "rosetta": False,
    "gpu_busy_fraction": None,
}
NO_METER = Energy(None, None, 0.0, "", "not measured: no meter")


def measured(device: str = "cpu", **changes: Any) -> Measured:
    """Two epochs of 1 s and 3 s."""
    trial = {
        "epoch_seconds": [1.0, 3.0],
        "epoch_cpu_seconds": [1.0, 5.0],
        "epoch_loss": [1.0, 0.5],
        "first_step_seconds": 0.1,
        "step_seconds": [0.1] * 10,
        "latency_seconds": [0.001] * 200,
        "inference_seconds": [0.5, 0.25, 0.5],
        "inference_items": 4,
        "process_peak_bytes": 1000,
        "device_peak_bytes": None if device == "cpu" else 500,
        "flops_per_second": 10.0,
        "ceiling_flops_per_second": 40.0,
        "completion_ratio": 2.0,
        "target_seconds": None,
        "target_epochs": None,
        "energy_window_items": 64,
        "details": {},
        "receipt": {"items": 16},
        **changes.pop("trial", {}),
    }
    numerics = {"blas_name": "mkl", "blas_loaded": "mkl 1", "blas_threads": "2", "tf32": "off"}
    conditions = {
        "device": device,
        "dtype": "float32",
        "compile": "on",
        "compile_inference": "on",
        "numerics": {**numerics, **changes.pop("numerics", {})},
        "versions": {"framework": "1"},
        "data": {"name": "mnist"},
        "settings": "default",
    }
    base = Measured(
        folder=Path("."),
        start_seconds=0.0,
        events=[],
        result={"trial": trial, "conditions": conditions, "completed": True, "parity": {}},
        before=STATE,
        energy=NO_METER,
        train_window=(0.0, 0.0),
    )
    return replace(base, **changes)


def test_run_level_values() -> None:
    found, missing = record.values(measured(), SPEC, None)
    assert found["train/total_seconds"] == 4.0
    assert found["train/items_per_second"] == 4.0
    assert found["inference/items_per_second"] == 8.0
    assert found["hardware/cpu_percent_mean"] == 150.0
    assert found["hardware/ceiling_fraction"] == 0.25
    assert found["cost/usd"] == 4.0
    assert missing["energy/joules"] == "no meter"
    assert "censored" in missing["target/seconds"]


def test_energy_of_the_window_is_scaled_to_the_timed_epochs() -> None:
    window = Energy(80.0, 8.0, 10.0, "NVML energy counter", "measured")
    found, missing = record.values(measured(energy=window), SPEC, None)
    assert found["energy/joules"] == pytest.approx(80.0 * 2 / 8)
    assert found["energy/watts_mean"] == 8.0
    assert "energy/joules" not in missing


def test_the_blas_is_a_condition_of_the_cpu_only() -> None:
    shipped = {"blas_name": "reference", "blas_loaded": "reference 3"}
    assert record.cell(measured(numerics=shipped), SPEC)["blas_loaded"] == "reference 3"
    assert "REFERENCE-BLAS" in record.flags(measured(numerics=shipped), SPEC)
    on_gpu = record.cell(measured("gpu", numerics=shipped), SPEC)
    assert on_gpu["blas_loaded"] == on_gpu["blas_threads"] == "none (GPU)"
    assert "REFERENCE-BLAS" not in record.flags(measured("gpu", numerics=shipped), SPEC)


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"seen": Seen(found={"LOAD": {"latency": "others used 50%"}})}, "LOAD"),
        ({"before": {**STATE, "on_battery": True}}, "BATTERY"),
        ({"trial": {"epoch_loss": [1.0, float("nan")]}}, "DIVERGED"),
        ({"numerics": {"tf32": "on"}}, "TF32"),
    ],
)
def test_flags(changes: dict[str, Any], flag: str) -> None:
    assert flag not in record.flags(measured(), SPEC)
    assert flag in record.flags(measured(**changes), SPEC)
    assert "SYNTHETIC" in record.flags(measured(), replace(SPEC, dataset="synthetic"))
    assert meaning(flag).startswith(flag)


def peak(measured: Measured) -> str:
    return record.values(measured, SPEC, None)[1].get("memory/process_peak_bytes", "")


def test_the_memory_of_another_process_is_not_measured() -> None:
    mib = 2**20
    trial = {"process_peak_bytes": 300 * mib}
    result = measured(trial=trial).result | {"parity": {"parameters": 20 * mib}}
    seen = Seen(peak_before=290 * mib, peak_after=320 * mib)
    assert peak(measured(result=result, seen=seen)) == ""
    assert peak(measured(result=result)) == ""
    for before, after in ((900, 950), (50, 60)):
        other = Seen(peak_before=before * mib, peak_after=after * mib)
        found = measured(result=result, seen=other)
        assert "another process" in peak(found)
        assert "memory/process_peak_bytes" not in record.values(found, SPEC, None)[0]


def test_memory_smaller_than_the_weights_is_not_measured() -> None:
    result = measured().result | {"parity": {"parameters": 10**6}}
    assert "less than the" in peak(measured(result=result))  # 1,000 bytes
    conditions = result["conditions"] | {"device": "gpu"}
    found = peak(measured("gpu", result=result | {"conditions": conditions}))
    assert (found == "") == (sys.platform == "linux")  # a GPU there has memory of its own


def test_energy_of_a_gpu_that_did_nothing_is_not_measured() -> None:
    window = Energy(700.0, 70.0, 10.0, "NVML energy counter", "measured")
    assert _seen_by_meter(window, Seen()) is window
    assert "did no work" in _seen_by_meter(window, Seen(gpu_idle=True)).status
    of_cpu = replace(window, source="RAPL package")
    assert _seen_by_meter(of_cpu, Seen(gpu_idle=True)) is of_cpu


def test_more_than_a_battery_holds_is_not_measured() -> None:
    window = Energy(8e6, 800.0, 10_000.0, "NVML energy counter", "measured")
    on_battery = {**STATE, "on_battery": True}
    assert "energy/joules" in record.values(measured(energy=window), SPEC, None)[0]
    missing = record.values(measured(energy=window, before=on_battery), SPEC, None)[1]
    assert "battery" in missing["energy/joules"]


# --- trials on two devices


def switched(device: str = "cpu-gpu", **changes: Any) -> tuple[Measured, TrialSpec]:
    """Two passes of two loops: a loop takes 0.4 s on the first device, 0.5 s on the second and twice
    0.05 s between them; waited for, the parts take no longer."""
    base = measured(device)
    trial = {
        "first_call_seconds": 3.0,
        "passes": 2,
        "pass_seconds": [2.0, 2.0],
        "passes_cpu_seconds": 6.0,
        "loop_seconds": [1.0] * 9 + [1.5],
        "moved_seconds": [0.05] * 3,
        "first_device_seconds": [0.4] * 3,
        "moved_back_seconds": [0.05] * 3,
        "second_device_seconds": [0.5] * 3,
        "unmoved": None,
        "process_peak_bytes": 1000,
        "device_peak_bytes": 500,
        "flops_per_second": 10.0,
        "ceiling_flops_per_second": 40.0,
        "completion_ratio": 2.0,
        "energy_window_loops": 16,
        "receipt": {"kind": "switch", "loops": 4},
        **changes.pop("trial", {}),
    }
    spec = replace(
        SPEC, workload="device_switch", sizes={"size": 8, "loops": 2}, mode="switch", epochs=0,
        target=0.0,
    )  # fmt: skip
    result = {**base.result, "trial": trial}
    return replace(base, result=result, **changes), spec


def test_a_switch_states_whole_parts_and_transfer() -> None:
    found, missing = record.values(*switched(), None)
    assert found["switch/total_seconds"] == 2.0
    assert found["switch/loop_seconds_p50"] == 1.0
    assert found["switch/loop_seconds_p90"] == pytest.approx(1.05)
    assert found["switch/first_device_seconds"] == 0.4
    assert found["switch/second_device_seconds"] == 0.5
    assert found["switch/transfer_seconds"] == pytest.approx(0.1)
    assert found["switch/parts_ratio"] == pytest.approx(1.0)
    assert found["hardware/cpu_percent_mean"] == pytest.approx(150.0)
    assert found["cost/usd"] == pytest.approx(4.0)  # of both timed passes
    assert missing["hardware/gpu_percent_mean"] == "no counter"
    assert "transfer 100 ms" in record.sentence("switch", {}, found)


def test_a_transfer_that_cannot_be_timed_is_not_0_but_not_measured() -> None:
    why = "an MLX array belongs to no device"
    unmoved = {"moved_seconds": [], "moved_back_seconds": [], "unmoved": why}
    found, missing = record.values(*switched(trial=unmoved), None)
    assert "switch/transfer_seconds" not in found and missing["switch/transfer_seconds"] == why
    assert found["switch/parts_ratio"] == pytest.approx(0.9)
    assert "transfer not measured" in record.sentence("switch", {}, found)


def test_energy_of_a_switch_is_scaled_to_the_timed_loops() -> None:
    window = Energy(80.0, 8.0, 10.0, "meter", "measured")
    assert record.values(*switched(energy=window), None)[0]["energy/joules"] == pytest.approx(20.0)


def test_the_blas_is_a_condition_where_one_of_two_devices_is_the_cpu() -> None:
    for device in ("cpu-gpu", "cpu-cpu"):
        taken, spec = switched(device)
        taken.result["conditions"]["numerics"] = {
            **taken.result["conditions"]["numerics"],
            "blas_name": "reference",
        }
        cell = record.cell(taken, spec)
        assert cell["device"] == device and cell["blas_loaded"] == "mkl 1"
        assert "REFERENCE-BLAS" in record.flags(taken, spec)


# --- trials that generate, and that ran out of memory


def generated(**changes: Any) -> tuple[Measured, TrialSpec]:
    """Two passes over one prompt of 16 tokens: prefill 0.5 s, then 7 more tokens in 0.7 s."""
    base = measured()
    trial = {
        "first_call_seconds": 2.0,
        "passes": 2,
        "begin_seconds": [0.5, 0.5],
        "decode_seconds": [0.7, 0.7],
        "token_seconds": [0.1] * 14,
        "passes_cpu_seconds": 3.6,
        "process_peak_bytes": 1000,
        "device_peak_bytes": None,
        "flops_per_second": 10.0,
        "ceiling_flops_per_second": 40.0,
        "completion_ratio": 2.0,
        "energy_window_passes": 8,
        "receipt": {"kind": "generate", "items": 2},
    }
    config = models.load("tinyllama", "config")
    sizes = asdict(replace(config.SMOKE, prompt_tokens=16, decode_tokens=8))
    spec = replace(SPEC, workload="tinyllama", sizes=sizes, mode="generate", epochs=0, target=0.0)
    conditions = {**base.result["conditions"], "weights": {"source": "random", "sha256": ""}}
    result = {**base.result, "trial": trial, "conditions": conditions}
    return replace(base, result=result, **changes), spec


def test_a_generation_states_prefill_and_decoding_apart() -> None:
    found, missing = record.values(*generated(), None)
    assert found["inference/total_seconds"] == pytest.approx(2.4)
    assert found["inference/first_token_seconds"] == pytest.approx(0.5)
    assert found["inference/prefill_tokens_per_second"] == pytest.approx(32.0)
    assert found["inference/decode_tokens_per_second"] == pytest.approx(10.0)
    assert found["inference/token_seconds_p90"] == pytest.approx(0.1)
    assert found["hardware/cpu_percent_mean"] == pytest.approx(150.0)
    assert not any(name.startswith(("train/", "target/", "eval/")) for name in [*found, *missing])


def test_energy_of_a_generation_is_scaled_to_the_timed_passes() -> None:
    window = Energy(80.0, 8.0, 10.0, "meter", "measured")
    assert record.values(*generated(energy=window), None)[0]["energy/joules"] == pytest.approx(20.0)


def test_random_weights_are_flagged() -> None:
    taken, spec = generated()
    assert "RANDOM-WEIGHTS" in record.flags(taken, spec)
    assert "RANDOM-WEIGHTS" not in record.flags(taken, replace(spec, checkpoint="folder"))
    assert all(meaning(flag) for flag in record.flags(taken, spec))


def test_the_cell_of_a_checkpoint_has_its_name_and_no_folder() -> None:
    taken, spec = generated()
    cell = record.cell(taken, replace(spec, checkpoint="/home/someone/models/stories"))
    assert cell["checkpoint"] == "stories" and "someone" not in str(cell)

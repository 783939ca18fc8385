"""What a trial's samples come to, by mode: arithmetic, and nothing timed. Each function returns the
run-level metrics by name; what was not measured is for `entrypoints.record` to say."""

from __future__ import annotations

from typing import Any

import numpy as np

import models
from entrypoints.supervisor import TrialSpec

Values = dict[str, float]


def of(mode: str, trial: dict[str, Any], spec: TrialSpec) -> Values:
    """Metrics of every mode, and those of this one."""
    modes = {
        "train": _train,
        "infer": _infer,
        "generate": _generate,
        "stream": _stream,
        "switch": _switch,
    }
    found = modes[mode](trial, spec)
    return found | {
        "memory/process_peak_bytes": trial["process_peak_bytes"],
        "hardware/flops_per_second": trial["flops_per_second"],
        "hardware/ceiling_flops_per_second": trial["ceiling_flops_per_second"],
        "hardware/ceiling_fraction": trial["flops_per_second"] / trial["ceiling_flops_per_second"],
        "audit/completion_ratio": trial["completion_ratio"],
    }


def timed_seconds(mode: str, trial: dict[str, Any]) -> float:
    """Seconds of the work that power and cost are stated for."""
    if mode == "train":
        return float(sum(trial["epoch_seconds"]))
    if mode == "infer":
        return float(sum(trial["inference_seconds"]))
    if mode == "stream":
        return float(trial["total_seconds"])
    if mode == "switch":
        return float(sum(trial["pass_seconds"]))
    return float(sum(trial["begin_seconds"]) + sum(trial["decode_seconds"]))


def energy_share(mode: str, trial: dict[str, Any], spec: TrialSpec) -> float:
    """Timed work over the work in the energy window: both are whole epochs, passes or loops."""
    if mode == "train":
        return float(trial["receipt"]["items"] / trial["energy_window_items"])
    if mode == "infer":
        return float(len(trial["inference_seconds"]) / trial["energy_window_passes"])
    if mode == "stream":
        return 1.0 / float(trial["energy_window_passes"])
    if mode == "switch":
        return float(trial["receipt"]["loops"] / trial["energy_window_loops"])
    return float(trial["passes"] / trial["energy_window_passes"])


def _train(trial: dict[str, Any], spec: TrialSpec) -> Values:
    seconds, steps = timed_seconds("train", trial), trial["step_seconds"]
    items = trial["receipt"]["items"]
    found = {
        "train/total_seconds": seconds,
        "train/first_step_seconds": trial["first_step_seconds"],
        **_quantiles("train/step_seconds", steps, (50, 90)),
        "train/items_per_second": items / seconds,
        "hardware/cpu_percent_mean": 100 * sum(trial["epoch_cpu_seconds"]) / seconds,
        **_batched(trial),
        **_communication(trial),
        **trial["details"],
    }
    config = models.load(spec.workload, "config").Config(**spec.sizes)
    if tokens := config.tokens_per_item():
        found["train/tokens_per_second"] = items * tokens / seconds
    return found


def _communication(trial: dict[str, Any]) -> Values:
    """Of the same bytes as a step's, added up on their own between the steps: in a step it may go on
    while gradients are still being computed."""
    reduced = trial.get("reduce_seconds")
    if not reduced:
        return {}
    return {
        **_quantiles("communication/all_reduce_seconds", reduced, (50, 90)),
        "communication/bytes_per_step": trial["reduce_bytes"],
        "communication/step_share": float(np.median(reduced) / np.median(trial["step_seconds"])),
    }


def _infer(trial: dict[str, Any], spec: TrialSpec) -> Values:
    median = float(np.median(trial["inference_seconds"]))
    return {
        "inference/first_call_seconds": trial["first_call_seconds"],
        "hardware/cpu_percent_mean": 100 * trial["inference_cpu_seconds"] / median,
        models.load(spec.workload, "config").QUALITY: trial["quality"],
        **_batched(trial),
        **trial["details"],
    }


def _stream(trial: dict[str, Any], spec: TrialSpec) -> Values:
    seconds = timed_seconds("stream", trial)
    return {
        "stream/total_seconds": seconds,
        "stream/first_update_seconds": trial["first_update_seconds"],
        **_quantiles("stream/update_seconds", trial["update_seconds"], (50, 90, 99)),
        "stream/updates_per_second": len(trial["update_seconds"]) / seconds,
        "eval/quality_before": trial["quality_before"],
        models.load(spec.workload, "config").QUALITY: trial["quality"],
        "hardware/cpu_percent_mean": 100 * trial["total_cpu_seconds"] / seconds,
        **trial["details"],
    }


def _batched(trial: dict[str, Any]) -> Values:
    if not trial["inference_items"]:  # a training alone
        return {}
    return {
        **_quantiles("inference/latency_seconds", trial["latency_seconds"], (50, 90, 99)),
        "inference/items_per_second": trial["inference_items"]
        / float(np.median(trial["inference_seconds"])),
    }


def _generate(trial: dict[str, Any], spec: TrialSpec) -> Values:
    seconds = timed_seconds("generate", trial)
    config = models.load(spec.workload, "config").Config(**spec.sizes)
    begin, decode = (float(np.median(trial[f"{n}_seconds"])) for n in ("begin", "decode"))
    return {
        "inference/total_seconds": seconds,
        "inference/first_call_seconds": trial["first_call_seconds"],
        **_quantiles("inference/token_seconds", trial["token_seconds"], (50, 90, 99)),
        "inference/output_tokens": float(config.decode_tokens),
        **config.rates(begin, decode),
        "hardware/cpu_percent_mean": 100 * trial["passes_cpu_seconds"] / seconds,
    }


def _switch(trial: dict[str, Any], spec: TrialSpec) -> Values:
    """The time of all loops is the median pass; its parts are medians of single loops, to which a
    transfer belongs only where it could be timed."""
    total = float(np.median(trial["pass_seconds"]))
    names = ("moved", "first_device", "moved_back", "second_device")
    parts = {name: np.asarray(trial[f"{name}_seconds"]) for name in names}
    found = {
        "switch/total_seconds": total,
        "switch/first_call_seconds": trial["first_call_seconds"],
        **_quantiles("switch/loop_seconds", trial["loop_seconds"], (50, 90)),
        "switch/first_device_seconds": float(np.median(parts["first_device"])),
        "switch/second_device_seconds": float(np.median(parts["second_device"])),
        "hardware/cpu_percent_mean": 100
        * trial["passes_cpu_seconds"]
        / timed_seconds("switch", trial),
    }
    whole = parts["first_device"] + parts["second_device"]
    if trial["unmoved"] is None:
        moves = parts["moved"] + parts["moved_back"]
        found["switch/transfer_seconds"] = float(np.median(moves))
        whole = whole + moves
    found["switch/parts_ratio"] = float(np.median(whole)) * spec.sizes["loops"] / total
    return found


def _quantiles(name: str, samples: list[float], percents: tuple[int, ...]) -> Values:
    values = np.asarray(samples)
    return {f"{name}_p{p}": float(np.quantile(values, p / 100)) for p in percents}

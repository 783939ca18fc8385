"""Every name that a run carries: metrics with unit and better direction, parameters, tags."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Direction = Literal["lower", "higher"] | None


@dataclass(frozen=True)
class Metric:
    """`exact`: the same work gives the same value, so nothing is tested. `label`: for people."""

    name: str
    unit: str
    better: Direction
    label: str
    exact: bool = False


_METRICS = (
    Metric("train/epoch_seconds", "s", "lower", "time of an epoch"),
    Metric("train/epoch_items_per_second", "items/s", "higher", "throughput of an epoch"),
    Metric("train/loss", "", "lower", "mean training loss"),
    Metric("eval/accuracy", "", "higher", "test accuracy"),
    Metric("eval/perplexity", "", "lower", "test perplexity"),
    Metric("eval/top5_accuracy", "", "higher", "test accuracy, right answer among five"),
    Metric("eval/calibration_error", "", "lower", "expected calibration error"),
    Metric("eval/resnorm_rmse", "kohm", "lower", "error of the predicted residual"),
    Metric("train/total_seconds", "s", "lower", "training time (all timed epochs)"),
    Metric("train/first_step_seconds", "s", "lower", "first step (compile and allocation)"),
    Metric("train/step_seconds_p50", "s", "lower", "training step, median"),
    Metric("train/step_seconds_p90", "s", "lower", "training step, p90"),
    Metric("train/items_per_second", "items/s", "higher", "training throughput"),
    Metric("train/tokens_per_second", "tokens/s", "higher", "training throughput in tokens"),
    Metric("inference/latency_seconds_p50", "s", "lower", "latency of one item, median"),
    Metric("inference/latency_seconds_p90", "s", "lower", "latency of one item, p90"),
    Metric("inference/latency_seconds_p99", "s", "lower", "latency of one item, p99"),
    Metric("inference/items_per_second", "items/s", "higher", "batched inference throughput"),
    Metric(
        "inference/batch_items_per_second",
        "items/s",
        "higher",
        "batched inference throughput by batch size",
    ),  # fmt: skip
    Metric("inference/total_seconds", "s", "lower", "time of all timed generations"),
    Metric("inference/first_call_seconds", "s", "lower", "first call (compile and allocation)"),
    Metric("inference/first_token_seconds", "s", "lower", "time to the first token"),
    Metric("inference/prefill_tokens_per_second", "tokens/s", "higher", "prefill throughput"),
    Metric("inference/decode_tokens_per_second", "tokens/s", "higher", "decode throughput"),
    Metric("inference/token_seconds_p50", "s", "lower", "latency of a decoded token, median"),
    Metric("inference/token_seconds_p90", "s", "lower", "latency of a decoded token, p90"),
    Metric("inference/token_seconds_p99", "s", "lower", "latency of a decoded token, p99"),
    Metric("inference/encode_seconds", "s", "lower", "time to encode one item"),
    Metric("inference/decode_seconds", "s", "lower", "time to decode one item"),
    Metric("inference/real_time_factor", "", "lower", "processing time over audio time"),
    Metric("inference/seconds_per_audio", "s", "lower", "time of one piece of audio"),
    Metric("inference/output_tokens", "tokens", None, "tokens of one generation", exact=True),
    Metric("stream/total_seconds", "s", "lower", "time of all updates, one at a time"),
    Metric("stream/first_update_seconds", "s", "lower", "first update (compile and allocation)"),
    Metric("stream/update_seconds_p50", "s", "lower", "latency of an update, median"),
    Metric("stream/update_seconds_p90", "s", "lower", "latency of an update, p90"),
    Metric("stream/update_seconds_p99", "s", "lower", "latency of an update, p99"),
    Metric("stream/updates_per_second", "updates/s", "higher", "updates, one at a time"),
    Metric("eval/quality_before", "", None, "test quality before learning"),
    Metric("switch/total_seconds", "s", "lower", "time of all loops"),
    Metric("switch/first_call_seconds", "s", "lower", "first loop (compile and allocation)"),
    Metric("switch/loop_seconds_p50", "s", "lower", "a loop, median"),
    Metric("switch/loop_seconds_p90", "s", "lower", "a loop, p90"),
    Metric(
        "switch/first_device_seconds", "s", "lower", "first half of a loop, on the first device"
    ),
    Metric("switch/second_device_seconds", "s", "lower", "second half of a loop, on the second"),
    Metric("switch/transfer_seconds", "s", "lower", "moves of a loop, both ways"),
    Metric("switch/parts_ratio", "", None, "parts of a loop, waited for, over the loop"),
    Metric(
        "communication/all_reduce_seconds_p50", "s", "lower", "all-reduce of a step's bytes, median"
    ),
    Metric(
        "communication/all_reduce_seconds_p90", "s", "lower", "all-reduce of a step's bytes, p90"
    ),
    Metric("communication/step_share", "", "lower", "all-reduce alone over a step"),
    Metric("communication/bytes_per_step", "B", None, "bytes added up in a step", exact=True),
    Metric("rank/items_per_second", "items/s", None, "training throughput of one rank"),
    Metric("rank/epoch_seconds_p50", "s", None, "time of an epoch on one rank, median"),
    Metric("rank/process_peak_bytes", "B", None, "peak memory of one rank"),
    Metric("rank/device_peak_bytes", "B", None, "peak memory of one rank's device allocator"),
    Metric("rank/energy_joules", "J", None, "energy of one rank's GPU, or of its host"),
    Metric(
        "memory/process_peak_bytes", "B", "lower", "peak memory of the process, or of all ranks"
    ),
    Metric("memory/device_peak_bytes", "B", "lower", "peak memory of the device allocator"),
    Metric("memory/max_batch_items", "items", "higher", "largest batch that fits"),
    Metric("memory/too_large_items", "items", "higher", "smallest batch that does not fit"),
    Metric("memory/max_batch_peak_bytes", "B", None, "peak memory at the largest batch that fits"),
    Metric("memory/bytes_per_item", "B", "lower", "memory of one more item in a batch"),
    Metric("memory/limit_bytes", "B", None, "memory that a batch may take"),
    Metric("memory/batch_peak_bytes", "B", "lower", "peak memory by batch size"),
    Metric("energy/joules", "J", "lower", "energy of the timed work"),
    Metric("energy/watts_mean", "W", "lower", "mean power during the timed work"),
    Metric("target/seconds", "s", "lower", "training time to the target"),
    Metric("target/epochs", "epochs", "lower", "epochs to the target", exact=True),
    Metric("cost/usd", "USD", "lower", "cost of the timed work"),
    Metric("hardware/flops_per_second", "FLOP/s", "higher", "achieved arithmetic rate"),
    Metric("hardware/ceiling_fraction", "", "higher", "share of the matrix-product ceiling"),
    Metric("hardware/cpu_percent_mean", "%", None, "CPU use of the worker (100 = one core)"),
    Metric("hardware/gpu_percent_mean", "%", None, "GPU use"),
    Metric("hardware/ceiling_flops_per_second", "FLOP/s", None, "matrix-product ceiling here"),
    Metric("machine/others_cpu_share_phase", "", None, "processors used by others, worst phase"),
    Metric("machine/others_cpu_share_max", "", None, "processors used by others, worst second"),
    Metric("machine/stolen_cpu_share_phase", "", None, "processors stolen, worst phase"),
    Metric("machine/cpu_throttled_share_phase", "", None, "time throttled by a limit, worst phase"),
    Metric("machine/memory_stalled_share_phase", "", None, "time waited for memory, worst phase"),
    Metric("machine/swapped_bytes", "B", None, "swapped in and out"),
    Metric("machine/thermal_pressure_max", "", None, "highest thermal pressure (macOS)"),
    Metric("machine/clock_share_min", "", None, "clock over the highest one, worst phase"),
    Metric("machine/gpu_clock_share_min", "", None, "GPU clock over the highest, worst phase"),
    Metric("machine/gpu_others_share_phase", "", None, "GPU used by others, worst phase"),
    Metric("machine/monitor_cpu_share", "", None, "of one core, taken by watching"),
    Metric("audit/completion_ratio", "", None, "time of twice the steps over time of the steps"),
    Metric("code/source_lines", "lines", None, "source lines", exact=True),
    Metric("code/logical_lines", "lines", None, "logical lines", exact=True),
    Metric("code/complexity", "", None, "cyclomatic complexity", exact=True),
    Metric("code/complexity_most", "", None, "of the largest function", exact=True),
    Metric("code/shared_source_lines", "lines", None, "used of models/layers: lines", exact=True),
    Metric("code/shared_complexity", "", None, "used of models/layers: complexity", exact=True),
)
METRICS: dict[str, Metric] = {metric.name: metric for metric in _METRICS}
CODE = tuple(name for name in METRICS if name.startswith("code/"))  # size of a twin's source
QUALITIES = ("eval/accuracy", "eval/perplexity")  # a target is one of them
# What else a test set may tell.
DETAILS = ("eval/top5_accuracy", "eval/calibration_error", "eval/resnorm_rmse")
# Of these a run holds a history: by epoch.
STEPPED = ("train/epoch_seconds", "train/epoch_items_per_second", "train/loss", *QUALITIES)
# Histories by rank: a rank's own part of a job, never a value of the whole one.
RANKED = tuple(name for name in METRICS if name.startswith("rank/"))
COMMUNICATION = tuple(name for name in METRICS if name.startswith("communication/"))
# What a study of each mode asks about, unless it says otherwise.
PRIMARY: dict[str, str] = {
    "train": "train/total_seconds",
    "infer": "inference/items_per_second",
    "generate": "inference/total_seconds",
    "stream": "stream/total_seconds",
    "switch": "switch/total_seconds",
}

# The condition as it ran. Under these names it is a tag of every trial, and a parameter too where
# MLflow has not logged the same name already as the user asked for it (device=auto).
CELL = (
    "workload",
    "mode",
    "framework",
    "device",
    "dtype",
    "compile",
    "compile_inference",
    "blas",
    "blas_loaded",
    "blas_threads",
    "threads",
    "tf32",
    "settings",
    "preset",
    "dataset",
    "checkpoint",
    "epochs",
    "batch_size",
    "target",
    "slowdown_percent",
    "ranks",
    "hosts",
    "backend",
    "version_framework",
    "version_python",
)
# What a run means that was made before the key existed.
ABSENT = {
    "mode": "train", "checkpoint": "random", "slowdown_percent": "0",
    "ranks": "1", "hosts": "1", "backend": "none", "settings": "default",
}  # fmt: skip
# Sizes of a workload's configuration follow under their own names with this prefix.
SIZE = "size."

KIND = "kind"  # trial, study
RECORD = "record"  # id of the local record that a run was made from, unique
DELIVERED = "delivered"  # comes last: FINISHED, FAILED or KILLED, when all of the record is there
TAGS = ("study", "arm", "pair", "order", "machine", "parity", "receipt", "tf32", "flags")
BOOT = "boot"  # hash of the machine's start
BLOCKS = "blocks"  # of a study of which this command ran a part
SUPERSEDED = "superseded"  # why a finished trial was measured again
IDENTITY = "identity_digest"  # of the machine, longer than the machine's name has it
# Digests of the trained weights, and of what the process that trained them answered to a few items.
TRAINED, PREDICTED = "trained_sha256", "predictions_sha256"
SAMPLES = "samples.parquet"

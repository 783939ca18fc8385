"""A measured trial as metrics, parameters and tags: arithmetic on samples, and nothing timed."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import frameworks
import models
from analysis import throughput
from analysis.fairness import OWN_BLAS
from analysis.units import quantity
from entrypoints import code_size, installed, recipe
from entrypoints.processes import ROOT
from entrypoints.supervisor import Measured, TrialSpec, machine_file, threads_of
from entrypoints.values import energy_share, of, timed_seconds
from entrypoints.worker import TEXT
from measurement import disk, doubts, energy, identity, machine, memory
from serving import predictions
from serving.trained import CONFIG_FILE, SERVED, WEIGHTS_FILE
from tracking import digest, names, private, write
from tracking.outbox import ARTIFACTS
from tracking.system import Sampler

Place = Mapping[str, str]  # study, arm, pair, order
UNSERVED = (
    "The trained weights are in `model/`, to be used with `-P mode=infer -P checkpoint=FOLDER` in any of the "
    "workload's frameworks. There is no MLflow model: nothing here serves this framework."
)


def flags(measured: Measured, spec: TrialSpec) -> list[str]:
    """Names of what a reader must know before believing the numbers."""
    conditions = measured.result["conditions"]
    # Load before the worker began is not load of the trial: that is what the watch is for.
    before = [flag for flag in machine.flags(measured.before) if flag != "LOAD"]
    if "gpu" not in conditions["device"]:
        before = [flag for flag in before if flag != "GPU-SHARED"]
    found = list(dict.fromkeys([*before, *measured.seen.found]))
    if "cpu" in conditions["device"] and conditions["numerics"]["blas_name"] == "reference":
        found.append("REFERENCE-BLAS")
    if not measured.result["completed"]:
        found.append("AUDIT")
    if conditions["dtype"] == "float32" and conditions["numerics"]["tf32"] == "on":
        found.append("TF32")
    trial = measured.result["trial"]
    found += doubts.flags(trial, conditions, threads_of(spec.condition, spec.hostfile))
    others = [measured.seen.found.get(name, {}) for name in ("LOAD", "STOLEN-CPU")]
    if "IDLE" in found and any("training" in phases for phases in others):
        found.remove("IDLE")  # others had the processor in the epochs that it is judged by
    if measured.untimed:
        found.append("UNTIMED")
    if doubts.above_ceiling(trial, measured.result["parity"].get("counted")):
        found.append("ABOVE-CEILING")
    if not np.isfinite([*trial.get("epoch_loss", []), trial.get("quality", 0.0)]).all():
        found.append("DIVERGED")
    if spec.mode == "generate" and spec.checkpoint == "random":
        found.append("RANDOM-WEIGHTS")
    if spec.sizes.get("dropout"):
        found.append("DROPOUT")
    if spec.dataset == "synthetic":
        found.append("SYNTHETIC")
    if measured.result.get("restarts"):
        found.append("RESTARTED")
    if machine.commit(ROOT)[1]:
        found.append("DIRTY-TREE")
    return found


def values(
    measured: Measured, spec: TrialSpec, gpu_percent: float | None
) -> tuple[dict[str, float], dict[str, str]]:
    """(run-level metrics, reasons for those that were not measured)."""
    trial = measured.result["trial"]
    seconds = timed_seconds(spec.mode, trial)
    found = of(spec.mode, trial, spec)
    found |= code_size.metrics(spec.workload, spec.condition.framework)
    missing: dict[str, str] = {}

    def add(name: str, value: float | None, reason: str) -> None:
        if value is None:
            missing[name] = reason
        else:
            found[name] = value

    no_gpu = "the device is the CPU"
    add("memory/device_peak_bytes", trial["device_peak_bytes"], no_gpu)
    on_gpu = "gpu" in measured.result["conditions"]["device"]
    add(
        "hardware/gpu_percent_mean",
        gpu_percent if on_gpu else None,
        "no counter" if on_gpu else no_gpu,
    )
    if spec.mode == "train":
        never = f"the target of {spec.target:g} was not met in {spec.epochs} epochs (censored)"
        add("target/seconds", trial["target_seconds"], never)
        add("target/epochs", trial["target_epochs"], never)
    if spec.mode == "train" and not trial["inference_items"]:
        missing["inference/items_per_second"] = "a training alone: inference has no ranks"
    if spec.mode == "switch" and trial["unmoved"] is not None:
        missing["switch/transfer_seconds"] = trial["unmoved"]
    joules = measured.energy.joules
    if joules is not None:  # of the window's work, so scaled to that which was timed
        joules *= energy_share(spec.mode, trial, spec)
    reason = measured.energy.status.removeprefix("not measured: ")
    if measured.before["on_battery"] and (joules or 0) > energy.BATTERY_JOULES:
        reason = f"{joules:,.0f} J are more than a laptop's battery holds, on which the trial ran"
        joules = None
    add("energy/joules", joules, reason)
    add("energy/watts_mean", measured.energy.watts_mean, reason)
    machines = _hosts(measured)  # each of them costs
    cost = spec.price_per_hour * machines * seconds / 3600 if spec.price_per_hour else None
    add("cost/usd", cost, "no price given (parameter price_per_hour)")
    if wrong := _wrong_peak(measured, spec):
        missing["memory/process_peak_bytes"] = wrong
        del found["memory/process_peak_bytes"]
    found |= measured.seen.values()
    return found, missing


def _wrong_peak(measured: Measured, spec: TrialSpec) -> str | None:
    """Why the peak that the worker claims is not that of its work; None where it may be."""
    claimed = measured.result["trial"]["process_peak_bytes"]
    conditions, parity = measured.result["conditions"], measured.result.get("parity") or {}
    if _hosts(measured) == 1 and (
        said := memory.contradiction(claimed, measured.seen.peak_before, measured.seen.peak_after)
    ):
        return said
    if "parameters" not in parity or ("gpu" in conditions["device"] and sys.platform == "linux"):
        return None  # such a GPU has a memory of its own
    size = memory.ITEM_BYTES.get(conditions["dtype"], 4)
    return memory.too_small(claimed, parity["parameters"], size, spec.mode in ("train", "stream"))


def points(
    measured: Measured, spec: TrialSpec, run_level: Mapping[str, float]
) -> list[write.Point]:
    """Epoch metrics at their own times, throughput by batch size (the step), then the run-level
    values."""
    found = []
    epochs = [event for event in measured.events if event["event"] == "epoch"]
    for event in epochs:
        step, when = event["epoch"], event["time"]
        found += [
            write.Point("train/epoch_seconds", event["seconds"], step, when),
            write.Point(
                "train/epoch_items_per_second", event["items"] / event["seconds"], step, when
            ),
            write.Point("train/loss", event["loss"], step, when),
            write.Point(quality_name(spec), event["quality"], step, when),
        ]
    last = epochs[-1]["time"] if epochs else measured.start_seconds
    found += [
        write.Point("inference/batch_items_per_second", rate, size, last)
        for size, rate in throughput.by_batch(
            measured.result["trial"].get("batch_seconds", {})
        ).items()
    ]
    found += [*_rank_points(measured, spec, last), *_node_points(measured)]
    return found + [write.Point(name, float(value), 0, last) for name, value in run_level.items()]


def _rank_points(measured: Measured, spec: TrialSpec, when: float) -> list[write.Point]:
    """What each rank did for itself; the step is its number."""
    ranks = measured.result.get("ranks", [])
    # Energy is that of a window's work, here as for the job scaled to that which was timed.
    share = (
        energy_share(spec.mode, measured.result["trial"], spec) if measured.energy.joules else 1.0
    )
    return [
        write.Point(
            f"rank/{name}", rank[name] * (share if "joules" in name else 1), rank["rank"], when
        )
        for rank in ranks
        for name in (
            "items_per_second", "epoch_seconds_p50", "process_peak_bytes", "device_peak_bytes",
            "energy_joules",
        )
        if rank[name] is not None
    ]  # fmt: skip


def _node_points(measured: Measured) -> list[write.Point]:
    """Samples of the hosts that this supervisor is not on, as MLflow names those of a node."""
    return [
        write.Point(f"system/{node}/{name}", value, step, sample["time"])
        for node, samples in enumerate(measured.result.get("nodes", []), 1)
        for step, sample in enumerate(samples)
        for name, value in sample.items()
        if name != "time"
    ]


def quality_name(spec: TrialSpec) -> str:
    """The metric that a training is judged by."""
    return str(models.load(spec.workload, "config").QUALITY)


def _hosts(measured: Measured) -> int:
    return len({rank["host"] for rank in measured.result.get("ranks", [])}) or 1


def cell(measured: Measured, spec: TrialSpec) -> dict[str, str]:
    """The condition as it ran, by the names of tracking.names.CELL and the sizes."""
    conditions = measured.result["conditions"]
    numerics = conditions["numerics"]
    # On a GPU no product goes through the process's BLAS, so it is no part of the condition.
    on_cpu = "cpu" in conditions["device"]
    found = {
        "workload": spec.workload,
        "mode": spec.mode,
        "framework": spec.condition.framework,
        "device": conditions["device"],
        "dtype": conditions["dtype"],
        "compile": conditions["compile"],
        "compile_inference": conditions["compile_inference"],
        "blas": OWN_BLAS
        if on_cpu and spec.condition.framework in frameworks.OWN_PRODUCTS
        else _blas_name(spec.condition.blas),
        "blas_loaded": numerics["blas_loaded"] if on_cpu else "none (GPU)",
        "blas_threads": numerics["blas_threads"] if on_cpu else "none (GPU)",
        "threads": str(threads_of(spec.condition, spec.hostfile)),
        "ranks": str(spec.condition.ranks),
        "hosts": str(_hosts(measured)),
        "backend": measured.result.get("backend", names.ABSENT["backend"]),
        "tf32": numerics["tf32"],
        "settings": conditions["settings"],
        "preset": spec.preset,
        "dataset": conditions["data"]["name"],
        "checkpoint": Path(spec.checkpoint).name,
        "epochs": str(spec.epochs),
        "batch_size": str(spec.sizes.get("batch_size", 1)),
        "target": f"{spec.target:g}",
        "slowdown_percent": f"{spec.condition.slowdown_percent:g}",
        "version_framework": conditions["versions"]["framework"],
        "version_python": machine.facts()["version_python"],
    }
    return found | {names.SIZE + name: str(value) for name, value in spec.sizes.items()}


def _blas_name(choice: str) -> str:
    """A path gives its file name only: folders may hold a user's name."""
    return Path(choice).name


def build(
    measured: Measured,
    spec: TrialSpec,
    place: Place,
    sampler: Sampler,
    folder: Path | None,
) -> write.Record:
    """The record of one trial; also writes its artifact files into `folder`, which is the local
    record's unless that has no room; None: no disk has. Raises OSError where this one has none."""
    gpu = sampler.gpu_percent_mean(*measured.train_window)
    run_level, missing = values(measured, spec, gpu)
    condition = cell(measured, spec)
    conditions = measured.result["conditions"]
    commit, _ = machine.commit(ROOT)
    sizes = {
        k.removeprefix(names.SIZE): v for k, v in condition.items() if k.startswith(names.SIZE)
    }
    name = f"{spec.condition.framework} {spec.workload} {condition['device']} seed {spec.seed}"
    if spec.condition.ranks > 1:
        name += f" {spec.condition.ranks} ranks"
    if spec.condition.blas != "shipped":
        name += f" {_blas_name(spec.condition.blas)}"
    found_flags = flags(measured, spec)
    receipt = measured.result["trial"]["receipt"]
    unsaved = [event["reason"] for event in measured.events if event["event"] == "unsaved"]
    series = _series(measured)
    found_points = points(measured, spec, run_level)
    numerics = conditions["numerics"]
    stated = {
        **condition,
        **machine.facts(),
        **{f"version_{k}": v for k, v in conditions["versions"].items()},
        **{k: v for k, v in numerics.items() if k.startswith(("blas_", "compile_"))},
        **({"switched": numerics["switched"]} if numerics.get("switched") else {}),
        **place,
        "seed": str(spec.seed),
        "machine": machine.fingerprint(),
        names.IDENTITY: machine.identity(),
        "parity": json.dumps(measured.result["parity"]),
        "receipt": json.dumps(receipt),
        "flags": ",".join(found_flags),
        "flags_seen": json.dumps(measured.seen.found) if measured.seen.found else "",
        "not_measured": json.dumps(missing),
        "energy_source": measured.energy.source or "none",
        "data_sha256": conditions["data"]["sha256"],
        "data_source": conditions["data"]["source"],
        "weights_source": conditions["weights"]["source"],
        "weights_sha256": conditions["weights"]["sha256"] or "none",
        "imported": ",".join(measured.result["imported"]),
        "mlflow.source.git.commit": commit,
        "code_sha256": identity.code(ROOT),
        "process": conditions["process"],
        names.BOOT: identity.boot(),
        "started": f"{measured.start_seconds:.3f}",
        "ended": f"{time.time():.3f}",
        "unsaved": "; ".join(unsaved)[:500],
        digest.SAMPLES: digest.of_samples(series),
        **recipe.tags(measured, spec),
    }
    tags = private.cleaned(stated)  # before they are signed
    if folder:
        _files(measured, spec, series, folder)
    return write.Record(
        name=f"{place['arm']} block {place['pair']}" if place.get("pair") else name,
        note=_note(condition, run_level, missing, found_flags, conditions, measured.seen.found),
        params={
            **{
                k: v
                for k, v in condition.items()
                if k in names.CELL and not k.startswith("version")
            },
            **sizes,
            "seed": str(spec.seed),
            "price_per_hour": f"{spec.price_per_hour:g}",
        },
        tags={**tags, **digest.sign(tags, found_points)},
        points=[*found_points, *sampler.points()],
        dataset={k: str(v) for k, v in conditions["data"].items()},
        files=folder is not None,
        # the others change no weight
        model=bool(folder) and spec.mode in ("train", "stream") and not unsaved,
    )


def _series(measured: Measured) -> dict[str, list[float]]:
    """Every sample of a trial."""
    trial = measured.result["trial"]
    series = {k: v for k, v in trial.items() if isinstance(v, list)}
    for size, seconds in trial.get("batch_seconds", {}).items():
        series[throughput.SERIES + size] = seconds
    return series | measured.seen.series()


def _files(
    measured: Measured, spec: TrialSpec, series: Mapping[str, list[float]], base: Path
) -> None:
    """The artifacts of a trial: samples as one table, what the worker said, the machine, what is
    installed; and beside the weights what they are weights of."""
    sizes = {"workload": spec.workload, "framework": spec.condition.framework, **spec.sizes}
    disk.write(base / CONFIG_FILE, json.dumps(sizes))
    folder = base / ARTIFACTS
    folder.mkdir(exist_ok=True)
    write.write_samples(folder / names.SAMPLES, series)
    disk.sync(folder / names.SAMPLES)
    disk.write(folder / "trial.json", json.dumps(measured.result, indent=1))
    disk.write(folder / "machine.json", machine_file(measured))
    environment = json.dumps(installed.environment(spec.condition), indent=1)
    disk.write(folder / recipe.ENVIRONMENT, environment)
    for name, place in ((TEXT, folder), (predictions.FILE, folder), (WEIGHTS_FILE, base)):
        if (found := measured.folder / name).exists() and found.parent != place:
            disk.write(place / name, found.read_bytes())


def _note(
    condition: Mapping[str, str],
    run_level: Mapping[str, float],
    missing: Mapping[str, str],
    found_flags: list[str],
    conditions: Mapping[str, Any],
    seen: Mapping[str, Mapping[str, str]],
) -> str:
    """The run's description in the UI, Markdown."""
    mode = condition["mode"]
    verb = {
        "train": "trains",
        "infer": "runs",
        "generate": "generates with",
        "stream": "goes on training",
        "switch": "runs",
    }[mode]
    lines = [
        f"**{condition['framework']} {condition['version_framework']}** {verb} `{condition['workload']}` "
        f"on the {condition['device'].upper()}, {condition['dtype']}, BLAS {condition['blas_loaded']}, "
        f"{condition['threads']} threads, compiled {condition['compile']}.",
        "",
        f"{sentence(mode, condition, run_level)} Data: {conditions['data']['source']}. Weights: "
        f"{conditions['weights']['source']}.",
        "",
        *([UNSERVED, ""] if mode == "train" and condition["framework"] not in SERVED else []),
        f"Flags: {', '.join(found_flags) or 'none'}.",
        "",
        *[f"- {flag} in {_phases(phases)}" for flag, phases in seen.items()],
        *[f"- `{name}` not measured: {reason}" for name, reason in missing.items()],
    ]
    return "\n".join(lines)


def _phases(phases: Mapping[str, str]) -> str:
    return "; ".join(f"{phase}: {what}" for phase, what in phases.items())


def sentence(mode: str, condition: Mapping[str, str], found: Mapping[str, float]) -> str:
    """The main numbers of a trial in words."""
    if mode == "generate":
        return (
            f"**{found['inference/decode_tokens_per_second']:,.1f} tokens/s** decoded, "
            f"{found['inference/token_seconds_p50'] * 1e3:.1f} ms a token (p90 "
            f"{found['inference/token_seconds_p90'] * 1e3:.1f} ms); timed generations took "
            f"{found['inference/total_seconds']:.2f} s."
        )
    if mode == "switch":
        total, p50, p90, *parts = (
            quantity(found[name], "s") if name in found else "not measured"
            for name in (
                "switch/total_seconds",
                "switch/loop_seconds_p50",
                "switch/loop_seconds_p90",
                "switch/first_device_seconds",
                "switch/second_device_seconds",
                "switch/transfer_seconds",
            )
        )
        return (
            f"**{total}** for all loops, {p50} a loop (p90 {p90}): first device {parts[0]}, second "
            f"{parts[1]}, transfer {parts[2]}."
        )
    if mode == "stream":
        return (
            f"**{found['stream/updates_per_second']:,.1f} updates/s**, one at a time: "
            f"{found['stream/update_seconds_p50'] * 1e3:.2f} ms each (p90 "
            f"{found['stream/update_seconds_p90'] * 1e3:.2f} ms, p99 "
            f"{found['stream/update_seconds_p99'] * 1e3:.2f} ms)."
        )
    inference = (
        ""
        if "inference/items_per_second" not in found
        else (
            f"one item in {found['inference/latency_seconds_p50'] * 1e6:,.0f} us (p90 "
            f"{found['inference/latency_seconds_p90'] * 1e6:,.0f} us), batched "
            f"{found['inference/items_per_second']:,.0f} items/s."
        )
    )
    if mode == "infer":
        return inference[0].upper() + inference[1:]
    tokens = found.get("train/tokens_per_second")
    return (
        f"{condition['epochs']} epochs in **{found['train/total_seconds']:.3f} s** "
        f"({found['train/items_per_second']:,.1f} items/s"
        + (f", {tokens:,.0f} tokens/s" if tokens else "")
        + ")"
        + (f", {inference}" if inference else ".")
    )

"""What `auto` stands for in the place of a framework: framework, device and BLAS for this machine,
and why: from runs of the same work here where they decide, else from the platform."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import frameworks
import models
from analysis import choice
from analysis.choice import Candidate, Choice
from analysis.sessions import session
from entrypoints import environment, terminal
from entrypoints.probe import probe
from entrypoints.processes import TrialFailed
from entrypoints.supervisor import preset_for, resolve, threads_of
from measurement import blas, machine
from measurement.errors import InputError
from measurement.schedule import Condition
from tracking import names, read
from tracking.store import StoreAway

AUTO = "auto"
_USUAL = ("pytorch", "mlx")  # first choice first, on a GPU and on a CPU; then any other


@dataclass(frozen=True)
class Decision:
    """framework, and the options of a trial with everything that was chosen filled in. lines: at
    most three, for people; tags: for the run."""

    framework: str
    values: dict[str, Any]
    lines: tuple[str, ...]
    tags: dict[str, str]


Devices = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""framework -> device -> what a probe says of it; only those that are there."""


def installed(workload: str, framework: str) -> tuple[Devices, list[str]]:
    """(devices of the frameworks that are installed and have a twin, what is to be said of others).
    framework: `auto`, or the only one to look at. Raises InputError where none is left."""
    known = models.frameworks(workload)
    if framework != AUTO and framework not in known:
        raise InputError(
            f"workload '{workload}' has no twin in '{framework}'; it has: {', '.join(known)}"
        )
    found: dict[str, dict[str, dict[str, Any]]] = {}
    without = []
    for name in known if framework == AUTO else [framework]:
        if environment.ready(name) is None:
            if framework != AUTO or name not in frameworks.OWN_ENVIRONMENT:
                without.append(f"{name} is not installed")
            continue
        try:
            devices = probe(name)["devices"]
        except (InputError, TrialFailed) as error:
            without.append(f"{name} does not start ({error})")
            continue
        found[name] = {one["device"]: one for one in devices if "missing" not in one}
    if not found:
        raise InputError(
            f"no framework of workload '{workload}' can be used here ({'; '.join(without)}); run "
            "'pip install -r requirements.txt'"
        )
    return found, without


def usual(devices: Devices, asked: str) -> tuple[str, str, str]:
    """(framework, device, why) by the platform. asked: auto, cpu, gpu, or two devices at once.
    Raises InputError for a GPU that none of the frameworks sees."""
    apple = sys.platform == "darwin" and platform.machine() == "arm64"
    first = ("mlx", *_USUAL) if apple else _USUAL
    if asked == AUTO or "gpu" in asked:
        device = "gpu" if asked == AUTO else asked
        for framework in (*first, *devices):
            if "gpu" in devices.get(framework, {}):
                what = "Apple silicon" if apple else f"{framework} sees an NVIDIA GPU"
                return framework, device, f"{what}, and {framework} on its GPU is usual there"
        if asked != AUTO:
            raise InputError(
                f"device={asked}: none of {', '.join(devices)} sees a GPU here; use "
                f"device={asked.replace('gpu', 'cpu')}"
            )
    framework = next(name for name in (*_USUAL, *devices) if "cpu" in devices.get(name, {}))
    none = "no framework sees a GPU here" if asked == AUTO else f"device={asked}"
    return (
        framework,
        "cpu" if asked == AUTO else asked,
        f"{none}, and {framework} is usual on a CPU",
    )


def choose(workload: str, framework: str, values: Mapping[str, Any]) -> Decision:
    """The choice for one trial. framework: `auto`, or the only one that may be chosen; values: the
    options of a trial, of which device, blas and compile may be `auto`. Raises InputError: nothing
    to choose from, an option that cannot be. Where the store is away no run speaks."""
    values = {"checkpoint": "random", **values}
    device = models.device(workload, values["device"])
    if device not in models.setting(workload, "DEVICES"):
        known = ", ".join(models.setting(workload, "DEVICES"))
        raise InputError(f"unknown device '{device}'; choose one of: {known}")
    devices, notes = installed(workload, framework)
    name, place, why = usual(devices, device)
    preset = preset_for(workload, values["preset"], place)
    mode = values.get("mode", models.load(workload, "config").KIND)
    condition = Condition(
        name, place, values["dtype"], values["compile"], threads=values["threads"]
    )
    asked_sizes = {n: values[n] for n in models.options(workload) if values[n] != "preset"}
    places = values["checkpoint"], values["data_dir"]
    sizes = resolve(workload, preset, asked_sizes, values["dataset"], condition, *places)
    same = {
        "workload": workload,
        "mode": mode,
        "preset": preset,
        "dtype": values["dtype"],
        "dataset": Path(values["dataset"]).name,
        "checkpoint": Path(values["checkpoint"]).name,
        "threads": str(threads_of(condition)),
        "slowdown_percent": "0",
        "ranks": "1",
        **{size: str(value) for size, value in sizes.items()},
    }

    def matches(cell: Mapping[str, str]) -> bool:
        """The same work, by something that can be run again here."""
        return all(cell.get(k, names.ABSENT.get(k)) == v for k, v in same.items()) and _possible(
            cell, devices, device, values
        )

    here = {"workload": workload, "machine": machine.fingerprint()}
    try:
        every = read.trials(where=here)
        rows = [row for row in every if matches(row.cell)]
        sessions = _sessions(rows, here["machine"])
    except StoreAway as error:
        every, rows, sessions = [], [], []
        notes = [f"measured runs are not asked: {error}", *notes]
    measured = choice.decide(rows, sessions, matches, mode, (name, place))
    if others := len(every) - len(rows):
        notes = [
            f"{others} other runs of {workload} here are of other work, conditions or versions: left out",
            *notes,
        ]
    return _decision(measured, rows, (name, place, why), {**values, "preset": preset}, notes)


def _sessions(rows: list[read.Row], here: str) -> list[Any]:
    """The studies of some trials, as they ran on the machine `here`, analysed, newest first."""
    wanted = {row.study for row in rows if row.study}
    if not wanted:
        return []
    known = [s for s in read.studies() if s.name in wanted and s.machine in ("", here)]
    named = terminal.each(known, "studies asked", lambda study: study.name)
    return [session(study, read.trials_of(study)) for study in named]


def _possible(
    cell: Mapping[str, str], devices: Devices, device: str, values: Mapping[str, Any]
) -> bool:
    """Whether what ran can be had again: framework in this version, device, BLAS, compile mode."""
    candidate = Candidate.of(cell)
    there = devices.get(candidate.framework, {})
    parts = candidate.device.split("-")
    if device not in (AUTO, candidate.device) or not set(parts) <= set(there):
        return False
    if cell.get("version_framework") != there[parts[-1]]["versions"]["framework"]:
        return False
    if values["compile"] != AUTO and {candidate.compile, candidate.compile_inference} != {
        values["compile"]
    }:
        return False
    if "cpu" not in candidate.device:
        return True
    if values["blas"] not in (AUTO, candidate.blas) or candidate.blas not in blas.CHOICES:
        return False
    try:
        blas.find(candidate.blas)
    except InputError:  # was there when it ran
        return False
    return True


def _decision(
    measured: Choice | None,
    rows: list[read.Row],
    platform_choice: tuple[str, str, str],
    values: dict[str, Any],
    notes: list[str],
) -> Decision:
    framework, device, reason = platform_choice
    basis, runs = "platform", tuple(row.run_id for row in rows)
    if measured is None:
        few = Candidate.of(rows[0].cell) if rows else None
        seen = f"only {few} was measured here" if few else "nothing like it was measured here"
        reason = f"{seen}; {reason}: a rule of thumb, not a measurement"
        asked = values["blas"]
        values = values | {
            "device": device,
            "blas": _usual_blas(framework, device) if asked == AUTO else asked,
        }
    else:
        candidate, basis, reason, runs = (
            measured.candidate, measured.basis, measured.reason, measured.runs
        )  # fmt: skip
        framework = candidate.framework
        values = values | {"device": candidate.device, "blas": candidate.blas}
        if candidate.compile == candidate.compile_inference:
            values["compile"] = candidate.compile
    chosen = f"{framework} on {values['device']}"
    if "cpu" in values["device"]:
        chosen += f", blas={values['blas']}"
    chosen += f", compile={values['compile']}, preset={values['preset']}"
    if runs:
        shown = ", ".join(run[:8] for run in runs[:6]) + (", ..." if len(runs) > 6 else "")
        notes = [f"{len(runs)} run{'s' * (len(runs) > 1)}: {shown}", *notes]
    lines = [f"auto: {chosen}", f"  because ({basis}): {reason}"]
    if notes:
        lines.append(f"  {'; '.join(notes)}")
    tags = {
        "auto_choice": chosen,
        "auto_basis": basis,
        "auto_reason": reason[:5000],
        "auto_runs": json.dumps(runs[:100]),
    }
    return Decision(framework, values, tuple(" ".join(line.split("\n")) for line in lines), tags)


def _usual_blas(framework: str, device: str) -> str:
    """On a Linux CPU MLX's wheel has the reference BLAS, which costs many times the time."""
    slow = framework == "mlx" and "cpu" in device and sys.platform == "linux"
    return (blas.better() if slow else None) or "shipped"

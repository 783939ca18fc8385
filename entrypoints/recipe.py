"""What a run says so that its trial can be done again, and back: a specification from what it says.

A run names files by their names only, because folders may hold a user's name: who repeats it gives
the data set, checkpoint or BLAS that was a file again, and digests tell whether it is the same one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import models
from entrypoints import installed
from entrypoints.supervisor import Measured, TrialSpec, resolve, threads_of
from measurement import blas, untrusted
from measurement.digest import digest
from measurement.errors import InputError
from measurement.schedule import Condition
from serving import predictions, trained
from tracking import names

SPEC, PINS, ENVIRONMENT = "spec", "pins_sha256", "environment.json"
TRAINED, PREDICTED = names.TRAINED, names.PREDICTED
_PRIVATE = ("data_dir", "hostfile")
_OWN = ("dataset", "checkpoint", "blas")  # each may be a file of the user's


@dataclass(frozen=True)
class Own:
    """What a user has to say that a run does not. "recorded": as the run has it."""

    data_dir: str = "auto"
    dataset: str = "recorded"
    checkpoint: str = "recorded"
    blas: str = "recorded"


def tags(measured: Measured, spec: TrialSpec) -> dict[str, str]:
    """What a run carries besides its condition, so that it can be repeated and compared."""
    found = {
        SPEC: json.dumps(of(spec, measured.result["conditions"])),
        PINS: installed.pins_sha256(),
    }
    if (measured.folder / trained.WEIGHTS_FILE).is_file():
        found[TRAINED] = digest(trained.arrays(measured.folder / trained.WEIGHTS_FILE))
    if (measured.folder / predictions.FILE).is_file():
        found[PREDICTED] = digest(predictions.read(measured.folder / predictions.FILE).arrays())
    return found


def of(spec: TrialSpec, conditions: Mapping[str, Any]) -> dict[str, Any]:
    """A specification as JSON: complete, device and threads as they were, and no folder in it."""
    found = {k: v for k, v in asdict(spec).items() if k not in _PRIVATE}
    found["condition"] |= {
        "device": conditions["device"],
        "threads": threads_of(spec.condition, spec.hostfile),
        "blas": Path(spec.condition.blas).name,
    }
    found |= {k: Path(getattr(spec, k)).name for k in ("dataset", "checkpoint")}
    return found | {"several_hosts": bool(spec.hostfile)}


def read(run: Mapping[str, str], metrics: Mapping[str, float]) -> dict[str, Any]:
    """The same from a run's tags, or pieced together from those that every trial has always had.
    Raises InputError for a run that has neither."""
    try:
        if SPEC in run:
            found = dict(untrusted.parse_json(run[SPEC], "its specification"))
            return found | {"condition": dict(found["condition"])}
        return _pieced(run, metrics)
    except (InputError, ValueError, TypeError, LookupError) as error:
        raise InputError(
            f"this run does not say what it ran ({untrusted.shown(str(error))}); expected a finished "
            "trial of this project: choose another one"
        ) from None


def _pieced(run: Mapping[str, str], metrics: Mapping[str, float]) -> dict[str, Any]:
    get = {**names.ABSENT, **run}
    workload = get["workload"]
    kinds = {f.name: f.type for f in fields(models.load(workload, "config").Config)}
    modes = {get["compile"], get["compile_inference"]}
    training, ranks = get["mode"] == "train", int(get["ranks"])
    return {
        "workload": workload,
        "mode": get["mode"],
        "preset": get["preset"],
        "sizes": {n: (float if k == "float" else int)(get[names.SIZE + n]) for n, k in kinds.items()},
        "seed": int(get["seed"]),
        "epochs": int(get["epochs"]) if training else 0,
        "target": float(get["target"]) if training else 0.0,
        "dataset": get["dataset"],
        "checkpoint": get["checkpoint"],
        "inference": not training or "inference/items_per_second" in metrics,
        "condition": {
            "framework": get["framework"],
            "device": get["device"],
            "dtype": get["dtype"],
            "compile": modes.pop() if len(modes) == 1 else "auto",  # each part has its own faster mode
            "blas": get["blas"] if get["blas"] in blas.CHOICES else "shipped",
            "threads": int(get["threads"]),
            "slowdown_percent": float(get["slowdown_percent"]),
            "ranks": ranks,
            "backend": get["backend"] if ranks > 1 else "auto",
        },
        "several_hosts": get["hosts"] != "1",
    }  # fmt: skip


def specification(recipe: Mapping[str, Any], own: Own) -> TrialSpec:
    """A checked specification. Raises InputError: what this code cannot run, or what the user has to
    give because it was a file; nothing in a run names a path here."""
    given = dict(recipe)
    if given.pop("several_hosts", False):
        raise InputError(
            "this run's ranks were on several hosts, which cannot be started from here; repeat it with "
            "its own command and hostfile"
        )
    condition = dict(given.pop("condition"))
    config = models.load(str(given.get("workload")), "config")
    if own.blas != "recorded":
        condition["blas"] = own.blas
    given |= {
        k: getattr(own, k) for k in ("dataset", "checkpoint") if getattr(own, k) != "recorded"
    }
    known = {
        "dataset": (given.get("dataset", "none"), own.dataset, config.DATASETS),
        "checkpoint": (given.get("checkpoint", "random"), own.checkpoint, ("random",)),
        "blas": (condition.get("blas", "shipped"), own.blas, blas.CHOICES),
    }
    for name, (value, said, choices) in known.items():
        if said == "recorded" and value not in choices:
            raise InputError(
                f"{name}: this run used '{untrusted.shown(str(value))}', a file or folder of its user's; give yours as "
                f"-P {name}=PATH: whether it is the same will be checked"
            )
    try:
        asked = Condition(**condition)
        spec = TrialSpec(**{**given, "condition": asked, "data_dir": own.data_dir})
        _check_types(spec)
    except TypeError as error:
        raise InputError(
            f"this code cannot repeat what the run says ({error}); expected a run of this version or an "
            "older one: update the project"
        ) from None
    if spec.mode not in models.modes(spec.workload):
        raise InputError(f"mode='{spec.mode}': workload '{spec.workload}' has no such mode")
    places = spec.dataset, asked, spec.checkpoint, spec.data_dir
    sizes = resolve(spec.workload, spec.preset, spec.sizes, *places)
    return TrialSpec(**{f.name: getattr(spec, f.name) for f in fields(spec)} | {"sizes": sizes})


_KINDS: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
}


def _check_types(spec: TrialSpec) -> None:
    """Raises TypeError for a value of another kind than its field's: runs are others' text."""
    for thing in (spec, spec.condition):
        for field in fields(thing):
            kinds, value = _KINDS.get(str(field.type)), getattr(thing, field.name)
            if kinds and type(value) not in kinds:
                raise TypeError(f"{field.name}={value!r}")
    sizes = {f.name for f in fields(models.load(spec.workload, "config").Config)}
    if not isinstance(spec.sizes, dict) or set(spec.sizes) != sizes:
        raise TypeError(f"sizes={spec.sizes!r}")
    for name, value in spec.sizes.items():
        if not untrusted.number(value, float):
            raise TypeError(f"{name}={value!r}")
    models.within(models.load(spec.workload, "config").Config(**spec.sizes))

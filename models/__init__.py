"""Registry of workloads: a folder of this package that holds a config.py is one."""

from __future__ import annotations

import importlib
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

from measurement.errors import InputError

_FOLDER = Path(__file__).parent
_PARTS = ("config", "data", "checkpoint", "simulator")  # the last two where one needs them
# What a config.py may state besides; most workloads have the default.
_OPTIONAL: dict[str, Any] = {
    "STREAMS": False,  # whether it also learns from batches that arrive one at a time
    "MAY_BE_ZERO": (),  # sizes that may be 0
    "EPOCHS_OF": {},  # preset -> epochs, where they are not EPOCHS
    "DEVICES": ("auto", "cpu", "gpu"),  # or two at a time: then auto is the first after it
    "PROBE_STEPS": 10,  # of a training's evidence
    "NO_MORE_THAN": {},  # size -> the number of items that it cannot exceed
    "ANSWER": (),  # shape of a trained model's answer to one item, where it is no single class
    "as_sent": lambda items: items,  # items of the test set as a client sends them
}


MOST, MOST_LAYERS = 1 << 31, 4096  # of a size; of layers, which are listed one by one
_COUNTS = frozenset({"layers", "blocks", "depth", "audio_layers", "text_layers"})


def names() -> list[str]:
    """Every workload, alphabetically."""
    return sorted(path.parent.name for path in _FOLDER.glob("*/config.py"))


def frameworks(workload: str) -> list[str]:
    """The frameworks a workload has a twin for."""
    common = {"__init__", *_PARTS}
    return sorted(p.stem for p in (_FOLDER / workload).glob("*.py") if p.stem not in common)


def load(workload: str, part: str) -> ModuleType:
    """`part` is `config`, `data`, `checkpoint`, `simulator` or a framework's name. Raises
    InputError for an unknown one."""
    if workload not in names():
        raise InputError(f"unknown workload '{workload}'; choose one of: {', '.join(names())}")
    if part not in _PARTS and part not in frameworks(workload):
        known = ", ".join(frameworks(workload))
        raise InputError(f"workload '{workload}' has no twin in '{part}'; it has: {known}")
    return importlib.import_module(f"models.{workload}.{part}")


def setting(workload: str, name: str) -> Any:
    """A constant that a workload's config.py may leave out."""
    return getattr(load(workload, "config"), name, _OPTIONAL[name])


def about(workload: str) -> str:
    """What a workload is and where it comes from, in a sentence."""
    load(workload, "config")  # raises InputError
    return str(importlib.import_module(f"models.{workload}").__doc__).strip()


def modes(workload: str) -> tuple[str, ...]:
    """What a trial of a workload can do, its usual mode first."""
    kind = str(load(workload, "config").KIND)
    if kind != "train":
        return (kind,)
    return ("train", "infer", "stream") if setting(workload, "STREAMS") else ("train", "infer")


def device(workload: str, asked: str) -> str:
    """What `auto` is where a workload's devices are two at a time; anything else as it is."""
    first = str(setting(workload, "DEVICES")[1])
    return first if asked == "auto" and "-" in first else asked


def epochs(workload: str, preset: str) -> int:
    """Epochs of a training at one of a workload's presets."""
    own: dict[str, int] = setting(workload, "EPOCHS_OF")
    return own.get(preset, int(load(workload, "config").EPOCHS))


def within(config: Any) -> Any:
    """A Config made of values from outside, if its sizes are possible and its model can be listed
    before it is allocated. Raises InputError."""
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name in _COUNTS and value > MOST_LAYERS:
            raise InputError(f"{field.name} is {value}; expected at most {MOST_LAYERS:,}")
        if not 0 <= value <= MOST:
            raise InputError(f"{field.name} is {value:g}; expected 0 to {MOST:,}")
    config.check()
    return config


def options(workload: str) -> dict[str, type]:
    """name -> int or float of every size of a workload that a user may choose."""
    kinds = {"int": int, "float": float}
    return {
        field.name: kinds[str(field.type)]
        for field in fields(load(workload, "config").Config)
        if not field.name.endswith("_items")
    }

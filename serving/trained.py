"""A trial's trained model on disk: weights.safetensors and config.json, no pickle."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

import frameworks
import models
from measurement import untrusted
from measurement.errors import InputError
from measurement.untrusted import shown

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "weights.safetensors"
SERVED = ("mlx", "pytorch")  # frameworks whose trained models become MLflow models
_MOST_CONFIG = untrusted.MIB  # bytes
ARTIFACT = "model"  # where a run keeps the two files of any other framework


@dataclass(frozen=True)
class Trained:
    """What a trial saved: enough to rebuild its model in its framework."""

    workload: str
    framework: str
    config: Any  # the workload's own Config
    weights: dict[str, np.ndarray]  # canonical name -> float32


def read(folder: Path) -> Trained:
    """Reads and checks a trial's folder. Raises InputError naming the file that is missing, broken
    or does not fit the workload."""
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise InputError(f"{folder} holds no {name}; give the folder that a trial saved")
    text = untrusted.read_text(folder / CONFIG_FILE, _MOST_CONFIG, "a trial's configuration")
    try:
        workload, framework, config = _configuration(untrusted.parse_json(text, "it"))
    except InputError as error:
        raise InputError(
            f"{folder / CONFIG_FILE} is no trial's configuration ({error}); run the trial again"
        ) from None
    weights = arrays(folder / WEIGHTS_FILE)
    expected = {name: shape for name, (shape, _) in config.parameters().items()}
    present = {name: value.shape for name, value in weights.items()}
    for name in sorted(expected | present):
        if expected.get(name) != present.get(name):
            raise InputError(
                f"{folder / WEIGHTS_FILE}: {name} is {present.get(name, 'missing')}, the"
                f" configuration says {expected.get(name, 'no such parameter')}; run it again"
            )
    return Trained(workload, framework, config, weights)


def arrays(path: Path) -> dict[str, np.ndarray]:
    """Every array of a file of safetensors by its name. Raises InputError."""
    try:
        found: dict[str, np.ndarray] = load_file(path)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        # The last three are NumPy's, which knows fewer types than the format has.
        raise InputError(
            f"{path} cannot be read ({shown(str(error))}); run the trial again"
        ) from None
    return found


def _configuration(spec: Any) -> tuple[str, str, Any]:
    """(workload, framework, its Config). A configuration decides how much is allocated, so every
    value is looked at. Raises InputError."""
    if not isinstance(spec, dict):
        raise InputError("no JSON object")
    for name in ("workload", "framework"):
        if not isinstance(spec.get(name), str):
            raise InputError(f"{name} is missing; expected a word")
    known = models.load(spec["workload"], "config").Config
    if spec["framework"] not in models.frameworks(spec["workload"]):
        raise InputError(f"{spec['workload']} has no twin in '{shown(spec['framework'])}'")
    values = {}
    for field in fields(known):
        value, kind = spec.get(field.name), {"int": int, "float": float}[str(field.type)]
        if not untrusted.number(value, kind):
            raise InputError(f"{field.name} is {shown(repr(value))}; expected {kind.__name__}")
        values[field.name] = value
    return spec["workload"], spec["framework"], models.within(known(**values))


def read_of(workload: str, checkpoint: str) -> Trained:
    """`read` of a folder that must hold a model of `workload`. Raises InputError."""
    folder = Path(checkpoint).expanduser()
    if not folder.is_dir():
        raise InputError(
            f"checkpoint '{checkpoint}' is no folder; expected one that a trial saved, with"
            f" {WEIGHTS_FILE} and {CONFIG_FILE}, or 'random'"
        )
    found = read(folder)
    if found.workload != workload:
        raise InputError(f"{folder} holds a model of '{found.workload}', expected '{workload}'")
    return found


def build(trained: Trained, device: str) -> tuple[Any, Any, Any]:
    """(adapter, twin module, model with the trained weights) on `device`."""
    adapter = frameworks.load(trained.framework, device)
    twin = models.load(trained.workload, trained.framework)
    model = twin.Model(trained.config)
    adapter.write_parameters(model, trained.weights)
    return adapter, twin, model

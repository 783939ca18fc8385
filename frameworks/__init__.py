"""Registry of frameworks: one adapter file each, imported only when asked for."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

from measurement.errors import InputError
from measurement.framework import Framework

_FOLDER = Path(__file__).parent
_IMPORTED = {"pytorch": "torch"}  # adapter -> the package it needs, where the name differs
_CHOICES = {"device": ("auto", "cpu", "gpu"), "dtype": ("float32", "bfloat16", "float16")}


def names() -> list[str]:
    """Every framework that has an adapter."""
    return sorted(path.stem for path in _FOLDER.glob("*.py") if path.stem != "__init__")


def available(name: str) -> bool:
    """Whether there is an adapter and the framework's package is installed; does not import it."""
    package = _IMPORTED.get(name, name)
    return name in names() and importlib.util.find_spec(package) is not None


def load(
    name: str, device: str = "auto", dtype: str = "float32", threads: int | None = None
) -> Framework:
    """The adapter, on `device` (cpu, gpu, auto). Imports the framework. Raises InputError when it
    is unknown, not installed or broken, or lacks the device."""
    if name not in names():
        raise InputError(f"unknown framework '{name}'; choose one of: {', '.join(names())}")
    if not available(name):
        raise InputError(
            f"framework '{name}' is not installed here; run 'pip install -r requirements.txt'"
        )
    for setting, value in (("device", device), ("dtype", dtype)):
        if value not in _CHOICES[setting]:
            known = ", ".join(_CHOICES[setting])
            raise InputError(f"unknown {setting} '{value}'; choose one of: {known}")
    try:
        module = importlib.import_module(f"frameworks.{name}")
    except ImportError as error:  # such as MLX's Linux wheel without its backend
        raise InputError(
            f"framework '{name}' cannot be imported ({error}); "
            "run 'pip install -r requirements.txt'"
        ) from None
    adapter: Framework = module.Adapter(device, dtype, threads)
    return adapter


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory was not enough, for any adapter imported so far."""
    modules = [sys.modules.get(f"frameworks.{name}") for name in names()]
    return any(module.out_of_memory(error) for module in modules if module)

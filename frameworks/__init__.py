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
# Frameworks that live in an environment of their own, see entrypoints/environment.py: what is in it.
OWN_ENVIRONMENT = {"tensorflow": "requirements-tensorflow.txt"}
CUDA_EXTRA = {"tensorflow": "and-cuda"}  # what brings CUDA's libraries there
# Frameworks that multiply with code of their own, where no BLAS can take its place.
OWN_PRODUCTS = {"tensorflow": "oneDNN and Eigen"}
_CHOICES = {"device": ("auto", "cpu", "gpu"), "dtype": ("float32", "bfloat16", "float16")}


def names() -> list[str]:
    """Every framework that has an adapter."""
    return sorted(path.stem for path in _FOLDER.glob("*.py") if path.stem != "__init__")


def package(name: str) -> str:
    """The Python package of a framework."""
    return _IMPORTED.get(name, name)


def available(name: str) -> bool:
    """Whether there is an adapter and the framework's package can be imported in this process; does
    not import it."""
    return name in names() and importlib.util.find_spec(package(name)) is not None


def load(
    name: str, device: str = "auto", dtype: str = "float32", threads: int | None = None
) -> Framework:
    """The adapter, on `device` (cpu, gpu, auto). Imports the framework. Raises InputError when it
    is unknown, not installed or broken, or lacks the device."""
    if name not in names():
        raise InputError(f"unknown framework '{name}'; choose one of: {', '.join(names())}")
    install = f"run 'pip install -r {OWN_ENVIRONMENT.get(name, 'requirements.txt')}'"
    if not available(name):
        raise InputError(f"framework '{name}' is not installed here; {install}")
    for setting, value in (("device", device), ("dtype", dtype)):
        if value not in _CHOICES[setting]:
            known = ", ".join(_CHOICES[setting])
            raise InputError(f"unknown {setting} '{value}'; choose one of: {known}")
    try:
        module = importlib.import_module(f"frameworks.{name}")
    except ImportError as error:  # such as MLX's Linux wheel without its backend
        raise InputError(f"framework '{name}' cannot be imported ({error}); {install}") from None
    adapter: Framework = module.Adapter(device, dtype, threads)
    return adapter


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory was not enough, for any adapter imported so far."""
    modules = [sys.modules.get(f"frameworks.{name}") for name in names()]
    return any(module.out_of_memory(error) for module in modules if module)

"""Registry of frameworks: one adapter file each, imported only when asked for."""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measurement.errors import InputError
from measurement.framework import Framework, Ranks

_FOLDER = Path(__file__).parent
# tf32: float32 as it is stored and added up, but products of operands with ten bits, which NVIDIA's
# GPUs compute several times as fast.
_CHOICES = {"device": ("auto", "cpu", "gpu"), "dtype": ("float32", "tf32", "bfloat16", "float16")}


@dataclass(frozen=True)
class About:
    """What is known of a framework without importing it: an adapter's literal `ABOUT` states what
    differs. Without, package and distributions are the framework's own name."""

    package: str = ""  # what is imported, where the name differs
    # Installed packages that compute, by how their names begin.
    distributions: tuple[str, ...] = ()
    # Variables that choose its kernels; none may hold a name or a path.
    settings: tuple[str, ...] = ()
    cuda_extra: str = ""  # what brings CUDA's libraries into an environment of its own
    products: str = ""  # code of its own that multiplies, where no BLAS can take its place
    tf32: bool = False  # whether it is asked to multiply in TF32 here
    # How its processes talk to each other; auto: NCCL on NVIDIA GPUs, else the first.
    backends: tuple[str, ...] = ()


def names() -> list[str]:
    """Every framework that has an adapter."""
    return sorted(path.stem for path in _FOLDER.glob("*.py") if path.stem != "__init__")


@functools.cache
def about(name: str) -> About:
    """What an adapter says of its framework, read from its text: importing it would cost seconds, and
    can only be done where the framework is installed."""
    found: dict[str, Any] = {}
    for node in ast.parse((_FOLDER / f"{name}.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ABOUT":
            found = ast.literal_eval(node.value)
    package = found.setdefault("package", name)
    return About(**{"distributions": (package,), **found})


def requirements(name: str) -> str:
    """The file, in the project's folder, of what a framework needs; an environment of its own has one."""
    return OWN_ENVIRONMENT.get(name, "requirements.txt")


def package(name: str) -> str:
    """The Python package of a framework."""
    return about(name).package if name in names() else name


def packages() -> list[str]:
    """Those of all frameworks."""
    return [package(name) for name in names()]


# Frameworks that live in an environment of their own, see entrypoints/environment.py: what is in it.
OWN_ENVIRONMENT = {
    name: f"requirements-{name}.txt"
    for name in names()
    if (_FOLDER.parent / f"requirements-{name}.txt").is_file()
}
# Frameworks that multiply with code of their own: which.
OWN_PRODUCTS = {name: about(name).products for name in names() if about(name).products}
# How processes of a framework can talk to each other.
BACKENDS = {name: about(name).backends for name in names() if about(name).backends}


def available(name: str) -> bool:
    """Whether there is an adapter and the framework's package can be imported in this process; does
    not import it."""
    return name in names() and importlib.util.find_spec(package(name)) is not None


def load(
    name: str, device: str = "auto", dtype: str = "float32", threads: int | None = None
) -> Framework:
    """The adapter, on `device` (cpu, gpu, auto). Imports the framework. Raises InputError when it
    is unknown, not installed or broken, or lacks the device."""
    adapter: Framework = _module(name, name, device, dtype).Adapter(device, dtype, threads)
    return adapter


def join(
    name: str, device: str, dtype: str, threads: int | None, backend: str, seconds: float
) -> Ranks:
    """The adapter of a process that torchrun or mlx.launch started, when all ranks have joined.
    seconds: after which a rank that hears nothing gives up. Raises InputError as `load` does, and for
    a backend that the framework lacks, RuntimeError (PyTorch's, MLX's) when a rank does not come."""
    module = _module(name, f"distributed.{name}", device, dtype)
    adapter: Ranks = module.Adapter(device, dtype, threads, backend, seconds)
    return adapter


def check_backend(name: str, backend: str) -> None:
    """Raises InputError for a framework that does not train in several processes here, or a backend
    that it does not have."""
    if name not in BACKENDS:
        raise InputError(f"ranks: '{name}' trains in one process here; use {' or '.join(BACKENDS)}")
    if backend not in ("auto", *BACKENDS[name]):
        known = ", ".join(("auto", *BACKENDS[name]))
        raise InputError(f"backend '{backend}': {name} has {known}; choose one of these")


def _module(name: str, part: str, device: str, dtype: str) -> Any:
    if name not in names():
        raise InputError(f"unknown framework '{name}'; choose one of: {', '.join(names())}")
    install = f"run 'pip install -r {requirements(name)}'"
    if not available(name):
        raise InputError(f"framework '{name}' is not installed here; {install}")
    for setting, value in (("device", device), ("dtype", dtype)):
        if value not in _CHOICES[setting]:
            known = ", ".join(_CHOICES[setting])
            raise InputError(f"unknown {setting} '{value}'; choose one of: {known}")
    try:
        return importlib.import_module(f"frameworks.{part}")
    except ImportError as error:  # such as MLX's Linux wheel without its backend
        if "libcuda.so" in str(error):  # comes with the driver, not with a package
            install = (
                "this build of it needs NVIDIA's driver: install that, or"
                f" {requirements(name)} into an environment of its own"
            )
        raise InputError(f"framework '{name}' cannot be imported ({error}); {install}") from None


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory was not enough, for any adapter imported so far."""
    modules = [sys.modules.get(f"frameworks.{name}") for name in names()]
    return any(module.out_of_memory(error) for module in modules if module)

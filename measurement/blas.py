"""Which BLAS a process multiplies with: loading one before the framework, and reading which it is.

On Linux the first library in the process's global scope that exports `sgemm_`/`cblas_sgemm` serves
MLX and PyTorch alike, so a library loaded with RTLD_GLOBAL before the framework's import replaces
the reference BLAS of MLX's CPU wheel, and PyTorch's own MKL too.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import platform
import re
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from measurement.errors import InputError

CHOICES = ("shipped", "mkl", "openblas")
_OPENMP_FIRST = ("libquadmath", "libgfortran", "libgomp", "libopenblas")


@dataclass(frozen=True)
class Blas:
    """What the process multiplies with, as read from the loaded library."""

    name: str  # mkl, openblas, accelerate, reference, unknown
    version: str
    core: str  # the kernel family it chose, "" where it does not tell
    threads: int | None
    file: str  # file name only: a path may hold a user's name

    def tags(self) -> dict[str, str]:
        values = {f"blas_{key}": str(value) for key, value in asdict(self).items()}
        values["blas_loaded"] = f"{self.name} {self.version} {self.core}".strip()
        return values


def find(choice: str) -> list[Path]:
    """Libraries to load, in order, for a choice: [] for `shipped`. Raises InputError."""
    if choice == "shipped":
        return []
    if platform.system() != "Linux":
        raise InputError(
            f"blas={choice} is for Linux; on {platform.system()} use blas=shipped (Accelerate on a Mac)"
        )
    found = {"mkl": _find_mkl, "openblas": _find_openblas}.get(choice, lambda: _given(choice))()
    if not found:
        remedy = {
            "mkl": "run 'pip install -c constraints.txt mkl' (x86-64 only)",
            "openblas": "install it (Debian: apt-get install libopenblas0-openmp) or pip install faiss-cpu",
        }[choice]
        raise InputError(f"blas={choice}: no such library found; {remedy}, or use blas=shipped")
    return found


def better() -> str | None:
    """The choice that gives MLX on Linux a tuned BLAS here, or None."""
    for choice in ("mkl", "openblas"):
        try:
            find(choice)
        except InputError:
            continue
        return choice
    return None


def load(choice: str) -> None:
    """Load the chosen BLAS for every library to come. Call before a framework is imported."""
    libraries = find(choice)
    if any(module in sys.modules for module in ("torch", "mlx.core")):
        raise RuntimeError("a BLAS must be loaded before the framework is imported")
    # Releases before 2021 take a new CPU for the oldest one and lose four fifths of the speed.
    if "openblas" in choice and "OPENBLAS_CORETYPE" not in os.environ and (core := _best_core()):
        os.environ["OPENBLAS_CORETYPE"] = core
    for library in libraries:
        try:
            handle = ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise InputError(f"blas={choice}: {library.name} cannot be loaded: {error}") from None
    if libraries and not hasattr(handle, "sgemm_"):
        raise InputError(f"blas={choice}: {libraries[-1].name} has no sgemm_; give a BLAS library")


def loaded(library: str | None) -> Blas:
    """The BLAS in use. `library`: path of the framework's own library, whose dependencies serve
    when nothing in the global scope does (Linux), or None."""
    for scope in (None, library):
        handle = ctypes.CDLL(scope)
        for symbol in ("cblas_sgemm", "sgemm_"):
            if hasattr(handle, symbol):
                return _describe(Path(_file_of(getattr(handle, symbol))))
    return Blas("unknown", "", "", None, "")


def _describe(path: Path) -> Blas:
    handle = ctypes.CDLL(str(path)) if path.exists() else ctypes.CDLL(None)
    if "Accelerate" in str(path) or "vecLib" in str(path):
        return Blas("accelerate", platform.mac_ver()[0], "", None, "Accelerate")
    if hasattr(handle, "openblas_get_config"):
        words = _text(handle.openblas_get_config).split()
        core = _text(handle.openblas_get_corename)
        return Blas("openblas", words[1], core, handle.openblas_get_num_threads(), path.name)
    if hasattr(handle, "MKL_Get_Version_String"):
        return Blas("mkl", *_mkl_version(handle), handle.MKL_Get_Max_Threads(), path.name)
    if path.name.startswith(("libblas", "libcblas")):
        return Blas("reference", ".".join(path.name.split(".so.")[1:]), "", 1, path.name)
    return Blas("unknown", "", "", None, path.name)


def _mkl_version(handle: ctypes.CDLL) -> tuple[str, str]:
    """(version, instruction set it dispatches to where it tells) from a loaded MKL."""
    buffer = ctypes.create_string_buffer(256)
    handle.MKL_Get_Version_String(buffer, len(buffer))
    match = re.search(r"Version ([\d.]+)", buffer.value.decode())
    version = match.group(1) if match else "unknown"
    if not hasattr(handle, "MKL_Get_Version"):  # PyTorch's static copy keeps only the text
        return version, ""

    class Version(ctypes.Structure):
        _fields_ = [(n, ctypes.c_int) for n in ("major", "minor", "update")] + [
            (n, ctypes.c_char_p) for n in ("status", "build", "processor", "platform")
        ]

    fields = Version()
    handle.MKL_Get_Version(ctypes.byref(fields))
    sets = re.findall(r"AVX-?\d+|SSE[\d.]+", (fields.processor or b"").decode())
    return version, sets[0] if sets else ""


def _text(function: ctypes._CFuncPtr) -> str:  # type: ignore[name-defined]
    function.restype = ctypes.c_char_p
    return (function() or b"").decode()


def _file_of(symbol: object) -> str:
    """The file that a loaded C function lives in, by dladdr(3)."""

    class Info(ctypes.Structure):
        _fields_ = [
            ("file", ctypes.c_char_p),
            ("base", ctypes.c_void_p),
            ("symbol", ctypes.c_char_p),
            ("address", ctypes.c_void_p),
        ]

    info = Info()
    dladdr = ctypes.CDLL(None).dladdr
    dladdr.argtypes = [ctypes.c_void_p, ctypes.POINTER(Info)]
    if not dladdr(ctypes.cast(symbol, ctypes.c_void_p), ctypes.byref(info)):  # type: ignore[arg-type]
        return ""
    return (info.file or b"").decode()


def _find_mkl() -> list[Path]:
    return _wheel_files("mkl", "libmkl_rt.so")[:1]


def _find_openblas() -> list[Path]:
    system = ctypes.util.find_library("openblas")
    if system:
        return [Path(system)]
    # faiss-cpu carries a complete OpenBLAS under its public names; numpy's and scipy's are renamed.
    files = _wheel_files("faiss-cpu", ".libs/")
    ordered = [next((f for f in files if f.name.startswith(n)), None) for n in _OPENMP_FIRST]
    return [f for f in ordered if f is not None] if all(ordered) else []


def _given(choice: str) -> list[Path]:
    path = Path(os.path.expanduser(choice))
    if not path.is_file():
        raise InputError(
            f"blas={choice}: no such file; expected one of {', '.join(CHOICES)} or a library's path"
        )
    return [path.resolve()]


def _wheel_files(package: str, part: str) -> list[Path]:
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        return []
    return [Path(str(f.locate())).resolve() for f in files if part in str(f)]


def _best_core() -> str | None:
    """OpenBLAS's name for the widest kernels that this CPU runs."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return None
    if "avx512bw" in flags:
        return "SKYLAKEX"
    return "HASWELL" if "avx2" in flags else None

"""Which BLAS is found, loaded and named. One process per case: a loaded library stays.

What the adapters say is compared with the dynamic linker's own word (LD_DEBUG=bindings): the file
that the framework's calls of sgemm were bound to.
"""

from __future__ import annotations

import ctypes.util
import json
import platform
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import frameworks
from measurement import blas
from measurement.errors import InputError

linux = pytest.mark.skipif(sys.platform != "linux", reason="a BLAS is chosen on Linux only")
CODE = """
import json, os, sys
from measurement import blas
blas.load(sys.argv[2])
import frameworks
framework = frameworks.load(sys.argv[1], "cpu", "float32", 2)
framework.matmul(300)()
print(json.dumps({**framework.numerics(), "core": os.environ.get("OPENBLAS_CORETYPE", "")}))
"""


def numerics(project: Path, framework: str, choice: str, **environment: str) -> tuple[dict, str]:
    """(what the adapter reads in a fresh process, standard error)."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, framework, choice],
        cwd=project,
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/bin:/bin", "MKL_NUM_THREADS": "2", **environment},
    )
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def skip_without(choice: str) -> None:
    try:
        blas.find(choice)
    except InputError as error:
        pytest.skip(str(error))


# --- find and load: errors are one line


@pytest.mark.parametrize("choice", ["", "garbage", "/no/such/file.so", "~/no.so", "~nobody9/x.so"])
@linux
def test_an_unknown_choice_is_one_line(choice):
    with pytest.raises(InputError, match="mkl, openblas or a library's path") as raised:
        blas.find(choice)
    assert "\n" not in str(raised.value) and f"blas={choice}:" in str(raised.value)


@pytest.mark.parametrize("choice", ["mkl", "openblas"])
@linux
def test_a_choice_that_is_not_installed_says_what_to_install(monkeypatch, choice):
    monkeypatch.setattr(blas, "_wheel_files", lambda package, part: [])
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    with pytest.raises(InputError, match="install") as raised:
        blas.find(choice)
    assert "blas=shipped" in str(raised.value) and "\n" not in str(raised.value)
    assert blas.better() is None


def test_no_choice_is_offered_elsewhere_than_on_linux(monkeypatch):
    monkeypatch.setattr(blas.platform, "system", lambda: "Darwin")
    assert blas.find("shipped") == []
    assert blas.better() is None
    with pytest.raises(InputError, match="Accelerate"):
        blas.find("mkl")


def test_shipped_loads_nothing_and_better_prefers_mkl(monkeypatch):
    assert blas.find("shipped") == []
    monkeypatch.setattr(blas.platform, "system", lambda: "Linux")
    monkeypatch.setattr(blas, "_wheel_files", lambda package, part: [Path(f"/x/{package}.so")])
    assert blas.better() == "mkl"


@linux
def test_libraries_of_a_faiss_wheel_come_in_the_order_of_their_needs(monkeypatch):
    names = ["libopenblas-r0", "libquadmath-x", "libgomp-y", "libgfortran-z", "libother"]
    files = [Path(f"/s/faiss_cpu.libs/{n}.so") for n in names]
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    monkeypatch.setattr(blas, "_wheel_files", lambda package, part: files)
    found = [p.name.split("-")[0] for p in blas.find("openblas")]
    assert found == ["libquadmath", "libgfortran", "libgomp", "libopenblas"]
    monkeypatch.setattr(blas, "_wheel_files", lambda package, part: files[:2])  # incomplete
    with pytest.raises(InputError):
        blas.find("openblas")


LOAD = """
import sys
from measurement import blas
from measurement.errors import InputError
try:
    blas.load(sys.argv[1])
except InputError as error:
    print(error)
"""


@linux
def test_a_file_that_is_no_blas_is_one_line(project, tmp_path):
    text = tmp_path / "text.so"
    text.write_text("no library")
    cut = tmp_path / "cut.so"
    cut.write_bytes(b"\x7fELF" + bytes(60))
    no_blas = find_spec("_ctypes").origin  # a good library without sgemm_
    for path, said in ((text, "cannot be loaded"), (cut, "cannot be loaded"), (no_blas, "sgemm_")):
        done = subprocess.run(
            [sys.executable, "-c", LOAD, str(path)], cwd=project, capture_output=True, text=True
        )
        assert done.stderr == ""
        assert said in done.stdout and len(done.stdout.splitlines()) == 1


def test_a_blas_after_the_framework_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlx.core", object())
    with pytest.raises(RuntimeError, match="before the framework"):
        blas.load("shipped")


# --- what is loaded is named truly


@linux
@pytest.mark.skipif(not frameworks.available("mlx"), reason="MLX is not installed")
@pytest.mark.parametrize(
    ("choice", "name"), [("shipped", "reference"), ("mkl", "mkl"), ("openblas", "openblas")]
)
def test_mlx_multiplies_with_the_blas_that_is_named(project, choice, name):
    skip_without(choice)
    state, linker = numerics(project, "mlx", choice, LD_DEBUG="bindings")
    bound = re.findall(r"/libmlx\.so \[0\] to (\S+) \[0\]: normal symbol `cblas_sgemm'", linker)
    assert bound and Path(bound[-1]).name.split(".so")[0] == state["blas_file"].split(".so")[0]
    if name == "reference" and not bound[-1].startswith(str(Path(sys.prefix).resolve())):
        pytest.skip(f"MLX was built with a BLAS of the system here: {bound[-1]}")
    assert state["blas_name"] == name
    assert state["blas_loaded"].startswith(f"{name} ")
    assert int(state["blas_threads"]) == (1 if name == "reference" else 2)
    assert state["tf32"] == "off"
    assert bool(state["core"]) == (choice == "openblas" and blas._best_core() is not None)


@linux
@pytest.mark.skipif(not frameworks.available("pytorch"), reason="PyTorch is not installed")
def test_pytorch_multiplies_with_the_mkl_that_was_loaded_first(project):
    skip_without("mkl")
    state, linker = numerics(project, "pytorch", "mkl", LD_DEBUG="bindings")
    bound = re.findall(r"/libtorch_cpu\.so \[0\] to (\S+) \[0\]: normal symbol `sgemm_'", linker)
    assert bound and Path(bound[-1]).name.startswith("libmkl_rt")
    assert state["blas_name"] == "mkl" and state["blas_file"].startswith("libmkl_rt")
    assert state["pool_threads"] == "2"


@linux
def test_a_path_to_a_library_is_loaded_and_named(project):
    skip_without("mkl")
    (path,) = blas.find("mkl")
    state, _ = numerics(project, "mlx", str(path))
    assert state["blas_name"] == "mkl" and state["blas_file"] == path.name


@linux
@pytest.mark.skipif(not frameworks.available("pytorch"), reason="PyTorch is not installed")
def test_pytorch_as_shipped_names_its_own_blas(project):
    """In this process no BLAS was loaded first, so PyTorch multiplies with its own."""
    state = frameworks.load("pytorch", "cpu").numerics()
    if platform.machine() != "x86_64":
        pytest.skip("other wheels carry other libraries")
    assert state["blas_name"] == "mkl" and state["blas_file"] == "libtorch_cpu.so"
    assert re.fullmatch(r"[\d.]+", state["blas_version"])


@linux
def test_a_library_without_a_blas_is_unknown_and_not_guessed(project):
    code = (
        "from measurement import blas; import _ctypes; print(blas.loaded(_ctypes.__file__).tags())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=True
    )
    assert "'blas_loaded': 'unknown'" in done.stdout and "'blas_threads': 'None'" in done.stdout


# Not run on a Mac: only how its library's path is named.
def test_accelerate_is_named_by_its_path(monkeypatch):
    monkeypatch.setattr(blas.platform, "mac_ver", lambda: ("15.1", ("", "", ""), "arm64"))
    path = "/System/Library/Frameworks/Accelerate.framework/Versions/A/Frameworks/vecLib.framework"
    found = blas._describe(Path(path) / "Versions/A/libBLAS.dylib")
    assert (found.name, found.version, found.threads) == ("accelerate", "15.1", None)
    assert found.tags()["blas_loaded"] == "accelerate 15.1"


def test_tags_hold_no_path():
    tags = blas.Blas("mkl", "2026.2", "AVX-512", 2, "libmkl_rt.so.3").tags()
    assert tags["blas_loaded"] == "mkl 2026.2 AVX-512"
    assert set(tags) == {
        f"blas_{k}" for k in ("name", "version", "core", "threads", "file", "loaded")
    }
    assert all(isinstance(value, str) and "/" not in value for value in tags.values())


@pytest.mark.parametrize(
    ("flags", "core"),
    [("avx2 avx512bw", "SKYLAKEX"), ("sse avx2", "HASWELL"), ("sse", None), (None, None)],
)
def test_openblas_is_told_the_widest_kernels(monkeypatch, flags, core):
    def read(path):
        if flags is None:
            raise OSError
        return flags

    monkeypatch.setattr(Path, "read_text", read)
    assert blas._best_core() == core

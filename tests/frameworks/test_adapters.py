"""Every adapter keeps the promises of measurement.framework.Framework: what it is, what it moves."""

from __future__ import annotations

import contextlib
import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from networks import NAMES, WRITTEN

import frameworks
from measurement.errors import InputError
from measurement.framework import Framework, TwoDevices

ROOT = Path(__file__).resolve().parents[2]


def test_every_adapter_has_its_test_network():
    assert set(frameworks.names()) <= set(WRITTEN)


# --- what it is


def test_an_adapter_has_every_method_of_the_protocol(framework):
    for method, wanted in inspect.getmembers(Framework, inspect.isfunction):
        if not method.startswith("_"):
            have = inspect.signature(getattr(framework, method)).parameters
            assert list(have) == list(inspect.signature(wanted).parameters)[1:], method


@pytest.mark.parametrize("name", [name for name in NAMES if name in ("mlx", "pytorch")])
def test_an_adapter_for_two_devices_has_what_that_needs(name):
    adapter = frameworks.load(name, "cpu")
    for method, wanted in inspect.getmembers(TwoDevices, inspect.isfunction):
        if not method.startswith("_"):
            have = inspect.signature(getattr(adapter, method)).parameters
            assert list(have) == list(inspect.signature(wanted).parameters)[1:], method


def test_what_it_is_and_how_it_computes_are_strings(framework, name):
    assert framework.name == name and framework.device in ("cpu", "gpu")
    assert framework.dtype == "float32"
    state = framework.numerics()
    assert {"tf32", "blas_loaded", "blas_threads"} <= set(state)
    assert state["tf32"] == "off" or framework.device == "gpu"
    assert framework.versions()["framework"]
    assert all(isinstance(v, str) for v in (*state.values(), *framework.versions().values()))


def test_device_auto_is_one_that_is_there(name):
    assert frameworks.load(name).device in ("cpu", "gpu")
    assert frameworks.load(name, "cpu").device == "cpu"


def test_a_gpu_that_is_not_there_is_one_line_with_the_remedy(name):
    with contextlib.suppress(InputError):
        frameworks.load(name, "gpu")
        pytest.skip("this machine has a GPU that the framework sees")
    with pytest.raises(InputError, match="device=gpu: .* use device=cpu, or install") as raised:
        frameworks.load(name, "gpu")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("missing", "advice"),
    [("libcuda.so.1", "needs NVIDIA's driver"), ("libmlx.so", "run 'pip install -r ")],
)
def test_a_library_that_is_missing_is_one_line_with_what_to_do(name, missing, advice, monkeypatch):
    def fail(module):
        raise ImportError(f"{missing}: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(frameworks.importlib, "import_module", fail)
    with pytest.raises(InputError) as raised:
        frameworks.load(name)
    assert f"'{name}' cannot be imported ({missing}" in str(raised.value)
    assert advice in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("device", "tpu"), ("device", ""), ("dtype", "float8"), ("dtype", "double")],
)
def test_an_unknown_device_or_dtype_is_one_line_with_the_choices(name, setting, value):
    with pytest.raises(InputError, match=f"unknown {setting} '{value}'; choose one of"):
        frameworks.load(name, **{setting: value})


def test_threads_are_as_asked_where_the_framework_has_a_pool(name, parts):
    if not parts.POOL:
        assert "pool_threads" not in frameworks.load(name, "cpu", threads=2).numerics()
        return
    for threads in (1, 2) if parts.POOL == "any time" else (2,):
        if parts.POOL == "any time":
            adapter = frameworks.load(name, "cpu", threads=threads)
            found = adapter.numerics()["pool_threads"]
        else:
            code = (
                f"import frameworks; f = frameworks.load('{name}', 'cpu', threads={threads}); "
                "f.matmul(8)(); print(f.numerics()['pool_threads'])"
            )
            found = subprocess.check_output(
                [sys.executable, "-c", code], cwd=ROOT, text=True
            ).strip()
        assert found == str(threads)


def test_compiling_without_a_compiler_is_told(framework, parts, monkeypatch):
    if framework.device == "cpu" and parts.COMPILER:
        monkeypatch.setenv("PATH", "/nowhere")
        assert parts.COMPILER in (framework.can_compile() or "")
    else:
        assert framework.can_compile() is None


# --- put and read


@pytest.mark.parametrize("name", NAMES)
@given(
    hnp.arrays(
        st.sampled_from([np.float32, np.int32, np.int64, np.uint8, np.bool_]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
        elements={"allow_nan": False, "allow_subnormal": False},
    )
)
def test_arrays_come_back_as_they_went(name, array):
    framework = frameworks.load(name, "cpu")
    back = framework.read(framework.put(array))
    assert back.shape == array.shape
    np.testing.assert_array_equal(back, array)
    kind = {"f": np.floating, "i": np.integer, "u": np.integer, "b": np.bool_}[array.dtype.kind]
    assert np.issubdtype(back.dtype, kind)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_floats_take_the_adapters_type_and_come_back_as_float32(name, dtype, rng):
    framework = frameworks.load(name, "cpu", dtype)
    array = rng.standard_normal(200)
    for given_as in (array, array.astype(np.float32), array.astype(np.float16)):
        on_device = framework.put(given_as)
        assert dtype in str(on_device.dtype)
        back = framework.read(on_device)
        assert back.dtype == np.float32
        bits = {"float32": 24, "bfloat16": 8, "float16": 11}[dtype]
        np.testing.assert_allclose(back, given_as, rtol=2.0**-bits, atol=1e-7)
    assert framework.dtype == dtype


def test_what_is_not_contiguous_or_not_writable_is_put_too(framework, rng):
    array = rng.standard_normal((4, 6)).astype(np.float32)
    np.testing.assert_array_equal(framework.read(framework.put(array.T)), array.T)
    np.testing.assert_array_equal(framework.read(framework.put(array[::2, ::-1])), array[::2, ::-1])
    array.flags.writeable = False
    np.testing.assert_array_equal(framework.read(framework.put(array)), array)

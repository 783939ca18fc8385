"""Arrays out of files that may hold anything: whole arrays or one line, nothing executed."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.lib import format as npy

from measurement.errors import InputError
from models import npz

VALUES = np.arange(60, dtype=np.int16).reshape(3, 4, 5)


def saved(path: Path, **arrays) -> Path:
    np.savez(path, **arrays)
    return path


def refused(path: Path, *names: str) -> str:
    with pytest.raises(InputError) as error:
        npz.arrays(path, names or ("a",))
    line = str(error.value)
    assert line.startswith(str(path)) and "\n" not in line and "expected a .npz file" in line
    return line


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_as_numpy_saves_them(tmp_path, save):
    arrays = {"a": VALUES, "b": np.asfortranarray(VALUES), "c": np.float64(3), "d": VALUES[:0]}
    save(tmp_path / "x.npz", **arrays, other=np.zeros(3))
    found = npz.arrays(tmp_path / "x.npz", (*arrays, "missing"))
    assert set(found) == set(arrays)
    for name, value in arrays.items():
        np.testing.assert_array_equal(found[name], value)
        assert found[name].dtype == np.asarray(value).dtype


def test_a_header_of_version_two(tmp_path):
    stream = io.BytesIO()
    npy.write_array(stream, VALUES, version=(2, 0))
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a.npy", stream.getvalue())
    np.testing.assert_array_equal(npz.arrays(tmp_path / "x.npz", ("a",))["a"], VALUES)


class Evil:
    def __reduce__(self):
        return pytest.fail, ("a pickle was opened",)


def test_a_pickle_inside_is_not_opened(tmp_path):
    path = saved(tmp_path / "x.npz", a=np.array([Evil()], object))
    assert "a is made of Python objects, which are not read" in refused(path)


def test_what_is_not_asked_for_is_not_read(tmp_path):
    path = saved(tmp_path / "x.npz", a=VALUES, evil=np.array([Evil()], object))
    assert set(npz.arrays(path, ("a",))) == {"a"}


@pytest.mark.parametrize(
    "content", [b"", b"text", b"PK\x03\x04", b"\x80\x04K\x01.", b"\x93NUMPY\x01\x00"]
)
def test_what_is_no_zip_is_one_line(tmp_path, content):
    path = tmp_path / "x.npz"
    path.write_bytes(content)
    refused(path)


def test_a_missing_file_and_a_folder_are_one_line(tmp_path):
    assert "No such file" in refused(tmp_path / "none.npz")
    assert "no plain file" in refused(tmp_path)


def member(path: Path, content: bytes, name: str = "a.npy") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, content)
    return path


def header(shape, dtype="<i2") -> bytes:
    stream = io.BytesIO()
    fields = {"descr": dtype, "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(stream, fields)
    return stream.getvalue()


@pytest.mark.parametrize("shape", [(10**12, 32, 32, 3), (2**31, 2**31, 2**31), (61,), (-60,)])
def test_a_shape_larger_than_the_file_allocates_nothing(tmp_path, shape):
    path = member(tmp_path / "x.npz", header(shape) + VALUES.tobytes())
    assert ("a has 120 bytes where" if min(shape) > 0 else "a has the shape") in refused(path)


def test_more_than_fits_is_refused_by_its_stated_size(tmp_path, monkeypatch):
    path = saved(tmp_path / "x.npz", a=VALUES)
    monkeypatch.setattr(npz, "MOST_BYTES", 200)
    assert "a has 248 bytes, more than 200" in refused(path)


def test_other_versions_and_headers_are_one_line(tmp_path):
    stream = io.BytesIO()
    npy.write_array(stream, np.array([1], np.int16), version=(3, 0))
    assert "version (3, 0)" in refused(member(tmp_path / "x.npz", stream.getvalue()))
    for content in (b"", b"text", header((60,))[:40], b"\x93NUMPY\x01\x00\x09\x00__import"):
        refused(member(tmp_path / "x.npz", content))


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_spoiled_byte_gives_the_array_or_one_line(tmp_path_factory, place, value):
    """Of the data every changed byte is found, by the zip's own checksum."""
    path = tmp_path_factory.mktemp("spoiled") / "x.npz"
    np.savez_compressed(path, a=VALUES)
    content = bytearray(path.read_bytes())
    content[place % len(content)] = value
    path.write_bytes(bytes(content))
    try:
        found = npz.arrays(path, ("a",))
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert not found or np.array_equal(found["a"], VALUES)

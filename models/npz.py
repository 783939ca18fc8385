"""Arrays out of a user's .npz file, which may hold anything: nothing in it is executed, and nothing
is allocated that the file does not have."""

from __future__ import annotations

import math
import os
import stat
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from measurement.errors import InputError

# What NumPy's own reader of headers, which are Python literals, raises besides ValueError.
_NO_HEADER = (
    tokenize.TokenError, SyntaxError, TypeError, LookupError, OverflowError, RecursionError, MemoryError,
)  # fmt: skip
MOST_BYTES = 1 << 30  # of one array, unpacked


def arrays(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Those of `names` that the file has. Raises InputError: it cannot be read, is no .npz, or one of
    these is too large, broken, or made of Python objects (a pickle, which is never opened)."""
    found: dict[str, np.ndarray] = {}
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ValueError("it is no plain file")
        with zipfile.ZipFile(path) as archive:
            inside = {member.filename: member for member in archive.infolist()}
            for name in names:
                if member := inside.get(f"{name}.npy"):
                    if member.file_size > MOST_BYTES:
                        raise ValueError(
                            f"{name} has {member.file_size:,} bytes, more than {MOST_BYTES:,}"
                        )
                    with archive.open(member) as stream:
                        found[name] = _array(stream, name, member.file_size)
    except (
        OSError,
        EOFError,
        ValueError,  # of NumPy, about a header, and ours
        NotImplementedError,  # an unknown compression
        RuntimeError,  # a password
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(
            f"{path} cannot be read ({' '.join(reason.split())[:120]}); expected a .npz file: save"
            " it with numpy.savez"
        ) from error
    return found


def header(stream: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """(shape, whether by columns, type) as a .npy file says at its start. Raises ValueError."""
    version = npy.read_magic(stream)
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"{name} is in version {version} of the format")
    try:
        shape, by_columns, dtype = readers[version](stream)
    except _NO_HEADER as error:
        raise ValueError(f"{name} has no header of the format ({error})") from error
    if any(size < 0 for size in shape):
        raise ValueError(f"{name} has the shape {shape}")
    return shape, by_columns, dtype


def _array(stream: IO[bytes], name: str, size: int) -> np.ndarray:
    shape, by_columns, dtype = header(stream, name)
    if dtype.hasobject:
        raise ValueError(f"{name} is made of Python objects, which are not read")
    expected, left = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if expected != left:
        raise ValueError(f"{name} has {left:,} bytes where {expected:,} should be")
    values = np.frombuffer(stream.read(), dtype)
    return values.reshape(shape, order="F" if by_columns else "C")

"""Arrays out of a user's .npz file, which may hold anything: nothing in it is executed, and nothing
is allocated that the file does not have."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from measurement.errors import InputError

MOST_BYTES = 1 << 30  # of one array, unpacked


def arrays(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Those of `names` that the file has. Raises InputError: it cannot be read, is no .npz, or one of
    these is too large, broken, or made of Python objects (a pickle, which is never opened)."""
    found: dict[str, np.ndarray] = {}
    try:
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


def _array(stream: IO[bytes], name: str, size: int) -> np.ndarray:
    version = npy.read_magic(stream)
    if version == (1, 0):
        shape, by_columns, dtype = npy.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, by_columns, dtype = npy.read_array_header_2_0(stream)
    else:
        raise ValueError(f"{name} is in version {version} of the format")
    if dtype.hasobject:
        raise ValueError(f"{name} is made of Python objects, which are not read")
    expected, left = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if expected != left:
        raise ValueError(f"{name} has {left:,} bytes where {expected:,} should be")
    values = np.frombuffer(stream.read(), dtype)
    return values.reshape(shape, order="F" if by_columns else "C")

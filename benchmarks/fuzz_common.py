"""What every fuzz target needs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

Target = Callable[[bytes], object]


_folder = tempfile.TemporaryDirectory(prefix="fuzz-")  # gone when the process ends


SCRATCH = Path(_folder.name)


def file_of(content: bytes, name: str) -> Path:
    path = SCRATCH / name
    path.write_bytes(content)
    return path


def text_of(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")

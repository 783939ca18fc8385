"""Weights from safetensors files: one file, or a folder in the layout of the Hugging Face hub.

Values come back as float32 whatever they are stored as; nothing is guessed and nothing is left out
silently. Every mistake is an InputError that names the file or the tensor.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from safetensors import SafetensorError, safe_open

from measurement import untrusted
from measurement.errors import InputError
from measurement.untrusted import shown

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_SHARD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,200}")  # a file in the folder itself
_MOST_JSON = 32 * untrusted.MIB  # an index of some 200,000 tensors
# bfloat16 is the upper half of a float32; NumPy has no type for it.
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


@dataclass(frozen=True)
class Weights:
    """Values of a model's parameters.

    values: name -> float32 array. source: where they came from, for people.
    sha256: of the files as read, or of what made the values.
    """

    values: dict[str, np.ndarray]
    source: str
    sha256: str


def files(path: Path) -> list[Path]:
    """The safetensors files that `path` stands for: itself, or a folder's model.safetensors, or the
    shards that its model.safetensors.index.json lists, or its only *.safetensors file.

    Raises InputError: no such file or folder, none in it, several without an index, a shard that
    the index names and the folder lacks.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(
            f"{path} does not exist; expected a safetensors file or a folder with {SINGLE}:"
            " correct the path"
        )
    if (path / SINGLE).is_file():
        return [path / SINGLE]
    if (path / INDEX).is_file():
        return _shards(path)
    found = sorted(path.glob("*.safetensors"))
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "no safetensors file"
        raise InputError(
            f"{path} holds {names}; expected {SINGLE}, or shards with {INDEX}: name the file itself"
        )
    return found


def _shards(folder: Path) -> list[Path]:
    table = read_json(folder / INDEX).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise InputError(f"{folder / INDEX} has no weight_map; expected tensor names and files")
    names = sorted({str(name) for name in table.values()})
    for name in names:
        if not _SHARD.fullmatch(name) or not (folder / name).is_file():
            raise InputError(
                f"{folder} lacks {shown(name)}, which {INDEX} names; expected every shard in the folder:"
                " fetch it again"
            )
    return [folder / name for name in names]


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises InputError: no such file, not JSON, no object."""
    text = untrusted.read_text(path, _MOST_JSON, "a JSON file")
    try:
        content = untrusted.parse_json(text, "not JSON as it should be")
    except InputError as error:
        raise InputError(f"{path} is {error}; fetch it again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no JSON object; fetch it again")
    return content


def read(path: Path) -> dict[str, np.ndarray]:
    """tensor name -> float32 array, of every file that `files(path)` lists.

    float16, bfloat16 and float64 are converted. Raises InputError: as `files`, a file that is not
    safetensors, a tensor of another type (quantised weights), a tensor in two files.
    """
    values: dict[str, np.ndarray] = {}
    found = files(path)
    _check_memory(found)
    for file in found:
        for name, value in _read_file(file).items():
            if name in values:
                raise InputError(
                    f"{file}: tensor {shown(name)} stands in two files; expected it once"
                )
            values[name] = value
    return values


def _check_memory(paths: Sequence[Path]) -> None:
    """No header can make more than twice a file's bytes: of two bytes a value becomes four."""
    needed, available = 2 * sum(path.stat().st_size for path in paths), _available()
    if needed > available:
        raise InputError(
            f"{paths[0]} may need {needed / 1e9:.1f} GB of memory as float32; expected at most the"
            f" {available / 1e9:.1f} GB available: end other programs, or take a smaller checkpoint"
        )


def _available() -> int:
    return int(psutil.virtual_memory().available)


def _read_file(path: Path) -> dict[str, np.ndarray]:
    try:
        with safe_open(path, framework="np"):  # checks the header, the offsets and the length
            pass
    except (SafetensorError, OSError) as error:
        with path.open("rb") as stream:
            start = stream.read(16)
        raise InputError(
            f"{path} is not a safetensors file ({shown(str(error))}; it starts with {start!r}); expected"
            " weights in that format: fetch the file itself, not a page or a pointer to it"
        ) from error
    with path.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(size))
    header.pop("__metadata__", None)
    return {name: _tensor(path, 8 + size, name, entry) for name, entry in header.items()}


def _tensor(path: Path, start: int, name: str, entry: Mapping[str, Any]) -> np.ndarray:
    if entry["dtype"] not in _DTYPES:
        raise InputError(
            f"{path}: tensor {shown(name)} is of type {shown(entry['dtype'])}; expected one of"
            f" {', '.join(_DTYPES)}: quantised weights are not supported"
        )
    dtype, shape = np.dtype(_DTYPES[entry["dtype"]]), tuple(entry["shape"])
    offset = start + entry["data_offsets"][0]
    stored = np.fromfile(path, dtype, count=int(np.prod(shape, dtype=np.int64)), offset=offset)
    if entry["dtype"] == "BF16":
        stored = (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float32, copy=False).reshape(shape)


def fit(
    values: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], where: str
) -> None:
    """Whether `values` are exactly the tensors of a model. Raises InputError naming the first one
    that is missing, has another shape, or that the model lacks. where: for people."""
    for name, shape in shapes.items():
        if name not in values:
            raise InputError(
                f"{where}: tensor {name} is missing; expected it with shape {tuple(shape)}:"
                " take a complete checkpoint of this architecture"
            )
        if values[name].shape != tuple(shape):
            raise InputError(
                f"{where}: tensor {name} has shape {values[name].shape}; expected {tuple(shape)}:"
                " take a checkpoint of this size, or the sizes of this checkpoint"
            )
    for name in values:
        if name not in shapes:
            raise InputError(
                f"{where}: tensor {shown(name)}, shape {values[name].shape}, has no place in this model;"
                " take a checkpoint of this architecture"
            )


def digest(paths: Sequence[Path]) -> str:
    """The sha256 of a file, or of several: then of the lines "digest name" in their order."""
    digests = []
    for path in paths:
        with path.open("rb") as stream:
            digests.append(hashlib.file_digest(stream, "sha256").hexdigest())
    if len(paths) == 1:
        return digests[0]
    lines = [f"{found} {path.name}\n" for found, path in zip(digests, paths, strict=True)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()

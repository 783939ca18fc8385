"""What an MLflow model does when it is loaded, found out without loading it. A model on a shared server
may be anybody's: MLflow imports the module and runs the code that its description names, PyTorch reads
pickles inside an exported graph, and pip installs what its requirements name.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickletools
import re
import subprocess
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from measurement import untrusted
from measurement.errors import InputError
from measurement.untrusted import shown
from serving.sources import ROOT

_LARGEST_TEXT, _MOST_FILES = untrusted.MIB, 1000
_LARGEST_PICKLE, _LARGEST_JSON = 64 * untrusted.MIB, 256 * untrusted.MIB
_COMMON = frozenset({
    "MLmodel", "conda.yaml", "python_env.yaml", "requirements.txt", "input_example.json",
    "serving_input_example.json",
})  # fmt: skip
# flavour -> (module that loads it, its own files)
_KINDS = {
    "pytorch": ("mlflow.pytorch", frozenset({"data/model.pt2"})),
    "mlx": ("serving.mlx_flavor", frozenset({"data/weights.safetensors", "data/config.json"})),
}
_REQUIREMENT = re.compile(r"[A-Za-z0-9_.-]+(\[[a-z0-9,]+\])?==[A-Za-z0-9_.+!-]+")
_EXAMPLE = "/data/sample_inputs/model.pt"
_IN_GRAPH = re.compile(
    r"[\w-]+/(data/(weights|constants)/(weight_\d+|tensor_\d+|\w+\.json)|data/sample_inputs/model\.pt"
    r"|models/model\.json|archive_format|archive_version|byteorder|\.data/(version|serialization_id))"
)
_IN_EXAMPLE = re.compile(
    r"[\w-]+/(data\.pkl|data/\d+|byteorder|version|\.format_version|\.storage_alignment"
    r"|\.data/serialization_id)"
)
# What PyTorch writes for the example that an exported graph keeps: tensors and containers.
_HARMLESS = re.compile(
    r"torch\._utils _rebuild_tensor_v2|torch \w+Storage|collections OrderedDict"
    r"|torch (float|double|half|bfloat16|u?int(8|16|32|64)|long|bool)"
)


def check(folder: Path) -> None:
    """Raises InputError naming the first thing in a model's folder that ours do not have."""
    names = _files(folder)
    text = untrusted.read_text(folder / "MLmodel", _LARGEST_TEXT, "a model's description")
    try:
        about = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InputError(f"its MLmodel is no YAML ({shown(str(error))})") from error
    flavors = about.get("flavors") if isinstance(about, dict) else None
    if not isinstance(flavors, dict):
        raise InputError("its MLmodel names no flavours")
    kind = next((kind for kind in _KINDS if set(flavors) == {kind, "python_function"}), None)
    if kind is None:
        raise InputError(f"it has the flavours {shown(', '.join(map(str, flavors)))}")
    loader, own = _KINDS[kind]
    _check_loader(flavors["python_function"], loader, kind)
    for name in names - _COMMON - own:
        if kind != "mlx" or not re.fullmatch(r"code/[A-Za-z0-9_/]+\.py", name):
            raise InputError(f"it holds {shown(name)}, which no model of this project has")
        if not _known(folder / name, name.removeprefix("code/")):
            raise InputError(f"its {shown(name)} is not this project's, and would be run")
    for line in _lines(folder / "requirements.txt"):
        if not _REQUIREMENT.fullmatch(line):
            raise InputError(f"its requirements have '{shown(line)}', not a package and a version")
    if kind == "pytorch":
        _check_graph(folder / "data" / "model.pt2")


def _files(folder: Path) -> set[str]:
    """Names of all files, as '/' has them."""
    found = set()
    for path in folder.rglob("*"):
        if path.is_symlink():
            raise InputError(f"it holds a link, {shown(path.name)}")
        if path.is_file():
            found.add(path.relative_to(folder).as_posix())
        if len(found) > _MOST_FILES:
            raise InputError(f"it holds over {_MOST_FILES:,} files")
    return found


def _check_loader(function: Any, loader: str, kind: str) -> None:
    if not isinstance(function, dict) or function.get("loader_module") != loader:
        raise InputError(f"it is not loaded by {loader}")
    code, data = function.get("code"), function.get("data")
    if data != "data" or code != ("code" if kind == "mlx" else None):
        raise InputError("its MLmodel names other folders for data or code")
    if function.get("python_model") or function.get("cloudpickle_version"):
        raise InputError("it is made of pickled Python objects")


def _lines(path: Path) -> Iterator[str]:
    text = untrusted.read_text(path, _LARGEST_TEXT, "requirements")
    return (line.strip() for line in text.splitlines() if line.strip())


def _known(path: Path, name: str) -> bool:
    """Whether a file is what this project has, or had in some commit, under that name or another."""
    content = untrusted.read_bytes(path, _LARGEST_TEXT, "a source file")
    ours = ROOT / name
    if ours.is_file() and ours.read_bytes() == content:
        return True
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()  # noqa: S324  git's own
    command = ["git", "-C", str(ROOT), "cat-file", "-e", blob]
    try:
        return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):  # no git here: then only what is here is known
        return False


def _check_graph(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            for member in _members(archive, _IN_GRAPH):
                if member.filename.endswith(".json"):
                    _check_sizes(archive, member)
                elif member.filename.endswith(_EXAMPLE):
                    _check_example(_read(archive, member, _LARGEST_PICKLE))
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError, EOFError) as error:
        raise InputError(f"its graph cannot be read ({shown(str(error))})") from error
    except (zlib.error, json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"its graph cannot be read ({shown(str(error))})") from error


def _members(archive: zipfile.ZipFile, known: re.Pattern[str]) -> list[zipfile.ZipInfo]:
    """Those of an archive that has no others: another reader may take another one of two."""
    found = archive.infolist()
    names = Counter(member.filename for member in found)
    for name, count in names.items():
        if count > 1 or not known.fullmatch(name):
            raise InputError(f"its graph holds {shown(name)}, which PyTorch does not write there")
    return found


def _check_sizes(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """A list of weights may ask for a pickle in the place of a tensor's bytes."""
    found = json.loads(_read(archive, member, _LARGEST_JSON))
    waiting = [found]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            if one.get("use_pickle"):
                raise InputError(f"{shown(member.filename)} in its graph asks for a pickle")
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo, most: int) -> bytes:
    if member.file_size > most:
        raise InputError(f"{shown(member.filename)} in its graph has {member.file_size:,} bytes")
    return archive.read(member)


def _check_example(content: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for member in _members(archive, _IN_EXAMPLE):
            if member.filename.endswith(".pkl"):
                _check_pickle(_read(archive, member, _LARGEST_PICKLE), member.filename)


def _check_pickle(content: bytes, name: str) -> None:
    """By the names that it would import; nothing is loaded."""
    try:
        for code, argument, _ in pickletools.genops(content):
            if code.name == "GLOBAL" and _HARMLESS.fullmatch(str(argument)):
                continue
            if code.name in ("GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4"):
                raise InputError(
                    f"a pickle in its graph ({shown(name)}) imports {shown(str(argument or code.name))}"
                )
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{shown(name)} in its graph is a broken pickle") from error

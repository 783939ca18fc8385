"""The weights in a model's files as NumPy arrays, whichever framework wrote them; nothing is run.

PyTorch's exported graph is a zip file that holds every parameter as plain bytes, with a list.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from measurement.errors import InputError
from measurement.untrusted import shown
from serving import trained

_GRAPH = "data/model.pt2"
_PLACES = (f"data/{trained.WEIGHTS_FILE}", trained.WEIGHTS_FILE)  # of MLX, of other frameworks
_LIST = "/data/weights/model_weights_config.json"
_FLOAT32 = 7  # in torch's schema of an exported graph
_PREFIX = "model."
_MOST_LIST_BYTES = 10 << 20


def read(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """name -> float32 array of exactly these shapes. Raises InputError for files that hold others."""
    place = next((folder / name for name in _PLACES if (folder / name).is_file()), None)
    if place is not None:
        found = trained.arrays(place)
    elif (folder / _GRAPH).is_file():
        found = _exported(folder / _GRAPH, shapes)
    else:
        raise InputError(f"the model in {folder.name} holds no weights that can be read here")
    present = {name: value.shape for name, value in found.items()}
    for name in sorted(present.keys() | shapes.keys()):
        if present.get(name) != shapes.get(name):
            raise InputError(
                f"the model's {name} is {present.get(name, 'missing')}, its run's sizes say "
                f"{shapes.get(name, 'no such parameter')}; expected the model of that run"
            )
    return found


def _exported(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Only what is as large as its shape says is unpacked."""
    try:
        with zipfile.ZipFile(path) as files:
            listed = next(info for info in files.infolist() if info.filename.endswith(_LIST))
            if listed.file_size > _MOST_LIST_BYTES:
                raise ValueError("its list of weights is too long")
            start = listed.filename.removesuffix("model_weights_config.json")
            found = {}
            for name, about in json.loads(files.read(listed))["config"].items():
                plain, meta = name.removeprefix(_PREFIX), about["tensor_meta"]
                info = files.getinfo(start + about["path_name"])
                size = 4 * int(np.prod(shapes.get(plain, (0,)), dtype=np.int64))
                if meta["dtype"] != _FLOAT32 or about["use_pickle"] or info.file_size != size:
                    raise ValueError(f"{plain} is no plain float32 array of its shape")
                found[plain] = np.frombuffer(files.read(info), "<f4").reshape(shapes[plain])
    except (
        zipfile.BadZipFile, zlib.error, OSError, EOFError, StopIteration, LookupError, TypeError,
        ValueError, AttributeError, NotImplementedError, RuntimeError,
    ) as error:  # fmt: skip
        raise InputError(
            f"the exported model {path.name} cannot be read ({shown(str(error))}); expected one that a trial wrote"
        ) from None
    return found

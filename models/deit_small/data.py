"""Images of CIFAR-100, found or fetched, always checked, never replaced; enlarged once, here.

Krizhevsky 2009: 50,000 + 10,000 colour images of 32 x 32 in 100 classes. The binary archive is read,
for the Python one is pickles. It is not extracted: two members are read out of it. Who has
extracted it has train.bin and test.bin, which serve as well. Files lie flat in `<dir>`, in
`<dir>/cifar100` or, as tar leaves them, in `cifar-100-binary` below one of these.

A user's own images are a .npz, see `own_images`. `dataset="synthetic"` is made here and only when
asked for by name. Every image is enlarged from 32 to `config.image_size` by Pillow's bicubic filter,
which computes 8-bit images in whole numbers: every framework is given the same bytes.
"""

from __future__ import annotations

import hashlib
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from measurement.errors import InputError
from models import download, npz
from models.dataset import Data
from models.deit_small.config import (
    CHANNELS,
    DATASETS,
    OWN_DATA,
    TEST_ITEMS,
    TRAIN_ITEMS,
    Config,
)

SIDE = 32
PIXELS = SIDE * SIDE * CHANNELS
CLASSES = 100
RECORD = 2 + PIXELS  # coarse label, fine label, the red plane, the green one, the blue one
FOLDER, EXTRACTED = "cifar100", "cifar-100-binary"
SYNTHETIC_SEED = 2021
CHUNK = 64  # images that a thread enlarges at a time
COPIES = 2  # the array made here and the framework's own

Split = tuple[np.ndarray, np.ndarray]  # images (n, SIDE, SIDE, CHANNELS) uint8, labels (n,) int32


@dataclass(frozen=True)
class File:
    """A file by its name and digest. items: images in it, 0 for an archive."""

    name: str
    sha256: str
    items: int = 0


# All three digests stand in torchvision-ruby (ankane, lib/torchvision/datasets/cifar100.rb), the
# archive's in TensorFlow Datasets (url_checksums/cifar100.txt) and MLDatasets.jl too. Its page,
# https://www.cs.toronto.edu/~kriz/cifar.html, states the md5 03b5dce01913d631647c71ecec9e9cb8.
ARCHIVE = File(
    "cifar-100-binary.tar.gz", "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec"
)
PARTS = (
    File(
        "train.bin",
        "f31298fc616915fa142368359df1c4ca2ae984d6915ca468b998a5ec6aeebf29",
        TRAIN_ITEMS,
    ),
    File(
        "test.bin", "d8b1e6b7b3bee4020055f0699b111f60b1af1e262aeb93a0b659061746f8224a", TEST_ITEMS
    ),
)
TORONTO = "https://www.cs.toronto.edu/~kriz/"


def prepare(dataset: str, data_dir: str) -> None:
    """Have the data set on disk and verified; fetch what is missing and say so on stderr.

    data_dir: "auto" (the user's cache folder) or a folder that exists, into whose `cifar100` a
    missing archive is written. Raises InputError: unknown data set, no such or no writable folder, a
    file that is not the official one (it is never replaced), a user's file that holds no images,
    no source that delivers.
    """
    if own(dataset):
        own_images(Path(dataset).expanduser())
    elif dataset == "synthetic":
        download.say("synthetic: made from a seed when loaded, nothing to get")
    else:
        directory = download.directory(data_dir)
        if not _found(directory):
            target = directory / FOLDER
            sources: list[download.Source[File]] = [(TORONTO, partial(_from_toronto, target))]
            download.collect("CIFAR-100", [ARCHIVE], sources, _check, target)
        for file, path in _found(directory).items():
            _verify(path, file)
            download.say(f"{dataset}: {path} has the right sha256")


def load(config: Config, dataset: str, data_dir: str) -> Data:
    """The first `train_items` and `test_items` images; every file is verified again as it is read.

    inputs: (n, image_size, image_size, CHANNELS) uint8, red, green, blue; labels: (n,) int32. Of a
    user's own file the last fifth are the test images. Fetches nothing. Raises InputError: as
    `prepare`, sizes that cannot be, a missing file, a label that is none of `config.classes`, not
    enough memory.
    """
    config.check()
    if own(dataset):
        path = Path(dataset).expanduser()
        name, source, (train, test) = path.name, "the user's file", own_images(path)
    elif dataset == "synthetic":
        name, source, (train, test) = dataset, "generated", _synthetic(config)
    else:
        found = _found(download.directory(data_dir))
        if not found:
            raise InputError(
                f"{ARCHIVE.name} is not in {download.directory(data_dir)}; expected it there or in"
                f" {FOLDER} below it, or {' and '.join(file.name for file in PARTS)}: start a trial"
                " or study to fetch it"
            )
        name, (train, test) = dataset, _read(found, config)
        source = ", ".join(dict.fromkeys(download.source(path) for path in found.values()))
    train = train[0][: config.train_items], train[1][: config.train_items]
    test = test[0][: config.test_items], test[1][: config.test_items]
    _check_labels(name, config.classes, train[1], test[1])
    _check_memory(len(train[1]) + len(test[1]), config.image_size)
    splits = [
        {"inputs": enlarge(images, config.image_size), "labels": labels}
        for images, labels in (train, test)
    ]
    return Data(splits[0], splits[1], name, source, _digest(splits))


def own(dataset: str) -> bool:
    """Whether `dataset` is the path of a user's file. Raises InputError for an unknown data set."""
    if dataset in DATASETS:
        return False
    if not dataset.endswith(OWN_DATA):
        raise InputError(
            f"no data set {dataset!r}; expected one of: {', '.join(DATASETS)}, or the path of a"
            f" {OWN_DATA} file"
        )
    return True


def enlarge(images: np.ndarray, size: int) -> np.ndarray:
    """(n, SIDE, SIDE, CHANNELS) uint8 -> (n, size, size, CHANNELS) uint8, bicubic."""
    enlarged = np.empty((len(images), size, size, CHANNELS), np.uint8)

    def some(start: int) -> None:
        for row in range(start, min(start + CHUNK, len(images))):
            image = Image.fromarray(images[row])
            enlarged[row] = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))

    with ThreadPoolExecutor() as threads:  # Pillow lets go of the interpreter while it computes
        for _ in threads.map(some, range(0, len(images), CHUNK)):
            pass
    return enlarged


# --- what is asked of data


def own_images(path: Path) -> tuple[Split, Split]:
    """A user's own images: `images` (n, SIDE, SIDE, CHANNELS) uint8 and `labels`, or `fine_labels`,
    (n,) integers. The last fifth of them, one at least, are for testing. Raises InputError."""
    found = npz.arrays(path, ("images", "labels", "fine_labels"))
    images = found.get("images", np.zeros(0))
    labels = found.get("labels", found.get("fine_labels", np.zeros(0)))
    shape = (SIDE, SIDE, CHANNELS)
    if images.dtype != np.uint8 or images.shape[1:] != shape or len(images) < 2:
        raise InputError(
            f"{path} has images of {_told(images)}; expected (n, {SIDE}, {SIDE}, {CHANNELS}) uint8,"
            " two or more: save them under that name"
        )
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != images.shape[:1]:
        raise InputError(
            f"{path} has labels of {_told(labels)}; expected ({len(images)},) integers: save them as"
            " labels or fine_labels"
        )
    if labels.min() < 0 or labels.max() > np.iinfo(np.int32).max:
        raise InputError(
            f"{path} has labels from {labels.min()} to {labels.max()}; expected the numbers of"
            " classes, from 0"
        )
    first = len(images) - max(1, len(images) // 5)
    labels = labels.astype(np.int32)
    return (images[:first], labels[:first]), (images[first:], labels[first:])


def _told(array: np.ndarray) -> str:
    return f"shape {array.shape} {array.dtype}" if array.size else "no values"


def _check_labels(name: str, classes: int, *labels: np.ndarray) -> None:
    most = max(int(part.max()) for part in labels)
    if most >= classes:
        raise InputError(
            f"{name} has a label {most} with classes {classes}; expected labels from 0 to"
            f" {classes - 1}: use classes={most + 1} or more"
        )


def _check_memory(items: int, size: int) -> None:
    needed = COPIES * items * size**2 * CHANNELS
    available = psutil.virtual_memory().available
    if needed > available:
        raise InputError(
            f"{items:,} images of {size} x {size} need {needed / 1e9:.1f} GB of memory, here and in"
            f" the framework; expected at most the {available / 1e9:.1f} GB available: end other"
            " programs, or use preset=cpu or a smaller image_size"
        )


def _digest(splits: Sequence[dict[str, np.ndarray]]) -> str:
    """Of the very arrays that a worker is given; piece by piece, because a gigabyte takes one core
    half a second, and the study has nine."""
    digest = hashlib.sha256()
    with ThreadPoolExecutor() as threads:
        for split in splits:
            for array in split.values():
                digest.update(str(array.shape).encode())
                pieces = (array[row : row + CHUNK].data for row in range(0, len(array), CHUNK))
                for piece in threads.map(lambda data: hashlib.sha256(data).digest(), pieces):
                    digest.update(piece)
    return digest.hexdigest()


# --- files


def _found(directory: Path) -> dict[File, Path]:
    """The files to read: both parts, or else the archive, or else none."""
    places = [directory / FOLDER, directory]
    for place in [*places, *(place / EXTRACTED for place in places)]:
        if all((place / file.name).exists() for file in PARTS):
            return {file: place / file.name for file in PARTS}
    path = next((p / ARCHIVE.name for p in places if (p / ARCHIVE.name).exists()), None)
    return {ARCHIVE: path} if path else {}


def _verify(path: Path, file: File) -> Path:
    try:
        with open(path, "rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}); expected the file {file.name}: correct the"
            " permissions or move it away"
        ) from error
    if found != file.sha256:
        raise InputError(
            f"{path} has sha256 {found}; expected {file.sha256}: delete it or move it away, then"
            " run again to fetch a good one"
        )
    return path


def _from_toronto(folder: Path, missing: Sequence[File]) -> Iterator[tuple[File, Path]]:
    for file in missing:
        yield file, download.fetch(TORONTO + file.name, file.sha256, folder)


def _check(content: bytes, file: File) -> None:
    """Of bytes from a source; the only one there is gives a path, checked by then."""
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise ValueError(f"{file.name} does not have the sha256 {file.sha256}")


def _read(found: dict[File, Path], config: Config) -> tuple[Split, Split]:
    for file, path in found.items():
        _verify(path, file)
    asked = [config.train_items, config.test_items]
    items = [min(count, part.items) for count, part in zip(asked, PARTS, strict=True)]
    if ARCHIVE in found:
        contents = members(found[ARCHIVE], items)
    else:
        contents = [_start(found[part], count) for part, count in zip(PARTS, items, strict=True)]
    train, test = (records(content, part) for content, part in zip(contents, PARTS, strict=True))
    return train, test


def _start(path: Path, items: int) -> bytes:
    with open(path, "rb") as stream:
        return stream.read(items * RECORD)


def members(path: Path, items: Sequence[int]) -> list[bytes]:
    """The first so many records of each part out of an archive. A part is known by its exact name
    and size; nothing is written, so what else an archive may hold does no harm. No more is held in
    memory than is asked for: a trial's peak is to be the training's. Raises InputError for an
    archive that lacks a part or breaks off before."""
    wanted = {
        f"{EXTRACTED}/{part.name}": (part.items * RECORD, count * RECORD)
        for part, count in zip(PARTS, items, strict=True)
    }
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r|gz") as archive:
            for member in archive:
                size, asked = wanted.get(member.name, (-1, 0))
                stream = archive.extractfile(member) if member.isreg() else None
                if stream and member.size == size:
                    contents[member.name] = stream.read(asked)
                if len(contents) == len(wanted):
                    break
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"{path} is no whole archive ({error}); expected {ARCHIVE.name}: delete it or move it"
            " away, then run again to fetch a good one"
        ) from error
    missing = [name for name in wanted if name not in contents]
    if missing:
        raise InputError(
            f"{path} has no {missing[0]} of {wanted[missing[0]][0]:,} bytes; expected"
            f" {ARCHIVE.name}: delete it or move it away, then run again to fetch a good one"
        )
    return [contents[name] for name in wanted]


def records(content: bytes, part: File) -> Split:
    """Images and fine labels of some records. Raises InputError: half a record, labels out of
    range."""
    if not content or len(content) % RECORD:
        raise InputError(
            f"{part.name} breaks off after {len(content):,} bytes; expected records of {RECORD}:"
            " delete it or move it away, then run again to fetch a good one"
        )
    rows = np.frombuffer(content, np.uint8).reshape(-1, RECORD)
    labels = rows[:, 1].astype(np.int32)
    if labels.max() >= CLASSES:
        raise InputError(
            f"{part.name} has a label {labels.max()}; expected labels from 0 to {CLASSES - 1}:"
            " delete it or move it away, then run again to fetch a good one"
        )
    planes = rows[:, 2:].reshape(-1, CHANNELS, SIDE, SIDE)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels


# --- the data set that is made here


def _synthetic(config: Config) -> tuple[Split, Split]:
    """A pattern of 8 x 8 coloured squares for each class, half of it hidden by noise. Integers only:
    every platform makes the same; n images are the first n of more."""
    squares = np.random.default_rng([SYNTHETIC_SEED, 0]).integers(
        0, 256, (config.classes, 8, 8, CHANNELS), np.int32
    )
    patterns = squares.repeat(SIDE // 8, axis=1).repeat(SIDE // 8, axis=2).astype(np.uint8) // 2
    splits = []
    for number, items in enumerate((config.train_items, config.test_items), start=1):
        streams = [np.random.default_rng([SYNTHETIC_SEED, number, part]) for part in range(2)]
        labels = streams[0].integers(0, config.classes, items).astype(np.int32)
        noise = np.frombuffer(streams[1].bytes(items * PIXELS), np.uint8) // 2
        splits.append((patterns[labels] + noise.reshape(items, SIDE, SIDE, CHANNELS), labels))
    return splits[0], splits[1]

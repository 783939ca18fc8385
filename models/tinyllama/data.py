"""Prompts as token numbers, every one of exactly `prompt_tokens`: equal work for every item."""

from __future__ import annotations

import hashlib

import numpy as np

from measurement.errors import InputError
from models.dataset import Data
from models.tinyllama import checkpoint as checkpoints
from models.tinyllama.config import DATASETS, OWN_DATA, Config

ITEMS = 4  # of random tokens, as many as there are fixed prompts
SEED = 0x11A3A


def prepare(dataset: str, data_dir: str) -> None:
    """Nothing to fetch: the prompts stand in this package or in the user's file, which is read.

    Raises InputError: an unknown data set, a file that holds no prompts.
    """
    _check(dataset)
    checkpoints.lines(dataset)


def load(config: Config, dataset: str, data_dir: str, checkpoint: str = "random") -> Data:
    """inputs: (items, prompt_tokens) int32.

    "prompts" and a user's file: tokenised by the checkpoint, cut or repeated to `prompt_tokens`.
    Random weights have no tokenizer: with them "prompts" are the seeded random tokens that
    "synthetic" always is, and the source says so. Raises InputError: as `prepare`; a user's text
    without a tokenizer; a prompt longer than the context.
    """
    _check(dataset)
    if checkpoint == checkpoints.RANDOM and dataset.endswith(OWN_DATA):
        raise InputError(
            f"{dataset} needs a tokenizer and checkpoint=random has none; expected a checkpoint with"
            " tokenizer.json: name one, or choose dataset=synthetic"
        )
    if checkpoint == checkpoints.RANDOM or dataset == "synthetic":
        generator = np.random.default_rng(SEED)
        inputs = generator.integers(0, config.vocabulary, (ITEMS, config.prompt_tokens), np.int32)
        source = f"random tokens, seed {SEED}"
    else:
        found = checkpoints.texts(dataset, checkpoint, data_dir)
        inputs = np.array([np.resize(tokens, config.prompt_tokens) for _, (tokens,) in found])
        source = "a text file" if dataset.endswith(OWN_DATA) else "fixed prompts of this project"
    digest = hashlib.sha256(str(inputs.shape).encode() + inputs.astype("<i4").tobytes())
    return Data({}, {"inputs": inputs}, dataset, source, digest.hexdigest())


def _check(dataset: str) -> None:
    if dataset not in DATASETS and not dataset.endswith(OWN_DATA):
        raise InputError(
            f"no data set {dataset!r}; expected {', '.join(DATASETS)} or the path of a {OWN_DATA}"
            " file with one prompt a line"
        )

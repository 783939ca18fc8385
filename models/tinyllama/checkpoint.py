"""Llama checkpoints in the layout of the Hugging Face hub: config.json, safetensors, tokenizer.json.

A checkpoint is "random", a folder, a safetensors file beside its config.json, or a hub id
`owner/name` or `owner/name@revision`. Whatever this decoder would compute differently is refused.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import models
from measurement import untrusted
from measurement.errors import InputError
from measurement.untrusted import shown
from models import checkpoints, hub
from models.checkpoints import Weights
from models.parameters import draw
from models.tinyllama.config import INITIAL, Config

if TYPE_CHECKING:
    from tokenizers import Tokenizer

RANDOM = "random"
# The beginning of children's stories and of plain statements: small models know both.
PROMPTS = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside.",
    "One day, a small dog found a red ball in the park.",
    "Tom and his mother went to the store to buy some bread.",
    "The capital of France is",
)
_SIZES = {  # field of Config -> key of config.json
    "layers": "num_hidden_layers",
    "dimension": "hidden_size",
    "heads": "num_attention_heads",
    "feed_forward": "intermediate_size",
    "vocabulary": "vocab_size",
    "context": "max_position_embeddings",
    "norm_eps": "rms_norm_eps",
}
# Keys that change nothing of what is computed here, at these values or at any.
_HARMLESS = {
    *_SIZES.values(), "_name_or_path", "architectures", "model_type", "attention_dropout",
    "bos_token_id", "eos_token_id", "pad_token_id", "dtype", "torch_dtype", "initializer_range",
    "transformers_version", "transformers.js_config", "use_cache", "is_llama_config",
    "num_key_value_heads", "tie_word_embeddings", "rope_theta", "rope_parameters", "unk_token_id",
}  # fmt: skip
_ONLY = {  # key -> the one value that this decoder computes
    "hidden_act": "silu",
    "pretraining_tp": 1,
    "rope_type": "default",
    "partial_rotary_factor": 1.0,
}


def sizes(checkpoint: str, data_dir: str) -> dict[str, Any]:
    """The fields of Config that a checkpoint fixes; "random" fixes none. Gets a hub id's files.

    Raises InputError: no such checkpoint, no network for a hub id, another architecture, or a
    setting that changes what is computed (rope scaling, biases, another activation, quantisation).
    """
    if checkpoint == RANDOM:
        return {}
    path = hub.folder(checkpoint, data_dir) / "config.json"
    stored = checkpoints.read_json(path)
    if stored.get("model_type") != "llama":
        raise InputError(
            f"{path}: model_type is {shown(repr(stored.get('model_type')))}; expected 'llama': this workload"
            " computes the Llama architecture and no other"
        )
    if missing := [key for key in _SIZES.values() if key not in stored]:
        raise InputError(f"{path} lacks {missing[0]}; expected it, as transformers writes it")
    rope = stored.get("rope_parameters") or {}
    if not isinstance(rope, dict):
        raise InputError(f"{path}: rope_parameters is {shown(repr(rope))}; expected an object")
    rope = dict(rope)
    found = {name: stored[key] for name, key in _SIZES.items()}
    found["key_value_heads"] = stored.get("num_key_value_heads") or found["heads"]
    found["rope_theta"] = rope.pop("rope_theta", stored.get("rope_theta", 10_000.0))
    for name, value in found.items():
        kinds = (int, float) if isinstance(getattr(Config, name), float) else (int,)
        if not untrusted.number(value, kinds[-1]) or not 0 < value <= models.MOST:
            raise InputError(
                f"{path}: {name} is {shown(repr(value))}; expected a number above 0 and at most"
                f" {models.MOST:,}"
            )
        found[name] = kinds[-1](value)
    _refuse({**stored, **rope}, path)
    found["vocabulary_matrices"] = 1 if stored.get("tie_word_embeddings") else 2
    found["end_token"] = 1 + _eos(stored, path)
    if found["layers"] > models.MOST_LAYERS:
        raise InputError(
            f"{path}: layers is {found['layers']}; expected at most {models.MOST_LAYERS:,}"
        )
    return found


def _refuse(stored: dict[str, Any], path: Path) -> None:
    """Unknown settings pass only where they are off: an ignored one could change the function."""
    size = stored["hidden_size"] / stored["num_attention_heads"]
    only = {**_ONLY, "head_dim": size, "layer_types": None}
    layers = stored.get("layer_types")
    if isinstance(layers, list) and all(kind == "full_attention" for kind in layers):
        only["layer_types"] = stored.get("layer_types")
    for key, value in stored.items():
        if key in _HARMLESS or not value:
            continue
        if key not in only or value != only[key]:
            expected = f"{only[key]!r}" if only.get(key) else "none"
            raise InputError(
                f"{path}: {shown(key)} is {shown(repr(value))}; expected {expected}: this decoder does not compute that"
            )


def _eos(stored: dict[str, Any], path: Path) -> int:
    """The token that ends a text, of several the first; for none the vocabulary's size."""
    token = stored.get("eos_token_id")
    token = token[0] if isinstance(token, list) and token else token
    if token is None or token == []:
        return int(stored["vocab_size"])
    if not untrusted.number(token, int):
        raise InputError(f"{path}: eos_token_id is {shown(repr(token))}; expected a token's number")
    return int(token)


def load(config: Config, checkpoint: str, data_dir: str, seed: int) -> Weights:
    """Every parameter of `config`: drawn from `seed`, or a checkpoint's.

    Raises InputError: as `sizes` and models.checkpoints.read; a tensor that is missing, misshapen
    or unknown, by its name.
    """
    if checkpoint == RANDOM:
        shapes = {name: shape for name, (shape, _) in config.parameters().items()}
        made = hashlib.sha256(f"{INITIAL} {seed} {shapes}".encode()).hexdigest()
        source = f"random weights: normal, deviation {INITIAL.std}, seed {seed}"
        return Weights(draw(config.parameters(), seed), source, made)
    path = hub.folder(checkpoint, data_dir)
    given = Path(checkpoint).expanduser()
    weights = given if given.is_file() else path
    values = checkpoints.read(weights)
    _drop_derived(values, config, str(weights))
    checkpoints.fit(
        values, {k: shape for k, (shape, _) in config.parameters().items()}, str(weights)
    )
    files = [path / "config.json", *checkpoints.files(weights)]
    source = str(given.name if given.exists() else f"{checkpoint}, commit {path.name}")
    return Weights(values, f"checkpoint {source}", checkpoints.digest(files))


def _drop_derived(values: dict[str, np.ndarray], config: Config, where: str) -> None:
    """Old files also hold what follows from the rest; it goes when it agrees."""
    expected = {k: 1 / config.periods() for k in values if k.endswith(".rotary_emb.inv_freq")}
    if config.tied and "lm_head.weight" in values and "model.embed_tokens.weight" in values:
        expected["lm_head.weight"] = values["model.embed_tokens.weight"]
    for name, value in expected.items():
        if values[name].shape != value.shape or not np.allclose(values[name], value, rtol=1e-2):
            raise InputError(
                f"{where}: tensor {name} differs from what config.json makes it"
                f" ({'the embedding' if config.tied and name[0] == 'l' else 'rope_theta'});"
                " take a checkpoint whose parts belong together"
            )
        del values[name]


@cache
def _tokenizer(path: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    if not path.is_file():
        raise InputError(
            f"{path.parent} has no {path.name}; expected one beside the weights, to turn text into"
            " tokens: add it, or choose dataset=synthetic"
        )
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001  the library raises no narrower type
        raise InputError(f"{path} is no tokenizer ({shown(str(error))}); fetch it again") from error


def encode(text: str, checkpoint: str, data_dir: str) -> list[int]:
    """The tokens of `text`, the begin token included where the tokenizer puts one. Raises
    InputError: no tokenizer, or one of another vocabulary than the weights."""
    found = _tokenizer(hub.folder(checkpoint, data_dir) / "tokenizer.json").encode(text).ids
    vocabulary = sizes(checkpoint, data_dir)["vocabulary"]
    if not found or max(found) >= vocabulary:
        raise InputError(
            f"the tokenizer of {checkpoint} makes token {max(found, default='none')} of {text[:40]!r};"
            f" expected one below {vocabulary}, the vocabulary of the weights: take the files of one"
            " checkpoint"
        )
    return found


def text(tokens: list[int], checkpoint: str, data_dir: str) -> str | None:
    """The text of `tokens`; None for random weights, which have no tokenizer."""
    if checkpoint == RANDOM:
        return None
    path = hub.folder(checkpoint, data_dir) / "tokenizer.json"
    return str(_tokenizer(path).decode(tokens, skip_special_tokens=True))


def lines(dataset: str) -> list[str]:
    """The prompts of a data set: those of a .txt file, else the fixed ones.

    Raises InputError: a file that is missing, empty or not UTF-8 text.
    """
    if not dataset.endswith(".txt"):
        return list(PROMPTS)
    path = Path(dataset).expanduser()
    text = untrusted.read_text(path, untrusted.MIB, "a text file, one prompt a line")
    found = [line.strip() for line in text.splitlines() if line.strip()]
    if not found:
        raise InputError(f"{path} holds no prompt; expected one a line")
    return found


def texts(dataset: str, checkpoint: str, data_dir: str) -> list[tuple[str, tuple[np.ndarray, ...]]]:
    """(prompt, its tokens (t,) int32, uncut, as the only piece) to be continued as text: of a user's
    file, else the fixed prompts; none for random weights. Raises InputError: as `lines` and
    `encode`; a prompt longer than the context."""
    if checkpoint == RANDOM:
        return []
    config = Config(**sizes(checkpoint, data_dir))
    found: list[tuple[str, tuple[np.ndarray, ...]]] = []
    for line in lines(dataset):
        tokens = np.array(encode(line, checkpoint, data_dir), np.int32)
        config.check_context(len(tokens), 1)
        found.append((line, (tokens,)))
    return found

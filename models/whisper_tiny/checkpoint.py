"""Whisper's weights and words: safetensors under OpenAI's or Hugging Face's names, tiktoken files.

A checkpoint is "random", a safetensors file, a folder that holds one, or a hub id such as
`openai/whisper-tiny.en`.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from measurement import untrusted
from measurement.errors import InputError
from models import MOST_LAYERS, checkpoints, download, hub
from models.checkpoints import Weights
from models.parameters import draw
from models.whisper_tiny import data
from models.whisper_tiny.config import MEL_BANDS, VOCABULARIES, Config
from models.whisper_tiny.data import FOLDER, File

RANDOM = "random"
HEAD_SIZE = 64  # of every Whisper model
RANKS = {  # vocabulary -> the pieces of text that tokens stand for
    51864: File(
        "gpt2.tiktoken", "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"
    ),
    51865: File(
        "multilingual.tiktoken", "b34b360dbb493e781e479794586d661700670d65564001f23024971d1f2fa126"
    ),
}
ORIGIN = (
    "https://raw.githubusercontent.com/openai/whisper/"
    "c0d2f624c09dc18e709e37c2ad90c039a4eb72a2/whisper/assets/"
)
WHEEL = {
    "project": "mlx-whisper",
    "version": "0.4.3",
    "wheel_sha256": "6b82b6597a994643a3e5496c7bc229a672e5ca308458455bfe276e76ae024489",
}
# Hugging Face's names -> OpenAI's, one after the other.
RENAMED = (
    (r"^model\.", ""),
    (r"\.layers\.", ".blocks."),
    (r"\.self_attn_layer_norm\.", ".attn_ln."),
    (r"\.encoder_attn_layer_norm\.", ".cross_attn_ln."),
    (r"\.final_layer_norm\.", ".mlp_ln."),
    (r"^encoder\.layer_norm\.", "encoder.ln_post."),
    (r"^decoder\.layer_norm\.", "decoder.ln."),
    (r"\.self_attn\.", ".attn."),
    (r"\.encoder_attn\.", ".cross_attn."),
    (r"\.q_proj\.", ".query."),
    (r"\.k_proj\.", ".key."),
    (r"\.v_proj\.", ".value."),
    (r"\.out_proj\.", ".out."),
    (r"\.fc1\.", ".mlp.0."),
    (r"\.fc2\.", ".mlp.2."),
    (r"\.embed_tokens\.", ".token_embedding."),
    (r"\.embed_positions\.weight$", ".positional_embedding"),
)


def sizes(checkpoint: str, data_dir: str) -> dict[str, Any]:
    """The fields of Config that a checkpoint fixes, from the shapes of its tensors; "random" fixes
    none. Has the tokenizer's file on disk afterwards, for the text.

    Raises InputError: no such checkpoint, no network for a hub id, a file that is no safetensors
    file, a tensor that is missing by its name, no tokenizer.
    """
    if checkpoint == RANDOM:
        return {}
    found = _sizes(_place(checkpoint, data_dir))
    file, folder = RANKS[found["vocabulary_size"]], download.directory(data_dir)
    if data.find(folder, [file]) is None:
        download.collect("Whisper's tokenizer", [file], SOURCES, data.check, folder / FOLDER)
    return dict(found)


@cache
def _sizes(path: Path) -> dict[str, int]:
    values = _read(path)

    def shape(name: str, rank: int) -> tuple[int, ...]:
        if name not in values:
            raise InputError(
                f"{path}: tensor {name} is missing; expected a Whisper checkpoint under OpenAI's or"
                " Hugging Face's names"
            )
        if values[name].ndim != rank:
            raise InputError(
                f"{path}: tensor {name} has shape {values[name].shape}; expected {rank} dimensions:"
                " take a Whisper checkpoint"
            )
        return values[name].shape

    vocabulary, width = shape("decoder.token_embedding.weight", 2)
    bands = shape("encoder.conv1.weight", 3)[1]
    if vocabulary not in VOCABULARIES or bands != MEL_BANDS:
        raise InputError(
            f"{path} has a vocabulary of {vocabulary} and {bands} mel bands; expected 51864"
            f" (English only) or 51865 (multilingual) and {MEL_BANDS}: take tiny or tiny.en"
        )
    return {
        "audio_context": shape("encoder.positional_embedding", 2)[0],
        "audio_layers": _blocks(values, "encoder"),
        "text_context": shape("decoder.positional_embedding", 2)[0],
        "text_layers": _blocks(values, "decoder"),
        "width": width,
        "heads": max(1, width // HEAD_SIZE),
        "vocabulary_size": vocabulary,
    }


def load(config: Config, checkpoint: str, data_dir: str, seed: int) -> Weights:
    """Every parameter of `config`: drawn from `seed`, or a checkpoint's.

    Raises InputError: as models.hub.folder and models.checkpoints.read; a tensor that is missing,
    misshapen or unknown, by its name.
    """
    shapes = {name: shape for name, (shape, _) in config.parameters().items()}
    if checkpoint == RANDOM:
        made = hashlib.sha256(f"{seed} {config.parameters()}".encode()).hexdigest()
        return Weights(draw(config.parameters(), seed), f"random weights, seed {seed}", made)
    path = _place(checkpoint, data_dir)
    values = _read(path)
    checkpoints.fit(values, shapes, str(path))
    given = Path(checkpoint).expanduser()
    source = given.name if given.exists() else f"{checkpoint}, commit {path.name}"
    return Weights(values, f"checkpoint {source}", checkpoints.digest(checkpoints.files(path)))


def _place(checkpoint: str, data_dir: str) -> Path:
    given = Path(checkpoint).expanduser()
    return given if given.is_file() else hub.folder(checkpoint, data_dir)


def _read(path: Path) -> dict[str, np.ndarray]:
    """Tensors under OpenAI's names, without the output projection, which is the embedding."""
    values = checkpoints.read(path)
    values.pop("proj_out.weight", None)
    return {openai_name(name): value for name, value in values.items()}


def openai_name(name: str) -> str:
    """A tensor's name in OpenAI's state dict, from that or from Hugging Face's.

    >>> openai_name("model.decoder.layers.0.encoder_attn.q_proj.weight")
    'decoder.blocks.0.cross_attn.query.weight'
    """
    for pattern, replacement in RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def _blocks(values: dict[str, np.ndarray], side: str) -> int:
    """One more than the highest number of a block, so that a gap is a missing tensor."""
    found = (re.match(rf"{side}\.blocks\.([0-9]{{1,9}})\.", name) for name in values)
    count = max((int(match[1]) + 1 for match in found if match), default=1)
    if count > MOST_LAYERS:
        raise InputError(
            f"a tensor of {side} names block {count - 1}; expected at most {MOST_LAYERS:,}"
        )
    return count


# --- text


def texts(dataset: str, checkpoint: str, data_dir: str) -> list[tuple[str, Any]]:
    """[(name of the audio, its windows (k, samples))] to be transcribed; none for random weights,
    which have nothing to say, and for synthetic sound."""
    if checkpoint == RANDOM or dataset == "synthetic":
        return []
    path = Path(dataset).expanduser() if data.own(dataset) else data.recording(data_dir)
    config = Config(**sizes(checkpoint, data_dir))
    return [(path.name, data.windows(data.read_wav(path), config.window_samples))]


def text(tokens: list[int], checkpoint: str, data_dir: str) -> str | None:
    """What `tokens` say, without those that steer; None for random weights."""
    if checkpoint == RANDOM:
        return None
    file = RANKS[sizes(checkpoint, data_dir)["vocabulary_size"]]
    path = data.find(download.directory(data_dir), [file])
    if path is None:
        raise InputError(f"{file.name} is gone; expected it in {data_dir}: run again to fetch it")
    return decode(tokens, path)


def decode(tokens: Sequence[int], ranks: Path) -> str:
    """The text of `tokens` by a .tiktoken file; tokens behind its last rank stand for no text."""
    pieces = _pieces(ranks)
    content = b"".join(pieces.get(token, b"") for token in tokens)
    return content.decode("utf-8", errors="replace")


@cache
def _pieces(path: Path) -> dict[int, bytes]:
    """rank -> bytes: each line holds a piece in base 64 and its rank."""
    content = untrusted.read_bytes(path, data.MOST_ASSET, "a tiktoken file")
    lines = (line.split() for line in content.splitlines())
    try:
        return {int(rank): base64.b64decode(piece) for piece, rank in filter(None, lines)}
    except ValueError as error:
        raise InputError(
            f"{path} is no tiktoken file; expected base 64 and a rank a line"
        ) from error


def _from_wheel(missing: Sequence[File]) -> Iterator[tuple[File, bytes]]:
    for file in missing:
        member = f"mlx_whisper/assets/{file.name}"
        yield file, download.wheel_member(**WHEEL, member=member, member_sha256=file.sha256)


SOURCES: list[download.Source[File]] = [
    ("openai/whisper on GitHub", partial(data.fetched, ORIGIN)),
    (f"PyPI wheel {WHEEL['project']} {WHEEL['version']}", _from_wheel),
]

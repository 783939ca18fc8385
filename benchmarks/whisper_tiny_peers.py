"""Our Whisper's two phases against the best public implementations.

    pip install openai-whisper mlx-whisper
    python -m benchmarks.whisper_tiny_peers --dataset jfk --checkpoint tiny.en.safetensors

Peers, imported unmodified: openai-whisper (PyTorch), its log-mel, its encoder with fused attention
and its decoder with the cache that its own hooks keep; mlx-whisper (MLX), its log-mel, encoder and
decoder in float32 (its default of float16 is eight times slower on a CPU). Both decode as their
own `decode` does, a step at a time with a cache that grows; what their `decode` does besides, log
probabilities and lists of tokens on the host, is left out, in their favour.

Same process, BLAS, threads, weights, window, start tokens, suppressed tokens and number of tokens,
greedy, no end token. Before timing a peer must say our tokens for every window. A sample is one
window: seconds to its first token (spectrum, encoder, start tokens), and from there to its last.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import Any

from benchmarks import common, generating
from benchmarks.generating import Generate
from models.whisper_tiny.config import MEL_BANDS

WORKLOAD = "whisper_tiny"
PACKAGES = {"mlx": "mlx_whisper", "pytorch": "whisper"}
PHASES = {"prompt": "to the first token", "decoding": "tokens after it"}


def dimensions(session: Any) -> dict[str, int]:
    """The sizes under the names that both peers share."""
    size = session.config
    return {
        "n_mels": MEL_BANDS,
        "n_audio_ctx": size.audio_context,
        "n_audio_state": size.width,
        "n_audio_head": size.heads,
        "n_audio_layer": size.audio_layers,
        "n_vocab": size.vocabulary_size,
        "n_text_ctx": size.text_context,
        "n_text_state": size.width,
        "n_text_head": size.heads,
        "n_text_layer": size.text_layers,
    }


def openai_whisper(session: Any) -> dict[str, Generate]:
    import torch
    from whisper.audio import log_mel_spectrogram
    from whisper.model import ModelDimensions, Whisper

    size, (first, later) = session.config, session.model._never
    model = Whisper(ModelDimensions(**dimensions(session))).to(session.inputs[0].device).eval()
    own = dict(session.model.named_parameters())
    model.load_state_dict(own)
    start = session.model._start

    def generate(item: int) -> Iterator[Any]:
        with torch.inference_mode():
            mel = log_mel_spectrogram(session.inputs[item][0])
            heard = model.encoder(mel[None])
            cache, hooks = model.install_kv_cache_hooks()
            try:
                logits = model.decoder(start, heard, kv_cache=cache)[:, -1]
                token = torch.argmax(logits + first, dim=-1)
                session.framework.wait(token)
                yield token
                for _ in range(size.decode_tokens - 1):
                    logits = model.decoder(token[:, None], heard, kv_cache=cache)[:, -1]
                    token = torch.argmax(logits + later, dim=-1)
                    yield token
                session.framework.wait(token)
            finally:
                for hook in hooks:
                    hook.remove()

    return {"openai-whisper": generate}


def mlx_whisper(session: Any) -> dict[str, Generate]:
    import mlx.core as mx
    from mlx.utils import tree_flatten, tree_unflatten
    from mlx_whisper.audio import log_mel_spectrogram
    from mlx_whisper.whisper import ModelDimensions, Whisper

    size, (first, later) = session.config, session.model._never
    model = Whisper(ModelDimensions(**dimensions(session)), dtype=mx.float32)
    own = {}
    for name, value in tree_flatten(session.model.parameters()):
        name = name.replace(".mlp.0.", ".mlp1.").replace(".mlp.2.", ".mlp2.")
        convolution = name.endswith(("conv1.weight", "conv2.weight"))
        own[name] = value.transpose(0, 2, 1) if convolution else value
    model.encoder._positional_embedding = own.pop("encoder.positional_embedding")
    own["alignment_heads"] = model.alignment_heads
    model.update(tree_unflatten(list(own.items())))
    mx.eval(model.parameters())
    start = session.model._start

    def generate(item: int) -> Iterator[Any]:
        mel = log_mel_spectrogram(session.inputs[item][0], n_mels=MEL_BANDS)
        heard = model.encoder(mel[None])
        logits, cache, _ = model.decoder(start, heard)
        token = mx.argmax(logits[:, -1] + first, axis=-1)
        mx.eval(token, cache)
        yield token
        for _ in range(size.decode_tokens - 1):
            logits, cache, _ = model.decoder(token[:, None], heard, kv_cache=cache)
            token = mx.argmax(logits[:, -1] + later, axis=-1)
            mx.eval(token, cache)
            yield token

    return {"mlx-whisper": generate}


def measure(framework: str, options: argparse.Namespace) -> common.Measured:
    """Runs in a process of its own."""
    peers = {"mlx": mlx_whisper, "pytorch": openai_whisper}[framework]
    return generating.measure(framework, options, WORKLOAD, peers, PHASES)


def installed(framework: str, options: argparse.Namespace) -> None:
    """InputError when the peer's package is missing."""
    generating.check_installed(framework, PACKAGES[framework])


def main() -> int:
    parser = common.parser(str(__doc__).splitlines()[0], 12, "synthetic", "cpu")
    parser.add_argument("--checkpoint", default="random", help="random, a file, a folder, a hub id")
    title = "Whisper: our twins and the best public implementations"
    return common.main(parser.parse_args(), title, measure, installed, WORKLOAD)


if __name__ == "__main__":
    sys.exit(main())

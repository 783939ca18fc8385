"""Whisper in MLX. Twin of pytorch.py: a diff shows only the spelling."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from mlx import nn

from models.layers import mlx as layers
from models.whisper_tiny import config as sizes

FASTER_COMPILED = (True, True)  # (begin, advance) on a CPU, see benchmarks/whisper_tiny_peers.py


def log_mel(audio: mx.array, filters: mx.array) -> mx.array:
    """audio (n, samples) -> (n, samples / 160, 80); why `widest`: see config.fourier."""
    x, half = audio.astype(layers.widest(audio)), sizes.HALF_SAMPLES
    x = mx.concatenate([x[:, half:0:-1], x, x[:, -2 : -half - 2 : -1]], axis=1)
    shape = (x.shape[0], audio.shape[1] // sizes.HOP_SAMPLES, sizes.FFT_SAMPLES)
    frames = mx.as_strided(x, shape, (x.shape[1], sizes.HOP_SAMPLES, 1))
    power = layers.power_spectrum(frames, sizes.hann_window(), sizes.fourier())
    x = mx.log10(mx.maximum(power.astype(mx.float32) @ filters.T, 1e-10))
    x = mx.maximum(x, mx.max(x, axis=(1, 2), keepdims=True) - 8.0) + 4.0
    return (x / 4.0).astype(audio.dtype)


class Convolution(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.weight = mx.zeros((outputs, inputs, 3))
        self.bias = mx.zeros((outputs,))
        self._stride = stride

    def __call__(self, x: mx.array) -> mx.array:
        """x (n, t, inputs) -> (n, t / stride, outputs)."""
        return mx.conv1d(x, self.weight.transpose(0, 2, 1), self._stride, 1) + self.bias


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width, bias=True)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=True)
        self.out = nn.Linear(width, width, bias=True)
        self._heads = heads

    def project(self, x: mx.array) -> tuple[mx.array, mx.array]:
        """x (n, t, width) -> keys and values (n, heads, t, size)."""
        return layers.split(self.key(x), self._heads), layers.split(self.value(x), self._heads)

    def __call__(self, x: mx.array, keys: mx.array, values: mx.array, mask: Any) -> mx.array:
        queries = layers.split(self.query(x), self._heads)
        return self.out(layers.attend(queries, keys, values, mask))


class Block(nn.Module):
    def __init__(self, config: sizes.Config, cross: bool = False) -> None:
        super().__init__()
        width = config.width
        self.attn_ln = layers.norm(width, sizes.EPSILON)
        self.attn = Attention(width, config.heads)
        if cross:
            self.cross_attn_ln = layers.norm(width, sizes.EPSILON)
            self.cross_attn = Attention(width, config.heads)
        self.mlp_ln = layers.norm(width, sizes.EPSILON)
        up, down = nn.Linear(width, 4 * width, bias=True), nn.Linear(4 * width, width, bias=True)
        self.mlp = [up, nn.Identity(), down]  # in OpenAI's names 1 is the activation

    def __call__(self, x: mx.array, mask: Any, heard: Any, cache: Any, position: Any) -> Any:
        """heard: keys and values of the audio, None in the encoder. cache: those of the text before
        `position`, or None. Returns x and the keys and values that it looked at."""
        y = self.attn_ln(x)
        keys, values = self.attn.project(y)
        if cache is not None:
            keys, values = map(layers.store, cache, (keys, values), (position, position))
        x = x + self.attn(y, keys, values, mask)
        if heard is not None:
            x = x + self.cross_attn(self.cross_attn_ln(x), heard[0], heard[1], None)
        x = x + self.mlp[2](layers.gelu(self.mlp[0](self.mlp_ln(x))))
        return x, (keys, values)


class Encoder(nn.Module):
    def __init__(self, config: sizes.Config) -> None:
        super().__init__()
        self.conv1 = Convolution(sizes.MEL_BANDS, config.width, 1)
        self.conv2 = Convolution(config.width, config.width, 2)
        self.positional_embedding = mx.zeros((config.audio_context, config.width))
        self.blocks = [Block(config) for _ in range(config.audio_layers)]
        self.ln_post = layers.norm(config.width, sizes.EPSILON)

    def __call__(self, x: mx.array) -> mx.array:
        """log-mel (n, frames, 80) -> (n, frames / 2, width)."""
        x = layers.gelu(self.conv2(layers.gelu(self.conv1(x)))) + self.positional_embedding
        for block in self.blocks:
            x, _ = block(x, None, None, None, None)
        return self.ln_post(x)


class Decoder(nn.Module):
    def __init__(self, config: sizes.Config) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocabulary_size, config.width)
        self.positional_embedding = mx.zeros((config.text_context, config.width))
        self.blocks = [Block(config, cross=True) for _ in range(config.text_layers)]
        self.ln = layers.norm(config.width, sizes.EPSILON)

    def __call__(self, tokens: mx.array, mask: Any, heard: Any, caches: Any, position: Any) -> Any:
        """tokens (n, t) from `position` on -> logits (n, t, vocabulary), every block's cache."""
        places = position + mx.arange(tokens.shape[1])
        x, after = self.token_embedding(tokens) + self.positional_embedding[places], []
        for i, block in enumerate(self.blocks):
            x, cache = block(x, mask, heard[i], caches[i], position)
            after.append(cache)
        return self.token_embedding.as_linear(self.ln(x)), after


class Model(nn.Module):
    def __init__(self, config: sizes.Config) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self._never = mx.array(config.never())
        self._filters = mx.array(sizes.mel_filters())
        self._start = mx.array([config.vocabulary.start])

    def __call__(self, audio: mx.array) -> Any:
        """audio (n, samples) -> logits (n, t, vocabulary) of the start tokens, caches, heard."""
        x, blocks = self.encoder(log_mel(audio, self._filters)), self.decoder.blocks
        heard = [tuple(map(mx.contiguous, block.cross_attn.project(x))) for block in blocks]
        return *self.decoder(self._start, "causal", heard, [None] * len(heard), 0), heard


def begin(model: Model, audio: mx.array, capacity: int) -> Any:
    """audio (1, samples) -> first token (1,), its logits before any is ruled out, the cache."""
    logits, caches, heard = model(audio)
    room = [(0, 0), (0, 0), (0, capacity - logits.shape[1]), (0, 0)]
    caches = [tuple(mx.pad(part, room) for part in cache) for cache in caches]
    token = mx.argmax(logits[:, -1] + model._never[0], axis=1)
    return token, logits[:, -1], (mx.array(logits.shape[1:2]), heard, caches)


def advance(model: Model, token: mx.array, cache: Any) -> Any:
    """One greedy step: token (1,) -> the next token, its logits, the cache."""
    position, heard, caches = cache
    mask = mx.arange(caches[0][0].shape[2])[None] <= position
    logits, caches = model.decoder(token[:, None], mask, heard, caches, position)
    token = mx.argmax(logits[:, -1] + model._never[1], axis=1)
    return token, logits[:, -1], (position + 1, heard, caches)

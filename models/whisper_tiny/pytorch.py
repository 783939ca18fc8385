"""Whisper in PyTorch. Twin of mlx.py: a diff shows only the spelling."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from models.layers import pytorch as layers
from models.whisper_tiny import config as sizes

FASTER_COMPILED = (True, True)  # (begin, advance) on a CPU, see benchmarks/whisper_tiny_peers.py


def log_mel(audio: Tensor, filters: Tensor) -> Tensor:
    """audio (n, samples) -> (n, samples / 160, 80); why `widest`: see config.fourier."""
    x = nn.functional.pad(audio.to(layers.widest(audio)), [sizes.HALF_SAMPLES] * 2, "reflect")
    frames = x.unfold(1, sizes.FFT_SAMPLES, sizes.HOP_SAMPLES)[:, :-1]
    window = torch.hann_window(sizes.FFT_SAMPLES, dtype=x.dtype, device=x.device)
    power = torch.fft.rfft(frames * window).abs().square().float()
    x = (power @ filters.T).clamp(min=1e-10).log10()
    x = torch.maximum(x, x.amax(dim=(1, 2), keepdim=True) - 8.0) + 4.0
    return (x / 4.0).to(audio.dtype)


class Convolution(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, inputs, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self._stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """x (n, t, inputs) -> (n, t / stride, outputs)."""
        return nn.functional.conv1d(x.mT, self.weight, self.bias, self._stride, 1).mT


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width, bias=True)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=True)
        self.out = nn.Linear(width, width, bias=True)
        self._heads = heads

    def project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (n, t, width) -> keys and values (n, heads, t, size)."""
        return layers.split(self.key(x), self._heads), layers.split(self.value(x), self._heads)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, mask: Any) -> Tensor:
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
        self.mlp = nn.ModuleList([up, nn.Identity(), down])  # in OpenAI's names 1 is the activation

    def forward(self, x: Tensor, mask: Any, heard: Any, cache: Any, position: Any) -> Any:
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
        self.positional_embedding = nn.Parameter(torch.zeros(config.audio_context, config.width))
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.audio_layers)])
        self.ln_post = layers.norm(config.width, sizes.EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """log-mel (n, frames, 80) -> (n, frames / 2, width)."""
        x = layers.gelu(self.conv2(layers.gelu(self.conv1(x)))) + self.positional_embedding
        for block in self.blocks:
            x, _ = block(x, None, None, None, None)
        return self.ln_post(x)


class Decoder(nn.Module):
    def __init__(self, config: sizes.Config) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocabulary_size, config.width)
        self.positional_embedding = nn.Parameter(torch.zeros(config.text_context, config.width))
        self.blocks = nn.ModuleList([Block(config, cross=True) for _ in range(config.text_layers)])
        self.ln = layers.norm(config.width, sizes.EPSILON)

    def forward(self, tokens: Tensor, mask: Any, heard: Any, caches: Any, position: Any) -> Any:
        """tokens (n, t) from `position` on -> logits (n, t, vocabulary), every block's cache."""
        places = position + torch.arange(tokens.shape[1], device=tokens.device)
        x, after = self.token_embedding(tokens) + self.positional_embedding[places], []
        for i, block in enumerate(self.blocks):
            x, cache = block(x, mask, heard[i], caches[i], position)
            after.append(cache)
        return nn.functional.linear(self.ln(x), self.token_embedding.weight), after


class Model(nn.Module):
    def __init__(self, config: sizes.Config) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self._never = nn.Buffer(torch.from_numpy(config.never()))
        self._filters = nn.Buffer(torch.from_numpy(sizes.mel_filters().view("int32")))
        self._start = nn.Buffer(torch.tensor([config.vocabulary.start]))

    def forward(self, audio: Tensor) -> Any:
        """audio (n, samples) -> logits (n, t, vocabulary) of the start tokens, caches, heard."""
        blocks: Any = self.decoder.blocks
        x = self.encoder(log_mel(audio, self._filters.view(torch.float32)))
        heard = [tuple(map(Tensor.contiguous, block.cross_attn.project(x))) for block in blocks]
        return *self.decoder(self._start, "causal", heard, [None] * len(heard), 0), heard


def begin(model: Model, audio: Tensor, capacity: int) -> Any:
    """audio (1, samples) -> first token (1,), its logits before any is ruled out, the cache."""
    logits, caches, heard = model(audio)
    room = (0, 0, 0, capacity - logits.shape[1])
    caches = [tuple(nn.functional.pad(part, room) for part in cache) for cache in caches]
    token = torch.argmax(logits[:, -1] + model._never[0], dim=1)
    return token, logits[:, -1], (token.new_full((1,), logits.shape[1]), heard, caches)


def advance(model: Model, token: Tensor, cache: Any) -> Any:
    """One greedy step: token (1,) -> the next token, its logits, the cache."""
    position, heard, caches = cache
    mask = torch.arange(caches[0][0].shape[2], device=token.device)[None] <= position
    logits, caches = model.decoder(token[:, None], mask, heard, caches, position)
    token = torch.argmax(logits[:, -1] + model._never[1], dim=1)
    return token, logits[:, -1], (position + 1, heard, caches)

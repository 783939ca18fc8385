"""Whisper in PyTorch. Twin of mlx.py: a diff shows only the spelling."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from models.layers import pytorch as layers
from models.whisper_tiny import config as sizes

# (begin, advance): the mode measured faster on a CPU, see benchmarks/whisper_tiny_peers.py.
FASTER_COMPILED = (True, True)
WINDOW = torch.from_numpy(sizes.hann_window())
FILTERS = torch.from_numpy(sizes.mel_filters())


def log_mel(audio: torch.Tensor) -> torch.Tensor:
    """audio (n, samples) -> (n, samples / 160, 80), in float32 until the end."""
    x, half = audio.float(), sizes.FFT_SAMPLES // 2
    x = nn.functional.pad(x, (half, half), mode="reflect")
    frames = x.unfold(1, sizes.FFT_SAMPLES, sizes.HOP_SAMPLES)[:, :-1]
    power = torch.fft.rfft(frames * WINDOW.to(x.device)).abs().square()
    x = (power @ FILTERS.to(x.device).T).clamp(min=1e-10).log10()
    x = torch.maximum(x, x.amax(dim=(1, 2), keepdim=True) - 8.0)
    return ((x + 4.0) / 4.0).to(audio.dtype)


class Convolution(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, inputs, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self._stride = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (n, t, inputs) -> (n, t / stride, outputs)."""
        x = x.transpose(1, 2)
        x = nn.functional.conv1d(x, self.weight, self.bias, stride=self._stride, padding=1)
        return x.transpose(1, 2)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width, bias=True)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=True)
        self.out = nn.Linear(width, width, bias=True)
        self._heads = heads

    def project(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x (n, t, width) -> keys and values (n, heads, t, size)."""
        return layers.split(self.key(x), self._heads), layers.split(self.value(x), self._heads)

    def forward(
        self, x: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: Any
    ) -> torch.Tensor:
        queries = layers.split(self.query(x), self._heads)
        return self.out(layers.attend(queries, keys, values, mask))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, cross: bool) -> None:
        super().__init__()
        self.attn_ln = nn.LayerNorm(width, eps=sizes.EPSILON, elementwise_affine=True, bias=True)
        self.attn = Attention(width, heads)
        if cross:
            self.cross_attn_ln = nn.LayerNorm(
                width, eps=sizes.EPSILON, elementwise_affine=True, bias=True
            )
            self.cross_attn = Attention(width, heads)
        self.mlp_ln = nn.LayerNorm(width, eps=sizes.EPSILON, elementwise_affine=True, bias=True)
        up, down = nn.Linear(width, 4 * width, bias=True), nn.Linear(4 * width, width, bias=True)
        self.mlp = nn.ModuleList([up, nn.Identity(), down])  # in OpenAI's names 1 is the activation

    def forward(self, x: torch.Tensor, mask: Any, heard: Any, cache: Any, position: Any) -> Any:
        """heard: keys and values of the audio, None in the encoder. cache: those of the text before
        `position`, or None. Returns x and the keys and values that it looked at."""
        y = self.attn_ln(x)
        keys, values = self.attn.project(y)
        if cache is not None:
            keys = layers.store(cache[0], keys, position)
            values = layers.store(cache[1], values, position)
        x = x + self.attn(y, keys, values, mask)
        if heard is not None:
            x = x + self.cross_attn(self.cross_attn_ln(x), *heard, None)
        x = x + self.mlp[2](layers.gelu(self.mlp[0](self.mlp_ln(x))))
        return x, (keys, values)


class Encoder(nn.Module):
    def __init__(self, config: sizes.Config) -> None:
        super().__init__()
        width, heads, depth = config.width, config.heads, config.audio_layers
        self.conv1 = Convolution(sizes.MEL_BANDS, width, 1)
        self.conv2 = Convolution(width, width, 2)
        self.positional_embedding = nn.Parameter(torch.zeros(config.audio_context, width))
        self.blocks = nn.ModuleList([Block(width, heads, cross=False) for _ in range(depth)])
        self.ln_post = nn.LayerNorm(width, eps=sizes.EPSILON, elementwise_affine=True, bias=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """log-mel (n, frames, 80) -> (n, frames / 2, width)."""
        x = layers.gelu(self.conv2(layers.gelu(self.conv1(x)))) + self.positional_embedding
        for block in self.blocks:
            x, _ = block(x, None, None, None, None)
        return self.ln_post(x)


class Decoder(nn.Module):
    def __init__(self, config: sizes.Config) -> None:
        super().__init__()
        width, heads, depth = config.width, config.heads, config.text_layers
        self.token_embedding = nn.Embedding(config.vocabulary_size, width)
        self.positional_embedding = nn.Parameter(torch.zeros(config.text_context, width))
        self.blocks = nn.ModuleList([Block(width, heads, cross=True) for _ in range(depth)])
        self.ln = nn.LayerNorm(width, eps=sizes.EPSILON, elementwise_affine=True, bias=True)

    def forward(
        self, tokens: torch.Tensor, mask: Any, heard: Any, caches: Any, position: Any
    ) -> Any:
        """tokens (n, t) from `position` on -> logits (n, t, vocabulary), every block's cache."""
        places = position + torch.arange(tokens.shape[1], device=tokens.device)
        x, after = self.token_embedding(tokens) + self.positional_embedding[places], []
        for block, *given in zip(self.blocks, heard, caches, strict=True):
            x, cache = block(x, mask, *given, position)
            after.append(cache)
        return nn.functional.linear(self.ln(x), self.token_embedding.weight), after


class Model(nn.Module):
    def __init__(self, config: sizes.Config) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self._never = nn.Buffer(torch.from_numpy(config.never()))
        self._start = nn.Buffer(torch.tensor([config.vocabulary.start]))

    def forward(self, audio: torch.Tensor) -> Any:
        """audio (n, samples) -> logits (n, t, vocabulary) of the start tokens, caches, heard."""
        x = self.encoder(log_mel(audio))
        heard = [block.cross_attn.project(x) for block in self.decoder.blocks]
        heard = [(keys.contiguous(), values.contiguous()) for keys, values in heard]
        return *self.decoder(self._start, "causal", heard, [None] * len(heard), 0), heard


def begin(model: Model, audio: torch.Tensor, capacity: int) -> Any:
    """audio (1, samples) -> first token (1,), its logits (1, vocabulary) before some are ruled out,
    a cache with room for `capacity` tokens."""
    logits, caches, heard = model(audio)
    used = logits.shape[1]
    room = (0, 0, 0, capacity - used)
    caches = [
        (nn.functional.pad(keys, room), nn.functional.pad(values, room)) for keys, values in caches
    ]
    token = torch.argmax(logits[:, -1] + model._never[0], dim=1)
    return token, logits[:, -1], (torch.tensor([used], device=token.device), heard, caches)


def advance(model: Model, token: torch.Tensor, cache: Any) -> Any:
    """One greedy step: token (1,) -> the next token, its logits, the cache."""
    position, heard, caches = cache
    mask = torch.arange(caches[0][0].shape[2], device=token.device)[None] <= position
    logits, caches = model.decoder(token[:, None], mask, heard, caches, position)
    token = torch.argmax(logits[:, -1] + model._never[1], dim=1)
    return token, logits[:, -1], (position + 1, heard, caches)

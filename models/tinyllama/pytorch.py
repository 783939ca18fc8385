"""The Llama decoder in PyTorch. Twin of mlx.py: a diff shows only the spelling."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from models.layers.pytorch import attend, split, store
from models.tinyllama.config import Config

# (begin, advance): the mode measured faster on a CPU, see benchmarks/tinyllama_peers.py.
FASTER_COMPILED = (False, True)
Rotation = tuple[torch.Tensor, torch.Tensor]  # cosines and sines (t, size)
Layer = tuple[torch.Tensor, torch.Tensor]  # keys and values (n, key heads, s, size)
Cache = tuple[list[Layer], torch.Tensor]  # of every layer, and the next position (1,)
Place = tuple[torch.Tensor, Any, int]  # position, mask of models.layers, tokens to keep
Step = tuple[torch.Tensor, torch.Tensor, Cache]  # the next token (1,), its logits, the cache


def rotation(periods: torch.Tensor, position: torch.Tensor, t: int) -> Rotation:
    """What turns the queries and keys of `t` tokens from `position` on."""
    positions = position + torch.arange(t, device=position.device)
    angles = positions[:, None].float() * periods.reciprocal()
    angles = torch.cat((angles, angles), dim=1)
    return torch.cos(angles), torch.sin(angles)


def rotate(x: torch.Tensor, turn: Rotation) -> torch.Tensor:
    """x (n, heads, t, size), value i and value i + size / 2 turned as a pair."""
    low, high = x.chunk(2, dim=-1)
    return x * turn[0].to(x.dtype) + torch.cat((-high, low), dim=-1) * turn[1].to(x.dtype)


class Attention(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads = config.heads
        self.key_heads = config.key_value_heads
        width, narrow = config.dimension, config.dimension // self.heads * self.key_heads
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, narrow, bias=False)
        self.v_proj = nn.Linear(width, narrow, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)

    def forward(
        self, x: torch.Tensor, turn: Rotation, cache: Layer | None, place: Place
    ) -> tuple[torch.Tensor, Layer]:
        """x (n, t, dimension) -> (n, keep, dimension) of the last tokens, and the cache with all."""
        position, mask, keep = place
        queries = rotate(split(self.q_proj(x), self.heads), turn)[:, :, -keep:]
        keys = rotate(split(self.k_proj(x), self.key_heads), turn)
        values = split(self.v_proj(x), self.key_heads)
        if cache is not None:
            keys, values = store(cache[0], keys, position), store(cache[1], values, position)
        return self.o_proj(attend(queries, keys, values, mask)), (keys, values)


class FeedForward(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.dimension, config.feed_forward, bias=False)
        self.up_proj = nn.Linear(config.dimension, config.feed_forward, bias=False)
        self.down_proj = nn.Linear(config.feed_forward, config.dimension, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.dimension, eps=config.norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.dimension, eps=config.norm_eps)
        self.mlp = FeedForward(config)

    def forward(self, x: torch.Tensor, *attention: Any) -> tuple[torch.Tensor, Layer]:
        y, cache = self.self_attn(self.input_layernorm(x), *attention)
        x = x[:, -y.shape[1] :] + y
        return x + self.mlp(self.post_attention_layernorm(x)), cache


class Decoder(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocabulary, config.dimension)
        self.layers = nn.ModuleList([Block(config) for _ in range(config.layers)])
        self.norm = nn.RMSNorm(config.dimension, eps=config.norm_eps)
        # Follows the module to a device and stays float32: as integers no dtype is put upon them.
        bits = torch.from_numpy(config.periods().view("int32"))
        self._periods = nn.Buffer(bits, persistent=False)

    def forward(
        self, tokens: torch.Tensor, cache: Cache | None, keep: int
    ) -> tuple[torch.Tensor, Cache]:
        """tokens (n, t) -> (n, keep, dimension) of the last ones, and the cache with all: a whole
        prompt without a cache, or one token after those of a cache."""
        x, layers = self.embed_tokens(tokens), []
        t = tokens.shape[1]
        mask: torch.Tensor | str | None = "causal"
        position = torch.zeros(1, dtype=torch.int64, device=tokens.device)
        if cache is not None:
            position, capacity = cache[1], cache[0][0][0].shape[2]
            mask = torch.arange(capacity, device=tokens.device)[None] <= position
        turn = rotation(self._periods.view(torch.float32), position, t)
        for i, block in enumerate(self.layers):
            if i == len(self.layers) - 1 and keep < t:  # nothing reads the rest of its output
                t, mask = keep, None
            x, layer = block(x, turn, cache[0][i] if cache else None, (position, mask, t))
            layers.append(layer)
        return self.norm(x), (layers, position + tokens.shape[1])


class Model(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.model = Decoder(config)
        if not config.tied:
            self.lm_head = nn.Linear(config.dimension, config.vocabulary, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """tokens (n, t) -> logits (n, t, vocabulary)."""
        return self.head(self.model(tokens, None, tokens.shape[1])[0])

    def head(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., dimension) -> logits (..., vocabulary)."""
        tied = self.model.embed_tokens.weight
        return self.lm_head(x) if hasattr(self, "lm_head") else nn.functional.linear(x, tied)


def begin(model: Model, inputs: torch.Tensor, capacity: int) -> Step:
    """Reads a prompt (1, t): the next token (1,), its logits (1, vocabulary), and a cache with room
    for `capacity` tokens in all."""
    x, (layers, position) = model.model(inputs, None, 1)
    room = (0, 0, 0, capacity - inputs.shape[1])
    padded = [
        (nn.functional.pad(keys, room), nn.functional.pad(values, room)) for keys, values in layers
    ]
    logits = model.head(x[:, -1])
    return torch.argmax(logits, dim=-1), logits, (padded, position)


def advance(model: Model, token: torch.Tensor, cache: Cache) -> Step:
    """One greedy step: reads `token` (1,), gives the next one, its logits and the cache."""
    x, cache = model.model(token[:, None], cache, 1)
    logits = model.head(x[:, -1])
    return torch.argmax(logits, dim=-1), logits, cache

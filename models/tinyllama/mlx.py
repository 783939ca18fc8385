"""The Llama decoder in MLX. Twin of pytorch.py: a diff shows only the spelling."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from mlx import nn

from models.layers.mlx import attend, split, store
from models.tinyllama.config import Config

# (begin, advance): the mode measured faster on a CPU, see benchmarks/tinyllama_peers.py.
FASTER_COMPILED = (False, False)
Rotation = tuple[mx.array, int]  # periods (size / 2,) and the first position
Layer = tuple[mx.array, mx.array]  # keys and values (n, key heads, s, size)
Cache = tuple[list[Layer], int]  # of every layer, and the next position
Place = tuple[int, Any, int]  # position, mask of models.layers, tokens to keep
Step = tuple[mx.array, mx.array, Cache]  # the next token (1,), its logits, the cache


def rotation(periods: mx.array, position: int, t: int) -> Rotation:
    """What turns the queries and keys of `t` tokens from `position` on."""
    return periods, position


def rotate(x: mx.array, turn: Rotation) -> mx.array:
    """x (n, heads, t, size), value i and value i + size / 2 turned as a pair."""
    return mx.fast.rope(
        x, x.shape[-1], traditional=False, base=None, scale=1.0, offset=turn[1], freqs=turn[0]
    )


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

    def __call__(
        self, x: mx.array, turn: Rotation, cache: Layer | None, place: Place
    ) -> tuple[mx.array, Layer]:
        """x (n, t, dimension) -> (n, keep, dimension) of the last tokens, and the cache with all."""
        position, mask, keep = place
        queries = rotate(split(self.q_proj(x), self.heads), turn)[:, :, -keep:]
        keys = rotate(split(self.k_proj(x), self.key_heads), turn)
        values = split(self.v_proj(x), self.key_heads)
        layer = keys, values
        if cache is not None:
            layer = store(cache[0], keys, position), store(cache[1], values, position)
            keys, values = (part[:, :, : position + 1] for part in layer)  # in place of a mask
        return self.o_proj(attend(queries, keys, values, mask)), layer


class FeedForward(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.dimension, config.feed_forward, bias=False)
        self.up_proj = nn.Linear(config.dimension, config.feed_forward, bias=False)
        self.down_proj = nn.Linear(config.feed_forward, config.dimension, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        return self.down_proj(nn.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.dimension, eps=config.norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.dimension, eps=config.norm_eps)
        self.mlp = FeedForward(config)

    def __call__(self, x: mx.array, *attention: Any) -> tuple[mx.array, Layer]:
        y, cache = self.self_attn(self.input_layernorm(x), *attention)
        x = x[:, -y.shape[1] :] + y
        return x + self.mlp(self.post_attention_layernorm(x)), cache


class Decoder(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocabulary, config.dimension)
        self.layers = [Block(config) for _ in range(config.layers)]
        self.norm = nn.RMSNorm(config.dimension, eps=config.norm_eps)
        self._periods = mx.array(config.periods())  # no parameter: the name starts with _

    def __call__(self, tokens: mx.array, cache: Cache | None, keep: int) -> tuple[mx.array, Cache]:
        """tokens (n, t) -> (n, keep, dimension) of the last ones, and the cache with all: a whole
        prompt without a cache, or one token after those of a cache."""
        x, layers = self.embed_tokens(tokens), []
        t = tokens.shape[1]
        mask: str | None = "causal"
        position = 0
        if cache is not None:
            position, mask = cache[1], None
        turn = rotation(self._periods, position, t)
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

    def __call__(self, tokens: mx.array) -> mx.array:
        """tokens (n, t) -> logits (n, t, vocabulary)."""
        return self.head(self.model(tokens, None, tokens.shape[1])[0])

    def head(self, x: mx.array) -> mx.array:
        """x (..., dimension) -> logits (..., vocabulary)."""
        return self.lm_head(x) if "lm_head" in self else self.model.embed_tokens.as_linear(x)


def begin(model: Model, inputs: mx.array, capacity: int) -> Step:
    """Reads a prompt (1, t): the next token (1,), its logits (1, vocabulary), and a cache with room
    for `capacity` tokens in all."""
    x, (layers, position) = model.model(inputs, None, 1)
    room = [(0, 0), (0, 0), (0, capacity - inputs.shape[1]), (0, 0)]
    padded = [(mx.pad(keys, room), mx.pad(values, room)) for keys, values in layers]
    logits = model.head(x[:, -1])
    return mx.argmax(logits, axis=-1), logits, (padded, position)


def advance(model: Model, token: mx.array, cache: Cache) -> Step:
    """One greedy step: reads `token` (1,), gives the next one, its logits and the cache."""
    x, cache = model.model(token[:, None], cache, 1)
    logits = model.head(x[:, -1])
    return mx.argmax(logits, axis=-1), logits, cache

"""Sizes of the Llama decoder: embedding -> (attention, gated feed-forward) x layers -> norm -> head."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from measurement.errors import InputError
from models.parameters import Constant, Initial, Normal

ITEM = "prompt"
KIND = "generate"
DATASETS = ("prompts", "synthetic")
OWN_DATA = ".txt"
# No arm of MLX on its wheel's reference BLAS by default: it takes 7 to 30 times as long.
AS_SHIPPED = False
DTYPES = ("float32", "tf32", "float16", "bfloat16")
# The deviation that TinyLlama's own training started from (`initializer_range`).
INITIAL = Normal(0.02)
TEXT_TOKENS = 200


@dataclass(frozen=True)
class Config:
    """TinyLlama-1.1B. A checkpoint sets everything but the two counts of tokens.

    A speed run reads `prompt_tokens` and makes `decode_tokens`, the first of them with the prompt,
    whatever they are. 128 and 128: a prompt long enough that reading it is bound by arithmetic, and
    enough steps for a tail of their latencies.
    vocabulary_matrices: 2, embedding and head, or 1 that is both ("tied"). end_token: the token that
    ends a text, counted from 1 because every size is above 0; vocabulary + 1 for none.
    """

    layers: int = 22
    dimension: int = 2048
    heads: int = 32
    key_value_heads: int = 4
    feed_forward: int = 5632
    vocabulary: int = 32_000
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    context: int = 2048
    vocabulary_matrices: int = 2
    end_token: int = 3
    prompt_tokens: int = 128
    decode_tokens: int = 128

    def check(self) -> None:
        """Raises InputError for sizes that cannot be."""
        whole = ("layers", "dimension", "heads", "key_value_heads", "feed_forward", "vocabulary")
        for name in (*whole, "rope_theta", "norm_eps", "context", "prompt_tokens", "decode_tokens"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} is {getattr(self, name)}; expected more than 0")
        if self.dimension % (2 * self.heads):
            raise InputError(
                f"dimension {self.dimension} and heads {self.heads} do not fit; expected a multiple"
                f" of {2 * self.heads}, because rotary positions turn pairs of values of a head"
            )
        if self.heads % self.key_value_heads:
            raise InputError(
                f"key_value_heads {self.key_value_heads} does not divide heads {self.heads};"
                " each must serve the same number of heads"
            )
        if self.vocabulary_matrices not in (1, 2):
            raise InputError(f"vocabulary_matrices is {self.vocabulary_matrices}; expected 1 or 2")
        if not 0 <= self.eos <= self.vocabulary:
            raise InputError(
                f"end_token is {self.end_token}; expected 1 to {self.vocabulary + 1}, one more than"
                " the vocabulary"
            )
        if self.decode_tokens < 2:
            raise InputError(
                f"decode_tokens is {self.decode_tokens}; expected 2 or more, to time one"
            )
        self.check_context(self.prompt_tokens, self.decode_tokens)

    def check_context(self, prompt: int, more: int) -> None:
        """Raises InputError when a prompt and the tokens after it do not fit into the context."""
        if prompt + more > self.context:
            raise InputError(
                f"a prompt of {prompt} tokens and {more} more do not fit into the context of"
                f" {self.context} tokens; shorten the prompt or ask for fewer tokens"
            )

    @property
    def tied(self) -> bool:
        """Whether the embedding is the head too."""
        return self.vocabulary_matrices == 1

    @property
    def eos(self) -> int:
        """The token that ends a text; where none does, a number that no token has."""
        return self.end_token - 1

    def capacity(self) -> int:
        """Tokens that the cache of a timed run has room for."""
        return self.prompt_tokens + self.decode_tokens

    def probe_tokens(self) -> np.ndarray:
        """The tokens from which those of the evidence are drawn."""
        return np.arange(self.vocabulary)

    def text_tokens(self, inputs: np.ndarray) -> int:
        """The most tokens of the text after a prompt (t,)."""
        return min(TEXT_TOKENS, self.context - len(inputs))

    def capacity_of(self, inputs: np.ndarray, tokens: int) -> int:
        """Room in the cache for a prompt (t,) and `tokens` after it."""
        return len(inputs) + tokens

    def periods(self) -> np.ndarray:
        """(size / 2,) float32: theta^(2i / size), the positions that turn pair i by one radian
        (Su et al., 2021, arXiv:2104.09864). From NumPy, so that both twins turn by the same angle:
        at position 1000 one unit in the last place is already 6e-5 radians."""
        size = self.dimension // self.heads
        return np.power(self.rope_theta, np.arange(0, size, 2) / size).astype(np.float32)

    def parameters(self) -> dict[str, tuple[tuple[int, ...], Initial]]:
        """name -> (shape, initial), under the names of transformers' LlamaForCausalLM."""
        d, wide = self.dimension, self.feed_forward
        narrow = d // self.heads * self.key_value_heads
        found: dict[str, tuple[tuple[int, ...], Initial]] = {
            "model.embed_tokens.weight": ((self.vocabulary, d), INITIAL)
        }
        for layer in (f"model.layers.{i}" for i in range(self.layers)):
            found[f"{layer}.input_layernorm.weight"] = ((d,), Constant(1.0))
            for part, rows in (("q", d), ("k", narrow), ("v", narrow), ("o", d)):
                found[f"{layer}.self_attn.{part}_proj.weight"] = ((rows, d), INITIAL)
            found[f"{layer}.post_attention_layernorm.weight"] = ((d,), Constant(1.0))
            for part, shape in (("gate", (wide, d)), ("up", (wide, d)), ("down", (d, wide))):
                found[f"{layer}.mlp.{part}_proj.weight"] = (shape, INITIAL)
        found["model.norm.weight"] = ((d,), Constant(1.0))
        if not self.tied:
            found["lm_head.weight"] = ((self.vocabulary, d), INITIAL)
        return found

    def flops_per_item(self) -> int:
        """Of reading one prompt and all steps after it; a multiply-add counts two. The matrix
        products, attention over the tokens seen so far, and the head once per token made. Of the
        prompt's last layer only keys, values and queries are counted, and the last token's rest:
        nothing reads the others."""
        d, narrow = self.dimension, self.dimension // self.heads * self.key_value_heads
        after = d * d + 3 * d * self.feed_forward  # a token's products behind the attention
        tokens = self.prompt_tokens + self.decode_tokens - 1  # the last one made is not read
        seen, left_out = tokens * (tokens + 1) // 2, self.prompt_tokens - 1
        whole = self.layers * (tokens * (d * d + 2 * d * narrow + after) + 2 * d * seen)
        unread = left_out * after + 2 * d * (left_out * self.prompt_tokens // 2)
        return 2 * (whole - unread + self.decode_tokens * d * self.vocabulary)

    def widest_flops(self) -> dict[str, int]:
        """None of its products is wanted in more than its dtype."""
        return {}

    def rates(self, begin_seconds: float, decode_seconds: float) -> dict[str, float]:
        """Metrics of one item, from the seconds to its first token and from there to its last."""
        return {
            "inference/prefill_tokens_per_second": self.prompt_tokens / begin_seconds,
            "inference/decode_tokens_per_second": (self.decode_tokens - 1) / decode_seconds,
            "inference/first_token_seconds": begin_seconds,
        }


SMOKE = Config(
    layers=2,
    dimension=64,
    heads=8,
    key_value_heads=2,
    feed_forward=128,
    vocabulary=512,
    context=128,
    prompt_tokens=12,
    decode_tokens=8,
)
# The study's widths, so that every matrix product has its shape; a step reads 0.96 GB of weights.
CPU = replace(Config(), layers=4, prompt_tokens=64, decode_tokens=24)
PRESETS = {"smoke": SMOKE, "cpu": CPU, "study": Config()}
DEFAULT_PRESET = {"cpu": "cpu", "gpu": "study"}
PLANS: dict[str, dict[str, float]] = {
    "smoke": {"passes": 2, "latency_passes": 1, "audit_seconds": 0.02, "ceiling_seconds": 0.02},
    "cpu": {"passes": 3, "latency_passes": 1},
    "study": {},
}

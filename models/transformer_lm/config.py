"""Sizes of the language model, trained by AdamW with a linear warm-up."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from measurement.errors import InputError
from models.parameters import Constant, Initial, Normal

VOCABULARY = 10_000  # words of ptb.train.txt, the end of a line included
NORM_EPSILON = 1e-5
BETAS, EPSILON = (0.9, 0.999), 1e-8
NO_WORD = -1  # label of a position behind the end of the validation text
ALL_ITEMS = 1_000_000  # more sequences than there are: the whole text

ITEM = "sequence"
KIND = "train"
DATASETS = ("ptb", "synthetic")
OWN_DATA = ""
# No arm of MLX on its wheel's reference BLAS by default: it takes 7 to 30 times as long.
AS_SHIPPED = False
DTYPES = ("float32", "tf32", "bfloat16")
QUALITY = "eval/perplexity"
OPTIMISER = "adamw"
# What the cpu preset reaches on real text in its second epoch (1,595), and a study's in its first
# (3,072), so that a trial of a study ends within a minute; the published size goes far below.
TARGET, EPOCHS = 2000.0, 2
STUDY_TARGET, STUDY_EPOCHS = 4000.0, 1


@dataclass(frozen=True)
class Config:
    """The published sizes; every one but the `_items` is an option.

    train_items, test_items: at most so many sequences of `context` words, from the start of the
    text; fewer where the text ends before.
    """

    blocks: int = 12
    dimension: int = 1024
    heads: int = 16
    context: int = 1024
    batch_size: int = 32
    learning_rate: float = 3e-4
    warmup_steps: int = 200
    weight_decay: float = 1e-5
    train_items: int = ALL_ITEMS
    test_items: int = ALL_ITEMS

    def check(self) -> None:
        """Raises InputError for sizes that cannot be."""
        least = {"blocks": 1, "dimension": 4, "heads": 1, "context": 1, "batch_size": 1}
        for name, low in (least | {"warmup_steps": 1, "train_items": 1, "test_items": 1}).items():
            if getattr(self, name) < low:
                raise InputError(f"{name} is {getattr(self, name)}; expected {low} or more")
        if self.dimension % self.heads or self.dimension % 2:
            raise InputError(
                f"dimension is {self.dimension} with {self.heads} heads; expected an even multiple"
                " of heads"
            )
        if not (self.learning_rate > 0 and self.weight_decay >= 0):
            raise InputError(
                f"learning_rate is {self.learning_rate} and weight_decay {self.weight_decay};"
                " expected more than 0, and 0 or more"
            )

    def parameters(self) -> dict[str, tuple[tuple[int, ...], Initial]]:
        """name -> (shape, initial) of every parameter; as MLX's own layers start."""
        width = self.dimension
        shapes: dict[str, tuple[tuple[int, ...], Initial]] = {}

        def norm(name: str) -> None:
            shapes[f"{name}.weight"] = ((width,), Constant(1.0))
            shapes[f"{name}.bias"] = ((width,), Constant(0.0))

        def linear(name: str, inputs: int, outputs: int, bias: bool) -> None:
            shapes[f"{name}.weight"] = ((outputs, inputs), inputs)
            if bias:
                shapes[f"{name}.bias"] = ((outputs,), inputs)

        shapes["embedding.weight"] = ((VOCABULARY, width), Normal(width**-0.5))
        for i in range(self.blocks):
            norm(f"blocks.{i}.attention_norm")
            linear(f"blocks.{i}.attention.qkv", width, 3 * width, bias=False)
            linear(f"blocks.{i}.attention.output", width, width, bias=False)
            norm(f"blocks.{i}.feed_forward_norm")
            linear(f"blocks.{i}.feed_forward.inner", width, 4 * width, bias=True)
            linear(f"blocks.{i}.feed_forward.outer", 4 * width, width, bias=True)
        norm("norm")
        linear("head", width, VOCABULARY, bias=True)
        return shapes

    def positions(self) -> np.ndarray:
        """What is added to the words' vectors, (context, dimension) float32: sines, then cosines of
        position * frequency, times sqrt(2 / dimension); frequencies fall from 1 to 0.0001 in equal
        ratios (Vaswani et al. 2017, as MLX's nn.SinusoidalPositionalEncoding spaces them)."""
        frequencies = np.geomspace(1e-4, 1.0, self.dimension // 2)[::-1]
        angles = np.arange(self.context)[:, None] * frequencies
        encoding = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
        return (encoding * (2 / self.dimension) ** 0.5).astype(np.float32)

    def train_flops_per_item(self) -> int:
        """Forward, weight gradients and input gradients of every product."""
        return 3 * self.infer_flops_per_item()

    def infer_flops_per_item(self) -> int:
        """Of one sequence; multiply-adds count two. Attention counts all pairs of positions, as is
        usual (Chowdhery et al. 2022, appendix B), though the mask makes half of them unnecessary."""
        weights = self.blocks * 12 * self.dimension**2 + VOCABULARY * self.dimension
        pairs = self.blocks * 2 * self.context * self.dimension
        return 2 * self.context * (weights + pairs)

    def tokens_per_item(self) -> int:
        return self.context

    def inference_batch(self) -> int:
        """Sequences per batch in evaluation and batched inference."""
        return self.batch_size

    def quality(self, scores: np.ndarray, labels: np.ndarray) -> float:
        """Perplexity: exp of the mean negative log-likelihood over all words that have a label."""
        return float(np.exp(np.sum(scores, dtype=np.float64) / np.count_nonzero(labels >= 0)))

    def details(self, scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Nothing else is asked of the test set."""
        return {}

    def throughput_batches(self) -> tuple[int, ...]:
        """No batch but that of `inference_batch` is timed."""
        return ()

    def example(self) -> np.ndarray:
        """Two sequences as a client sends them: numbers of words, (2, context) int32."""
        words = np.arange(2 * self.context, dtype=np.int32) % VOCABULARY
        return words.reshape(2, self.context)


SMOKE = Config(
    blocks=2,
    dimension=32,
    heads=2,
    context=16,
    batch_size=8,
    warmup_steps=4,
    train_items=64,
    test_items=16,
)
# About a second a step on two cores: the published shape, smaller, and a piece of the text, so
# that an epoch is 8 steps. Its perplexities say nothing about the published size.
CPU = Config(
    blocks=4,
    dimension=512,
    heads=8,
    context=256,
    batch_size=4,
    warmup_steps=8,
    train_items=32,
    test_items=8,
)
PRESETS = {"smoke": SMOKE, "cpu": CPU, "paper": Config()}
DEFAULT_PRESET = {"cpu": "cpu", "gpu": "paper"}
# What differs from the defaults of measurement.trial.Plan: counts of steps and calls.
PLANS: dict[str, dict[str, float]] = {
    "smoke": {"warmup_steps": 2, "waited_steps": 10, "latency_calls": 50, "audit_seconds": 0.02},
    "cpu": {
        "warmup_steps": 2,
        "audit_seconds": 0.0,  # one step against two
        "audit_repetitions": 3,
        "waited_steps": 2,
        "latency_warmup_calls": 2,
        "latency_calls": 20,
        "inference_seconds": 0.0,
    },
    "paper": {"waited_steps": 29, "latency_calls": 100},
}

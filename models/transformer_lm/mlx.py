"""The language model in MLX. Twin of pytorch.py: a diff shows only the spelling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
from mlx import nn

from measurement.framework import Differentiate
from models.layers.mlx import AdamW, Linear, add_norm, attend, exp, linear_relu, norm, split
from models.transformer_lm.config import BETAS, EPSILON, NORM_EPSILON, VOCABULARY, Config

# (training, inference): the mode measured faster on a CPU, see benchmarks/transformer_lm_peers.py.
FASTER_COMPILED = (True, True)


class Attention(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = Linear(config.dimension, 3 * config.dimension, bias=False)
        self.output = Linear(config.dimension, config.dimension, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        query, key, value = (split(part, self.heads) for part in mx.split(self.qkv(x), 3, axis=2))
        return self.output(attend(query, key, value, "causal"))


class FeedForward(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.inner = Linear(config.dimension, 4 * config.dimension, bias=True)
        self.outer = Linear(4 * config.dimension, config.dimension, bias=True)

    def __call__(self, x: mx.array) -> mx.array:
        return self.outer(linear_relu(self.inner, x))


class Block(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention_norm = norm(config.dimension, NORM_EPSILON)
        self.attention = Attention(config)
        self.feed_forward_norm = norm(config.dimension, NORM_EPSILON)
        self.feed_forward = FeedForward(config)

    def __call__(self, x: mx.array) -> mx.array:
        change = self.attention(self.attention_norm(x))
        x, y = add_norm(x, change, self.feed_forward_norm)
        return x + self.feed_forward(y)


class Model(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, config.dimension)
        self._positions = mx.array(config.positions())
        self.blocks = [Block(config) for _ in range(config.blocks)]
        self.norm = norm(config.dimension, NORM_EPSILON)
        self.head = Linear(config.dimension, VOCABULARY, bias=True)

    def hidden(self, inputs: mx.array) -> mx.array:
        """inputs (n, t) -> what the head sees (n, t, dimension)."""
        x = self.embedding(inputs)
        x = x + self._positions[: inputs.shape[1]].astype(x.dtype)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def __call__(self, inputs: mx.array) -> mx.array:
        """inputs (n, t) words -> logits of the words after each (n, t, VOCABULARY)."""
        return self.head(self.hidden(inputs))


def loss(model: Model, inputs: mx.array, labels: mx.array) -> mx.array:
    """Mean cross-entropy over all words."""
    logits, labels = model(inputs).flatten(0, 1).astype(mx.float32), labels.flatten()
    if mx.default_device().type == mx.gpu:
        return nn.losses.cross_entropy(logits, labels, reduction="mean")
    # The same function with one exponential instead of two (logsumexp, then softmax in its
    # gradient): MLX's own takes 0.1 s for 1,024 words on a CPU; on a GPU the extra kernels cost.
    shifted = logits - mx.stop_gradient(mx.max(logits, axis=1, keepdims=True))
    chosen = mx.take_along_axis(shifted, labels[:, None], axis=1)[:, 0]
    return mx.mean(mx.log(mx.sum(exp(shifted), axis=1)) - chosen)


def predict(model: Model, inputs: mx.array) -> mx.array:
    """inputs (n, t) -> the likeliest word after each (n, t)."""
    return mx.argmax(model(inputs), axis=2)


def score(model: Model, inputs: mx.array, labels: mx.array) -> mx.array:
    """Negative log-likelihood of each sequence's labels, without those below 0: (n,)."""
    logits = model(inputs).astype(mx.float32)
    known = labels >= 0
    chosen = mx.where(known, labels, 0)[..., None]
    likelihood = mx.take_along_axis(logits, chosen, axis=2)[..., 0] - mx.logsumexp(logits, axis=2)
    return -mx.sum(mx.where(known, likelihood, 0.0), axis=1)


def answer(model: Model, inputs: mx.array) -> mx.array:
    """inputs (n, t), as a client sends them -> the likeliest next word (n,)."""
    return mx.argmax(model.head(model.hidden(inputs)[:, -1]), axis=1)


def training(
    model: Model, config: Config, differentiate: Differentiate
) -> tuple[Callable[..., mx.array], Any, Callable[[], None]]:
    """(step, state, restart): a step does one update by AdamW and returns the loss before it; state
    is all that a step changes; restart puts the optimiser, not the parameters, to its start."""
    optimiser = AdamW(
        model,
        learning_rate=config.learning_rate,
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        betas=BETAS,
        epsilon=EPSILON,
    )
    loss_and_gradients = differentiate(model, loss)

    def step(inputs: mx.array, labels: mx.array, rows: mx.array) -> mx.array:
        batch = mx.take(inputs, rows, axis=0), mx.take(labels, rows, axis=0)
        value, gradients = loss_and_gradients(model, *batch)
        optimiser.update(gradients)
        return value

    return step, [model.state, optimiser.state], optimiser.restart

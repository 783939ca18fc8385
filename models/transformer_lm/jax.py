"""The language model in JAX. Twin of pytorch.py: a diff shows only the spelling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from measurement.framework import Differentiate
from models.layers import jax as nn
from models.layers.jax import AdamW, attend, cross_entropy, norm, split, take
from models.transformer_lm.config import BETAS, EPSILON, NORM_EPSILON, VOCABULARY, Config

# (training, inference): one by one JAX compiles and starts every operation alone.
FASTER_COMPILED = (True, True)


class Attention(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.dimension, 3 * config.dimension, bias=False)
        self.output = nn.Linear(config.dimension, config.dimension, bias=False)

    def __call__(self, x: jax.Array) -> jax.Array:
        query, key, value = (split(part, self.heads) for part in jnp.split(self.qkv(x), 3, axis=2))
        return self.output(attend(query, key, value, "causal"))


class FeedForward(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.inner = nn.Linear(config.dimension, 4 * config.dimension, bias=True)
        self.outer = nn.Linear(4 * config.dimension, config.dimension, bias=True)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.outer(jax.nn.relu(self.inner(x)))


class Block(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention_norm = norm(config.dimension, NORM_EPSILON)
        self.attention = Attention(config)
        self.feed_forward_norm = norm(config.dimension, NORM_EPSILON)
        self.feed_forward = FeedForward(config)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.attention(self.attention_norm(x))
        return x + self.feed_forward(self.feed_forward_norm(x))


class Model(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, config.dimension)
        self._positions = jnp.asarray(config.positions())
        self.blocks = [Block(config) for _ in range(config.blocks)]
        self.norm = norm(config.dimension, NORM_EPSILON)
        self.head = nn.Linear(config.dimension, VOCABULARY, bias=True)

    def hidden(self, inputs: jax.Array) -> jax.Array:
        """inputs (n, t) -> what the head sees (n, t, dimension)."""
        x = self.embedding(inputs)
        x = x + self._positions[: inputs.shape[1]].astype(x.dtype)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """inputs (n, t) words -> logits of the words after each (n, t, VOCABULARY)."""
        return self.head(self.hidden(inputs))


def loss(model: Model, inputs: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean cross-entropy over all words."""
    logits = model(inputs).astype(jnp.float32)
    return cross_entropy(logits.reshape(-1, VOCABULARY), labels.reshape(-1))


def predict(model: Model, inputs: jax.Array) -> jax.Array:
    """inputs (n, t) -> the likeliest word after each (n, t)."""
    return jnp.argmax(model(inputs), axis=2)


def score(model: Model, inputs: jax.Array, labels: jax.Array) -> jax.Array:
    """Negative log-likelihood of each sequence's labels, without those below 0: (n,)."""
    logits = model(inputs).astype(jnp.float32)
    known = labels >= 0
    chosen = jnp.where(known, labels, 0)[..., None]
    likelihood = jnp.take_along_axis(logits, chosen, axis=2)[..., 0]
    likelihood = likelihood - jax.nn.logsumexp(logits, axis=2)
    return -jnp.sum(jnp.where(known, likelihood, 0.0), axis=1)


def answer(model: Model, inputs: jax.Array) -> jax.Array:
    """inputs (n, t), as a client sends them -> the likeliest next word (n,)."""
    return jnp.argmax(model.head(model.hidden(inputs)[:, -1]), axis=1)


def training(
    model: Model, config: Config, differentiate: Differentiate
) -> tuple[Callable[..., jax.Array], Any, Callable[[], None]]:
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

    def step(inputs: jax.Array, labels: jax.Array, rows: jax.Array) -> jax.Array:
        batch = take(inputs, rows), take(labels, rows)
        value, gradients = loss_and_gradients(model, *batch)
        optimiser.update(gradients)
        return value

    return step, [model, optimiser.state], optimiser.restart

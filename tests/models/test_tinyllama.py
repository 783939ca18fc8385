"""The Llama twins against NumPy and transformers; checkpoints, prompts and what is refused."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from twins import config_of, needs_all

import frameworks
import models
from measurement.errors import InputError
from models.parameters import draw
from models.tinyllama import checkpoint, data
from models.tinyllama.config import PRESETS, SMOKE, Config
from tests.models.llama_stories import STORIES, needs_stories
from tests.models.tinyllama_tokens import COUNT, greedy

FIXTURE = json.loads(Path(__file__, "../fixtures/tinyllama_tokens.json").resolve().read_text())
TWINS = models.frameworks("tinyllama")


def one_line(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def generate(name, config, values, prompt, count, dtype="float32"):
    """(tokens, logits of every step) of one twin, greedy."""
    framework, twin = frameworks.load(name, "cpu", dtype), models.load("tinyllama", name)
    model = twin.Model(config)
    framework.write_parameters(model, values)
    tokens, logits = [], []
    with framework.inference():
        inputs = framework.put(np.array([prompt], np.int32))
        token, scores, cache = twin.begin(model, inputs, len(prompt) + count)
        for _ in range(count):
            tokens.append(int(framework.read(token)[0]))
            logits.append(np.array(framework.read(scores)[0]))
            token, scores, cache = twin.advance(model, token, cache)
    return tokens, np.stack(logits)


# --- numbers


def oracle(config, values, tokens):
    """Logits (t, vocabulary) of Llama in float64, every head and pair of values by itself."""
    p = {name: value.astype(np.float64) for name, value in values.items()}
    size, t = config.dimension // config.heads, len(tokens)
    angles = np.arange(t)[:, None] * config.rope_theta ** (-np.arange(0, size, 2) / size)
    turn = np.exp(1j * angles)

    def norm(x, name):
        return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + config.norm_eps) * p[name]

    def turned(x):
        pairs = (x[:, : size // 2] + 1j * x[:, size // 2 :]) * turn
        return np.concatenate([pairs.real, pairs.imag], axis=1)

    x = p["model.embed_tokens.weight"][tokens]
    for layer in (f"model.layers.{i}" for i in range(config.layers)):
        y = norm(x, f"{layer}.input_layernorm.weight")
        q, k, v = (y @ p[f"{layer}.self_attn.{part}_proj.weight"].T for part in "qkv")
        heads = []
        for head in range(config.heads):
            group = head * config.key_value_heads // config.heads
            own = slice(head * size, (head + 1) * size)
            shared = slice(group * size, (group + 1) * size)
            scores = turned(q[:, own]) @ turned(k[:, shared]).T / np.sqrt(size)
            scores[np.triu_indices(t, 1)] = -np.inf
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            heads.append(weights / weights.sum(axis=1, keepdims=True) @ v[:, shared])
        x = x + np.concatenate(heads, axis=1) @ p[f"{layer}.self_attn.o_proj.weight"].T
        y = norm(x, f"{layer}.post_attention_layernorm.weight")
        gate = y @ p[f"{layer}.mlp.gate_proj.weight"].T
        up = y @ p[f"{layer}.mlp.up_proj.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * up) @ p[f"{layer}.mlp.down_proj.weight"].T
    head = p["model.embed_tokens.weight" if config.tied else "lm_head.weight"]
    return norm(x, "model.norm.weight") @ head.T


def strong(config, rng):
    """Values ten times as large as at random, and norms that are not 1: everything shows."""
    values = {name: 10 * value for name, value in draw(config.parameters(), 3).items()}
    norms = {
        n: rng.uniform(0.5, 2, v.shape).astype(np.float32) for n, v in values.items() if v.ndim == 1
    }
    return values | norms


@needs_all
@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"vocabulary_matrices": 1},
        {"key_value_heads": 8},
        {"key_value_heads": 1, "rope_theta": 500.0},
    ],
)
def test_prompt_and_cached_steps_give_the_logits_of_the_formulas(name, changes, rng):
    config = config_of("tinyllama", **changes)
    values = strong(config, rng)
    prompt = rng.integers(0, config.vocabulary, 12).tolist()
    tokens, logits = generate(name, config, values, prompt, 8)
    expected = oracle(config, values, [*prompt, *tokens[:-1]])
    scale = np.abs(expected).max()
    np.testing.assert_allclose(logits / scale, expected[len(prompt) - 1 :] / scale, atol=1e-5)
    framework, twin = frameworks.load(name, "cpu"), models.load("tinyllama", name)
    model = twin.Model(config)
    framework.write_parameters(model, values)
    with framework.inference():
        whole = framework.read(model(framework.put(np.array([prompt], np.int32))))[0]
    np.testing.assert_allclose(whole / scale, expected[: len(prompt)] / scale, atol=1e-5)


@needs_all
@pytest.mark.parametrize("name", TWINS)
def test_a_prompt_of_one_token_and_a_larger_cache_change_nothing(name, rng):
    config = config_of("tinyllama")
    values = strong(config, rng)
    tokens, _ = generate(name, config, values, [7], 20)
    assert generate(name, config, values, [7], 40)[0][:20] == tokens
    assert generate(name, config, values, [7, *tokens[:5]], 15)[0] == tokens[5:]


@needs_all
@pytest.mark.parametrize(("dtype", "bound"), [("bfloat16", 3e-2), ("float16", 4e-3)])
def test_16_bit_twins_agree_within_the_stated_bounds(dtype, bound, rng):
    """Logits at the same tokens: the largest difference over the largest logit."""
    config = config_of("tinyllama")
    values = draw(config.parameters(), 0)
    prompt = rng.integers(0, config.vocabulary, 30).tolist()
    a, b = (generate(name, config, values, prompt, 1, dtype)[1] for name in TWINS)
    exact = generate(TWINS[0], config, values, prompt, 1)[1]
    scale = np.abs(exact).max()
    assert np.abs(a - b).max() / scale <= bound
    assert all(1e-5 < np.abs(x - exact).max() / scale <= bound for x in (a, b))


def test_operations_by_hand():
    config = replace(
        SMOKE, layers=1, dimension=4, heads=2, key_value_heads=1, feed_forward=3, vocabulary=5,
        prompt_tokens=2, decode_tokens=2,
    )  # fmt: skip
    block = 4 * 4 + 2 * 4 * 2 + 4 * 4 + 3 * 4 * 3
    attention = 2 * 4 * (1 + 2 + 3)
    unread = 4 * 4 + 3 * 4 * 3 + 2 * 4 * 1  # the first token after its keys and values
    assert config.flops_per_item() == 2 * (3 * block + attention - unread + 2 * 4 * 5)
    # 1.1e9 parameters, 2 operations each for 255 tokens; the embedding of 66e6 is only looked up.
    assert PRESETS["study"].flops_per_item() == pytest.approx(2 * 1.034e9 * 255, rel=0.07)


def test_the_rates_are_tokens_over_their_seconds():
    rates = replace(SMOKE, prompt_tokens=100, decode_tokens=11).rates(0.5, 2.0)
    assert list(rates.values()) == [200.0, 5.0, 0.5]


# --- a real checkpoint


@needs_all
@needs_stories
@pytest.mark.parametrize("name", TWINS)
def test_a_real_model_writes_what_transformers_writes(name):
    config = Config(**checkpoint.sizes(str(STORIES), "auto"))
    weights = checkpoint.load(config, str(STORIES), "auto", 0)
    assert weights.source == "checkpoint stories260K"
    assert len(FIXTURE["items"]) >= 4
    for item in FIXTURE["items"]:
        assert checkpoint.encode(item["text"], str(STORIES), "auto") == item["prompt"]
        tokens, _ = generate(name, config, weights.values, item["prompt"], COUNT)
        assert tokens == item["tokens"]
    said = checkpoint.text(FIXTURE["items"][0]["tokens"], str(STORIES), "auto")
    assert said and said.startswith("One day, she went to the park with her mommy.")


@needs_stories
def test_transformers_still_writes_the_recorded_tokens():
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("needs transformers, which the project does not")
    prompts = [item["prompt"] for item in FIXTURE["items"]]
    assert greedy(STORIES, prompts, COUNT) == [item["tokens"] for item in FIXTURE["items"]]


@needs_stories
def test_prompts_are_cut_or_repeated_and_texts_are_whole(tmp_path):
    config = Config(**checkpoint.sizes(str(STORIES), "auto"), prompt_tokens=20, decode_tokens=2)
    read = data.load(config, "prompts", "auto", str(STORIES))
    texts = checkpoint.texts("prompts", str(STORIES), "auto")
    assert read.test["inputs"].shape == (4, 20) and read.test["inputs"].dtype == np.int32
    assert read.train == {} and read.source == "fixed prompts of this project"
    for row, (label, (tokens,)) in zip(read.test["inputs"], texts, strict=True):
        assert label in checkpoint.PROMPTS
        assert row.tolist() == (tokens.tolist() * 2)[:20]
    own = tmp_path / "own.txt"
    own.write_text("Tom ran.\n\nA cat sat.\n")
    assert [label for label, _ in checkpoint.texts(str(own), str(STORIES), "auto")] == [
        "Tom ran.", "A cat sat.",
    ]  # fmt: skip
    assert data.load(config, str(own), "auto", str(STORIES)).test["inputs"].shape == (2, 20)
    own.write_text("park " * 600)
    with pytest.raises(InputError, match=r"prompt of \d{3,4} tokens .* context of 512") as error:
        data.load(config, str(own), "auto", str(STORIES))
    one_line(error)


def test_random_weights_have_no_text_and_say_so(tmp_path):
    config = config_of("tinyllama")
    weights = checkpoint.load(config, "random", "auto", 0)
    again = checkpoint.load(config, "random", "auto", 1)
    assert weights.source == "random weights: normal, deviation 0.02, seed 0"
    assert weights.sha256 != again.sha256
    assert (
        checkpoint.sizes("random", "auto") == {} and checkpoint.texts("prompts", "random", "") == []
    )
    assert checkpoint.text([1], "random", "auto") is None
    for dataset in ("prompts", "synthetic"):
        read = data.load(config, dataset, "auto", "random")
        assert read.source.startswith("random tokens") and read.name == dataset
        assert read.test["inputs"].shape == (4, config.prompt_tokens)
        assert read.test["inputs"].min() >= 0 and read.test["inputs"].max() < config.vocabulary
    with pytest.raises(InputError, match="needs a tokenizer") as error:
        data.load(config, str(tmp_path / "own.txt"), "auto", "random")
    one_line(error)

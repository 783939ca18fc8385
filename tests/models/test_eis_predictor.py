"""The predictor against NumPy, its quality by hand, and what it learns of circuits it never saw."""

from __future__ import annotations

import importlib
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twins import assert_equal, config_of, evidence, needs_all, session

import frameworks
import models
from entrypoints.session import Session
from measurement import streaming
from measurement.errors import InputError
from measurement.trial import Plan
from models.eis_predictor import data, simulator
from models.eis_predictor.config import (
    CODE,
    KNOWN,
    PRESETS,
    STATED,
    Config,
    calibration_error,
    inputs_of,
)
from models.eis_predictor.simulator import GRID, PATTERNS
from models.parameters import draw

both = pytest.mark.parametrize("name", ["mlx", "pytorch"])
SIZES = config_of("eis_predictor")


def opened(name: str, config: Config = SIZES):
    if not frameworks.available(name):
        pytest.skip(f"{name} is not installed")
    framework, twin = frameworks.load(name, "cpu", "float32"), models.load("eis_predictor", name)
    model = twin.Model(config)
    framework.write_parameters(model, draw(config.parameters(), 1))
    return framework, twin, model


def batch(config: Config = SIZES, items: int = 33) -> tuple[np.ndarray, np.ndarray]:
    config = replace(config, train_items=items, train_circuits=items)
    return tuple(data.load(config, "simulated", "auto").train.values())


# --- by hand


def by_hand(config: Config, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(logits (n, 5, 12), residual (n,)) in float64, a head at a time, as the public code has it."""
    p = {key: value.astype(np.float64) for key, value in draw(config.parameters(), 1).items()}

    def linear(weight: np.ndarray, bias: np.ndarray, x: np.ndarray) -> np.ndarray:
        return x @ weight.T + bias

    x = inputs.astype(np.float64)
    for i, name in enumerate(("first", "second", "third")):
        x = linear(p[f"encoder.{name}.weight"], p[f"encoder.{name}.bias"], x)
        x = np.maximum(x, 0) if i < 2 else x
    heads = []
    for k in range(6):
        rows = slice(k * config.head_width, (k + 1) * config.head_width)
        hidden = np.maximum(
            linear(p["heads.hidden.weight"][rows], p["heads.hidden.bias"][rows], x), 0
        )
        if k < 5:
            heads.append(linear(p["heads.classes.weight"][k], p["heads.classes.bias"][k], hidden))
        else:
            last = linear(p["heads.resnorm.weight"], p["heads.resnorm.bias"], hidden)
    return np.stack(heads, axis=1), last[:, 0]


@both
@pytest.mark.parametrize("config", [SIZES, CODE, STATED], ids=["smoke", "code", "stated"])
def test_logits_loss_scores_and_answers_by_hand(name, config):
    inputs, labels = batch(config)
    logits, residual = by_hand(config, inputs)
    framework, twin, model = opened(name, config)
    put = framework.put
    with framework.inference():
        ours, rest = (framework.read(part) for part in model(put(inputs)))
        loss = float(framework.read(twin.loss(model, put(inputs), put(labels))))
        scores = framework.read(twin.score(model, put(inputs), put(labels)))
        answers = framework.read(twin.answer(model, put(inputs)))
    np.testing.assert_allclose(ours.transpose(2, 0, 1), logits, rtol=0, atol=2e-6)
    np.testing.assert_allclose(rest, residual, rtol=0, atol=2e-6)
    np.testing.assert_array_equal(answers, logits.argmax(2))
    probabilities = np.exp(logits) / np.exp(logits).sum(2, keepdims=True)
    np.testing.assert_allclose(scores[:, :-1], probabilities.reshape(len(inputs), -1), atol=1e-6)
    np.testing.assert_allclose(scores[:, -1], residual, rtol=0, atol=2e-6)
    likelihoods = [
        math.log(probabilities[i, k, int(labels[i, k])])
        for i in range(len(inputs))
        for k in range(5)
        if labels[i, k] != KNOWN
    ]
    assert len(likelihoods) == 2 * len(inputs)
    expected = -np.mean(likelihoods) + 0.5 * np.mean((residual - labels[:, 5]) ** 2)
    assert loss == pytest.approx(expected, rel=1e-5)


@both
def test_what_is_known_is_not_learnt(name):
    """The head of a parameter that is known in the whole batch has no gradient."""
    inputs, labels = batch(items=400)
    chosen = labels[:, 2] == KNOWN
    framework, twin, model = opened(name)
    put = framework.put
    _, gradients = framework.gradients(twin.loss, model, put(inputs[chosen]), put(labels[chosen]))
    sizes = np.abs(gradients["heads.classes.weight"]).max(axis=(1, 2))
    assert sizes[2] == 0 and (sizes[[0, 1, 3, 4]] > 0).all()


@needs_all
@settings(max_examples=8)
@given(
    widths=st.tuples(*[st.integers(1, 40)] * 4),
    batch_size=st.integers(1, 70),
    weight_decay=st.sampled_from([0.0, 0.01, 0.5]),
)
def test_twins_agree_at_any_size(widths, batch_size, weight_decay):
    first, second, third, head = widths
    config = config_of(
        "eis_predictor",
        first_width=first,
        second_width=second,
        third_width=third,
        head_width=head,
        batch_size=batch_size,
        weight_decay=weight_decay,
        learning_rate=1e-3,
        train_items=64,
        train_circuits=64,
    )
    assert_equal(*(evidence("eis_predictor", name, config) for name in ("pytorch", "mlx")))


# --- dropout


@both
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_dropout_is_in_the_steps_alone_and_starts_over(name, compiled):
    """Every step has masks of its own, in a compiled step too: its random state is state."""
    config = config_of("eis_predictor", dropout=0.5, learning_rate=1e-12)
    work = session("eis_predictor", name, config, compiled=compiled)
    if compiled and work.framework.can_compile():
        pytest.skip(str(work.framework.can_compile()))
    rows = work.batches(0)[0][0]

    def losses() -> list[float]:
        work.reset()
        return [float(work.framework.read(work.step(rows))) for _ in range(6)]

    found = losses()
    assert len(set(found)) == 6 and np.std(found) > 1e-4  # the weights all but stand still
    assert losses() == found
    plain = session("eis_predictor", name, replace(config, dropout=0.0), compiled=compiled)
    np.testing.assert_allclose(work.evaluate(), plain.evaluate())
    evidences = work.evidence(), plain.evidence()
    assert evidences[0].summary() == evidences[1].summary()  # taken without


@both
def test_dropout_keeps_the_mean(name):
    framework, twin, _ = opened(name)
    dropped = framework.read(twin.drop(framework.put(np.ones((400, 500), np.float32)), 0.3))
    np.testing.assert_allclose(sorted(set(dropped.ravel().tolist())), [0, 1 / 0.7], rtol=1e-6)
    assert dropped.mean() == pytest.approx(1, abs=0.01)


# --- quality


def test_quality_by_hand():
    """Two samples; of each two parameters are unknown: ranks 0 and 2, then 0 and 11."""
    labels = np.full((2, 6), KNOWN, np.float32)
    labels[0, [0, 1]], labels[1, [2, 4]], labels[:, 5] = [3, 4], [5, 0], [1.0, 2.0]
    probabilities = np.full((2, 5, GRID), 1 / GRID)
    probabilities[0, 0] = _peak(3, 0.6)
    probabilities[0, 1] = _peak(7, 0.5)
    probabilities[0, 1, 9], probabilities[0, 1, 4] = 0.3, 0.1
    probabilities[0, 1, [0, 1, 2, 3, 5, 6, 8, 10, 11]] = 0.1 / 9
    probabilities[1, 2] = _peak(5, 0.9)
    probabilities[1, 4] = np.arange(GRID) / 66
    scores = np.concatenate([probabilities.reshape(2, -1), [[1.5], [2.0]]], axis=1)
    scores = scores.astype(np.float32)
    assert SIZES.quality(scores, labels) == 0.5
    details = SIZES.details(scores, labels)
    assert details["eval/top5_accuracy"] == 0.75
    assert details["eval/resnorm_rmse"] == pytest.approx(math.sqrt(0.25 / 2))
    gaps = abs(1 - 0.6) + abs(0 - 0.5) + abs(1 - 0.9) + abs(0 - 11 / 66)  # all in bins of their own
    assert details["eval/calibration_error"] == pytest.approx(gaps / 4, rel=1e-5)


def _peak(place: int, value: float) -> np.ndarray:
    found = np.full(GRID, (1 - value) / (GRID - 1))
    found[place] = value
    return found


def test_among_equals_the_first_class_counts_as_argmax_has_it():
    labels = np.full((2, 6), KNOWN, np.float32)
    labels[0, 0], labels[1, 0] = 0, 1
    scores = np.full((2, 61), 1 / GRID, np.float32)
    assert SIZES.quality(scores, labels) == 0.5


def test_calibration_error_by_hand():
    """Bins of a fifteenth, each with its upper limit: 1/15 lies in the first, 1 in the last."""
    confidence = np.array([0.05, 1 / 15, 0.3, 0.32, 0.32, 1.0])
    right = np.array([1, 0, 0, 1, 1, 1])
    first = abs(1 - (0.05 + 1 / 15))
    fifth = abs(2 - (0.3 + 0.32 + 0.32))
    assert calibration_error(confidence, right) == pytest.approx((first + fifth + 0) / 6)
    assert calibration_error(np.ones(4), np.ones(4)) == 0
    assert calibration_error(np.ones(4), np.zeros(4)) == 1


def test_calibrated_guesses_have_next_to_no_calibration_error():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.1, 1, 200_000)
    right = rng.random(200_000) < confidence
    assert calibration_error(confidence, right) < 0.01
    assert calibration_error(confidence, rng.random(200_000) < confidence**2) > 0.1


# --- sizes


def test_the_public_size_and_the_stated_one():
    def count(config: Config) -> int:
        return sum(math.prod(shape) for shape, _ in config.parameters().values())

    encoder = 10 * 512 + 512 + 512 * 256 + 256 + 256 * 128 + 128
    heads = 6 * (128 * 64 + 64) + 5 * (64 * 12 + 12) + 64 + 1
    assert count(CODE) == encoder + heads == 223_357
    assert count(STATED) == 1_194_211 == pytest.approx(1.2e6, rel=0.01)
    for name, preset in PRESETS.items():
        if name.startswith(("code", "stated")):
            network = CODE if name.startswith("code") else STATED
            assert count(preset) == count(network), "the two networks never mix"


def test_scenarios_are_the_documents():
    config = importlib.import_module("models.eis_predictor.config")
    for network in ("code", "stated"):
        for scenario, items, epochs in (
            ("_prototype", 50_000, 10), ("", 500_000, 50), ("_production", 5_000_000, 100)
        ):  # fmt: skip
            preset = PRESETS[network + scenario]
            assert (preset.train_items, preset.batch_size) == (items, 512)
            assert models.epochs("eis_predictor", network + scenario) == epochs
            assert preset.decay_steps() == epochs * math.ceil(items / 512)
        assert PRESETS[f"{network}_stream"].decay_steps() > 1e8  # a rate that stays
    assert models.modes("eis_predictor") == ("train", "infer", "stream")
    assert all(preset.dropout == 0 for preset in config.PRESETS.values())


def test_flops_by_hand():
    config = Config(first_width=3, second_width=4, third_width=5, head_width=2)
    forward = 10 * 3 + 3 * 4 + 4 * 5 + 6 * 5 * 2 + 5 * 2 * 12 + 2
    assert config.infer_flops_per_item() == 2 * forward
    assert config.train_flops_per_item() == 2 * (3 * forward - 10 * 3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"frequencies": 0}, "frequencies is 0; expected 1 or more"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"first_width": 0}, "first_width is 0"),
        ({"head_width": -1}, "head_width is -1"),
        ({"decay_epochs": 0}, "decay_epochs is 0"),
        ({"inference_batch_size": 0}, "inference_batch_size is 0"),
        ({"train_circuits": 0}, "train_circuits is 0"),
        ({"train_circuits": 500_001}, "train_circuits is 500001 with 500000 samples"),
        ({"test_circuits": 10_001}, "test_circuits is 10001 with 10000 samples"),
        ({"train_items": 9_000_000, "train_circuits": 1_000_001}, "and 1,000,000"),
        ({"dropout": 1.0}, "dropout is 1.0; expected 0 or more and less than 1"),
        ({"dropout": -0.1}, "dropout is -0.1"),
        ({"dropout": float("nan")}, "dropout is nan"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"weight_decay": -1.0}, "weight_decay -1.0"),
    ],
)
def test_sizes_that_cannot_be_are_one_line(change, said):
    with pytest.raises(InputError) as error:
        replace(CODE, **change).check()
    assert said in str(error.value) and "\n" not in str(error.value)


def test_an_example_is_what_a_client_sends():
    example = CODE.example()
    assert example.shape == (2, 10) and example.dtype == np.float32
    assert (example[:, 5:].sum(axis=1) == 3).all()
    assert ((example[:, :5] == 0) == (example[:, 5:] == 0)).all()


def test_inputs_by_hand():
    found = inputs_of(np.array([[0, 11, 11, 5, 0]]), np.array([[True, True, True, False, False]]))
    expected = [1, 4, math.log10(5e-5), 0, 0, 1, 1, 1, 0, 0]
    np.testing.assert_allclose(found, [expected], rtol=1e-6)
    assert not np.signbit(found[0, 4])  # no -0


# --- learning


@needs_all
@pytest.mark.parametrize("name", ["mlx", "pytorch"])
def test_it_learns_circuits_that_it_never_saw(name):
    """From chance towards the best that can be known; the same for both within noise."""
    config = replace(
        CODE,
        first_width=64,
        second_width=64,
        third_width=32,
        head_width=16,
        batch_size=128,
        learning_rate=3e-3,
        decay_epochs=5,
        train_circuits=20_000,
        test_circuits=4_000,
        train_items=20_000,
        test_items=4_000,
    )
    spec = {
        "workload": "eis_predictor", "framework": name, "device": "cpu", "dtype": "float32",
        "threads": None, "compile": "off", "sizes": asdict(config), "dataset": "simulated",
        "data_dir": "auto", "seed": 0, "mode": "train", "checkpoint": "random",
    }  # fmt: skip
    work = Session(spec)
    before, guess = work.evaluate(), work.details()
    for epoch in range(config.decay_epochs):
        for rows, _ in work.batches(epoch):
            work.step(rows)
    after, details = work.evaluate(), work.details()
    best, blind = simulator.ceiling(400_000)
    assert before < 0.12
    assert blind + 0.1 < after < best + 0.02
    assert details["eval/top5_accuracy"] > guess["eval/top5_accuracy"] + 0.2
    assert details["eval/calibration_error"] < 0.05
    errors = [d["eval/resnorm_rmse"] for d in (guess, details)]
    assert errors[1] < errors[0]
    assert work.test_labels[:, 5].std() * 1.02 > errors[1]
    assert len(PATTERNS) == 10


@needs_all
def test_streams_agree_and_learn():
    """Batches one at a time; what is known of circuits never seen, before and after."""
    config = config_of(
        "eis_predictor",
        first_width=64,
        second_width=64,
        third_width=32,
        head_width=16,
        batch_size=32,
        learning_rate=3e-3,
        weight_decay=0.01,
        decay_epochs=1_000_000,
        train_items=8_000,
        test_items=1_000,
    )
    found = []
    for name in ("mlx", "pytorch"):
        opened = session("eis_predictor", name, config)
        plan = Plan(epochs=0, target=0, audit_seconds=0.0, ceiling_seconds=0.001)
        found.append(streaming.run(opened.stream(), opened.framework, plan))
    for one in found:
        assert one.quality_before < 0.12 and one.quality > one.quality_before + 0.08
        assert len(one.update_seconds) == one.receipt.steps == 250
        assert one.details["eval/top5_accuracy"] > 0.55
    np.testing.assert_allclose(found[0].losses[:20], found[1].losses[:20], rtol=1e-4)

"""The vision transformer against timm's deit_small_patch16_224 and against NumPy; its sizes."""

from __future__ import annotations

import importlib
import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from twins import config_of, needs_all, session

import frameworks
import models
from benchmarks.deit_small_peers import TIMM, timm_weights
from measurement.errors import InputError
from models.deit_small import data
from models.deit_small.config import MEAN, PRESETS, STD, Config
from models.parameters import draw
from tests.torchvision_shim import load_torchvision

REAL = Path(os.environ.get("STUDY_TEST_DATA", "/nowhere"), "cifar100/cifar100_test_first20.npz")
needs_file = pytest.mark.skipif(
    not REAL.is_file(), reason=f"needs STUDY_TEST_DATA with cifar100/{REAL.name}"
)
both = pytest.mark.parametrize("name", ["mlx", "pytorch"])
SIZES = Config(image_size=12, patch_size=4, dimension=12, depth=2, heads=3, classes=5, batch_size=3)


def weights(config: Config) -> dict[str, np.ndarray]:
    """Not those of a start: biases of 0 and norms of 1 would hide one left out."""
    rng = np.random.default_rng(1)
    return {
        key: value + rng.normal(0, 0.1, value.shape).astype(np.float32)
        for key, value in draw(config.parameters(), 1).items()
    }


def opened(name: str, config: Config, values=None, dtype="float32"):
    if not frameworks.available(name):
        pytest.skip(f"{name} is not installed")
    framework, twin = frameworks.load(name, "cpu", dtype), models.load("deit_small", name)
    model = twin.Model(config)
    framework.write_parameters(model, weights(config) if values is None else values)
    return framework, twin, model


def pictures(config: Config, items: int = 4) -> np.ndarray:
    size = config.image_size
    return np.random.default_rng(2).integers(0, 256, (items, size, size, 3), np.uint8)


# --- against timm


def timm():
    """timm, which is no requirement of the project."""
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    load_torchvision()
    return importlib.import_module("timm")


def timm_outputs(values: dict[str, np.ndarray], images: np.ndarray) -> dict[str, np.ndarray]:
    """What every part of timm's network puts out, under our names."""
    import torch

    theirs = timm().create_model("deit_small_patch16_224", num_classes=1000).eval()
    theirs.load_state_dict({k: torch.from_numpy(v) for k, v in timm_weights(values).items()})
    assert (theirs.default_cfg["mean"], theirs.default_cfg["std"]) == (MEAN, STD)
    found: dict[str, np.ndarray] = {}
    names = {"patch_embed": "patches", "norm": "norm", "head": "head", "": ""}
    for block in range(len(theirs.blocks)):
        names[f"blocks.{block}"] = f"blocks.{block}"
        names |= {f"blocks.{block}.{t}": f"blocks.{block}.{part}" for part, t in TIMM.items()}
    for name, module in theirs.named_modules():
        if name in names:
            module.register_forward_hook(
                lambda _module, _inputs, output, name=name: found.update(
                    {names[name]: output.numpy().copy()}
                )
            )
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    with torch.no_grad():
        theirs((pixels - mean) / std)
    assert set(found) == set(names.values())
    found["norm"] = found["norm"][:, 0]  # they norm every token, and then take the first
    return found


@both
def test_every_output_is_that_of_timms_deit_small(name):
    config = Config(classes=1000)
    values, images = weights(config), pictures(config, 2)
    expected = timm_outputs(values, images)
    framework, _, model = opened(name, config, values)
    ours = framework.layer_outputs(model, framework.put(images))
    for key, value in expected.items():
        np.testing.assert_allclose(
            ours[key], value, rtol=0, atol=1e-5 * np.abs(value).max(), err_msg=key
        )


def test_the_published_size():
    def count(config):
        return sum(math.prod(shape) for shape, _ in config.parameters().values())

    assert count(Config(classes=1000)) == 22_050_664
    assert count(Config()) == 22_050_664 - 900 * 385


# --- by hand


def by_hand(
    config: Config, images: np.ndarray, values: dict[str, np.ndarray] | None = None
) -> np.ndarray:
    """Logits in float64, an image, a patch, a head at a time."""
    values = weights(config) if values is None else values
    p = {key: value.astype(np.float64) for key, value in values.items()}
    erf = np.vectorize(math.erf)

    def linear(name, x):
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def norm(name, x):
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
        return scaled * p[f"{name}.weight"] + p[f"{name}.bias"]

    def encode(image):
        pixels = (image / 255 - np.array([0.485, 0.456, 0.406])) / [0.229, 0.224, 0.225]
        places = range(0, config.image_size, config.patch_size)
        rows = [p["class_token"]]
        for top in places:
            for left in places:
                patch = [
                    pixels[top + y, left + x, channel]
                    for y in range(config.patch_size)
                    for x in range(config.patch_size)
                    for channel in range(3)
                ]
                rows.append(linear("patches", np.array(patch)))
        x = np.array(rows) + p["positions"]
        for i in range(config.depth):
            width = config.dimension
            size = width // config.heads
            qkv = linear(f"blocks.{i}.attention.qkv", norm(f"blocks.{i}.attention_norm", x))
            heads = []
            for h in range(config.heads):
                q, k, v = (qkv[:, part * width + h * size :][:, :size] for part in range(3))
                scores = np.exp(q @ k.T / math.sqrt(size))
                heads.append(scores / scores.sum(1, keepdims=True) @ v)
            x = x + linear(f"blocks.{i}.attention.output", np.concatenate(heads, axis=1))
            inner = linear(
                f"blocks.{i}.feed_forward.inner", norm(f"blocks.{i}.feed_forward_norm", x)
            )
            inner = inner * 0.5 * (1 + erf(inner / math.sqrt(2)))
            x = x + linear(f"blocks.{i}.feed_forward.outer", inner)
        return linear("head", norm("norm", x)[0])

    return np.array([encode(image) for image in images])


def likelihood(logits: np.ndarray, labels: np.ndarray) -> float:
    values = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return float(-values[range(len(labels)), labels].mean())


@both
@pytest.mark.parametrize("config", [SIZES, replace(SIZES, image_size=36)])  # 10 tokens, and 82
def test_logits_loss_scores_and_answers_by_hand(name, config):
    images, labels = pictures(config), np.array([0, 4, 2, 1], np.int32)
    logits = by_hand(config, images)
    labels[0] = logits[0].argmax()
    framework, twin, model = opened(name, config)
    put = framework.put
    with framework.inference():
        ours = framework.read(model(put(images)))
        np.testing.assert_allclose(ours, logits, rtol=0, atol=1e-5 * np.abs(logits).max())
        loss = float(framework.read(twin.loss(model, put(images), put(labels))))
        scores = framework.read(twin.score(model, put(images), put(labels)))
        answers = framework.read(twin.answer(model, put(images)))
    assert loss == pytest.approx(likelihood(logits, labels), rel=1e-5)
    np.testing.assert_array_equal(answers, logits.argmax(1))
    np.testing.assert_array_equal(scores, logits.argmax(1) == labels)
    assert config.quality(scores, labels) == np.mean(logits.argmax(1) == labels)


@both
def test_gradients_are_the_slope_of_the_loss_by_hand(name):
    """Of every parameter, along a random direction, in float64."""
    images, labels = pictures(SIZES), np.array([0, 4, 2, 1], np.int32)
    framework, twin, model = opened(name, SIZES)
    batch = framework.put(images), framework.put(labels)
    _, gradients = framework.gradients(twin.loss, model, *batch)
    rng, values = np.random.default_rng(3), weights(SIZES)
    assert set(gradients) == set(values)
    largest = max(float(np.abs(gradient).max()) for gradient in gradients.values())
    for key, gradient in gradients.items():
        direction = rng.choice([-1.0, 1.0], gradient.shape)
        ends = []
        for sign in (1e-5, -1e-5):
            moved = {k: v.astype(np.float64) for k, v in values.items()}
            moved[key] = moved[key] + sign * direction
            ends.append(likelihood(by_hand(SIZES, images, moved), labels))
        slope = (ends[0] - ends[1]) / 2e-5
        assert float((gradient * direction).sum()) == pytest.approx(
            slope, rel=1e-3, abs=1e-5 * largest * gradient.size**0.5
        ), key


@both
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-6), ("bfloat16", 2.0**-6)])
def test_every_byte_is_standardised_in_either_dtype(name, dtype, bound):
    """One image whose pixels have every value, in each channel; bound: relative, below one standard
    deviation of that."""
    config = replace(SIZES, image_size=16, patch_size=16)
    values = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    framework, _, model = opened(name, config, dtype=dtype)
    with framework.inference():
        ours = framework.read(model.cut(framework.put(values)))
    expected = (values.astype(np.float64) / 255 - MEAN) / STD
    assert ours.shape == (1, 1, config.patch_values)
    errors = np.abs(ours.reshape(expected.shape) - expected)
    assert (errors <= bound * np.maximum(np.abs(expected), 1)).all()


@both
def test_images_stay_bytes_on_the_device(name):
    work = session("deit_small", name, config_of("deit_small"))
    kept = [work.train[0], *(inputs for inputs, _ in work.test)]
    assert {str(array.dtype).rsplit(".", 1)[-1] for array in kept} == {"uint8"}


@both
def test_it_learns_its_images_by_heart(name):
    config = config_of(
        "deit_small", dimension=32, heads=2, classes=4, learning_rate=1e-3, train_items=32
    )
    work = session("deit_small", name, config)
    means = []
    for epoch in range(40):
        losses = [float(work.framework.read(work.step(r))) for r, _ in work.batches(epoch)]
        means.append(np.mean(losses))
    assert 1.2 < means[0] < 1.6 and means[-1] < 0.3
    assert work.evaluate() >= 0.5  # where guessing has 0.25: it holds for images that are new to it


@needs_all
@needs_file
def test_twenty_real_images_are_learned_by_heart_alike():
    """The twins' losses stay together over 24 steps, and both end near 0."""
    config = config_of(
        "deit_small", image_size=64, patch_size=16, dimension=48, learning_rate=2e-3, batch_size=16
    )
    losses = []
    for name in ("mlx", "pytorch"):
        found = data.load(config, str(REAL), "auto")
        framework, twin, model = opened(name, config, draw(config.parameters(), 0))
        step, state, restart = twin.training(model, config, framework.differentiate)
        restart()
        arrays = [framework.put(array) for array in found.train.values()]
        submit = framework.compile_step(step, state, False)
        rows = framework.put(np.arange(16, dtype=np.int32))
        losses.append([float(framework.read(submit(*arrays, rows))) for _ in range(60)])
        with framework.inference():
            scores = framework.read(twin.score(model, *arrays))
        assert scores.all()
    np.testing.assert_allclose(losses[0][:24], losses[1][:24], rtol=1e-3)
    assert losses[0][0] > 4 and losses[0][-1] < 0.5


@needs_all
@pytest.mark.parametrize("batch_size", [8, 32])
def test_both_batch_sizes_run(batch_size):
    config = config_of("deit_small", batch_size=batch_size)
    losses = []
    for name in ("mlx", "pytorch"):
        work = session("deit_small", name, config)
        batches = work.batches(0)
        assert [items for _, items in batches] == [batch_size] * (config.train_items // batch_size)
        losses.append([float(work.framework.read(work.step(rows))) for rows, _ in batches])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


# --- sizes


def test_flops_by_hand():
    config = Config(image_size=4, patch_size=2, dimension=4, depth=1, heads=2, classes=7)
    patches = 4 * (2 * 2 * 3) * 4
    linear = 5 * (4 * 12 + 4 * 4 + 2 * 4 * 16)  # qkv, output, inner and outer; of five tokens
    attention = 2 * (5 * 5 * 4)  # scores and weighted sums, both heads
    assert config.infer_flops_per_item() == 2 * (patches + linear + attention + 4 * 7)
    assert config.train_flops_per_item() == 3 * config.infer_flops_per_item() - 2 * patches
    # DeiT's paper counts 4.6 GFLOP of multiply-adds for 1000 classes
    assert Config(classes=1000).infer_flops_per_item() / 2e9 == pytest.approx(4.6, abs=0.05)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"heads": 5}, "dimension is 384 with heads 5; expected a multiple of heads"),
        ({"patch_size": 15}, "image_size is 224 with patch_size 15"),
        ({"image_size": 8}, "image_size is 8 with patch_size 16"),
        ({"image_size": 0}, "image_size is 0; expected 1 or more"),
        ({"patch_size": 0}, "patch_size is 0"),
        ({"depth": 0}, "depth is 0"),
        ({"heads": -1}, "heads is -1"),
        ({"classes": 1}, "classes is 1; expected 2 or more"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"inference_batch_size": 0}, "inference_batch_size is 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"weight_decay": -1.0}, "weight_decay -1.0"),
    ],
)
def test_sizes_that_cannot_be_are_one_line(change, said):
    with pytest.raises(InputError) as error:
        replace(Config(), **change).check()
    line = str(error.value)
    assert said in line and "\n" not in line


def test_every_preset_and_example_is_possible():
    for preset, config in PRESETS.items():
        config.check()
        example = config.example()
        assert example.shape == (2, config.image_size, config.image_size, 3)
        assert example.dtype == np.uint8 and example.min() == 0 and example.max() == 255
        batches = config.throughput_batches()
        assert batches[-1] == config.inference_batch() and batches == tuple(sorted(set(batches)))
        assert preset != "study" or batches == (8, 32, 128)


def test_answers_to_fewer_images_are_no_quality():
    with pytest.raises(ValueError, match="3 answers to 4 images"):
        Config().quality(np.ones(3), np.zeros(4))

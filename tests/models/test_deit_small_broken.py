"""Every deliberately broken twin of DeiT is refused, with the array that differs by name."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from twins import broken_twin, config_of, evidence, needs_all, session

from measurement.audit import parity_difference
from measurement.comparison import (
    GRADIENT_FLOOR,
    TOLERANCES,
    UPDATE_TOLERANCES,
    first_difference,
    first_distance,
)
from measurement.evidence import Evidence
from models.parameters import draw


def attention(parts="query, key, value", given="query, key, value", heads="self.heads"):
    """(MLX, PyTorch): text and its mistake, attention written out with another order, or cut."""
    return [
        ("return self.output(self_attend(self.qkv, x, self.heads))",
         f"from models.layers import {framework} as layers\n        pieces = {chunk}(self.qkv(x), 3, 2)\n"
         f"        {parts} = (layers.split(part, {heads}) for part in pieces)\n"
         f"        return self.output(layers.attend({given}, None))")
        for framework, chunk in (("mlx", "mx.split"), ("pytorch", "torch.chunk"))
    ]  # fmt: skip


# name -> (what differs first, in which arrays, the first array that is named,
#          MLX: text and its mistake, PyTorch: text and its mistake)
OUTPUT, GRADIENT, UPDATE, LOSS = "output", "gradient", "update", "loss of step"
BROKEN = {
    "pixels not scaled": (
        OUTPUT, "patches ",
        (" * self._scale.astype(dtype)", " / 255"), (" * self._scale", " / 255")),
    "mean of the pixels": (
        OUTPUT, "patches ",
        ("self._mean = mx.array(mean)", "self._mean = mx.array(0 * mean + 127.5)"),
        ("torch.from_numpy(mean)", "torch.from_numpy(0 * mean + 127.5)")),
    "deviation of the pixels": (  # as of CIFAR's own
        OUTPUT, "patches ",
        ("self._scale = mx.array(scale)", "self._scale = mx.array(0 * scale + 1 / 63.75)"),
        ("torch.from_numpy(scale)", "torch.from_numpy(0 * scale + 1 / 63.75)")),
    "blue, green, red": (
        OUTPUT, "patches ",
        ("self.cut(images)", "self.cut(images[..., ::-1])"),
        ("self.cut(images)", "self.cut(images.flip(3))")),
    "columns before rows": (
        OUTPUT, "patches ",
        ("self.cut(images)", "self.cut(images.swapaxes(1, 2))"),
        ("self.cut(images)", "self.cut(images.transpose(1, 2))")),
    "channels before pixels": (  # as a convolution's weights lie in PyTorch
        OUTPUT, "patches ",
        ("patches = self.patches(self.cut(images))",
         "cut = self.cut(images)\n        cut = cut.reshape(*cut.shape[:2], -1, 3).swapaxes(2, 3)\n"
         "        patches = self.patches(cut.flatten(2))"),
        ("patches = self.patches(self.cut(images))",
         "cut = self.cut(images)\n        cut = cut.reshape(*cut.shape[:2], -1, 3).transpose(2, 3)\n"
         "        patches = self.patches(cut.flatten(2))")),
    "no class token": (
        OUTPUT, "blocks.0.attention_norm ",
        ("first = mx.broadcast_to(self.class_token,",
         "first = mx.broadcast_to(0 * self.class_token,"),
        ("self.class_token.expand", "(0 * self.class_token).expand")),
    "class token at the end": (
        OUTPUT, "blocks.0.attention_norm ",
        ("[first, patches]", "[patches, first]"), ("[first, patches]", "[patches, first]")),
    "mean over the tokens": (
        OUTPUT, "norm ",
        ("x[:, 0]", "mx.mean(x, axis=1)"), ("x[:, 0]", "torch.mean(x, dim=1)")),
    "positions off by one": (
        OUTPUT, "blocks.0.attention_norm ",
        ("+ self.positions", "+ mx.roll(self.positions, 1, axis=0)"),
        ("+ self.positions", "+ torch.roll(self.positions, 1, dims=0)")),
    "epsilon of the norms": (  # PyTorch's and MLX's default
        OUTPUT, "blocks.0.attention_norm ",
        ("NORM_EPSILON)", "1e-5)"), ("NORM_EPSILON)", "1e-5)")),
    "query and key exchanged": (
        OUTPUT, "blocks.0.attention.output ", *attention(given="key, query, value")),
    "query and value exchanged": (
        OUTPUT, "blocks.0.attention.output ", *attention(parts="value, key, query")),
    "scale of attention": (
        OUTPUT, "blocks.0.attention.output ",
        *attention(given="query * self.heads**-0.5, key, value")),
    "heads cut another way": (
        OUTPUT, "blocks.0.attention.output ", *attention(heads="1")),
    "no residual": (
        OUTPUT, "blocks.0.feed_forward_norm ",
        ("add_norm(x, change", "add_norm(0 * x, change"),
        ("add_norm(x, change", "add_norm(0 * x, change")),
    "residual before the norm alone": (
        OUTPUT, "blocks.0 ",
        ("x, y = add_norm(x,", "_, y = add_norm(x,"), ("x, y = add_norm(x,", "_, y = add_norm(x,")),
    "norm after instead of before": (
        OUTPUT, "blocks.0.attention_norm ",
        ("self.attention(self.attention_norm(x))", "self.attention_norm(self.attention(x))"),
        ("self.attention(self.attention_norm(x))", "self.attention_norm(self.attention(x))")),
    "blocks in another order": (
        OUTPUT, "blocks.0.attention_norm ",
        ("for block in self.blocks:", "for block in list(self.blocks)[::-1]:"),
        ("for block in self.blocks:", "for block in list(self.blocks)[::-1]:")),
    "no last norm": (
        OUTPUT, "head ",
        ("self.norm(x[:, 0])", "0 * self.norm(x[:, 0]) + x[:, 0]"),
        ("self.norm(x[:, 0])", "0 * self.norm(x[:, 0]) + x[:, 0]")),
    "dropout left on": (
        OUTPUT, "blocks.0 ",
        ("x + self.feed_forward(y)", "x + nn.Dropout(0.1)(self.feed_forward(y))"),
        ("x + self.feed_forward(y)", "x + nn.functional.dropout(self.feed_forward(y), 0.1)")),
    "sum of losses": (
        GRADIENT, "class_token",
        ('reduction="mean"', 'reduction="sum"'), ('reduction="mean"', 'reduction="sum"')),
    "labels smoothed": (
        GRADIENT, "",
        ('reduction="mean"', 'reduction="mean", label_smoothing=0.1'),
        ('reduction="mean"', 'reduction="mean", label_smoothing=0.1')),
    "an image dropped": (
        UPDATE, "class_token",
        ("mx.take(images, rows, axis=0), mx.take(labels, rows, axis=0)",
         "mx.take(images, rows[1:], axis=0), mx.take(labels, rows[1:], axis=0)"),
        ("images.index_select(0, rows), labels.index_select(0, rows)",
         "images.index_select(0, rows[1:]), labels.index_select(0, rows[1:])")),
    "epsilon of Adam": (
        UPDATE, "", ("epsilon=EPSILON", "epsilon=1e-5"), ("epsilon=EPSILON", "epsilon=1e-5")),
    "no bias correction": (
        UPDATE, "class_token",
        ("    loss_and_gradients =",
         "    optimiser.optimizer.bias_correction = False\n    loss_and_gradients ="),
        ("optimiser.update(", "optimiser.steps.fill_(1e6)\n        optimiser.update(")),
    "betas": (
        LOSS, "", ("betas=BETAS", "betas=(0.9, 0.98)"),
        ("betas=BETAS", "betas=(0.9, 0.98)")),
    "rate": (
        UPDATE, "class_token",
        ("learning_rate=config.learning_rate", "learning_rate=1.05 * config.learning_rate"),
        ("learning_rate=config.learning_rate", "learning_rate=1.05 * config.learning_rate")),
    "warm-up": (
        UPDATE, "class_token", ("warmup_steps=0", "warmup_steps=3"),
        ("warmup_steps=0", "warmup_steps=3")),
    "weight decay": (
        LOSS, "",
        ("weight_decay=config.weight_decay", "weight_decay=0.0"),
        ("weight_decay=config.weight_decay", "weight_decay=0.0")),
    "no step": (
        UPDATE, "class_token", ("optimiser.update(gradients)", "pass"),
        ("optimiser.update(gradients)", "pass")),
}  # fmt: skip
CASES = [
    pytest.param(name, case, framework, id=f"{framework}: {name}")
    for name, case in BROKEN.items()
    for framework in ("mlx", "pytorch")
]


CONFIG = config_of("deit_small", dimension=32, heads=2)


def other(framework: str) -> str:
    return "mlx" if framework == "pytorch" else "pytorch"


@cache
def right(framework: str) -> Evidence:
    """The evidence of the twin that a broken one is held against."""
    return evidence("deit_small", other(framework), CONFIG)


@needs_all
@pytest.mark.parametrize(("name", "case", "framework"), CASES)
def test_a_broken_twin_is_refused_with_what_differs(name, case, framework):
    parity, array, in_mlx, in_pytorch = case
    reference = right(framework)
    change = in_mlx if framework == "mlx" else in_pytorch
    broken = evidence(
        "deit_small", framework, CONFIG, twin=broken_twin("deit_small", framework, change)
    )
    assert parity in (parity_difference(reference.summary(), broken.summary()) or "")
    outputs, gradients, _ = TOLERANCES["float32"]
    found = {
        LOSS: "",
        OUTPUT: first_difference(reference.outputs, broken.outputs, outputs),
        GRADIENT: first_difference(
            reference.gradients, broken.gradients, gradients, GRADIENT_FLOOR
        ),
        UPDATE: first_distance(
            reference.updates, broken.updates, UPDATE_TOLERANCES["adamw"]["float32"]
        ),
    }
    assert found[parity] is not None and found[parity].startswith(array)


@needs_all
@pytest.mark.parametrize(
    ("framework", "change"),
    [
        ("mlx", ("linear_gelu(self.inner, x)", "nn.gelu_approx(self.inner(x))")),
        (
            "pytorch",
            ("linear_gelu(self.inner, x)", 'nn.GELU(approximate="tanh")(self.inner(x))'),
        ),
    ],
)
def test_the_other_gelu_is_refused_where_its_inputs_are_large_enough(framework, change):
    """DeiT starts so near 0 that both curves agree within rounding: ten times its weights tell."""
    initial = {
        key: value * 10 if "feed_forward.inner" in key else value
        for key, value in draw(CONFIG.parameters(), 0).items()
    }
    reference = evidence("deit_small", other(framework), CONFIG, initial=initial)
    twin = broken_twin("deit_small", framework, change)
    broken = evidence("deit_small", framework, CONFIG, twin=twin, initial=initial)
    assert "output" in (parity_difference(reference.summary(), broken.summary()) or "")
    found = first_difference(reference.outputs, broken.outputs, TOLERANCES["float32"][0])
    assert (found or "").startswith("blocks.0.feed_forward.outer ")


@needs_all
@pytest.mark.parametrize("framework", ["mlx", "pytorch"])
def test_two_steps_for_one_are_refused(framework):
    reference = right(framework)
    broken = evidence("deit_small", framework, CONFIG, repeat=2)
    assert "update" in (parity_difference(reference.summary(), broken.summary()) or "")


@needs_all
@pytest.mark.parametrize("framework", ["mlx", "pytorch"])
def test_a_twin_without_a_bias_has_no_evidence(framework):
    for change, said in (
        (("config.classes, bias=True", "config.classes, bias=False"), r"parameter head\.bias"),
        (("3 * config.dimension, bias=True", "3 * config.dimension, bias=False"), r"qkv\.bias"),
    ):
        with pytest.raises(ValueError, match=said):
            evidence("deit_small", framework, CONFIG, broken_twin("deit_small", framework, change))


@needs_all
@pytest.mark.parametrize("framework", ["mlx", "pytorch"])
def test_an_evaluation_of_other_rows_is_refused(framework):
    """On fewer images it is an error; with each image beside its neighbour's label, the network that
    has learned tells no better than guessing."""
    config = replace(CONFIG, classes=4, test_items=64, learning_rate=1e-3)
    fewer = broken_twin(
        "deit_small",
        framework,
        ("predict(model, images) == labels", "predict(model, images[1:]) == labels[1:]"),
    )
    with pytest.raises(ValueError, match="60 answers to 64 images"):
        session("deit_small", framework, config, fewer).evaluate()
    rolled = {"mlx": "mx.roll(images, 1, axis=0)", "pytorch": "torch.roll(images, 1, dims=0)"}
    shifted = broken_twin(
        "deit_small",
        framework,
        ("predict(model, images) ==", f"predict(model, {rolled[framework]}) =="),
    )
    qualities = []
    for twin in (None, shifted):
        work = session("deit_small", framework, config, twin)
        for epoch in range(20):
            for rows, _ in work.batches(epoch):
                work.framework.wait(work.step(rows))
        qualities.append(work.evaluate())
    assert qualities[0] - qualities[1] > 0.2
    assert np.isfinite(qualities).all()

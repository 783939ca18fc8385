"""Every deliberately broken twin of BERT is refused, with the array that differs by name."""

from __future__ import annotations

import pytest
from twins import broken_twin, config_of, evidence, needs_all

from measurement.audit import parity_difference
from measurement.comparison import (
    GRADIENT_FLOOR,
    TOLERANCES,
    UPDATE_TOLERANCES,
    first_difference,
    first_distance,
)
from models.parameters import draw

# name -> (what differs first, in which arrays, the first array that is named,
#          MLX: text and its mistake, PyTorch: text and its mistake)
OUTPUT, GRADIENT, UPDATE, LOSS = "output", "gradient", "update", "loss of step"
BROKEN = {
    "mask removed from attention": (
        OUTPUT, "layers.0.attention.output ",
        ("attend(query, key, value, mask)", "attend(query, key, value, None)"),
        ("attend(query, key, value, mask)", "attend(query, key, value, None)")),
    "mask removed from the mean": (
        OUTPUT, "head ",
        ("real.astype(x.dtype)", "mx.ones_like(real).astype(x.dtype)"),
        ("real.to(x.dtype)", "torch.ones_like(real).to(x.dtype)")),
    "epsilon of the norms": (
        OUTPUT, "embeddings.norm ",
        ("eps=NORM_EPSILON", "eps=1e-5"), ("eps=NORM_EPSILON", "eps=1e-5")),
    "norms start at zero": (  # as the MLX half of the published pair of scripts has it
        OUTPUT, "embeddings ",
        ("return self.norm(self.words(pieces) + places)",
         "return 0 * self.norm(self.words(pieces) + places)"),
        ("return self.norm(self.words(pieces) + places)",
         "return 0 * self.norm(self.words(pieces) + places)")),
    "query and key exchanged": (
        OUTPUT, "layers.0.attention.output ",
        ("attend(query, key, value", "attend(key, query, value"),
        ("attend(query, key, value", "attend(key, query, value")),
    "sentences exchanged": (
        OUTPUT, "head ",
        ("u, v = encoded[:, 0], encoded[:, 1]", "v, u = encoded[:, 0], encoded[:, 1]"),
        ("u, v = self", "v, u = self")),
    "features in another order": (
        OUTPUT, "head ",
        ("[u, v, mx.abs(u - v), u * v]", "[u, v, u * v, mx.abs(u - v)]"),
        ("[u, v, torch.abs(u - v), u * v]", "[u, v, u * v, torch.abs(u - v)]")),
    "positions off by one": (
        OUTPUT, "embeddings.norm ",
        ("weight[: pieces.shape[1]]", "weight[1 : pieces.shape[1] + 1]"),
        ("weight[: pieces.shape[1]]", "weight[1 : pieces.shape[1] + 1]")),
    "other segment": (
        OUTPUT, "embeddings.norm ",
        ("self.segments.weight[0]", "self.segments.weight[1]"),
        ("self.segments.weight[0]", "self.segments.weight[1]")),
    "norm before instead of after": (
        OUTPUT, "layers.0.attention.query ",
        ("self.attention_norm(x + self.attention(x, mask))",
         "x + self.attention(self.attention_norm(x) * 2, mask)"),
        ("self.attention_norm(x + self.attention(x, mask))",
         "x + self.attention(self.attention_norm(x) * 2, mask)")),
    "dropout left on": (
        OUTPUT, "layers.0.feed_forward_norm ",
        ("x + self.feed_forward(x)", "x + nn.Dropout(0.1)(self.feed_forward(x))"),
        ("x + self.feed_forward(x)",
         "x + nn.functional.dropout(self.feed_forward(x), 0.1, training=True)")),
    "sum of losses": (
        GRADIENT, "embeddings.words.",
        ('reduction="mean"', 'reduction="sum"'), ('reduction="mean"', 'reduction="sum"')),
    "a pair dropped": (
        UPDATE, "embeddings.words.",
        ("mx.take(inputs, rows, axis=0), mx.take(labels, rows, axis=0)",
         "mx.take(inputs, rows[1:], axis=0), mx.take(labels, rows[1:], axis=0)"),
        ("inputs.index_select(0, rows), labels.index_select(0, rows)",
         "inputs.index_select(0, rows[1:]), labels.index_select(0, rows[1:])")),
    "epsilon of Adam": (
        UPDATE, "embeddings.", ("epsilon=EPSILON", "epsilon=1e-5"),
        ("epsilon=EPSILON", "epsilon=1e-5")),
    "no bias correction": (
        UPDATE, "embeddings.",
        ("    loss_and_gradients =",
         "    optimiser.optimizer.bias_correction = False\n    loss_and_gradients ="),
        ("optimiser.update(", "optimiser.steps.fill_(1e6)\n        optimiser.update(")),
    "betas": (
        LOSS, "", ("betas=BETAS", "betas=(0.9, 0.98)"),
        ("betas=BETAS", "betas=(0.9, 0.98)")),
    "rate": (
        UPDATE, "embeddings.",
        ("learning_rate=config.learning_rate", "learning_rate=1.05 * config.learning_rate"),
        ("learning_rate=config.learning_rate", "learning_rate=1.05 * config.learning_rate")),
    "warm-up": (
        UPDATE, "embeddings.", ("warmup_steps=0", "warmup_steps=3"),
        ("warmup_steps=0", "warmup_steps=3")),
    "no step": (
        UPDATE, "embeddings.", ("optimiser.update(gradients)", "pass"),
        ("optimiser.update(gradients)", "pass")),
}  # fmt: skip
CASES = [
    pytest.param(name, case, framework, id=f"{framework}: {name}")
    for name, case in BROKEN.items()
    for framework in ("mlx", "pytorch")
]


@needs_all
@pytest.mark.parametrize(("name", "case", "framework"), CASES)
def test_a_broken_twin_is_refused_with_what_differs(name, case, framework):
    parity, array, in_mlx, in_pytorch = case
    config = config_of("bert_tiny")
    reference = evidence("bert_tiny", "mlx" if framework == "pytorch" else "pytorch", config)
    change = in_mlx if framework == "mlx" else in_pytorch
    broken = evidence(
        "bert_tiny", framework, config, twin=broken_twin("bert_tiny", framework, change)
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
    assert (found[parity] or "").startswith(array)


@needs_all
@pytest.mark.parametrize(
    ("framework", "change"),
    [
        ("mlx", ("gelu(self.inner(x))", "nn.gelu_approx(self.inner(x))")),
        ("pytorch", ("gelu(self", 'torch.nn.GELU(approximate="tanh")(self')),
    ],
)
def test_the_other_gelu_is_refused_where_its_inputs_are_large_enough(framework, change):
    """BERT starts so near 0 that both curves agree within rounding: ten times its weights tell."""
    config = config_of("bert_tiny")
    initial = {
        key: value * 10 if "feed_forward.inner" in key else value
        for key, value in draw(config.parameters(), 0).items()
    }
    other = "mlx" if framework == "pytorch" else "pytorch"
    reference = evidence("bert_tiny", other, config, initial=initial)
    twin = broken_twin("bert_tiny", framework, change)
    broken = evidence("bert_tiny", framework, config, twin=twin, initial=initial)
    assert "output" in (parity_difference(reference.summary(), broken.summary()) or "")
    found = first_difference(reference.outputs, broken.outputs, TOLERANCES["float32"][0])
    assert (found or "").startswith("layers.0.feed_forward.outer ")


@needs_all
@pytest.mark.parametrize("framework", ["mlx", "pytorch"])
def test_two_steps_for_one_are_refused(framework):
    config = config_of("bert_tiny")
    reference = evidence("bert_tiny", "mlx" if framework == "pytorch" else "pytorch", config)
    broken = evidence("bert_tiny", framework, config, repeat=2)
    assert "update" in (parity_difference(reference.summary(), broken.summary()) or "")


@needs_all
@pytest.mark.parametrize("framework", ["mlx", "pytorch"])
def test_a_twin_without_a_bias_has_no_evidence(framework):
    change = ("CLASSES, bias=True", "CLASSES, bias=False")
    with pytest.raises(ValueError, match=r"parameter head\.bias"):
        evidence(
            "bert_tiny",
            framework,
            config_of("bert_tiny"),
            broken_twin("bert_tiny", framework, change),
        )

"""Every deliberately broken twin of the predictor is refused, with the array that differs by name."""

from __future__ import annotations

import numpy as np
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

# name -> (what differs first, the first array that is named,
#          MLX: text and its mistake, PyTorch: text and its mistake)
OUTPUT, GRADIENT, UPDATE, LOSS = "output", "gradient", "update", "loss of step"
FIRST = "encoder.first."
BROKEN = {
    "no ReLU after the first layer": (
        OUTPUT, "encoder.second ",
        ("nn.relu(self.first(inputs))", "self.first(inputs)"),
        ("torch.relu(self.first(inputs))", "self.first(inputs)")),
    "no ReLU after the second layer": (
        OUTPUT, "encoder.third ",
        ("nn.relu(self.second(x))", "self.second(x)"),
        ("torch.relu(self.second(x))", "self.second(x)")),
    "a ReLU after the third layer": (
        OUTPUT, "encoder ",
        ("return self.third(x)", "return nn.relu(self.third(x))"),
        ("return self.third(x)", "return torch.relu(self.third(x))")),
    "another activation": (
        OUTPUT, "encoder.second ",
        ("nn.relu(self.first(inputs))", "nn.leaky_relu(self.first(inputs))"),
        ("torch.relu(self.first(inputs))", "nn.functional.leaky_relu(self.first(inputs))")),
    "no ReLU in the heads": (
        OUTPUT, "heads.classes ",
        ("nn.relu(self.hidden(x))", "self.hidden(x)"),
        ("torch.relu(self.hidden(x))", "self.hidden(x)")),
    "no bias in the heads": (
        OUTPUT, "heads.hidden ",
        ("self.weight @ x + self.bias", "self.weight @ x + 0 * self.bias"),
        ("self.weight @ x + self.bias", "self.weight @ x + 0 * self.bias")),
    "heads one off": (
        OUTPUT, "heads.classes ",
        ("x[:split].reshape", "x[self.width :].reshape"),
        ("x[:split].reshape", "x[self.width :].reshape")),
    "the residual from the first head": (
        OUTPUT, "heads.resnorm ", ("x[split:]", "x[: self.width]"), ("x[split:]", "x[: self.width]")),
    "dropout in evaluation": (
        OUTPUT, "encoder.second ",
        ("inputs: mx.array, rate: float = 0.0", "inputs: mx.array, rate: float = 0.1"),
        ("inputs: torch.Tensor, rate: float = 0.0", "inputs: torch.Tensor, rate: float = 0.1")),
    "mean over all heads": (
        GRADIENT, FIRST,
        ("/ mx.sum(unknown)", "/ classes.size"), ("/ torch.sum(unknown)", "/ classes.numel()")),
    "sum over the heads": (
        GRADIENT, FIRST,
        ("/ mx.sum(unknown)", "/ inputs.shape[0]"), ("/ torch.sum(unknown)", "/ inputs.shape[0]")),
    "the known ones learnt too": (
        GRADIENT, FIRST,
        ("unknown = classes != KNOWN", "unknown = classes < 99"),
        ("unknown = classes != KNOWN", "unknown = classes < 99")),
    "the known ones in place of the unknown": (
        GRADIENT, FIRST,
        ("unknown = classes != KNOWN", "unknown = classes == KNOWN"),
        ("unknown = classes != KNOWN", "unknown = classes == KNOWN")),
    "the first class left out": (
        GRADIENT, FIRST,
        ("unknown = classes != KNOWN", "unknown = classes > 0"),
        ("unknown = classes != KNOWN", "unknown = classes > 0")),
    "classes one off": (
        GRADIENT, FIRST,
        ("== mx.arange(GRID)", "== mx.arange(1, GRID + 1)"),
        ("== torch.arange(GRID,", "== torch.arange(1, GRID + 1,")),
    "weight of the residual": (
        GRADIENT, FIRST,
        ("+ RESNORM_WEIGHT *", "+ 1.1 * RESNORM_WEIGHT *"),
        ("+ RESNORM_WEIGHT *", "+ 1.1 * RESNORM_WEIGHT *")),
    "no residual": (
        GRADIENT, FIRST,
        ("+ RESNORM_WEIGHT *", "+ 0 *"), ("+ RESNORM_WEIGHT *", "+ 0 *")),
    "absolute error of the residual": (
        GRADIENT, FIRST,
        ("mx.mean((resnorm.astype(mx.float32) - truth) ** 2)",
         "mx.mean(mx.abs(resnorm.astype(mx.float32) - truth))"),
        ("torch.mean((resnorm.float() - truth) ** 2)",
         "torch.mean(torch.abs(resnorm.float() - truth))")),
    "dropout in training": (
        LOSS, "",
        ("*batch, config.dropout", "*batch, 0.1"), ("*batch, config.dropout", "*batch, 0.1")),
    "a sample dropped": (
        UPDATE, FIRST,
        ("mx.take(inputs, rows, axis=0), mx.take(labels, rows, axis=0)",
         "mx.take(inputs, rows[1:], axis=0), mx.take(labels, rows[1:], axis=0)"),
        ("inputs.index_select(0, rows), labels.index_select(0, rows)",
         "inputs.index_select(0, rows[1:]), labels.index_select(0, rows[1:])")),
    "no cosine": (
        LOSS, "",
        ("decay_steps=config.decay_steps()", "decay_steps=0"),
        ("decay_steps=config.decay_steps()", "decay_steps=0")),
    "a cosine by epochs": (
        UPDATE, FIRST,
        ("decay_steps=config.decay_steps()", "decay_steps=config.decay_epochs"),
        ("decay_steps=config.decay_steps()", "decay_steps=config.decay_epochs")),
    "no weight decay": (
        UPDATE, FIRST,
        ("weight_decay=config.weight_decay", "weight_decay=0.0"),
        ("weight_decay=config.weight_decay", "weight_decay=0.0")),
    "epsilon of Adam": (
        UPDATE, "", ("epsilon=EPSILON", "epsilon=1e-3"), ("epsilon=EPSILON", "epsilon=1e-3")),
    "no bias correction": (
        UPDATE, FIRST,
        ("    loss_and_gradients =",
         "    optimiser.optimizer.bias_correction = False\n    loss_and_gradients ="),
        ("optimiser.update(", "optimiser.steps.fill_(1e6)\n        optimiser.update(")),
    "betas": (
        LOSS, "", ("betas=BETAS", "betas=(0.8, 0.999)"), ("betas=BETAS", "betas=(0.8, 0.999)")),
    "rate": (
        LOSS, "",
        ("learning_rate=config.learning_rate", "learning_rate=1.05 * config.learning_rate"),
        ("learning_rate=config.learning_rate", "learning_rate=1.05 * config.learning_rate")),
    "warm-up": (
        UPDATE, FIRST, ("warmup_steps=0", "warmup_steps=3"), ("warmup_steps=0", "warmup_steps=3")),
    "no step": (
        UPDATE, FIRST, ("optimiser.update(gradients)", "pass"),
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
    config = config_of("eis_predictor")
    reference = evidence("eis_predictor", "mlx" if framework == "pytorch" else "pytorch", config)
    change = in_mlx if framework == "mlx" else in_pytorch
    broken = evidence(
        "eis_predictor", framework, config, twin=broken_twin("eis_predictor", framework, change)
    )
    said = parity_difference(reference.summary(), broken.summary()) or ""
    # A wrong step is named by its update or by the losses after it, whichever is further out.
    assert any(word in said for word in ((UPDATE, LOSS) if parity in (UPDATE, LOSS) else (parity,)))
    outputs, gradients, losses = TOLERANCES["float32"]
    ours, theirs = (
        {str(i): np.float64(loss) for i, loss in enumerate(e.losses)} for e in (broken, reference)
    )
    found = {
        LOSS: first_difference(theirs, ours, losses),
        OUTPUT: first_difference(reference.outputs, broken.outputs, outputs),
        GRADIENT: first_difference(
            reference.gradients, broken.gradients, gradients, GRADIENT_FLOOR
        ),
        UPDATE: first_distance(
            reference.updates, broken.updates, UPDATE_TOLERANCES["adamw_relu"]["float32"]
        ),
    }
    assert (found[parity] or "").startswith(array) and found[parity]


@needs_all
@pytest.mark.parametrize("framework", ["mlx", "pytorch"])
def test_two_steps_for_one_are_refused(framework):
    config = config_of("eis_predictor")
    reference = evidence("eis_predictor", "mlx" if framework == "pytorch" else "pytorch", config)
    broken = evidence("eis_predictor", framework, config, repeat=2)
    assert "update" in (parity_difference(reference.summary(), broken.summary()) or "")


@needs_all
@pytest.mark.parametrize("framework", ["mlx", "pytorch"])
def test_a_twin_with_one_head_less_has_no_evidence(framework):
    change = ("Columns(COUNT, GRID,", "Columns(COUNT - 1, GRID,")
    with pytest.raises(ValueError, match=r"heads\.classes"):
        twin = broken_twin("eis_predictor", framework, change)
        evidence("eis_predictor", framework, config_of("eis_predictor"), twin)

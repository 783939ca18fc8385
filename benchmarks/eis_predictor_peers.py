"""Our predictor's step and forward pass against its plain spelling in the same framework.

    python -m benchmarks.eis_predictor_peers

The peer is the network as the public code has it (tkpepper15/nei-viz-project at d20c7d8,
ml_ideation/eis_predictor_mlx.py), written anew from its description: a list of plain layers, six
heads of two linear layers each, and a loss head by head. Ours stacks the heads.

Equal work. The public code is measured with these put right: dropout is off (both arms drew other
masks), the loss stays in the framework (the public one goes through NumPy inside the step), MLX's
AdamW gets bias_correction=True, and PyTorch's is the fused one. Both have the same cosine. Each peer
must reach our losses over the first steps from the same weights on the same batches before anything is
timed. In both frameworks the peer is measured eager and compiled: in PyTorch its loss is compiled, its
optimiser the fused kernel.

Same process, BLAS, threads, arrays in memory and order of batches. A sample is one step, from the row
numbers of a batch to its loss as a number, or one forward pass over a batch of 256 to its classes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks import common, training
from benchmarks.common import MODES
from benchmarks.training import Forward, Peers, Step
from models.eis_predictor.config import BETAS, COUNT, EPSILON, INPUTS, RESNORM_WEIGHT
from models.eis_predictor.simulator import GRID

WORKLOAD = "eis_predictor"


def plain_weights(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Our stacked weights by the peer's names."""
    found = {}
    for number, name in enumerate(("first", "second", "third")):
        for part in ("weight", "bias"):
            found[f"encoder.{number}.{part}"] = values[f"encoder.{name}.{part}"]
    for part in ("weight", "bias"):
        stacked = np.split(values[f"heads.hidden.{part}"], COUNT + 1)
        for k in range(COUNT):
            found[f"hidden.{k}.{part}"] = stacked[k]
            found[f"classes.{k}.{part}"] = values[f"heads.classes.{part}"][k]
        found[f"hidden.{COUNT}.{part}"] = stacked[COUNT]
        found[f"classes.{COUNT}.{part}"] = values[f"heads.resnorm.{part}"]
    return found


def _layers(
    config: Any, linear: Callable[[int, int], Any]
) -> tuple[list[Any], list[Any], list[Any]]:
    """(encoder, first layers of the heads, second layers)."""
    widths = (INPUTS, config.first_width, config.second_width, config.third_width)
    return (
        [linear(a, b) for a, b in zip(widths, widths[1:], strict=False)],
        [linear(config.third_width, config.head_width) for _ in range(COUNT + 1)],
        [linear(config.head_width, GRID if k < COUNT else 1) for k in range(COUNT + 1)],
    )


def plain_mlx(session: Any, compiled: bool) -> tuple[Step, Forward]:
    import mlx.core as mx
    from mlx import nn, optimizers

    config = session.config

    class Predictor(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.hidden, self.classes = _layers(config, nn.Linear)

        def __call__(self, inputs: Any) -> tuple[list[Any], Any]:
            x = nn.relu(self.encoder[0](inputs))
            x = nn.relu(self.encoder[1](x))
            x = self.encoder[2](x)
            heads = [
                last(nn.relu(first(x)))
                for first, last in zip(self.hidden, self.classes, strict=True)
            ]
            return heads[:COUNT], heads[COUNT][:, 0]

    model = Predictor()
    session.framework.write_parameters(model, plain_weights(session.initial))
    inputs, labels = session.train

    def loss_fn(model: Any, inputs: Any, targets: Any) -> Any:
        heads, residual = model(inputs)
        total, count = mx.array(0.0), mx.array(0.0)
        for k, logits in enumerate(heads):
            classes = targets[:, k].astype(mx.int32)
            unknown = (classes >= 0).astype(mx.float32)
            losses = nn.losses.cross_entropy(logits, mx.maximum(classes, 0), reduction="none")
            total, count = total + mx.sum(losses * unknown), count + mx.sum(unknown)
        squared = nn.losses.mse_loss(residual, targets[:, COUNT], reduction="mean")
        return total / count + RESNORM_WEIGHT * squared

    optimizer = optimizers.AdamW(
        learning_rate=optimizers.cosine_decay(config.learning_rate, config.decay_steps()),
        betas=list(BETAS),
        eps=EPSILON,
        weight_decay=config.weight_decay,
        bias_correction=True,
    )
    optimizer.init(model.trainable_parameters())
    state = [model.state, optimizer.state]

    def update(inputs: Any, targets: Any) -> Any:
        loss, gradients = nn.value_and_grad(model, loss_fn)(model, inputs, targets)
        optimizer.update(model, gradients)
        return loss

    def answers(inputs: Any) -> Any:
        return mx.stack([mx.argmax(logits, axis=1) for logits in model(inputs)[0]], axis=1)

    submit = mx.compile(update, inputs=state, outputs=state) if compiled else update
    forward = mx.compile(answers, inputs=[model.state]) if compiled else answers

    def step(rows: Any) -> float:
        loss = submit(inputs[rows], labels[rows])
        mx.eval(loss, state)
        return float(loss.item())

    return step, lambda batch: mx.eval(forward(batch))


def plain_pytorch(session: Any, compiled: bool) -> tuple[Step, Forward]:
    import torch
    from torch import nn
    from torch.nn.functional import cross_entropy, mse_loss

    config = session.config

    class Predictor(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            encoder, hidden, classes = _layers(config, nn.Linear)
            self.encoder, self.hidden = nn.ModuleList(encoder), nn.ModuleList(hidden)
            self.classes = nn.ModuleList(classes)

        def forward(self, inputs: Any) -> tuple[list[Any], Any]:
            x = torch.relu(self.encoder[0](inputs))
            x = torch.relu(self.encoder[1](x))
            x = self.encoder[2](x)
            heads = [
                last(torch.relu(first(x)))
                for first, last in zip(self.hidden, self.classes, strict=True)
            ]
            return heads[:COUNT], heads[COUNT][:, 0]

    model = Predictor()
    session.framework.write_parameters(model, plain_weights(session.initial))
    inputs, labels = session.train

    def loss_fn(inputs: Any, targets: Any) -> Any:
        heads, residual = model(inputs)
        total, count = torch.zeros((), device=inputs.device), 0
        for k, logits in enumerate(heads):
            classes = targets[:, k].long()
            losses = cross_entropy(logits, classes, ignore_index=-1, reduction="sum")
            total, count = total + losses, count + (classes >= 0).sum()
        return total / count + RESNORM_WEIGHT * mse_loss(residual, targets[:, COUNT])

    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=config.learning_rate,
        betas=BETAS,
        eps=EPSILON,
        weight_decay=config.weight_decay,
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=config.decay_steps())
    measured = torch.compile(loss_fn, fullgraph=True, dynamic=False) if compiled else loss_fn

    def answers(inputs: Any) -> Any:
        return torch.stack([torch.argmax(logits, dim=1) for logits in model(inputs)[0]], dim=1)

    classify = torch.compile(answers, fullgraph=True, dynamic=False) if compiled else answers

    def step(rows: Any) -> float:
        optimizer.zero_grad()
        loss = measured(inputs[rows], labels[rows])
        loss.backward()
        optimizer.step()
        schedule.step()
        return float(loss.item())

    def forward(batch: Any) -> Any:
        with torch.inference_mode():
            found = classify(batch)
        session.framework.wait()
        return found

    return step, forward


def peers(framework: str, session: Any) -> tuple[Peers, list[str]]:
    """(every peer, the names of those that do our work: all)."""
    plain = {"mlx": plain_mlx, "pytorch": plain_pytorch}[framework]
    modes = (False,) if session.framework.can_compile() else (False, True)
    found = {
        f"plain layers, {MODES['on' if mode else 'off']}": plain(session, mode) for mode in modes
    }
    return found, list(found)


def measure(framework: str, options: argparse.Namespace) -> common.Measured:
    """Runs in a process of its own."""
    return training.measure(framework, options, WORKLOAD, partial(peers, framework))


def main() -> int:
    parser = common.parser(
        str(__doc__).splitlines()[0], pairs=30, dataset="simulated", preset="cpu"
    )
    return common.main(
        parser.parse_args(),
        "EIS predictor: our twins and their plain spelling",
        measure,
        workload=WORKLOAD,
    )


if __name__ == "__main__":
    sys.exit(main())

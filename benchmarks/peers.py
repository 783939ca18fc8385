"""The public MNIST scripts, driven unmodified: what can be imported from each, and the few calls of
its epoch loop, which stands inside `main` and cannot be."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from entrypoints.session import Session
from measurement.errors import InputError

SOURCES = {  # framework -> option, script, where to get it
    "mlx": ("mlx_examples", "main.py", "https://github.com/ml-explore/mlx-examples"),
    "pytorch": ("mlx_benchmarks", "torch_main.py", "https://github.com/richiksc/mlx-benchmarks"),
}


@dataclass(frozen=True)
class Peer:
    """A public script's own parts. `train(batches)` runs its loop over (images, labels) pairs;
    `train_with_loss` also has every step's loss computed, as ours is, where the loop does not."""

    model: Any
    shuffled: Callable[[], Iterable[tuple[Any, Any]]]
    train: Callable[[Iterable[tuple[Any, Any]]], None]
    train_with_loss: Callable[[Iterable[tuple[Any, Any]]], None]
    labels: Any


def script_path(framework: str, checkout: str | None) -> Path:
    """The script in the user's checkout; InputError when there is none."""
    option, script, address = SOURCES[framework]
    path = Path(checkout or ".") / "mnist" / script
    if not checkout or not path.is_file():
        raise InputError(
            f"--{option} {checkout or 'is missing'}: expected a checkout that holds mnist/{script};"
            f" git clone {address}"
        )
    return path.resolve()


def imported(path: Path) -> dict[str, Any]:
    """The script's names; what it does as a program is not run."""
    sys.path.insert(0, str(path.parent))  # it imports the mnist.py beside it
    try:
        return runpy.run_path(str(path), run_name="peer")
    finally:
        sys.path.remove(str(path.parent))
        sys.modules.pop("mnist", None)


def load(session: Session, path: Path) -> Peer:
    """The peer in the session's framework, on the session's own arrays and sizes."""
    build = {"mlx": _mlx, "pytorch": _pytorch}[session.framework.name]
    return build(session, imported(path))


def _mlx(session: Session, script: dict[str, Any]) -> Peer:
    import mlx.core as mx
    from mlx import nn, optimizers

    config = session.config
    model = script["MLP"](config.layers, 784, config.hidden_size, 10)
    mx.eval(model.parameters())
    optimizer = optimizers.SGD(learning_rate=config.learning_rate)
    loss_and_gradients = nn.value_and_grad(model, script["loss_fn"])
    images, labels = session.train[0], session.train[1].astype(mx.uint32)

    def update(x: Any, y: Any) -> Any:
        loss, gradients = loss_and_gradients(model, x, y)
        optimizer.update(model, gradients)
        return loss

    step = mx.compile(update, inputs=model.state, outputs=model.state)

    def train(batches: Iterable[tuple[Any, Any]]) -> None:
        for x, y in batches:
            step(x, y)
            mx.eval(model.state)

    def train_with_loss(batches: Iterable[tuple[Any, Any]]) -> None:
        for x, y in batches:
            loss = step(x, y)
            mx.eval(loss, model.state)

    return Peer(
        model,
        lambda: script["batch_iterate"](config.batch_size, images, labels),
        train,
        train_with_loss,
        labels,
    )


def _pytorch(session: Session, script: dict[str, Any]) -> Peer:
    import torch

    config, (images, labels) = session.config, session.train
    model = script["MLP"](config.layers, 784, config.hidden_size, 10).to(images.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=config.learning_rate, momentum=0.0)

    def train(batches: Iterable[tuple[Any, Any]]) -> None:
        for x, y in batches:
            optimizer.zero_grad()
            script["loss_fn"](model, x, y).backward()
            optimizer.step()

    def shuffled() -> Iterable[tuple[Any, Any]]:
        return script["batch_iterate"](config.batch_size, images, labels, images.device)

    return Peer(model, shuffled, train, train, labels)


def same_start(session: Session, peer: Peer) -> None:
    """Our initial parameters into both."""
    session.work().reset()
    ours = session.framework.read_parameters(session.model)
    session.framework.write_parameters(
        peer.model, {parameter_name(k, session): v for k, v in ours.items()}
    )


def parameter_name(name: str, session: Session) -> str:
    """Our name of a parameter -> the peers': hidden.0.linear.weight -> layers.0.weight."""
    name = name.replace("head.", f"hidden.{session.config.layers}.")
    return name.replace("hidden.", "layers.").replace("linear.", "")

"""One rank of benchmarks.distributed_peers: our training step and the loops of the frameworks' own
documentation, in the same processes, on the same parts of the same batches, interleaved."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil
from time import perf_counter
from typing import Any

import numpy as np

from entrypoints import rank
from entrypoints.session import Session
from measurement import audit, comparison, job, schedule
from measurement.evidence import PROBE_STEPS

BURSTS = 5  # of a sample, whose median it is; all ranks wait for each other before each of them
MOST_STEPS = 500  # of a burst
Shards = list[Any]
Samples = dict[str, list[float]]
MODES = {True: "compiled", False: "eager"}


@dataclass(frozen=True)
class Arm:
    """Something that trains: a step on a rank's part of a batch, which returns the loss, and whose
    parameters `model` has."""

    step: Callable[[Any], Any]
    model: Any


def measure(found: rank.Rank) -> None:
    """Rank 0 emits the samples, of the slowest rank each. Raises InputError on all ranks, before
    anything is timed, when a peer does not end in our losses and weights."""
    session = found.open()
    reason = session.framework.can_compile()
    own = MODES[session.compiled]
    arms = {own: Arm(session.step, session.model)}
    batches = _batches(session)
    ours = _trained(session, arms[own], batches)
    found.agree({"our weights": job.weights_digest(ours[1])})
    notes = []
    for name, make in _others(session, reason is None).items():
        found.emit("progress", {"line": f"{session.framework.name}: {name}"})
        arms[name] = make()
        theirs = _trained(session, arms[name], batches)
        difference, worst = _difference(session, ours, theirs)
        error = f"{name}: {difference}: other work" if difference else None
        found.agree({f"weights, {name}": job.weights_digest(theirs[1])}, error)
        worst = found.framework.agree(worst)
        notes.append(
            f"equal work, {name}: losses of {len(ours[0])} steps on the same batches within {worst:.1g}"
        )
    if reason:
        notes.append(f"compiled modes not measured: {reason}")
    samples = _samples(found, session, arms, own, batches)
    if session.framework.rank == 0:
        result = {"samples": samples, "own": own, "notes": notes}
        found.emit("result", result | {"conditions": session.conditions()})


def _others(session: Session, can_compile: bool) -> dict[str, Callable[[], Arm]]:
    """Our other mode, and the peers; each is to be made and to do a step before the next one is made,
    because an adapter of ranks compiles what it is told to by the last session."""
    name, make = PEERS[session.framework.name]
    found: dict[str, Callable[[], Arm]] = {}
    if can_compile:
        found[MODES[not session.compiled]] = lambda: _our_other(session)
        found[f"{name}, compiled"] = lambda: make(session, True)
    return found | {name: lambda: make(session, False)}


def _our_other(session: Session) -> Arm:
    mode = "off" if session.compiled else "on"
    other = Session(session.spec | {"compile": mode}, framework=session.framework)
    return Arm(other.step, other.model)


def _batches(session: Session) -> Shards:
    """Parts of full batches, as many as are checked, of as many epochs as that takes."""
    full = session.config.batch_size // session.framework.ranks
    epochs = (shard for epoch in itertools.count() for shard in session.batches(epoch))
    return [s for s, n in itertools.islice(epochs, 2 * PROBE_STEPS) if n == full][:PROBE_STEPS]


def _trained(
    session: Session, arm: Arm, batches: Shards
) -> tuple[list[float], dict[str, np.ndarray]]:
    """(this rank's losses, updates) of the first steps of an arm that has just been made."""
    losses = [float(session.framework.read(arm.step(shard))) for shard in batches]
    after = session.framework.read_parameters(arm.model)
    return losses, {name: after[name] - value for name, value in session.initial.items()}


def _difference(session: Session, ours: Any, theirs: Any) -> tuple[str | None, float]:
    """(what is not equal work or None, the largest relative difference of losses)."""
    dtype = session.framework.dtype
    worst = max(abs(a - b) / abs(a) for a, b in zip(ours[0], theirs[0], strict=True))
    if not worst <= comparison.TOLERANCES[dtype][2]:
        return f"the losses of the first steps differ by {worst:.2g} of ours", worst
    # As a trial's evidence is compared: at a CPU's size single rows of an embedding under AdamW, whose
    # gradients are rounding, are 5 % apart between compiled and eager PyTorch.
    allowed = comparison.UPDATE_TOLERANCES[session.module.OPTIMISER][dtype]
    one, other = audit.fingerprint(ours[1]), audit.fingerprint(theirs[1])
    apart = max(abs(a - b) for a, b in zip(one, other, strict=True)) / max(one[0], other[0])
    if not apart <= allowed:
        return (
            f"the updates of the first steps differ by {apart:.2g} (allowed {allowed:.0e})",
            worst,
        )
    return None, worst


def _samples(
    found: rank.Rank, session: Session, arms: dict[str, Arm], own: str, batches: Shards
) -> Samples:
    """Seconds a step of every arm, one of each in a block, in an order that all ranks draw alike."""
    framework = session.framework
    feeds = {name: itertools.cycle(batches) for name in arms}

    def burst(name: str, steps: int) -> float:
        found.watchdog.beat()
        step, feed = arms[name].step, feeds[name]
        given = [next(feed) for _ in range(steps)]
        found.framework.meet()
        start = perf_counter()
        for shard in given:
            step(shard)
        framework.wait()
        return (perf_counter() - start) / steps

    once = found.framework.agree(min(burst(own, 1) for _ in range(3)))
    steps = max(1, min(MOST_STEPS, ceil(found.spec["burst_seconds"] / once)))
    samples: Samples = {name: [] for name in arms}
    pairs = found.spec["pairs"]
    for slot in schedule.blocks(tuple(arms), pairs, found.spec["seed"]):
        seconds = [burst(slot.arm, steps) for _ in range(BURSTS)]
        slowest = [found.framework.agree(value) for value in seconds]
        samples[slot.arm].append(float(np.median(slowest)))
        if slot.order == len(arms) - 1 and (slot.pair + 1) % max(1, pairs // 5) == 0:
            line = f"{framework.name}: {slot.pair + 1} of {pairs} pairs"
            found.emit("progress", {"line": line})
    return samples


# --- the peers


def pytorch(session: Session, compiled: bool) -> Arm:
    """The loop of PyTorch's DistributedDataParallel tutorial; with torch.compile as its documentation
    puts it, around the wrapped model."""
    import torch
    from torch.nn.parallel import DistributedDataParallel

    config = session.config
    model = session.twin.Model(config)
    session.framework.write_parameters(model, session.initial)
    wrapped: Any = DistributedDataParallel(model)
    forward = torch.compile(wrapped) if compiled else wrapped
    if session.module.OPTIMISER == "sgd":
        optimizer: Any = torch.optim.SGD(model.parameters(), lr=config.learning_rate)
    else:
        optimizer = torch.optim.AdamW(
            model.parameters(),
            betas=session.module.BETAS,
            eps=session.module.EPSILON,
            weight_decay=config.weight_decay,
            fused=True,
        )
    inputs, labels = session.train
    rates = _rates(config)

    def step(shard: Any) -> Any:
        for group in optimizer.param_groups:
            group["lr"] = next(rates)
        x, y = inputs.index_select(0, shard.rows), labels.index_select(0, shard.rows)
        optimizer.zero_grad()
        logits = forward(x)
        if logits.ndim == 3:  # of every word
            logits, y = logits.flatten(0, 1), y.flatten().long()
        loss = torch.nn.functional.cross_entropy(logits, y)
        loss.backward()
        optimizer.step()
        return loss

    return Arm(step, model)


def mlx(session: Session, compiled: bool) -> Arm:
    """The data-parallel loop of MLX's documentation, its step compiled as mlx-examples do."""
    import mlx.core as mx
    from mlx import nn, optimizers

    config = session.config
    model = session.twin.Model(config)
    session.framework.write_parameters(model, session.initial)
    if session.module.OPTIMISER == "sgd":
        optimizer: Any = optimizers.SGD(config.learning_rate)
    else:
        optimizer = optimizers.AdamW(
            config.learning_rate,
            betas=list(session.module.BETAS),
            eps=session.module.EPSILON,
            weight_decay=config.weight_decay,
            bias_correction=True,
        )
    inputs, labels = session.train
    rates = _rates(config)

    def loss_fn(model: Any, x: Any, y: Any) -> Any:
        return nn.losses.cross_entropy(model(x), y, reduction="mean")

    loss_and_gradients = nn.value_and_grad(model, loss_fn)

    def update(x: Any, y: Any) -> Any:
        loss, gradients = loss_and_gradients(model, x, y)
        gradients = nn.average_gradients(gradients)
        optimizer.update(model, gradients)
        return loss

    optimizer.init(model.trainable_parameters())
    state = [model.state, optimizer.state]
    call = mx.compile(update, inputs=state, outputs=state) if compiled else update

    def step(shard: Any) -> Any:
        optimizer.learning_rate = next(rates)
        loss = call(inputs[shard.rows], labels[shard.rows])
        mx.eval(loss, state)
        return loss

    return Arm(step, model)


def _rates(config: Any) -> Iterator[float]:
    """The learning rate of every step: the twins' linear warm-up, where there is one."""
    warmup = getattr(config, "warmup_steps", 0)
    if not warmup:
        return itertools.repeat(config.learning_rate)
    return (min(1.0, done / warmup) * config.learning_rate for done in itertools.count())


PEERS: dict[str, tuple[str, Callable[[Session, bool], Arm]]] = {
    "pytorch": ("DistributedDataParallel", pytorch),
    "mlx": ("average_gradients", mlx),
}


def main() -> int:
    return rank.main({"measure": measure})


if __name__ == "__main__":
    sys.exit(main())

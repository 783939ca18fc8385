"""Our MNIST epoch against the best public scripts, and the twins' compile modes against each other.

    git clone https://github.com/ml-explore/mlx-examples
    git clone https://github.com/richiksc/mlx-benchmarks
    python -m benchmarks.mnist_peers --mlx_examples mlx-examples --mlx_benchmarks mlx-benchmarks

Peers: mlx-examples `mnist/main.py` (MLX) and mlx-benchmarks `mnist/torch_main.py` (PyTorch). Their
MLP, loss_fn and batch_iterate are imported unmodified. Their step and epoch loop stand inside
`main` and cannot be imported, so the few calls they make are made here as published: the compiled
step and mx.eval(model.state) each step in MLX; zero_grad, backward, optimizer step in PyTorch;
plain SGD of both frameworks' own optimizers. Their evaluation is left out of the clock, as ours is
(MLX, being lazy, left most of it out as published; PyTorch did not).

Same process, BLAS, threads, arrays in memory, batch size, rate, sizes and items, the short last
batch included. Before timing, steps from the same parameters on the same batches must end in
the same weights; after it, ten epochs each on shuffles of their own must end in the same accuracy
within noise.

Two things are not equal as published. The MLX loop never asks for its loss, so that lazy MLX never
computes it; a trial records every step's. "with losses" asks for it too: the row at equal output.
And the peers shuffle inside their clock, while a trial prepares batches before its own: "batches
included" counts that preparation with ours. The first row of the table has both.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from math import ceil
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks import common, peers
from benchmarks.common import MODES, Samples, Verdict, default, recorded, versus_peer
from benchmarks.peers import Peer
from entrypoints.session import Session
from measurement import blas, trial
from measurement.errors import InputError

CHECKED_STEPS = 20
# SGD at a constant rate wanders: up to three points were seen between two epochs of one training.
ACCURACY_NOISE = 0.03
ACCURACY_EPOCHS = 10  # as both scripts train
SAMPLE_SECONDS = 0.05  # of one inference sample, reached by repeating


def check_equal_work(session: Session, peer: Peer) -> str:
    """The first steps and the short last one, each on the same batches; raises InputError when the
    weights come out different. Not a whole epoch: rounding alone grows to 0.003 in it."""
    peers.same_start(session, peer)
    epoch = [batch for batch, _ in session.batches(0)]
    batches = [*epoch[:CHECKED_STEPS], epoch[-1]]
    for batch in batches:
        session.step(batch)
    peer.train([(session.train[0][batch], peer.labels[batch]) for batch in batches])
    theirs = session.framework.read_parameters(peer.model)
    ours = session.framework.read_parameters(session.model)
    worst = max(
        float(np.abs(v - theirs[peers.parameter_name(k, session)]).max()) for k, v in ours.items()
    )
    if worst > 1e-4:
        raise InputError(
            f"on the same batches the peer's weights differ by {worst:.2g}: other work"
        )
    return f"equal work: after {len(batches)} steps on the same batches the weights differ by {worst:.1g}"


def check_accuracy(session: Session, peer: Peer, epochs: int) -> str:
    """After `epochs` from the start, each on shuffles of its own; the check of the weights is the
    strict one, this one catches a loop that does not learn."""
    peers.same_start(session, peer)
    for epoch in range(epochs):
        peer.train(peer.shuffled())
        for batch, _ in session.batches(epoch):
            session.step(batch)
    logits = session.framework.read(peer.model(session.test[0][0]))
    theirs, ours = float(np.mean(logits.argmax(1) == session.test_labels)), session.evaluate()
    text = f"test accuracy after {epochs} epochs: ours {ours:.4f}, the peer's {theirs:.4f}"
    if abs(ours - theirs) > ACCURACY_NOISE:
        raise InputError(f"{text}: more than {ACCURACY_NOISE} apart, so not the same work")
    return text


def ours_arm(session: Session, mode: str, epochs: int) -> common.Arm:
    """`mode` series: preparation included; `mode clocked`: as a trial counts."""
    work, framework, done = session.work(), session.framework, [0]

    def sample() -> dict[str, float]:
        clocked, start = 0.0, perf_counter()
        for _ in range(epochs):
            done[0] += 1
            batches = [batch for batch, _ in work.batches(done[0])]
            clocked += trial._timed(perf_counter, framework, work, batches)[0]
        return {mode: (perf_counter() - start) / epochs, f"{mode} clocked": clocked / epochs}

    return sample


def peer_arm(
    session: Session, peer: Peer, train: Callable[..., None], series: str, epochs: int
) -> common.Arm:
    def sample() -> dict[str, float]:
        start = perf_counter()
        for _ in range(epochs):
            train(peer.shuffled())
            session.framework.wait()
        return {series: (perf_counter() - start) / epochs}

    return sample


def inference_arm(session: Session, series: str, call: Callable[[int], Any]) -> common.Arm:
    """Seconds a call, over enough calls to fill a sample; a call waits for its own output."""
    for i in range(3):
        start = perf_counter()
        call(i)
        once = perf_counter() - start
    calls = min(500, ceil(SAMPLE_SECONDS / once))

    def sample() -> dict[str, float]:
        start = perf_counter()
        for i in range(calls):
            call(i % len(session.test_labels))
        return {series: (perf_counter() - start) / calls}

    return sample


def measure(framework: str, options: argparse.Namespace) -> common.Measured:
    """Runs in a process of its own."""
    blas.load(options.blas)
    default = common.session(framework, options)
    reason = default.framework.can_compile()
    common.say(f"{framework}: compiling and warming up")
    peer = peers.load(default, checkout(framework, options))
    notes = [check_equal_work(default, peer)]
    peers.same_start(default, peer)
    epochs = options.epochs_per_sample
    arms = {
        "peer": peer_arm(default, peer, peer.train, "peer", epochs),
        "equal": peer_arm(default, peer, peer.train_with_loss, "equal", epochs),
    }
    for mode in common.modes(default):
        same = mode == common.own_modes(default)[0]
        session = default if same else common.session(framework, options, mode)
        arms[MODES[mode]] = ours_arm(session, MODES[mode], epochs)
        predict = common.submitted(session, session.twin.predict, mode)
        arms |= _inference_arms(session, MODES[mode], predict)
    for arm in 2 * list(arms.values()):  # the second time CUDA graphs are recorded
        arm()
    samples = common.interleave(arms, options.pairs, options.seed, framework)
    notes.append(check_accuracy(default, peer, ACCURACY_EPOCHS))
    if reason:
        notes.append(f"compiled modes not measured: {reason}")
    return common.Measured(
        framework, default.conditions(), samples, _rows(framework, default, samples), notes
    )


def _inference_arms(
    session: Session, mode: str, predict: Callable[[Any], Any]
) -> dict[str, common.Arm]:
    items, framework = next(iter(session.data.test.values())), session.framework
    calls: dict[str, Callable[[int], Any]] = {
        f"all, {mode}": lambda i: framework.wait(predict(session.test[0][0])),
        f"one, {mode}": lambda i: framework.read(predict(framework.put(items[i : i + 1]))),
    }
    return {name: inference_arm(session, name, call) for name, call in calls.items()}


def _rows(framework: str, session: Session, samples: Samples) -> list[common.Row]:
    ours = MODES[common.own_modes(session)[0]]
    found: list[tuple[str, str, str, Verdict]] = [
        (ours, "equal", f"epoch: ours ({ours}), batches included / peer with losses", versus_peer),
        (ours, "peer", f"epoch: ours ({ours}), batches included / peer as published", versus_peer),
        (
            f"{ours} clocked",
            "equal",
            f"epoch: ours ({ours}), trial's clock / peer with losses",
            versus_peer,
        ),
        (
            f"{ours} clocked",
            "peer",
            f"epoch: ours ({ours}), trial's clock / peer as published",
            versus_peer,
        ),
    ]
    if "compiled" in samples:
        training, inference = session.compiled, session.compiled_inference
        found += [
            ("compiled clocked", "eager clocked", "training: compiled / eager", default(training)),
            ("all, compiled", "all, eager", "inference, all: compiled / eager", default(inference)),
            ("one, compiled", "one, eager", "inference, one: compiled / eager", default(inference)),
        ]
    if f"{MODES['graphs']} clocked" in samples:
        graphs = MODES["graphs"]
        found += [
            (f"{graphs} clocked", "compiled clocked", f"training: {graphs} / compiled", recorded),
            (f"all, {graphs}", "all, compiled", f"inference, all: {graphs} / compiled", recorded),
            (f"one, {graphs}", "one, compiled", f"inference, one: {graphs} / compiled", recorded),
        ]
    return [common.compare(framework, samples, *entry) for entry in found]


def checkout(framework: str, options: argparse.Namespace) -> Path:
    """The peer's script; InputError when the user's checkout does not hold it."""
    return peers.script_path(framework, getattr(options, peers.SOURCES[framework][0]))


def main() -> int:
    parser = common.parser(str(__doc__).splitlines()[0], pairs=30, dataset="mnist")
    parser.add_argument("--mlx_examples", help="checkout of ml-explore/mlx-examples")
    parser.add_argument("--mlx_benchmarks", help="checkout of richiksc/mlx-benchmarks")
    parser.add_argument("--epochs_per_sample", type=common.whole, default=1)
    options = parser.parse_args()
    return common.main(options, "MNIST: our twins and the best public scripts", measure, checkout)


if __name__ == "__main__":
    sys.exit(main())

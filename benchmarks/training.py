"""What the benchmarks of trained workloads share: our step and forward pass beside those of peers, at
equal losses, in one process and interleaved."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Any

from benchmarks import common
from benchmarks.common import MODES, Samples, Verdict, default, recorded, versus_peer
from measurement import blas
from measurement.errors import InputError

CHECKED_STEPS = 4
# Relative, of losses. In bfloat16, of 8 bits, rounding alone makes such differences: two orders of the
# same sums in MLX were 1.2e-2 apart after four steps of the language model on an H200.
TOLERANCE = {"float32": 1e-4, "tf32": 1e-2, "bfloat16": 3e-2}
Step = Callable[[Any], float]  # row numbers -> loss
Forward = Callable[[Any], Any]  # inputs -> answers
Peers = dict[str, tuple[Step, Forward]]


def ours(session: Any) -> Step:
    def step(rows: Any) -> float:
        value = session.step(rows)
        session.framework.wait(value, session.state)
        return float(session.framework.read(value))

    return step


def check_equal_work(session: Any, name: str, theirs: Step) -> str:
    """The losses of the first steps, from the same weights on the same batches; InputError when
    they differ."""
    session.reset()
    batches = [rows for rows, _ in session.batches(0)][:CHECKED_STEPS]
    mine = ours(session)
    pairs = [(mine(rows), theirs(rows)) for rows in batches]
    worst = max(abs(a - b) / abs(a) for a, b in pairs)
    tolerance = TOLERANCE[session.framework.dtype]
    if not worst <= tolerance:
        raise InputError(
            f"{name}: the losses of the first steps differ by {worst:.2g} of ours, more than"
            f" {tolerance:g}: other work"
        )
    return (
        f"equal work, {name}: losses of {len(batches)} steps on the same batches within {worst:.1g}"
    )


def _arms(
    name: str, step: Step, forward: Callable[[], Any], rows: list[Any]
) -> dict[str, common.Arm]:
    """One step, on the next batch each time, and one forward pass."""
    batches = itertools.cycle(rows)

    def timed(series: str, call: Callable[[], Any]) -> dict[str, float]:
        start = perf_counter()
        call()
        return {series: perf_counter() - start}

    return {
        name: partial(timed, name, lambda: step(next(batches))),
        f"{name}, forward": partial(timed, f"{name}, forward", forward),
    }


def _waited(session: Any, call: Callable[[Any], Any], inputs: Any) -> None:
    session.framework.wait(call(inputs))


def _finished(session: Any, forward: Forward, inputs: Any) -> None:
    """A peer's pass to its end: a GPU goes on after the call."""
    forward(inputs)
    if session.framework.device != "cpu":
        session.framework.wait()


def measure(
    framework: str,
    options: argparse.Namespace,
    workload: str,
    peers_of: Callable[[Any], tuple[Peers, list[str]]],
) -> common.Measured:
    """Runs in a process of its own. peers_of(session) -> (peers, names of those that do our work)."""
    blas.load(options.blas)
    session = common.session(framework, options, workload=workload)
    reason = session.framework.can_compile()
    common.say(f"{framework}: compiling and warming up")
    peers, equal = peers_of(session)
    notes = [check_equal_work(session, name, peers[name][0]) for name in equal]
    rows = [batch for batch, items in session.batches(0) if items == session.config.batch_size]
    inputs = session.test[0][0]
    arms: dict[str, common.Arm] = {}
    for name, (step, forward) in peers.items():
        arms |= _arms(name, step, partial(_finished, session, forward, inputs), rows)
    for mode in common.modes(session):
        same = mode == common.own_modes(session)[0]
        found = session if same else common.session(framework, options, mode, workload)
        predict = common.submitted(found, found.twin.predict, mode)
        arms |= _arms(MODES[mode], ours(found), partial(_waited, found, predict, inputs), rows)
    for warm in 2 * list(arms.values()):  # the second time CUDA graphs are recorded
        warm()
    samples = common.interleave(arms, options.pairs, options.seed, framework)
    if reason:
        notes.append(f"compiled modes not measured: {reason}")
    table = _rows(framework, session, samples, list(peers))
    return common.Measured(framework, session.conditions(), samples, table, notes)


def _rows(framework: str, session: Any, samples: Samples, peers: list[str]) -> list[common.Row]:
    training, inference = (MODES[mode] for mode in common.own_modes(session))
    found: list[tuple[str, str, str, Verdict]] = []
    for name in peers:
        found.append((training, name, f"step: ours ({training}) / {name}", versus_peer))
    for name in peers:
        first, second = f"{inference}, forward", f"{name}, forward"
        found.append((first, second, f"forward: ours ({inference}) / {name}", versus_peer))
    if "compiled" in samples:
        faster = default(session.compiled), default(session.compiled_inference)
        found += [
            ("compiled", "eager", "step: compiled / eager", faster[0]),
            ("compiled, forward", "eager, forward", "forward: compiled / eager", faster[1]),
        ]
    if MODES["graphs"] in samples:
        graphs = MODES["graphs"]
        found += [
            (graphs, "compiled", f"step: {graphs} / compiled", recorded),
            (f"{graphs}, forward", "compiled, forward", f"forward: {graphs} / compiled", recorded),
        ]
    return [common.compare(framework, samples, *entry) for entry in found]

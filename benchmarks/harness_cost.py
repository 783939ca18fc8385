"""What the harness itself costs: a trial's epoch against the same step in a loop written by hand.

    python -m benchmarks.harness_cost --output harness_cost.json

"trial" is measurement.trial's own timed epoch on the worker's own Session; "bare" calls the very
function that the session compiled, in the shortest loop that trains, holds the last loss only and
ends with the same barrier. (A second compiled copy would not do: two copies of one step slow each
other in PyTorch, by 7 % when tried.) Both train the same model from the same parameters on the
same batches, already on the device: preparing batches is outside a trial's clock by design. Both
are clocked from outside, so the trial's list of losses and both its waits count. "bare" runs twice
a block: its ratio to itself shows what this machine can resolve.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from analysis.statistics import Ratio
from benchmarks import common
from entrypoints.session import Session
from measurement import blas, trial

MARGIN = 0.01
Epoch = Callable[[list[Any]], Any]


@contextmanager
def recorded(module: Any) -> Iterator[dict[str, Callable[..., Any]]]:
    """name of a function -> what `module.compile` made of it inside the block."""
    original, made = module.compile, {}

    def compile(function: Callable[..., Any], **keywords: Any) -> Any:
        made[function.__name__] = original(function, **keywords)
        return made[function.__name__]

    module.compile = compile
    try:
        yield made
    finally:
        module.compile = original


def step_of(session: Session, made: dict[str, Callable[..., Any]]) -> Callable[..., Any]:
    """The session's own compiled step, or where it does not compile the twin's as it is."""
    if session.compiled:
        return made["step"]
    return session.twin.training(session.model, session.config, session.framework.differentiate)[0]


def bare_mlx(options: argparse.Namespace) -> tuple[Session, Epoch]:
    import mlx.core as mx
    import mlx.nn  # noqa: F401  compiles functions of its own when it is imported

    with recorded(mx) as made:
        session = common.session("mlx", options)
    step, state = step_of(session, made), session.state
    images, labels = session.train

    def epoch(batches: list[Any]) -> Any:
        for rows in batches:
            loss = step(images, labels, rows)
            mx.eval(loss, state)
        mx.synchronize()
        return loss

    return session, epoch


def bare_pytorch(options: argparse.Namespace) -> tuple[Session, Epoch]:
    import torch

    with recorded(torch) as made:
        session = common.session("pytorch", options)
    step, on_gpu = step_of(session, made), session.framework.device == "gpu"
    images, labels = session.train

    def epoch(batches: list[Any]) -> Any:
        for rows in batches:
            loss = step(images, labels, rows)
        if on_gpu:
            torch.accelerator.synchronize()
        return loss

    return session, epoch


def measure(framework: str, options: argparse.Namespace) -> common.Measured:
    """Runs in a process of its own."""
    blas.load(options.blas)
    session, loop = {"mlx": bare_mlx, "pytorch": bare_pytorch}[framework](options)
    work = session.work()
    batches = [batch for batch, _ in session.batches(0)]

    def clocked_trial() -> dict[str, float]:
        work.reset()
        start = perf_counter()
        reported, losses = trial._timed(perf_counter, session.framework, work, batches)
        seconds = perf_counter() - start
        assert len(losses) == len(batches)
        return {"trial": seconds, "reported": reported}

    def clocked_bare(series: str) -> dict[str, float]:
        work.reset()
        start = perf_counter()
        loop(batches)
        return {series: perf_counter() - start}

    arms: dict[str, common.Arm] = {
        "trial": clocked_trial,
        "bare": lambda: clocked_bare("bare"),
        "again": lambda: clocked_bare("again"),
    }
    common.say(f"{framework}: compiling and warming up")
    trained = []
    for arm in (*arms.values(), *arms.values()):
        arm()
        trained.append(work.read_parameters())
    for name, values in trained[0].items():  # the same work, or the ratio means nothing
        assert all(abs(values - other[name]).max() < 1e-4 for other in trained), name
    samples = common.interleave(arms, options.pairs, options.seed, framework)

    def row(first: str, second: str, text: str, say: Callable[[Ratio], str]) -> common.Row:
        return common.compare(framework, samples, first, second, text, say)

    rows = [
        row("trial", "bare", "trial / bare loop", verdict),
        row("reported", "bare", "trial's own clock / bare loop", lambda ratio: ""),
        row("again", "bare", "bare loop / bare loop (resolution)", lambda ratio: ""),
    ]
    return common.Measured(framework, session.conditions(), samples, rows, [])


def verdict(ratio: Ratio) -> str:
    """By the whole interval: a wide one proves nothing."""
    low, high = common.limits(ratio)
    if low > 1 / (1 + MARGIN) and high < 1 + MARGIN:
        return "within 1 %"
    if low > 1 + MARGIN:
        return "costs more than 1 %"
    return "not resolved: take more pairs or a quieter machine"


def main() -> int:
    summary = str(__doc__).splitlines()[0]
    options = common.parser(summary, pairs=100, dataset="synthetic").parse_args()
    return common.main(options, "The harness's own cost on an MNIST epoch", measure)


if __name__ == "__main__":
    sys.exit(main())

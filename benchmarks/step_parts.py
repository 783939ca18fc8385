"""Where the time of a training step goes: its parts alone, beside the bare matrix products in them.

    python -m benchmarks.step_parts --workload transformer_lm --device gpu --dtype bfloat16 \
        --preset paper --sizes train_items=96

Each framework in a process of its own, with the twin's own layers at the step's own sizes, compiled as
the step is. A part is measured with its gradients, of what goes into it too: its layer norm stands
before it. What `update` costs is the step less loss and gradients. Bare products are those of the
part's matrices, forward and both gradients, as the framework multiplies; attention's own two products,
which it fuses, are not among them. Medians of blocks in random order; every part waits for its end, so
that together they are longer than the step, in which one part's start hides behind another's end.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks import common
from measurement import blas, schedule

WORKLOADS = ("transformer_lm", "deit_small")
Part = tuple[str, int, int, Callable[[], Any]]
"""What, how many of it a step has, FLOP of the products in one, a call that waits for its end."""


def _random(framework: Any, *shape: int) -> Any:
    return framework.put(np.random.default_rng(0).standard_normal(shape, np.float32) * 0.02)


def _fill(framework: Any, module: Any) -> None:
    """Values for a part of a model, on the device."""
    shapes = {name: value.shape for name, value in framework.read_parameters(module).items()}
    rng = np.random.default_rng(0)
    values = {n: rng.standard_normal(s, np.float32) * 0.02 for n, s in shapes.items()}
    framework.write_parameters(module, values)


def _products(framework: Any, rows: int, shapes: list[tuple[int, int]]) -> tuple[int, Any]:
    """(FLOP, call) of the bare products of matrices (inputs, outputs): forward and both gradients."""
    given = [
        (_random(framework, rows, i), _random(framework, o, i), _random(framework, rows, o))
        for i, o in shapes
    ]

    def call() -> None:
        framework.wait([(x @ w.T, g @ w, g.T @ x) for x, w, g in given])

    return sum(6 * rows * i * o for i, o in shapes), call


def _matrices(framework: Any, module: Any) -> list[tuple[int, int]]:
    """(inputs, outputs) of the matrices of a module."""
    return [v.shape[::-1] for v in framework.read_parameters(module).values() if v.ndim == 2]


def _part(session: Any, layers: Any, name: str, x: Any, count: int) -> list[Part]:
    """A layer of the twin behind its norm, with gradients, and its bare products."""
    framework, nn, config = session.framework, session.twin.nn, session.config
    layer = getattr(session.twin, name)(config)
    whole = nn.Sequential(layers.norm(config.dimension, 1e-5), layer)
    _fill(framework, whole)
    gradients = framework.differentiate(whole, lambda m, given: (m(given) * 1e-3).sum())
    submit = framework.compile_step(lambda given: gradients(whole, given), [], session.compiled)
    rows = x.shape[0] * x.shape[1]
    flop, bare = _products(framework, rows, _matrices(framework, layer))
    return [
        (name, count, flop, lambda: framework.wait(submit(x))),
        (f"{name}, bare products", count, flop, bare),
    ]


def parts(session: Any) -> list[Part]:
    """All of them; the whole step first."""
    framework, twin, config = session.framework, session.twin, session.config
    layers = sys.modules[twin.AdamW.__module__]
    rows = next(rows for rows, items in session.batches(0) if items == config.batch_size)
    batch = [array[rows] for array in session.train]
    gradients = framework.differentiate(session.model, twin.loss)
    without_update = framework.compile_step(
        lambda *given: gradients(session.model, *given), [], session.compiled
    )
    forward = framework.compile_predict(twin.loss, session.model, session.compiled)
    tokens = getattr(config, "tokens", None) or config.context
    x = _random(framework, config.batch_size, tokens, config.dimension)
    blocks = len(session.model.blocks)
    whole = config.train_flops_per_item() * config.batch_size
    matrices = _matrices(framework, session.model)
    flop, bare = _products(framework, config.batch_size * tokens, [max(matrices, key=np.prod)])
    return [
        ("step", 1, whole, lambda: framework.wait(session.step(rows), session.state)),
        ("loss and gradients", 1, whole, lambda: framework.wait(without_update(*batch))),
        ("loss", 1, whole // 3, lambda: framework.wait(forward(*batch))),
        ("largest matrix, bare products", 1, flop, bare),
        *_part(session, layers, "Attention", x, blocks),
        *_part(session, layers, "FeedForward", x, blocks),
    ]


def measure(framework: str, options: argparse.Namespace) -> dict[str, Any]:
    """Runs in a process of its own."""
    blas.load(options.blas)
    session = common.session(framework, options, options.compile, options.workload)
    common.say(f"{framework}: compiling and warming up")
    found = parts(session)
    for _, _, _, call in found:
        call()
        call()
    seconds: dict[str, list[float]] = {name: [] for name, *_ in found}
    by_name = {name: call for name, _, _, call in found}
    for slot in schedule.blocks(tuple(by_name), options.pairs, options.seed):
        start = perf_counter()
        by_name[slot.arm]()
        seconds[slot.arm].append(perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    medians["update"] = max(0.0, medians["step"] - medians["loss and gradients"])
    rows = [
        {
            "part": name,
            "count": count,
            "seconds": medians[name],
            "flop": flop,
            "flop_per_second": flop / medians[name] if flop else 0.0,
        }
        for name, count, flop, _ in [*found, ("update", 1, 0, None)]
    ]
    return {
        "framework": framework,
        "conditions": session.conditions(),
        "rows": rows,
        "samples": seconds,
    }


def text(found: dict[str, Any]) -> str:
    """A table for people."""
    conditions = found["conditions"]
    lines = [
        f"{found['framework']} {conditions['versions']['framework']} on {conditions['device']}, "
        f"{conditions['dtype']}, compile {conditions['compile']}",
        f"  {'':32} {'ms':>10}    in a step {'ms':>10} {'TFLOP/s':>9}",
    ]
    for row in found["rows"]:
        milliseconds, rate = row["seconds"] * 1e3, row["flop_per_second"] / 1e12
        total = milliseconds * row["count"]
        lines.append(
            f"  {row['part']:32} {milliseconds:10.3f} x {row['count']:8} {total:12.3f} {rate:9.2f}"
        )
    return "\n".join(lines)


def main() -> int:
    parser = common.parser(str(__doc__).splitlines()[0], 20, "synthetic", preset="cpu")
    parser.add_argument("--workload", choices=WORKLOADS, default=WORKLOADS[0])
    parser.add_argument("--compile", choices=("auto", "on", "off"), default="auto")
    return common.measured_in_turn(parser.parse_args(), measure, text)


if __name__ == "__main__":
    sys.exit(main())

"""Which kernels a step on an NVIDIA GPU spends its time in, of either framework.

    python -m benchmarks.step_profile --workload transformer_lm --device gpu --dtype bfloat16 \
        --preset paper --sizes train_items=96

MLX has no profiler of its own on CUDA. NVIDIA's tracing (CUPTI) sees every kernel of a process, whoever
submits it, and kernels inside CUDA graphs one by one; so PyTorch's profiler, which asks for it, also
sees MLX's. Each framework in a process of its own, the step as a trial submits it (of a workload that
generates: the tokens after the first), warmed up; each step waited for, and in a row as in an epoch.
Recording lengthens the gaps between kernels, hardly the kernels: a step's length is taken without it,
and `busy` is the sum of its kernels. The ceiling is that of a trial: the fastest square matrix product
of the same framework in the same process; a step's share of it is of steps in a row.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks import common
from measurement import blas
from measurement.errors import InputError
from measurement.phases import matmul_ceiling

KINDS = ("kernel", "gpu_memcpy", "gpu_memset")
STEPS = 5
ROWS = 25
CEILING_SECONDS = 0.3  # for each size, as in a trial
Kernel = dict[str, Any]


def _full_batch(session: Any) -> Any:
    size = session.config.batch_size
    return next(rows for rows, items in session.batches(0) if items == size)


def one_step(session: Any) -> Callable[[], None]:
    """A step that is waited for; of a workload that generates, the tokens of a prompt after the first."""
    framework = session.framework
    if hasattr(session, "step"):
        rows = _full_batch(session)
        return lambda: framework.wait(session.step(rows), session.state)
    work = session.work()

    def tokens() -> None:
        token, cache = work.begin(0)
        for _ in range(work.decode_tokens - 1):
            token, cache = work.advance(token, cache)
        framework.wait(token, cache)

    return tokens


def in_a_row(session: Any, steps: int) -> float | None:
    """Seconds of a step of so many that follow each other, as in an epoch: waited for at the end alone.
    None of a workload that generates, where each token waits for the one before it."""
    if not hasattr(session, "step"):
        return None
    framework, rows = session.framework, _full_batch(session)
    framework.wait(session.state)
    start = perf_counter()
    losses = [session.step(rows) for _ in range(steps)]
    framework.wait(losses, session.state)
    return (perf_counter() - start) / steps


def rates(session: Any, row_seconds: float | None) -> dict[str, float | None]:
    """FLOP/s of steps in a row and of the matrix-product ceiling here; None of a workload that generates."""
    if row_seconds is None:
        return {"flops_per_second": None, "ceiling_flops_per_second": None}
    flops = session.config.batch_size * session.config.train_flops_per_item()
    ceiling = matmul_ceiling(session.framework, CEILING_SECONDS)
    return {"flops_per_second": flops / row_seconds, "ceiling_flops_per_second": ceiling}


def kernels(trace: Path, steps: int) -> list[Kernel]:
    """The kernels and copies in a trace of PyTorch's profiler, by name, longest first: seconds and calls
    of one step."""
    found: dict[str, Kernel] = {}
    for event in json.loads(trace.read_text())["traceEvents"]:
        if event.get("cat") in KINDS:
            new = {"name": event["name"], "seconds": 0.0, "calls": 0.0}
            row = found.setdefault(event["name"], new)
            row["seconds"] += event["dur"] * 1e-6 / steps
            row["calls"] += 1 / steps
    return sorted(found.values(), key=lambda row: -row["seconds"])


def check_tracing() -> None:
    """Starts NVIDIA's tracing, before a framework records graphs; InputError where there is none."""
    import torch

    if not torch.cuda.is_available():
        raise InputError(
            "no NVIDIA GPU that this PyTorch sees; expected one, and --device gpu: only NVIDIA's "
            "tracing tells the kernels of both frameworks (a Mac's: Instruments, Metal System Trace)"
        )
    profiled(lambda: torch.zeros(1, device="cuda").cpu(), 1)


def profiled(call: Callable[[], Any], steps: int) -> list[Kernel]:
    """`kernels` of so many calls."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as found:
        for _ in range(steps):
            call()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        found.export_chrome_trace(str(trace))
        return kernels(trace, steps)


def measure(framework: str, options: argparse.Namespace) -> dict[str, Any]:
    """Runs in a process of its own."""
    blas.load(options.blas)
    check_tracing()
    session = common.session(framework, options, options.compile, options.workload)
    common.say(f"{framework}: compiling and warming up")
    call = one_step(session)
    for _ in range(3):
        call()
    seconds = []
    for _ in range(options.pairs):
        start = perf_counter()
        call()
        seconds.append(perf_counter() - start)
    in_row = in_a_row(session, options.pairs)
    rows = profiled(call, STEPS)
    if not rows:
        raise InputError(
            f"{framework}: NVIDIA's tracing saw no kernel; expected a GPU that may be traced (in a "
            "container: as root, or with the capability SYS_ADMIN)"
        )
    return {
        "framework": framework,
        "conditions": session.conditions(),
        "step_seconds": seconds,
        "row_seconds": in_row,
        **rates(session, in_row),
        "busy_seconds": sum(row["seconds"] for row in rows),
        "kernels": rows,
    }


def text(found: dict[str, Any]) -> str:
    """A table for people."""
    state, busy, rows = found["conditions"], found["busy_seconds"], found["kernels"]
    in_row = found.get("row_seconds")  # the first profiles have none
    row = f" ({in_row * 1e3:.3f} ms in a row)" if in_row else ""
    share = ""
    if ceiling := found.get("ceiling_flops_per_second"):
        share = (
            f"; in a row {found['flops_per_second'] / ceiling:.1%} of the matrix-product ceiling "
        )
        share += f"of {ceiling / 1e12:.1f} TFLOP/s"
    lines = [
        f"{found['framework']} {state['versions']['framework']}, {state['dtype']}, compile "
        f"{state['compile']}: {statistics.median(found['step_seconds']) * 1e3:.3f} ms{row}, busy "
        f"{busy * 1e3:.3f} ms in {sum(row['calls'] for row in rows):.0f} kernels{share}"
    ]
    for row in rows[:ROWS]:
        lines.append(
            f"  {row['seconds'] * 1e3:9.3f} ms {row['seconds'] / busy:6.1%} x {row['calls']:7.1f}  "
            f"{row['name'][:110]}"
        )
    if len(rows) > ROWS:
        rest = sum(row["seconds"] for row in rows[ROWS:])
        lines.append(f"  {rest * 1e3:9.3f} ms {rest / busy:6.1%}    in {len(rows) - ROWS} others")
    return "\n".join(lines)


def main() -> int:
    parser = common.parser(str(__doc__).splitlines()[0], 20, "synthetic", preset="auto")
    parser.add_argument("--workload", required=True)
    parser.add_argument("--compile", choices=("auto", "on", "off", "graphs"), default="auto")
    return common.measured_in_turn(parser.parse_args(), measure, text)


if __name__ == "__main__":
    sys.exit(main())

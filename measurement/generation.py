"""A trial of generation: a first phase (prefill, encoding) that ends with the first token, then one
token at a time with a cache.

    first call | warm-up | passes over every item | token latency | completion audit |
    matmul ceiling | energy window

Counts of tokens are fixed: no trial stops at an end-of-text token. In a pass the host waits after
the first phase and after the last token; in the latency phase it reads every token, as a program
that shows text does.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from measurement.audit import GenerationReceipt, completion
from measurement.framework import Framework
from measurement.memory import process_peak_bytes
from measurement.phases import (
    Clock,
    Report,
    as_json,
    check_clock,
    elapsed,
    end_warmup,
    energy_window,
    matmul_ceiling,
)


@dataclass(frozen=True)
class Plan:
    """How much of each phase; counts of calls, and seconds where a name says so."""

    passes: int = 10
    warmup_passes: int = 1
    latency_passes: int = 2
    audit_seconds: float = 0.1
    ceiling_seconds: float = 0.3
    energy_seconds: float = 0.0  # 0: the machine has no meter
    slowdown: float = 0.0  # share by which every timed span is drawn out: an arm of known truth


@dataclass(frozen=True)
class Work:
    """What a trial runs, bound to its data and framework by the worker.

    begin(item) submits the first phase of an item and returns (token, cache); advance(token, cache)
    submits one more token and returns the same. A token is an array of one integer.
    decode_tokens: all tokens of an item, the first one included.
    """

    begin: Callable[[int], tuple[Any, Any]]
    advance: Callable[[Any, Any], tuple[Any, Any]]
    items: int
    prompt_tokens: int
    decode_tokens: int
    flops_per_item: int


@dataclass(frozen=True)
class Generation:
    """Every sample of one trial; seconds unless the name says otherwise. begin_seconds and
    decode_seconds have one value for each item of each pass, token_seconds one for each token."""

    first_call_seconds: float
    passes: int
    begin_seconds: list[float]
    decode_seconds: list[float]
    token_seconds: list[float]
    passes_cpu_seconds: float
    process_peak_bytes: int
    device_peak_bytes: int | None
    flops_per_second: float
    ceiling_flops_per_second: float
    completion_ratio: float
    completion_residue: float
    energy_window_passes: int
    receipt: GenerationReceipt

    def as_json(self) -> dict[str, Any]:
        return as_json(self)


def run(
    work: Work,
    framework: Framework,
    plan: Plan,
    clock: Clock = time.perf_counter,
    report: Report = lambda event, values: None,
) -> Generation:
    """Runs every phase. `report(event, values)` is called between phases, never inside a clock."""
    framework.reset_peak_memory()
    start = clock()
    framework.wait(work.advance(*work.begin(0)))
    first = elapsed(clock, start, plan.slowdown)
    for _ in range(plan.warmup_passes):
        for item in range(work.items):
            _generate(work, framework, item, clock, plan.slowdown)
    end_warmup(report, {"first_step_seconds": first})

    begin, decode, digest, cpu = [], [], hashlib.sha256(), 0.0
    for number in range(plan.passes):
        report("epoch_begin", {"epoch": number})
        report("timing", {})
        outputs, cpu_start = [], time.process_time()
        for item in range(work.items):
            begin_seconds, decode_seconds, tokens = _generate(
                work, framework, item, clock, plan.slowdown
            )
            begin.append(begin_seconds)
            decode.append(decode_seconds)
            outputs.append(tokens)
        cpu += time.process_time() - cpu_start
        report("timed", {"seconds": sum(begin[-work.items :]) + sum(decode[-work.items :])})
        report("epoch_end", {"epoch": number})
        for tokens in outputs:
            values = [int(framework.read(token).reshape(-1)[0]) for token in tokens]
            if len(values) != work.decode_tokens:
                raise RuntimeError(f"an item put out {len(values)} tokens")
            digest.update(np.asarray(values, np.int64).tobytes())
        report(
            "pass",
            {
                "number": number,
                "begin_seconds": begin[-work.items :],
                "decode_seconds": decode[-work.items :],
                "tokens": work.items * work.decode_tokens,
                "time": time.time(),
            },
        )
    report("trained", {})
    check_clock(clock, report)
    report("latency", {})
    token_seconds = [
        seconds
        for _ in range(plan.latency_passes)
        for item in range(work.items)
        for seconds in _token_latency(work, framework, item, clock, plan.slowdown)
    ]
    report("audit", {})
    ratio, residue = _completion(work, framework, plan, clock)
    done = plan.passes * work.items
    receipt = GenerationReceipt(
        items=done,
        prompt_tokens=done * work.prompt_tokens,
        tokens=done * work.decode_tokens,
        flops=done * work.flops_per_item,
        latency_calls=len(token_seconds),
        warmup_calls=1 + plan.warmup_passes * work.items,
        tokens_digest=digest.hexdigest()[:16] if framework.dtype == "float32" else "",
    )
    return Generation(
        first_call_seconds=first,
        passes=plan.passes,
        begin_seconds=begin,
        decode_seconds=decode,
        token_seconds=token_seconds,
        passes_cpu_seconds=cpu,
        process_peak_bytes=process_peak_bytes(),
        device_peak_bytes=framework.device_peak_bytes(),
        flops_per_second=receipt.flops / (sum(begin) + sum(decode)),
        ceiling_flops_per_second=matmul_ceiling(framework, plan.ceiling_seconds, clock),
        completion_ratio=ratio,
        completion_residue=residue,
        energy_window_passes=energy_window(
            lambda: [
                _generate(work, framework, item, clock, plan.slowdown) for item in range(work.items)
            ],
            plan.energy_seconds,
            clock,
            report,
        ),
        receipt=receipt,
    )


def _generate(
    work: Work, framework: Framework, item: int, clock: Clock, slowdown: float
) -> tuple[float, float, list[Any]]:
    """(seconds of the first phase, seconds of all other tokens, every token) of one item."""
    start = clock()
    token, cache = work.begin(item)
    framework.wait(token, cache)
    begin = elapsed(clock, start, slowdown)
    tokens = [token]
    start = clock()
    for _ in range(work.decode_tokens - 1):
        token, cache = work.advance(token, cache)
        tokens.append(token)
    framework.wait(tokens, cache)
    return begin, elapsed(clock, start, slowdown), tokens


def _token_latency(
    work: Work, framework: Framework, item: int, clock: Clock, slowdown: float
) -> list[float]:
    token, cache = work.begin(item)
    framework.wait(token, cache)
    samples = []
    for _ in range(work.decode_tokens - 1):
        start = clock()
        token, cache = work.advance(token, cache)
        framework.read(token)
        samples.append(elapsed(clock, start, slowdown))
    return samples


def _completion(work: Work, framework: Framework, plan: Plan, clock: Clock) -> tuple[float, float]:
    """Of tokens instead of steps, each time from the end of the first phase."""
    last: list[Any] = []

    def timed(count: int) -> float:
        token, cache = work.begin(0)
        framework.wait(token, cache)
        start = clock()
        for _ in range(count):
            token, cache = work.advance(token, cache)
        framework.wait(token, cache)
        seconds = clock() - start
        last[:] = [token]
        return seconds

    most = max(1, (work.decode_tokens - 1) // 2)
    return completion(timed, lambda: framework.read(last[0]), clock, plan.audit_seconds, most)

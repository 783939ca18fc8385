"""The numbers, the tables and the figure of `serving_latency`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from analysis.statistics import Ratio, percentile_ratio
from analysis.style import DARK, LIGHT, Theme, png
from benchmarks.served import Answered

QUANTILES = (50, 99)
RESAMPLES = 2000
KEPT_UP = 0.95  # of the offered rate, below which the queue only grows
LATE_SECONDS = 0.002  # after which a request counts as sent late


@dataclass(frozen=True)
class Block:
    """One server process under load."""

    arm: str
    pair: int
    order: int
    found: Answered


@dataclass(frozen=True)
class Percentile:
    """Of all requests of an arm, with a 95 % interval by a bootstrap of its blocks; seconds, inf where
    so many failed."""

    percent: int
    seconds: float
    low: float
    high: float


@dataclass(frozen=True)
class Arm:
    """One framework. rate: requests answered a second, over all blocks; late: share of the requests that
    were sent later than meant."""

    name: str
    requests: int
    failed: int
    errors: dict[str, int]
    rate: float
    offered: float
    late: float
    percentiles: tuple[Percentile, ...]
    flags: tuple[str, ...]


@dataclass(frozen=True)
class Compared:
    """arms: the two; ratios: percentile -> first over second, paired by block, None where refused."""

    arms: tuple[Arm, Arm]
    ratios: dict[int, Ratio | None]


def compare(blocks: Sequence[Block], names: tuple[str, str], seed: int) -> Compared:
    """The two arms and their ratio."""
    first, second = (
        sorted((b for b in blocks if b.arm == name), key=lambda b: b.pair) for name in names
    )
    rng = np.random.default_rng([seed, 2])
    arms = _arm(names[0], first, rng), _arm(names[1], second, rng)
    return Compared(arms, {q: _ratio(first, second, q) for q in QUANTILES})


def _ratio(first: Sequence[Block], second: Sequence[Block], percent: int) -> Ratio | None:
    """A block is a server process, which is the unit of replication; None where one has none."""
    values = [[quantile(b.found.latencies, percent) for b in blocks] for blocks in (first, second)]
    if not np.isfinite(values).all():
        return None
    fewest = min(len(b.found.latencies) for b in (*first, *second))
    return percentile_ratio(values[0], values[1], fewest, percent)


def quantile(latencies: np.ndarray, percent: float) -> float:
    """Linear between order statistics; inf where it falls among the failed ones, which are the longest.

    >>> quantile(np.array([1.0, 2.0, np.inf]), 50), quantile(np.array([1.0, 2.0, np.inf]), 99)
    (2.0, inf)
    """
    ordered = np.sort(latencies)
    place = (len(ordered) - 1) * percent / 100
    low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
    if not np.isfinite(high):
        return float(low) if place == math.floor(place) else math.inf
    return float(low + (high - low) * (place - math.floor(place)))


def bootstrap(blocks: Sequence[np.ndarray], percent: float, rng: np.random.Generator) -> Percentile:
    """Whole blocks are drawn again: requests of one block wait in one queue and are not independent."""
    whole = quantile(np.concatenate(blocks), percent)
    draws = [
        quantile(
            np.concatenate([blocks[i] for i in rng.integers(0, len(blocks), len(blocks))]), percent
        )
        for _ in range(RESAMPLES)
    ]
    low, high = quantile(np.array(draws), 2.5), quantile(np.array(draws), 97.5)
    return Percentile(int(percent), whole, low, high)


def _arm(name: str, blocks: Sequence[Block], rng: np.random.Generator) -> Arm:
    latencies = [b.found.latencies for b in blocks]
    requests = sum(map(len, latencies))
    errors: dict[str, int] = {}
    for block in blocks:
        for how, count in block.found.errors.items():
            errors[how] = errors.get(how, 0) + count
    failed = sum(int(np.isinf(found).sum()) for found in latencies)
    seconds = sum(b.found.seconds for b in blocks)
    rate = (requests - failed) / seconds
    late = float(np.mean(np.concatenate([b.found.late for b in blocks]) > LATE_SECONDS))
    # Of the time in which they were meant to be sent, to which the last answer adds its own latency.
    offered = requests / sum(b.found.seconds - _last(b.found) for b in blocks)
    flags = []
    if failed:
        flags.append(f"ERRORS: {failed} of {requests} requests failed and count as the longest")
    if rate < KEPT_UP * offered:
        flags.append(
            "SATURATED: the server does not keep up, so a latency is that of a growing queue"
        )
    if late > 0.05:
        flags.append(
            f"LATE: {100 * late:.0f} % of the requests were sent late: connections or this machine were busy"
        )
    found = tuple(bootstrap(latencies, q, rng) for q in QUANTILES)
    return Arm(name, requests, failed, errors, rate, offered, late, found, tuple(flags))


def _last(found: Answered) -> float:
    """Latency of the last request that was answered."""
    answered = found.latencies[np.isfinite(found.latencies)]
    return float(answered[-1]) if len(answered) else 0.0


# --- words


def markdown(report: Compared, facts: Mapping[str, Any]) -> str:
    """Table and sentences."""
    first, second = report.arms
    lines = [
        f"# Latency of `mlflow models serve` under load: {facts['workload']}",
        "",
        f"{facts['rate']:g} requests/s ({facts['arrivals']} arrivals), {facts['items']} item(s) a request "
        f"({facts['request_bytes']:,} bytes), {facts['blocks']} blocks of {facts['seconds']:g} s, each in "
        f"a server process of its own with one worker and {facts['threads']} thread(s), after "
        f"{facts['warmup_seconds']:g} s of warm-up. Latency from the moment a request was meant to be sent. "
        f"One model, trained in {facts['trained_in']}, weights `{facts['weights_sha256'][:12]}`: every "
        "answer, before and under load, was that of the training process.",
        "",
        "| | requests | failed | achieved /s | sent late | p50 ms [95 %] | p99 ms [95 %] |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm in report.arms:
        cells = " | ".join(_cell(p) for p in arm.percentiles)
        lines.append(
            f"| {arm.name} | {arm.requests:,} | {arm.failed} | {arm.rate:.1f} | {100 * arm.late:.1f} % | "
            f"{cells} |"
        )
    lines += [""]
    for percent, ratio in report.ratios.items():
        lines.append(f"- p{percent}: {_sentence(first.name, second.name, ratio)}")
    lines += [f"- {arm.name}: {flag}." for arm in report.arms for flag in arm.flags]
    lines += [
        f"- Machine: {facts['machine'].get('machine_cpu', 'unknown')}, "
        f"{facts['machine'].get('machine_cores', '?')} cores, which load and server share; flags "
        f"{', '.join(facts['machine_flags']) or 'none'}. BLAS: "
        + ", ".join(f"{name} {choice}" for name, choice in facts["blas"].items())
        + ".",
        f"- Intervals of a percentile: bootstrap of whole blocks, {RESAMPLES:,} times; with few blocks they "
        "are too narrow. Ratios: paired by block, order statistics.",
    ]
    return "\n".join(lines)


def _cell(found: Percentile) -> str:
    def text(seconds: float) -> str:
        return f"{1e3 * seconds:.2f}" if math.isfinite(seconds) else "failed"

    return f"{text(found.seconds)} [{text(found.low)}, {text(found.high)}]"


def _sentence(first: str, second: str, ratio: Ratio | None) -> str:
    if ratio is None:
        return "no ratio: in a block so many requests failed that it has no such percentile"
    if ratio.low is None or ratio.high is None:
        return f"{first} over {second} {ratio.estimate:.3f}, no interval from {ratio.n} blocks"
    if ratio.low <= 1 <= ratio.high:
        verdict = "no difference shown"
    else:
        verdict = f"{first} is {'faster' if ratio.high < 1 else 'slower'}"
    names = [flag.name for flag in ratio.warnings if flag.name != "RARE"]
    flags = f" ({', '.join(names)})" if names else ""
    return (
        f"{first} over {second} {ratio.estimate:.3f}, 95 % interval {ratio.low:.3f} to {ratio.high:.3f}, "
        f"{ratio.n} blocks: {verdict}{flags}"
    )


# --- files


def write(
    report: Compared, blocks: Sequence[Block], facts: Mapping[str, Any], folder: Path
) -> None:
    """JSON with every latency, Markdown, and the figure on both backgrounds."""
    alt = "Share of requests answered within a time, one line for each framework"
    text = markdown(report, facts) + f"\n\n![{alt}](serving_latency.png)\n"
    (folder / "serving_latency.md").write_text(text, encoding="utf-8")
    document = {
        "facts": dict(facts),
        "arms": [_plain(arm) for arm in report.arms],
        "ratios": {
            str(q): None
            if r is None
            else {k: getattr(r, k) for k in ("estimate", "low", "high", "p", "n")}
            for q, r in report.ratios.items()
        },
        "blocks": [
            {
                "arm": b.arm,
                "pair": b.pair,
                "order": b.order,
                "seconds": b.found.seconds,
                "errors": dict(b.found.errors),
                "latency_seconds": [_finite(round(v, 7)) for v in b.found.latencies.tolist()],
                "late_seconds": [round(v, 7) for v in b.found.late.tolist()],
            }
            for b in blocks
        ],
    }
    (folder / "serving_latency.json").write_text(json.dumps(document) + "\n", encoding="utf-8")
    for theme, name in ((LIGHT, "serving_latency.png"), (DARK, "serving_latency_dark.png")):
        (folder / name).write_bytes(png(lambda t: _plan(report, blocks, facts, t), theme))


def _plain(arm: Arm) -> dict[str, Any]:
    values = {**vars(arm), "percentiles": [vars(p).copy() for p in arm.percentiles]}
    for one in values["percentiles"]:
        one |= {key: _finite(one[key]) for key in ("seconds", "low", "high")}
    return values


def _finite(value: float) -> float | None:
    """JSON has no infinity: None is a request that failed."""
    return value if math.isfinite(value) else None


def _plan(
    report: Compared, blocks: Sequence[Block], facts: Mapping[str, Any], theme: Theme
) -> Figure:
    figure, axes = plt.subplots(figsize=(6.4, 3.8))
    for place, arm in enumerate(report.arms):
        colour = theme.arms[place]
        every = [b.found.latencies for b in blocks if b.arm == arm.name]
        values = np.sort(np.concatenate(every)) * 1e3
        shares = np.arange(1, len(values) + 1) / len(values)
        shown = np.isfinite(values)
        axes.step(values[shown], shares[shown], where="post", color=colour, label=arm.name)
        for found in arm.percentiles:
            if math.isfinite(found.seconds):
                axes.plot(
                    1e3 * found.seconds,
                    found.percent / 100,
                    "o" if not place else "s",
                    color=colour,
                )
    axes.set(xscale="log", xlabel="latency, ms (from the moment a request was meant to be sent)")
    axes.set(ylabel="share of requests", ylim=(0, 1.02))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.grid(True, axis="y", lw=0.6)
    axes.legend(loc="lower right")
    title = f"{facts['workload']}, {facts['rate']:g} requests/s, {facts['arrivals']} arrivals; marks: p50, p99"
    axes.set_title(title, loc="left")
    return figure

"""Studies of language and speech workloads with known truth, made by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import rows
from rows import row

from tracking.read import Pairing, Row, Study

MLX, TORCH, AGAIN = "mlx blas=mkl", "pytorch blas=mkl", "pytorch blas=mkl (again)"
ITEMS, PROMPT, TOKENS = 10, 64, 33
KEPT = ("memory/", "hardware/")  # what a generation has in common with a training


def study(
    name: str, workload: str, metric: str, mode: str = "generate", pairs: int = 8, **design: Any
) -> Study:
    return Study(
        name=name,
        run_id=f"parent-{name}",
        pairs=pairs,
        margin=0.05,
        metric=metric,
        target=design.pop("target", 0.0),
        family=(metric,),
        arms=(MLX, TORCH, AGAIN),
        comparisons=(Pairing(MLX, TORCH, "headline"), Pairing(AGAIN, TORCH, "resolution")),
        design={"workload": workload, "mode": mode, **design},
    )


def measured(
    plan: Study, speed: float, turn: Callable[[Row, float], Row], seed: int = 4
) -> tuple[Study, list[Row]]:
    """(study, rows): every arm once a block; MLX takes `speed` of PyTorch's time, about 1 s."""
    rng, found = np.random.default_rng(seed), []
    for pair in range(plan.pairs):
        block = float(np.exp(rng.normal(0, 0.05)))
        for order, index in enumerate(rng.permutation(3)):
            arm = plan.arms[index]
            noise = float(np.exp(rng.normal(0, 0.02)))
            seconds = block * noise * (speed if arm == MLX else 1.0)
            made = turn(row(arm, pair, order, seconds), seconds)
            keys = {"workload": plan.design["workload"], "mode": plan.mode, "preset": "cpu"}
            found.append(
                replace(
                    made,
                    run_id=f"{plan.name}-{arm}-{pair}",
                    study=plan.name,
                    cell={**made.cell, **keys},
                )
            )
    return plan, found


def _generation(made: Row, seconds: float, metrics: dict[str, float]) -> Row:
    assert made.parity is not None
    calls = 2 * ITEMS * (TOKENS - 1)
    return replace(
        made,
        metrics={
            **{k: v for k, v in made.metrics.items() if k.startswith(KEPT)},
            "inference/total_seconds": seconds,
            "inference/first_call_seconds": seconds / 4,
            "inference/output_tokens": float(TOKENS),
            **{f"inference/token_seconds_p{p}": seconds / 350 * p / 50 for p in (50, 90, 99)},
            **metrics,
        },
        cell={**made.cell, "checkpoint": "random"},
        receipt={
            "kind": "generate",
            "items": ITEMS,
            "prompt_tokens": ITEMS * PROMPT,
            "tokens": ITEMS * TOKENS,
            "flops": 10**10,
            "latency_calls": calls,
            "tokens_digest": "aa11",
        },
        parity={**made.parity, "optimiser": "none"},
        flags=(*made.flags, "RANDOM-WEIGHTS"),
    )


def generate(made: Row, seconds: float) -> Row:
    """A training's row as one of generation: a fifth of the time is prefill."""
    begin, decode = 0.2 * seconds / ITEMS, 0.8 * seconds / ITEMS
    return _generation(
        made,
        seconds,
        {
            "inference/first_token_seconds": begin,
            "inference/prefill_tokens_per_second": PROMPT / begin,
            "inference/decode_tokens_per_second": (TOKENS - 1) / decode,
        },
    )


def speech(made: Row, seconds: float) -> Row:
    encode, decode = 0.5 * seconds / ITEMS, 0.5 * seconds / ITEMS
    return _generation(
        made,
        seconds,
        {
            "inference/encode_seconds": encode,
            "inference/decode_seconds": decode,
            "inference/decode_tokens_per_second": (TOKENS - 1) / decode,
            "inference/real_time_factor": (encode + decode) / 30,
            "inference/seconds_per_audio": encode + decode,
        },
    )


def language(made: Row, seconds: float) -> Row:
    """A training's row as one of a language model, judged by its perplexity."""
    without = {k: v for k, v in made.metrics.items() if k != "eval/accuracy"}
    tokens = 128 * made.metrics["train/items_per_second"]
    return replace(
        made,
        metrics={**without, "eval/perplexity": 118.0, "train/tokens_per_second": tokens},
    )


def tinyllama(**more: Any) -> tuple[Study, list[Row]]:
    design = {"checkpoint": "random", "quality": "none", **more}
    plan = study("llama", "tinyllama", "inference/total_seconds", **design)
    return measured(plan, 0.7, generate)


def whisper(**more: Any) -> tuple[Study, list[Row]]:
    plan = study("speech", "whisper_tiny", "inference/total_seconds", checkpoint="random", **more)
    return measured(plan, 1.3, speech, seed=5)


def transformer(**more: Any) -> tuple[Study, list[Row]]:
    design = {"quality": "eval/perplexity", "target": 120.0, **more}
    plan = study("lm", "transformer_lm", "train/total_seconds", "train", **design)
    return measured(plan, 0.9, language, seed=6)


def samples(made: Row) -> dict[str, np.ndarray]:
    """What a trial of generation keeps."""
    rng = np.random.default_rng([made.pair or 0, len(made.arm)])
    seconds = made.metrics["inference/total_seconds"]
    return {
        "begin_seconds": rows.summing_to(0.2 * seconds, np.exp(rng.normal(0, 0.03, ITEMS))),
        "decode_seconds": rows.summing_to(0.8 * seconds, np.exp(rng.normal(0, 0.03, ITEMS))),
        "token_seconds": rows.with_quantiles(made, "inference/token_seconds"),
    }


def kept(made: Row) -> dict[str, np.ndarray]:
    """The samples of a trial of any mode."""
    return samples(made) if made.cell.get("mode") == "generate" else rows.samples(made)


def spoilt(
    made: tuple[Study, list[Row]], arm: str, pairs: int = 99, **changes: Any
) -> tuple[Study, list[Row]]:
    """The study with the first rows of one arm changed."""
    plan, found = made
    for pair in range(min(pairs, plan.pairs)):
        found = rows.changed(found, arm, pair, **changes)
    return plan, found


def bert_of_other_work() -> tuple[Study, list[Row]]:
    """A training whose arms did not do the same."""
    plan = study("bert", "bert_tiny", "train/total_seconds", "train", target=0.6)
    made = measured(plan, 0.8, lambda one, seconds: one, seed=7)
    return spoilt(made, MLX, receipt={"steps": 704})

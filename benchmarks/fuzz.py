"""Every parser of outside data under a coverage-guided fuzzer (atheris, not among the requirements).

    pip install atheris==3.0.0
    python -m benchmarks.fuzz --parser tags --seconds 600
    python -m benchmarks.fuzz --list

The contract: a parser returns or raises InputError, within `MOST_SECONDS` and `MOST_MIB`, whatever it
is given. Only this project's modules are instrumented. Inputs that gave new coverage are kept in the
folder of --corpus, an input that breaks the contract in that of --crashes; results/fuzz has the log.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from benchmarks import fuzz_files, fuzz_store
from benchmarks.fuzz_common import Target
from measurement.errors import InputError

MOST_SECONDS, MOST_MIB = 10, 3072  # of one input: time, and of the process: memory
SEED = 7


@dataclass(frozen=True)
class Parser:
    """target: parses one input. seeds: valid small examples, so that the fuzzer starts inside."""

    target: Callable[[], Target]
    seeds: Callable[[], list[bytes]]
    what: str


# --- what a run says of itself


# --- tables and words


# --- files of numbers


# --- what answers as a tracking server


# --- models of a store


# --- local records, which another machine's disk or an interrupted write may have spoilt


PARSERS: dict[str, Parser] = {
    "tags": Parser(
        fuzz_store.tags, fuzz_store.tag_seeds, "tags of a trial: condition, parity, receipt, flags"
    ),
    "design": Parser(
        fuzz_store.design,
        lambda: [json.dumps(fuzz_store.DESIGN).encode()],
        "design of a study, its arms",
    ),
    "recordings": Parser(
        fuzz_files.recordings,
        lambda: [
            b"torch-train-mps-n2-e2.csv\nepoch_0,epoch_1,avg,iter_total\n1,3,2,4.5\n1,2,1.5,4\n",
            b"mlx-test-cpu.blas_mkl-n1.csv\niter_total\n1.5e-3\n",
            b"mlx-train-gpu-n1-e1-vbatch.csv\nepoch_0,batch_size,avg,iter_total\n1,64,1,2\n",
        ],
        "CSV files of import_results",
    ),
    "words": Parser(
        fuzz_files.words,
        fuzz_files.word_seeds,
        "hostfile, price table, arms, container image, hub id",
    ),
    "config": Parser(
        fuzz_files.config,
        fuzz_files.config_seeds,
        "config.json of checkpoints and trials, shard index",
    ),
    "safetensors": Parser(
        fuzz_files.safetensors, fuzz_files.safetensors_seeds, "weights, as checkpoint and as model"
    ),
    "samples": Parser(fuzz_store.samples, fuzz_store.samples_seeds, "samples.parquet of a run"),
    "wav": Parser(fuzz_files.wav, fuzz_files.wav_seeds, "a user's recording"),
    "npz": Parser(
        fuzz_files.npz, fuzz_files.npz_seeds, "a user's images; shards of simulated circuits"
    ),
    "archives": Parser(
        fuzz_files.archives, fuzz_files.archive_seeds, "CIFAR tar, IDX, gzip, records of downloads"
    ),
    "tokenizer": Parser(
        fuzz_files.tokenizer, fuzz_files.tokenizer_seeds, "tokenizer.json, tiktoken pieces, prompts"
    ),
    "server": Parser(fuzz_store.server, fuzz_store.server_seeds, "answers of a tracking server"),
    "model": Parser(
        fuzz_store.model,
        fuzz_store.model_seeds,
        "an MLflow model, its graph and pickles; a run's recipe",
    ),
    "record": Parser(
        fuzz_store.record,
        fuzz_store.record_seeds,
        "a local record, its points and receipts",
    ),
    "database": Parser(
        fuzz_store.database,
        fuzz_store.database_seeds,
        "values in the tables of a tracking database",
    ),
}
OURS = ["analysis", "entrypoints", "frameworks", "measurement", "models", "serving", "tracking"]


_NASTY: list[Any] = [
    None, True, 0, -1, 1.5, 1e308, -1e308, float("nan"), float("inf"), 2**31, 2**63, 2**64, 10**400, "",
    "a", "\u00b2", "..", "../../x", "/etc/passwd", "\0", "\ud800", "1" * 5000, "=1+1", "\x1b[2J", [], {},
    [[]], {"a": {}}, [1, "a"],
]  # fmt: skip


def mutated(data: bytes, most: int, seed: int) -> bytes:
    """An input like `data`. Where a line of it ends in JSON, every other time one node of that is
    changed: the bytes of JSON, cut anywhere, rarely stay JSON."""
    import atheris

    random = Random(seed)
    lines = data.split(b"\n")
    places = [k for k, line in enumerate(lines) if b"{" in line]
    if places and random.random() < 0.5:
        place = random.choice(places)
        head, brace, tail = lines[place].partition(b"{")
        with contextlib.suppress(ValueError, RecursionError):
            tree = _changed(json.loads(brace + tail), random)
            lines[place] = head + json.dumps(tree).encode("utf-8", "replace")
            return b"\n".join(lines)[:most]
    found: bytes = atheris.Mutate(data, most)
    return found


def _changed(tree: Any, random: Random) -> Any:
    if not isinstance(tree, (dict, list)) or not tree or random.random() < 0.2:
        return random.choice([*_NASTY, tree, [tree], [tree] * 5])
    keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
    key = random.choice(keys)
    if random.random() < 0.1:
        del tree[key]
    elif random.random() < 0.1 and isinstance(tree, dict):
        tree[str(random.choice(_NASTY))] = tree[key]
    else:
        tree[key] = _changed(tree[key], random)
    return tree


def check(target: Target, data: bytes) -> None:
    """One input by the contract: returns, or the InputError that a parser may raise."""
    with contextlib.suppress(InputError):
        target(data)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    arguments.add_argument("--parser", choices=sorted(PARSERS))
    arguments.add_argument("--seconds", type=int, default=600)
    arguments.add_argument("--corpus", default="mlruns/fuzz/corpus")
    arguments.add_argument("--crashes", default="mlruns/fuzz/crashes")
    arguments.add_argument("--list", action="store_true")
    given = arguments.parse_args()
    if given.list or not given.parser:
        print("\n".join(f"{name:12} {parser.what}" for name, parser in PARSERS.items()))
        return
    import atheris

    logging.disable(logging.WARNING)
    parser = PARSERS[given.parser]
    corpus, crashes = (Path(f) / given.parser for f in (given.corpus, given.crashes))
    for folder in (corpus, crashes):
        folder.mkdir(parents=True, exist_ok=True)
    with atheris.instrument_imports(include=OURS, enable_loader_override=False):
        target = parser.target()
    for number, seed in enumerate(parser.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    start, executed = time.monotonic(), 0

    def once(data: bytes) -> None:
        nonlocal executed
        executed += 1
        check(target, data)

    options = [
        f"-max_total_time={given.seconds}", f"-timeout={MOST_SECONDS}", f"-rss_limit_mb={MOST_MIB}",
        f"-artifact_prefix={crashes}/", f"-seed={SEED}", "-max_len=65536", "-print_final_stats=1",
        "-use_value_profile=1", str(corpus),
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *options], once, custom_mutator=mutated)
    print(f"{given.parser}: start", os.getpid(), start, file=sys.stderr)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

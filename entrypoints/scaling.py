"""`scaling`: a study over numbers of ranks: how much faster, how efficient, and which framework.

python -m entrypoints.scaling --ranks 1,2,4 --name ranks
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import Any

import click

import models
from analysis.flags import MINIMUM_PAIRS
from analysis.statistics import holm_pairs
from entrypoints import study, study_plan
from entrypoints.options import Command, Or, whole
from entrypoints.sweep import parse_values
from measurement import machine
from measurement.errors import InputError
from measurement.schedule import AGAIN, Condition

FRAMEWORKS = ("mlx", "pytorch")  # the first over the second
KINDS = {"strong": ("strong",), "weak": ("weak",), "both": ("strong", "weak")}
_AS_IN_STUDY = (
    "name", "workload", "preset", "pairs", "device", "dtype", "dataset", "data_dir", "seed", "target",
    "margin", "price_per_hour", "price_table", "gap_seconds", "wait_quiet", "epochs",
)  # fmt: skip


def parse_ranks(text: str) -> list[int]:
    """`1,2,4` or `1..4` -> [1, 2, 4]. Raises InputError where 1 is missing, and as `parse_values`."""
    ranks = [int(value) for value in parse_values(text, "ranks", int, "ranks")]
    if ranks[0] != 1:
        raise InputError(
            f"ranks='{text}': expected 1 among them, which every speed-up is relative to; as in 1,2,4"
        )
    return ranks


def parse_backends(text: str, frameworks: tuple[str, ...]) -> dict[str, str]:
    """`auto` or `nccl` for every framework, `mlx=ring,pytorch=gloo` for each its own; the names are
    checked where a job is made. Raises InputError."""
    expected = "expected auto, a name, or one a framework as in mlx=ring,pytorch=gloo"
    if "=" not in text:
        if not text or set(text) & set(" ,"):
            raise InputError(f"backend='{text}': {expected}")
        return dict.fromkeys(frameworks, text)
    found = dict.fromkeys(frameworks, "auto")
    for part in text.split(","):
        framework, _, name = part.strip().partition("=")
        if framework not in frameworks or not name or " " in name:
            raise InputError(
                f"backend='{text}': {expected}; frameworks here: {', '.join(frameworks)}"
            )
        found[framework] = name
    return found


def threads_for(asked: int, ranks: list[int]) -> int:
    """Threads of a rank, the same at every number of ranks: efficiency compares resources added."""
    cores = os.cpu_count() or 1
    if asked > cores:
        raise InputError(
            f"threads={asked}: expected {cores} or less, the processors of this machine"
        )
    return asked or max(1, machine.physical_cores() // ranks[-1])


def batch_for(options: dict[str, Any], ranks: list[int], kinds: tuple[str, ...]) -> int:
    """The global batch of one process. Raises InputError when a rank would get nothing of it, or the
    largest one holds more than the training data."""
    workload, preset = options["workload"], options["preset"]
    if "batch_size" not in models.options(workload):
        raise InputError(f"workload '{workload}' has no batch_size that ranks could share")
    presets = models.load(workload, "config").PRESETS
    if preset not in presets:
        raise InputError(f"unknown preset '{preset}'; choose one of: {', '.join(presets)}")
    sizes = presets[preset]
    batch = sizes.batch_size if options["batch_size"] == "preset" else options["batch_size"]
    if batch < ranks[-1] and "strong" in kinds:
        raise InputError(
            f"batch_size={batch}: expected {ranks[-1]} or more, an item for each rank; "
            "choose a larger batch_size or fewer ranks"
        )
    largest = batch * ranks[-1] if "weak" in kinds else batch
    if largest > sizes.train_items:
        raise InputError(
            f"batch_size={batch}: the global batch of {ranks[-1] if 'weak' in kinds else 1} ranks is "
            f"{largest}, expected {sizes.train_items} or less, the training items of preset {preset}; "
            "choose a smaller batch_size, fewer ranks or scaling=strong"
        )
    return int(batch)


def design(options: dict[str, Any], base: Condition) -> dict[str, Any]:
    """The study: one process and every number of ranks of each framework, and an A/A arm of one
    process. `scaling_arms` says what each arm is, so that no analysis reads it off a text."""
    ranks, kinds = parse_ranks(options["ranks"]), KINDS[options["scaling"]]
    chosen = FRAMEWORKS if options["framework"] == "both" else (options["framework"],)
    backends = parse_backends(options["backend"], chosen)
    batch, threads = batch_for(options, ranks, kinds), base.threads
    stems = dict(zip(FRAMEWORKS, study_plan.default_arms(base.device)[0][:2], strict=True))

    def arm(framework: str, kind: str, n: int) -> dict[str, Any]:
        size = batch * n if kind == "weak" else batch
        words = [stems[framework], f"ranks={n}", f"threads={threads}"]
        if n > 1 and backends[framework] != "auto":
            words.append(f"backend={backends[framework]}")
        if kind == "weak" or options["batch_size"] != "preset":
            words.append(f"batch_size={size}")
        return {
            "framework": stems[framework],
            "kind": kind,
            "ranks": n,
            "batch_size": size,
            "name": " ".join(words),
        }

    members = [
        arm(framework, kind, n)
        for framework in chosen
        for kind in ("single", *kinds)
        for n in (ranks[:1] if kind == "single" else ranks[1:])
    ]
    first = {one["framework"]: one["name"] for one in members if one["kind"] == "single"}
    comparisons = []
    if len(chosen) == 2:  # the strong arms where there are some: one question a number of ranks
        sides = [
            [m for m in members if m["framework"] == stems[f] and m["kind"] in ("single", kinds[0])]
            for f in FRAMEWORKS
        ]
        comparisons += [
            _pairing(mlx["name"], torch["name"], "headline")
            for mlx, torch in zip(*sides, strict=True)
        ]
    comparisons += [
        _pairing(one["name"], first[one["framework"]], "scaling")
        for one in members
        if one["kind"] == "strong"
    ]
    reference = first[stems[chosen[-1]]]
    again = f"{reference} {AGAIN}"
    comparisons.append(_pairing(again, reference, "resolution"))
    plan = study_plan.fixed(options, base, [*(m["name"] for m in members), again], comparisons)
    # One host: a job on several needs its hostfile in every trial's specification (hostfile of
    # TrialSpec), and `hosts` here is then the number of them, which the analysis holds jobs to.
    fixed = {"ranks": ranks, "kinds": list(kinds), "threads": threads, "hosts": 1}
    return {**plan, "scaling": fixed, "scaling_arms": members}


def _pairing(numerator: str, denominator: str, role: str) -> dict[str, str]:
    return {"numerator": numerator, "denominator": denominator, "role": role}


@click.command(
    cls=Command,
    help=__doc__,
    example="mlflow run . -e scaling -P workload=mnist -P ranks=1,2",
    params=[p for p in study.main.params if p.name in _AS_IN_STUDY],
)
@click.option(
    "--ranks", default="1,2,4", show_default=True, help="numbers of ranks; 1 is the single process"
)
@click.option("--scaling", type=click.Choice([*KINDS]), default="both", show_default=True,
              help="strong: the same global batch; weak: batch_size x ranks")  # fmt: skip
@click.option("--framework", type=click.Choice(["both", *FRAMEWORKS]), default="both",
              show_default=True)  # fmt: skip
@click.option("--threads", type=whole(0), default=0, show_default=True,
              help="number of threads of each rank, at every number of ranks; 0: physical cores // most ranks")  # fmt: skip
@click.option("--backend", default="auto", show_default=True,
              help="auto, a name, or one each: mlx=ring,pytorch=gloo")  # fmt: skip
@click.option("--batch_size", type=Or("preset", whole(1)), default="preset", show_default=True,
              help="items of a batch, global, of one process")  # fmt: skip
@click.option("--compile", default="auto", show_default=True, help="auto, on or off")
def main(**options: Any) -> None:
    ranks = parse_ranks(options["ranks"])
    options["threads"] = threads_for(options["threads"], ranks)
    options, base = study_plan.complete(options | {"mode": "train", "checkpoint": "random"})
    base = replace(base, compile=options["compile"])
    plan = design(options, base)
    asked = sum(pairing["role"] == "headline" for pairing in plan["comparisons"])
    click.echo(
        f"scaling over {', '.join(map(str, ranks))} ranks of {base.threads} "
        f"thread{'s' * (base.threads != 1)}: {len(plan['arms'])} arms, {len(plan['order'])} trials",
        err=True,
    )
    if asked and plan["pairs"] < (needed := holm_pairs(asked)):
        click.echo(
            f"pairs={plan['pairs']}: efficiencies need {MINIMUM_PAIRS}, a verdict on the frameworks at each "
            f"of {asked} numbers of ranks needs {needed}",
            err=True,
        )
    sys.exit(study.conduct(options["name"], plan, study_plan.sources_of(options)))


if __name__ == "__main__":
    main()

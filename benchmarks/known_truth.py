"""Is the study right where the truth is known? Many small studies of one framework with itself.

    python -m benchmarks.known_truth --output known_truth

Every study has blocks of trials in random order, each in a fresh process as in `study`: PyTorch,
PyTorch again and, unless --slowdown_percent is 0, PyTorch slowed by that much. PyTorch against
itself must be called different in 5 % of studies, no more; the slowed arm as often as there are
pairs enough to see it. Trials are short: 40 epochs of eight steps on generated data, little of everything that is not analysed.
Every trial is appended to trials.jsonl as it ends; started again, the script runs what is missing.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from scipy import stats

from analysis.statistics import Ratio, paired_ratio
from analysis.style import LIGHT, style
from benchmarks.common import say, whole
from entrypoints.processes import run_worker
from entrypoints.supervisor import TrialSpec, new_folder, resolve, worker_spec
from measurement import machine
from measurement.errors import InputError
from measurement.schedule import AGAIN, Condition, Slot, blocks, parse_arm

SHORT = {  # of what surrounds the timed epoch, the least that keeps every phase
    "warmup_steps": 20,
    "audit_seconds": 0.02,
    "waited_steps": 10,
    "latency_warmup_calls": 5,
    "latency_calls": 20,
    "inference_seconds": 0.02,
    "ceiling_seconds": 0.02,
}


def arms(options: argparse.Namespace) -> tuple[str, ...]:
    plain, slowdown = options.arm, options.slowdown_percent
    slowed = (f"{plain} slowdown_percent={slowdown:g}",) if slowdown else ()
    return plain, f"{plain} {AGAIN}", *slowed


def specifications(options: argparse.Namespace) -> dict[str, TrialSpec]:
    """arm -> its trial. Raises InputError."""
    base = Condition("pytorch", "cpu", compile="off", threads=options.threads)
    found = {}
    for arm in arms(options):
        condition, _ = parse_arm(arm, base)
        sizes = resolve("mnist", "smoke", {}, "synthetic", condition)
        found[arm] = TrialSpec(
            "mnist", condition, "smoke", sizes, 0, options.epochs, "synthetic", "auto", 0.99
        )
    return found


def seconds(spec: TrialSpec, seed: int) -> float:
    """Training time of one short trial in a worker of its own."""
    request = worker_spec(spec, "measure")
    request["seed"] = seed
    request["plan"] |= SHORT
    folder = new_folder("known-truth")
    result = run_worker(request, folder)
    shutil.rmtree(folder)  # the one number kept is in trials.jsonl
    return float(sum(result["trial"]["epoch_seconds"]))


def run(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Every trial that is missing, study by study; returns all of them."""
    path, names = folder / "trials.jsonl", arms(options)
    found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {(trial["study"], trial["pair"], trial["arm"]) for trial in found}
    missing: list[tuple[int, Slot]] = [
        (study, slot)
        for study in range(options.studies)
        for slot in blocks(names, options.pairs, options.seed + study)
        if (study, slot.pair, slot.arm) not in done
    ]
    specs, start = specifications(options), time.monotonic()
    with path.open("a") as file:
        for number, (study, slot) in enumerate(missing):
            window = machine.LoadWindow()
            trial = {
                "study": study,
                "pair": slot.pair,
                "order": slot.order,
                "arm": slot.arm,
                "start_seconds": time.time(),
                "train/total_seconds": seconds(specs[slot.arm], 1000 * study + slot.pair),
                "stolen_fraction": window.stop(0.0)[1],
            }
            found.append(trial)
            file.write(json.dumps(trial) + "\n")
            file.flush()
            if (number + 1) % (len(names) * options.pairs) == 0:
                left = (time.monotonic() - start) / (number + 1) * (len(missing) - number - 1)
                say(f"{number + 1} of {len(missing)} trials, {left / 60:.0f} min left")
    return found


def ratios(trials: list[dict[str, Any]], first: str, second: str) -> list[Ratio]:
    """One Q1 ratio a study."""
    by_study: dict[int, dict[tuple[str, int], float]] = {}
    for trial in trials:
        by_study.setdefault(trial["study"], {})[trial["arm"], trial["pair"]] = trial[
            "train/total_seconds"
        ]
    found = []
    for values in by_study.values():
        numbers = sorted({pair for _, pair in values})
        found.append(
            paired_ratio([values[first, n] for n in numbers], [values[second, n] for n in numbers])
        )
    return found


def summary(found: list[Ratio], truth: float) -> dict[str, Any]:
    """Studies that call the arms different, with its Clopper-Pearson interval, and coverage."""
    different = sum(r.p is not None and r.p <= 0.05 for r in found)
    covered = sum(r.low is not None and r.high is not None and r.low <= truth <= r.high for r in found)  # fmt: skip
    share = stats.binomtest(different, len(found)).proportion_ci(method="exact")
    return {
        "truth": truth,
        "studies": len(found),
        "pairs": found[0].n,
        "different": different,
        "different_low": float(share.low),
        "different_high": float(share.high),
        "covered": covered,
        "median_ratio": float(np.median([r.estimate for r in found])),
        "median_half_width": float(
            np.median([np.sqrt(r.high / r.low) - 1 for r in found if r.low and r.high])
        ),
    }


def draw(found: dict[str, tuple[list[Ratio], float]], path: Path) -> None:
    """Every study's interval, ordered by its estimate; those that miss the truth stand out."""
    with style(LIGHT):
        figure, panels = plt.subplots(1, len(found), figsize=(9, 5), sharey=True, squeeze=False)
        for axes, (arm, (values, truth)) in zip(panels[0], found.items(), strict=True):
            for row, r in enumerate(sorted(values, key=lambda r: r.estimate)):
                assert r.low is not None and r.high is not None
                colour = LIGHT.arms[0 if r.low <= truth <= r.high else 1]
                axes.plot([r.low, r.high], [row, row], color=colour, linewidth=1.6)
                axes.plot(r.estimate, row, "o", color=colour, markersize=3)
            axes.axvline(1, color=LIGHT.ink, linewidth=0.8)
            if truth != 1:
                axes.axvline(truth, color=LIGHT.ink, linewidth=0.8, linestyle="--")
            axes.set_xlabel(f"{arm}: ratio to the plain arm")
            axes.set_yticks([])
        panels[0][0].set_ylabel("one interval a study, by its ratio (orange: misses the truth)")
        figure.savefig(path, dpi=150)
        plt.close(figure)


def main() -> int:
    """Options, trials, table, figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--studies", type=whole, default=40)
    add("--pairs", type=whole, default=6, help="6 or more")
    add("--epochs", type=whole, default=40)
    add("--arm", default="pytorch", help="as in `study`: 'pytorch', 'mlx blas=mkl'")
    add("--slowdown_percent", type=float, default=5.0)
    add("--threads", type=whole, default=1)
    add("--seed", type=int, default=0)
    add("--output", type=Path, required=True, help="folder of trials, summary and figure")
    options = parser.parse_args()
    try:
        if options.pairs < 6:
            raise InputError(f"--pairs {options.pairs}: expected 6 or more, for an interval")
        options.output.mkdir(parents=True, exist_ok=True)
        trials = run(options, options.output)
    except InputError as error:
        print("Error: " + " ".join(str(error).split()), file=sys.stderr)
        return 2
    plain, *others = arms(options)
    truths = dict(zip(others, (1.0, 1 + options.slowdown_percent / 100), strict=False))
    found = {arm: (ratios(trials, arm, plain), truth) for arm, truth in truths.items()}
    summaries = {arm: summary(values, truth) for arm, (values, truth) in found.items()}
    document = {
        "options": {key: str(value) for key, value in vars(options).items() if key != "output"},
        "machine": machine.facts(),
        "summaries": summaries,
    }
    (options.output / "summary.json").write_text(json.dumps(document, indent=1) + "\n")
    draw(found, options.output / "intervals.png")
    for arm, s in summaries.items():
        print(
            f"{arm} / {plain}: truth {s['truth']:g}; {s['different']} of {s['studies']} studies of "
            f"{s['pairs']} pairs call the arms different (95 % {100 * s['different_low']:.1f} to "
            f"{100 * s['different_high']:.1f} %); {s['covered']} intervals hold the truth; median "
            f"ratio {s['median_ratio']:.4f}, half-width {100 * s['median_half_width']:.1f} %"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())

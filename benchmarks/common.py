"""What both benchmarks share: options, one fresh process per framework, randomised blocks, a table.

Times are seconds unless a name says otherwise; ratios are of seconds, so below 1 is faster.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import frameworks
import models
from analysis.statistics import Ratio, paired_ratio
from entrypoints.processes import TrialFailed, environment
from entrypoints.session import open_session
from entrypoints.supervisor import preset_for, resolve
from measurement import blas, machine, schedule
from measurement.errors import InputError
from measurement.schedule import Condition

FRAMEWORKS = ("mlx", "pytorch")
Samples = dict[str, list[float]]
Arm = Callable[[], dict[str, float]]  # one sample: series name -> seconds
Verdict = Callable[[Ratio], str]
MODES = {"on": "compiled", "off": "eager", "graphs": "CUDA graphs"}


@dataclass(frozen=True)
class Row:
    """One line of the table: the ratio of two paired series of one framework."""

    framework: str
    comparison: str
    first_seconds: float
    second_seconds: float
    ratio: Ratio
    verdict: str


@dataclass(frozen=True)
class Measured:
    """What a framework's process brings back; `notes` are lines for people."""

    framework: str
    conditions: dict[str, Any]
    samples: Samples
    rows: list[Row]
    notes: list[str]


def whole(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value}: expected 1 or more")
    return value


def parser(
    description: str, pairs: int, dataset: str, preset: str = "study"
) -> argparse.ArgumentParser:
    """The options that every script takes."""
    found = argparse.ArgumentParser(description=description)
    add = found.add_argument
    add("--framework", choices=("both", *FRAMEWORKS, *frameworks.OWN_ENVIRONMENT), default="both")
    add("--pairs", type=whole, default=pairs, help="randomised blocks, 6 or more")
    add(
        "--blas",
        default="auto",
        help="auto (a tuned one where found), shipped, mkl, openblas, PATH",
    )
    add("--threads", type=whole, default=1, help="for every library, in both frameworks")
    add("--device", choices=("auto", "cpu", "gpu"), default="cpu")
    add("--dtype", choices=("float32", "tf32", "bfloat16"), default="float32")
    add("--preset", default=preset)
    add(
        "--sizes",
        default="",
        help="other than the preset's, as in 'batch_size=256 train_items=2560'",
    )
    add("--dataset", default=dataset)
    add("--data_dir", default="auto", help="folder of the data files")
    add("--seed", type=int, default=0, help="of the order, the parameters and the batches")
    add("--output", type=Path, help="also write everything, samples included, to this JSON file")
    return found


def main(
    options: argparse.Namespace,
    title: str,
    measure: Callable[[str, argparse.Namespace], Measured],
    check: Callable[[str, argparse.Namespace], Any] = lambda framework, options: None,
    workload: str = "mnist",
) -> int:
    """Checks, prepares the data, measures each framework in its own process, prints, writes."""
    try:
        if options.pairs < 6:
            raise InputError(f"--pairs {options.pairs}: expected 6 or more, for an interval")
        if options.output and not options.output.absolute().parent.is_dir():
            raise InputError(f"--output {options.output}: no such folder; make it first")
        chosen = FRAMEWORKS if options.framework == "both" else (options.framework,)
        for framework in chosen:
            check(framework, options)
        results = each_in_process(measure, chosen, options, workload)
    except (InputError, TrialFailed) as error:
        print("Error: " + " ".join(str(error).split()), file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    print(_text(title, results))
    if options.output:
        # Of a path its last name: where it lies here is nobody's business.
        values = {
            key: Path(value).name if os.path.exists(str(value)) else str(value)
            for key, value in vars(options).items()
            if key != "output"
        }
        facts = {"options": values, "machine": machine.facts()}
        document = {**facts, "results": [_plain(result) for result in results]}
        options.output.write_text(json.dumps(document, indent=1) + "\n")
    return 0


def measured_in_turn(
    options: argparse.Namespace,
    measure: Callable[[str, argparse.Namespace], dict[str, Any]],
    text: Callable[[dict[str, Any]], str],
) -> int:
    """Of a script without pairs of arms: measures each framework in its own process, prints, writes."""
    chosen = FRAMEWORKS if options.framework == "both" else (options.framework,)
    try:
        options.preset = preset_for(options.workload, options.preset, options.device)
        found = each_in_process(measure, chosen, options, options.workload)
    except (InputError, TrialFailed) as error:
        print("Error: " + " ".join(str(error).split()), file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    for one in found:
        print(text(one))
    if options.output:
        document = {"workload": options.workload, "preset": options.preset, "sizes": options.sizes,
                    "machine": machine.facts(), "results": found}  # fmt: skip
        options.output.write_text(json.dumps(document, indent=1) + "\n")
    return 0


def each_in_process(
    measure: Callable[[str, argparse.Namespace], Any],
    chosen: Sequence[str],
    options: argparse.Namespace,
    workload: str,
) -> list[Any]:
    """What `measure` gives of each framework, one process after the other. Raises InputError and
    TrialFailed."""
    options.blas = (blas.better() or "shipped") if options.blas == "auto" else options.blas
    models.load(workload, "data").prepare(options.dataset, options.data_dir)
    os.environ.update(environment(options.threads, dtype=getattr(options, "dtype", "float32")))
    return [_in_process(measure, framework, options) for framework in chosen]


def _plain(result: Measured) -> dict[str, Any]:
    """For JSON; a ratio's limits as a function of the error are no value."""
    values = asdict(result)
    for row in values["rows"]:
        del row["ratio"]["limits"]
    return values


def _in_process(
    measure: Callable[[str, argparse.Namespace], Any],
    framework: str,
    options: argparse.Namespace,
) -> Any:
    """A fresh interpreter: which BLAS serves a framework depends on what was loaded before it."""
    if not frameworks.available(framework):
        raise InputError(f"{framework} is not installed; install it or choose another --framework")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(measure, framework, options).result()


def session(
    framework: str, options: argparse.Namespace, compiled: str = "auto", workload: str = "mnist"
) -> Any:
    """The worker's own session, as a trial makes it; `compiled` is auto, on or off. `options` may
    have a `checkpoint`."""
    checkpoint = getattr(options, "checkpoint", None) or "random"
    dtype = getattr(options, "dtype", "float32")
    condition = Condition(framework, options.device, dtype, compiled)
    own = dict(word.split("=") for word in getattr(options, "sizes", "").split())
    own = {name: json.loads(value) for name, value in own.items()}
    sizes = resolve(
        workload, options.preset, own, options.dataset, condition, checkpoint, options.data_dir
    )
    spec = {"workload": workload, "framework": framework, "sizes": sizes, "dtype": dtype}
    spec |= {"compile": compiled, "device": options.device, "threads": options.threads}
    spec |= {"dataset": options.dataset, "data_dir": options.data_dir, "seed": options.seed}
    mode = models.load(workload, "config").KIND
    return open_session(spec | {"mode": mode, "checkpoint": checkpoint})


def modes(session: Any) -> tuple[str, ...]:
    """Those that a twin can run in here."""
    if session.framework.can_compile():
        return ("off",)
    return ("on", "off") if session.framework.can_graph() else ("graphs", "on", "off")


def own_modes(session: Any) -> tuple[str, str]:
    """What compile=auto was: of a step (or a first phase), and of inference (or a token)."""
    on = "graphs" if session.graphs else "on"
    first, second = session.compiled, session.compiled_inference
    return on if first else "off", on if second else "off"


def submitted(session: Any, call: Callable[..., Any], mode: str) -> Callable[..., Any]:
    """call(model, *inputs) without gradients as a trial submits it in that mode."""
    submit: Callable[..., Any] = session.framework.compile_predict(
        call, session.model, mode != "off"
    )
    return session.framework.graphed(submit, session.model) if mode == "graphs" else submit


def interleave(arms: dict[str, Arm], pairs: int, seed: int, label: str) -> Samples:
    """Every arm once per block in an order drawn anew for each: series name -> one value a block."""
    samples: Samples = {}
    for slot in schedule.blocks(tuple(arms), pairs, seed):
        for series, seconds in arms[slot.arm]().items():
            samples.setdefault(series, []).append(seconds)
        if slot.order == len(arms) - 1 and (slot.pair + 1) % max(1, pairs // 5) == 0:
            say(f"{label}: {slot.pair + 1} of {pairs} pairs")
    return samples


def compare(
    framework: str,
    samples: Samples,
    first: str,
    second: str,
    comparison: str,
    verdict: Callable[[Ratio], str],
) -> Row:
    ratio = paired_ratio(samples[first], samples[second])
    medians = [sorted(samples[name])[len(samples[name]) // 2] for name in (first, second)]
    return Row(framework, comparison, medians[0], medians[1], ratio, verdict(ratio))


def limits(ratio: Ratio) -> tuple[float, float]:
    """The 95 % interval; it exists, because `main` asks for six pairs."""
    assert ratio.low is not None and ratio.high is not None
    return ratio.low, ratio.high


def versus_peer(ratio: Ratio) -> str:
    low, high = limits(ratio)
    if high < 1:
        return "faster"
    return "SLOWER" if low > 1 else "no difference shown"


def default(compiled: bool) -> Verdict:
    """Says whether the twin's FASTER_COMPILED is the faster mode."""

    def verdict(ratio: Ratio) -> str:
        low, high = limits(ratio)
        if low <= 1 <= high:
            return "no difference shown"
        faster = "compiled" if high < 1 else "eager"
        return f"{faster} is faster" + ("" if (high < 1) == compiled else ", NOT THE DEFAULT")

    return verdict


def recorded(ratio: Ratio) -> str:
    """Says whether graphs are faster than compiled calls, as compile=auto takes them to be."""
    low, high = limits(ratio)
    if low <= 1 <= high:
        return "no difference shown"
    return "graphs are faster" if high < 1 else "compiled is faster, NOT THE DEFAULT"


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _text(title: str, results: list[Measured]) -> str:
    wide = max(len(row.comparison) for result in results for row in result.rows)
    lines = ["", title, "Medians of paired ratios of seconds with 95 % intervals; below 1: faster."]
    for result in results:
        state = result.conditions
        numerics = state["numerics"]
        lines += [
            "",
            f"{result.framework} {state['versions']['framework']} on {state['device']}, "
            f"{numerics['blas_loaded']} ({numerics['blas_threads']} threads), "
            f"{state['data']['name']} {state['data']['train_items']:,} items, "
            f"default compile: training {state['compile']}, inference {state['compile_inference']}",
            f"  {'':{wide}}  {'ms':>9} / {'ms':>9}  {'ratio':>6}  {'interval':<16}    n  verdict",
        ]
        for row in result.rows:
            low, high = limits(row.ratio)
            lines.append(
                f"  {row.comparison:{wide}}  {row.first_seconds * 1e3:9.3f} / "
                f"{row.second_seconds * 1e3:9.3f}  {row.ratio.estimate:6.4f}  "
                f"[{low:.4f}, {high:.4f}] {row.ratio.n:4}  {row.verdict}"
            )
        lines += [f"  {note}" for note in result.notes]
    return "\n".join(lines)

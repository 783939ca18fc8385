"""`selftest`: deliberately broken arms through the real pipeline. Each must be refused or flagged by
name, and the sound arms beside them must not be: else exit code 1.

    python -m entrypoints.selftest
    python -m entrypoints.selftest --only T,no_optimiser_step
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np

import models
from analysis import comparison
from analysis.comparison import Around
from analysis.findings import Comparison
from analysis.flags import TRIAL_REMEDIES, meaning
from entrypoints import study, study_plan, terminal
from entrypoints.deliver import Courier
from entrypoints.faults import CLASSES, FAULTS, Fault
from entrypoints.faults.of_studies import OF_STUDIES
from entrypoints.faults.recorded import without_doubts
from entrypoints.opening import open_study
from entrypoints.options import Command
from entrypoints.processes import ROOT
from entrypoints.study_plan import Sources
from measurement.doubts import UNTRUSTED
from measurement.errors import InputError
from measurement.schedule import AGAIN, blocks
from tracking import read, write

SOUND = "none (sound)"
ALL = FAULTS | OF_STUDIES
OTHER = {"mlx": "pytorch", "pytorch": "mlx"}
_SEED = 0
_TOGETHER = 10  # faults of one study, whose design has to fit into a tag of 8,000 characters
_RESULT = "SELFTEST_RESULT"  # the file that the process with a store of its own writes


@dataclass(frozen=True)
class Outcome:
    """One line of the table. caught: the flag or the words that caught it, "" for none; stage: where;
    said: the whole sentence."""

    fault: str
    kind: str
    arm: str
    what: str
    expected: str
    caught: str
    stage: str
    said: str

    @property
    def right(self) -> bool:
        return bool(self.caught) != (self.fault == SOUND)


def chosen(only: str) -> list[Fault]:
    """Faults by name or class letter, `all` for every one. Raises InputError."""
    if only == "all":
        return list(ALL.values())
    words = [word.strip() for word in only.split(",")]
    for word in words:
        if word not in ALL and word not in CLASSES:
            raise InputError(
                f"only='{word}': expected classes ({', '.join(CLASSES)}) or faults "
                f"({', '.join(ALL)})"
            )
    return [fault for fault in ALL.values() if {fault.name, fault.kind} & set(words)]


class Pipeline:
    """Runs broken arms beside sound ones, in the store and the folder of this process."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        arms, _ = study_plan.default_arms("cpu", as_shipped=False)
        self.sound = {arm.split()[0]: arm for arm in arms if AGAIN not in arm}
        self.faults = faults

    def outcomes(self) -> Iterable[Outcome]:
        trials = [f for f in self.faults if f.of_an_arm or f.arm]
        for workload in dict.fromkeys(fault.workload for fault in trials):
            own = [f for f in trials if f.workload == workload]
            for number, start in enumerate(range(0, len(own), _TOGETHER)):
                yield from self._arms(workload, number, own[start : start + _TOGETHER])
        if recorded := [f for f in self.faults if f.study or f.around]:
            yield from self._recorded(recorded)

    def expected(self) -> int:
        """How many outcomes there will be, but for arms that faults share."""
        trials = [f for f in self.faults if f.of_an_arm or f.arm]
        recorded = [f for f in self.faults if f.study or f.around]
        counts = Counter(fault.workload for fault in trials)
        studies = sum(-(-count // _TOGETHER) for count in counts.values())
        return sum(len(f.frameworks) for f in trials) + studies + len(recorded) + bool(recorded)

    def _arm(self, fault: Fault, framework: str) -> str:
        given = fault.arm.format(framework=framework, sound=self.sound[framework])
        words = [given or self.sound[framework]]
        return " ".join([*words, f"fault={fault.name}"] if fault.of_an_arm else words)

    def _arms(self, workload: str, number: int, faults: Sequence[Fault]) -> Iterable[Outcome]:
        """One block of all arms of a workload; each against the other framework's sound one."""
        broken = {self._arm(f, framework): f for f in faults for framework in f.frameworks}
        arms = [*self.sound.values(), *broken]
        pairs = [(self.sound["mlx"], self.sound["pytorch"])]
        pairs += [(arm, self.sound[OTHER[arm.split()[0]]]) for arm in broken]
        name = f"selftest-{workload}-{number}"
        failures = self._run(name, workload, arms, pairs, 1)
        own, compared, carried = self._analysed(name)
        found = {(c.numerator, c.denominator, c.metric): c for c in compared}
        for arm, against in pairs:
            metric = (broken[arm].metric if arm in broken else "") or own
            compared_now = found.get((arm, against, metric))
            yield _outcome(broken.get(arm), arm, compared_now, failures, carried.get(arm, ()))

    def _recorded(self, faults: Sequence[Fault]) -> Iterable[Outcome]:
        """A sound study of six pairs, then what each fault makes of what it recorded."""
        mlx, pytorch = self.sound["mlx"], self.sound["pytorch"]
        again = f"{pytorch} {AGAIN}"
        self._run("selftest-sound", "mnist", [mlx, pytorch, again], [(mlx, pytorch)], 6)
        design = read.study("selftest-sound")
        rows = read.trials_of(design)
        samples = read.samples_of([row.run_id for row in rows if row.status == "FINISHED"])
        yield _outcome(None, f"{mlx}, 6 pairs", self._compared(design, rows, Around(samples)), [])
        # What a busy machine did to the times is no part of these faults, and would hide them.
        rows = [without_doubts(row) for row in rows]
        for fault in faults:
            try:
                if fault.around:
                    compared = self._compared(*fault.around(design, rows, samples))
                else:
                    assert fault.study is not None
                    compared = self._compared(*fault.study(design, rows))
            except InputError as error:  # refused before there is a table
                yield _named(fault, mlx, str(error), "reading")
            else:
                yield _outcome(fault, mlx, compared, [])

    def _compared(
        self, design: read.Study, rows: Sequence[read.Row], around: Around | None = None
    ) -> Comparison:
        found = comparison.analyse(design, rows, np.random.default_rng(_SEED), around)
        return next(c for c in found.comparisons if c.metric == design.metric)

    def _run(
        self,
        name: str,
        workload: str,
        arms: Sequence[str],
        pairs: Sequence[tuple[str, str]],
        blocks_count: int,
    ) -> list[str]:
        """Every slot of a study by the study's own functions; lines for trials that failed."""
        config: Any = models.load(workload, "config")
        # The smoke preset's audit is short, and fails by noise on a busy machine.
        longer = {**config.PLANS.get("smoke", {}), "audit_seconds": 0.3}
        config.PLANS = {**config.PLANS, "smoke": longer}
        options, base = study_plan.complete(_options(workload, blocks_count))
        against = [
            {"numerator": first, "denominator": second, "role": "headline"}
            for first, second in pairs
        ]
        plan = study_plan.fixed(options, base, list(arms), against)
        specs = study_plan.specifications(plan, Sources("auto", "synthetic"))
        courier = Courier()
        slots = blocks(tuple(arms), blocks_count, plan["seed"])
        click.echo(f"{workload}: {len(slots)} trials ...", err=True)
        with open_study(name, plan, courier) as opened:
            parent = opened.kept.id, opened.run_id
            return study.run_slots(plan, name, parent, specs, set(), courier)

    def _analysed(
        self, name: str
    ) -> tuple[str, tuple[Comparison, ...], dict[str, tuple[str, ...]]]:
        """(the study's own metric, comparisons of all, arm -> the flags of its trial)."""
        design = read.study(name)
        # One trial of a sound arm that fails its audit by noise would hide what the broken ones do.
        # Whether sound arms pass theirs is asked of six pairs: see _recorded.
        sound = set(self.sound.values())
        rows = [without_doubts(row) if row.arm in sound else row for row in read.trials_of(design)]
        found = comparison.analyse(design, rows, np.random.default_rng(_SEED))
        carried = {row.arm: row.flags for row in rows if row.status == "FINISHED"}
        return design.metric, found.comparisons, carried


def _options(workload: str, pairs: int) -> dict[str, object]:
    """Of `study`, for the smallest trials that are real."""
    values = {option.name: option.default for option in study.main.params if option.name}
    return values | {
        "workload": workload,
        "preset": "smoke",
        "device": "cpu-cpu" if models.load(workload, "config").KIND == "switch" else "cpu",
        "dataset": "synthetic",
        "epochs": 2,
        "pairs": pairs,
        "gap_seconds": 0.0,
    }


def _outcome(
    fault: Fault | None,
    arm: str,
    found: Comparison | None,
    failures: Sequence[str],
    carried: Sequence[str] = (),
) -> Outcome:
    """What the pipeline said of an arm; fault None: of a sound one, where a refusal is wrong. carried:
    the flags of its trial, which stand in its run when the ratio is refused for something else too."""
    failed = next((line for line in failures if line.startswith(f"{arm}, ")), None)
    if failed:
        return _named(fault, arm, failed.partition(": ")[2], "worker")
    if found is None:
        return _named(fault, arm, "", "nowhere")
    said = found.refused or found.not_measured or ""
    if said.startswith("not equal work"):
        return _named(fault, arm, said, "receipt" if "receipts" in said else "evidence")
    if said.startswith("not like with like"):
        return _named(fault, arm, said, "conditions")
    if fault is None:
        return _named(None, arm, said, "analysis")
    own = next((name for name in carried if name in fault.caught_by), None)
    if own and not any(word in said for word in fault.caught_by):
        also = f" Also: {said}" if said else ""
        return _named(fault, arm, f"{meaning(own)}{also}", "trial")
    doubt = said.partition(":")[0]
    if doubt in UNTRUSTED and arm in said:  # whatever else it was to be: its times are not trusted
        return _named(replace(fault, caught_by=(doubt,)), arm, said, "trial")
    if said and any(word in said for word in fault.caught_by):
        of_trial = said.partition(":")[0] in TRIAL_REMEDIES
        return _named(fault, arm, said, "trial" if of_trial else "analysis")
    for flag in found.flags:
        if flag.name in fault.caught_by:
            stage = "trial" if flag.name in TRIAL_REMEDIES else "analysis"
            return _named(fault, arm, str(flag), stage)
    return _named(fault, arm, said or "; ".join(map(str, found.flags)), "nowhere")


def _named(fault: Fault | None, arm: str, said: str, stage: str) -> Outcome:
    if fault is None:
        return Outcome(
            SOUND, "", arm, "as it should be", "nothing", said and "refused", stage, said
        )
    caught = next((word for word in fault.caught_by if word in said), "")
    if stage == "nowhere":
        caught = ""
    return Outcome(
        fault.name, fault.kind, arm, fault.what, ", ".join(fault.caught_by), caught, stage, said
    )


def table(outcomes: Sequence[Outcome]) -> str:
    """Markdown: class, fault, arms, what caught it and where; a line for each fault."""
    lines = ["| class | fault | made in | caught by | stage |", "|---|---|---|---|---|"]
    broken = [o for o in outcomes if o.fault != SOUND]
    sound = [o for o in outcomes if o.fault == SOUND]
    for kind in CLASSES:
        for fault in dict.fromkeys(o.fault for o in broken if o.kind == kind):
            own = [o for o in broken if o.fault == fault]
            columns = (
                [o.arm.split()[0].rstrip(",") for o in own],
                [o.caught or "**NOTHING**" for o in own],
                [o.stage for o in own],
            )
            arms, caught, stages = (", ".join(dict.fromkeys(column)) for column in columns)
            lines.append(f"| {kind} | `{fault}`: {own[0].what} | {arms} | {caught} | {stages} |")
    lines += [
        "",
        f"{len(broken)} broken arms of {len({o.fault for o in broken})} faults, "
        f"{sum(o.right for o in broken)} caught; {len(sound)} sound arms, "
        f"{sum(not o.right for o in sound)} refused.",
        *(f"\nA sound arm was refused: {o.arm}: {o.said}" for o in sound if not o.right),
    ]
    return "\n".join(lines) + "\n"


def inside(only: str, result: Path) -> None:
    """Runs in the process that has a folder and a store of its own."""
    found, pipeline = [], Pipeline(chosen(only))
    with terminal.progress(pipeline.expected(), "arms judged") as step:
        for outcome in pipeline.outcomes():
            found.append(outcome)
            mark = "right" if outcome.right else "WRONG"
            click.echo(
                f"{mark}  {outcome.kind:1} {outcome.fault} [{outcome.arm}]: "
                f"{outcome.said or 'nothing said'}",
                err=True,
            )
            step(outcome.fault)
    result.write_text(json.dumps([asdict(outcome) for outcome in found], indent=1))


def run_apart(only: str, folder: Path) -> list[Outcome]:
    """The self-test in another process, whose runs and records lie in `folder`: no broken run is
    ever among the user's. Raises InputError when it ends without a result."""
    values = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    values |= {
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])),
    }
    result = folder / "selftest.json"
    values[_RESULT] = str(result)
    words = ["-m", "entrypoints.selftest", "--only", only]
    done = subprocess.run([sys.executable, *words], cwd=folder, env=values)
    if done.returncode or not result.exists():
        raise InputError(
            f"the self-test ended with exit code {done.returncode}; see what it printed"
        )
    return [Outcome(**outcome) for outcome in json.loads(result.read_text())]


@click.command(cls=Command, help=__doc__, example="mlflow run . -e selftest -P only=T,E")
@click.option("--only", default="all", show_default=True, help="classes or faults, as in T,E")
def main(only: str) -> None:
    chosen(only)
    if result := os.environ.get(_RESULT):
        inside(only, Path(result))
        return
    run_id = write.adopt("selftest", "selftest")
    with tempfile.TemporaryDirectory(prefix="selftest-") as folder:
        outcomes = run_apart(only, Path(folder))
    text = table(outcomes)
    write.attach_text(run_id, text, "selftest.md")
    write.attach_text(run_id, json.dumps([asdict(o) for o in outcomes], indent=1), "selftest.json")
    click.echo(text)
    terminal.result(outcomes=outcomes)
    sys.exit(0 if all(outcome.right for outcome in outcomes) else 1)


if __name__ == "__main__":
    main()

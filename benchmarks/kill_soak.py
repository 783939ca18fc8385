"""Studies that are killed again and again: is anything lost, doubled, half, or left behind?

    python -m benchmarks.kill_soak --points 50 --seed 0 --output results/kill-soak

Each study is a real one of tiny trials, in a session of its own. At a random time, at a random step
(a file opened for writing, a rename, a commit, a process started), or in a stage that random times
have hit least, one of these is killed: the study alone, its whole group, the worker, a child of the
worker (a compiler); or SIGTERM or SIGINT is sent. Then: no process is left, no finished trial has
changed, no half pair is compared; and the same command goes on, until the study is complete and
whole. A few trials alone and jobs of two ranks are killed too. Exit code 1 if anything was wrong.
Processes are found by a mark in their environment.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from matplotlib import pyplot as plt
from matplotlib.ticker import MaxNLocator

from analysis.report import write_csv
from analysis.style import LIGHT, style
from benchmarks import kill_state
from benchmarks.common import say, whole
from benchmarks.kill_traced import BETWEEN, START, Page
from entrypoints.processes import ROOT
from measurement import machine
from measurement.errors import InputError

STUDY, GROUP, WORKER, COMPILER = "study", "group", "worker", "compiler"
TERMINATE, INTERRUPT = "study, SIGTERM", "group, SIGINT"
TARGETS = {STUDY: 6, GROUP: 3, WORKER: 4, COMPILER: 2, TERMINATE: 3, INTERRUPT: 3}  # of 21 points
# What the supervisor does by itself: stages of kill_traced, each to be hit at its steps.
STEPPED = (
    "opening the store", "opening the study", "begin of a record", "recording", "begin of a run",
    "delivering", "artifacts", "model logging", "end of a run", "catching up", "analysis",
    "report writing",
)  # fmt: skip
# What a worker says -> the stage that it is then in.
SAID = {
    "ready": "ready", "warm": "warm", "epoch_begin": "epochs", "trained": "audit",
    "evidence": "evidence", "result": "result",
}  # fmt: skip
STAGES = (START, *STEPPED[:3], "start of a worker", *SAID.values(), *STEPPED[3:], BETWEEN)
ARMS = (
    "mlx, mlx threads=1",
    "pytorch compile=off, mlx",
    "pytorch compile=on, mlx",
    "pytorch compile=off, pytorch compile=off slowdown_percent=20",
)
CLEAR_SECONDS = 10.0  # until a killed study's processes are gone
LIFE_SECONDS = 900.0
MOST_PROBLEMS = 3  # of one study, then it is given up


@dataclass
class Point:
    """One kill. chosen: by time, step, stage or event. finished: trials before and after."""

    number: int
    work: str
    target: str
    chosen: str
    stage: str = ""
    step: str = ""
    clear_seconds: float = 0.0
    exit_code: int | None = None
    finished_before: int = 0
    finished_after: int = 0
    problems: list[str] = field(default_factory=list)


def words(name: str, arms: str, pairs: int) -> list[str]:
    return [
        "entrypoints.study", "--name", name, "--arms", arms, "--pairs", str(pairs), "--epochs", "4",
        "--preset", "smoke", "--dataset", "synthetic", "--device", "cpu", "--gap_seconds", "0",
    ]  # fmt: skip


@dataclass(frozen=True)
class Aim:
    """What to kill, and in which stage; "" as it falls."""

    target: str
    stage: str = ""


@contextmanager
def here(folder: Path) -> Iterator[None]:
    """In `folder`, with the store that lies there."""
    before, uri = Path.cwd(), os.environ.get("MLFLOW_TRACKING_URI")
    os.chdir(folder)
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'mlflow.db'}"
    try:
        yield
    finally:
        os.chdir(before)
        if uri is None:
            del os.environ["MLFLOW_TRACKING_URI"]
        else:
            os.environ["MLFLOW_TRACKING_URI"] = uri


class Life:
    """One start of a command, until it ends or is ended."""

    def __init__(self, folder: Path, command: Sequence[str], mark: str) -> None:
        self.folder, self.mark = folder, mark
        page = folder / "page"
        page.unlink(missing_ok=True)
        self.page = Page(page)
        scratch = folder / "scratch"
        scratch.mkdir(exist_ok=True)
        self.log = folder / "log"
        self.records = set(records(folder))
        kept = {k: v for k, v in os.environ.items() if k not in ("MLFLOW_RUN_ID", "PYTHONPATH")}
        kept |= {kill_state.MARK: mark, "PYTHONPATH": str(ROOT), "TMPDIR": str(scratch)}
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.kill_traced", str(page), *command],
                cwd=folder,
                env=kept,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_heeds_interrupts,
            )
        self.began = time.monotonic()

    @property
    def runs(self) -> bool:
        return self.process.poll() is None and time.monotonic() - self.began < LIFE_SECONDS

    def workers(self) -> list[psutil.Process]:
        """The worker, or a job's ranks."""
        found = []
        for child in self._children(self.process.pid):
            try:
                line = child.cmdline()
                if "entrypoints.worker" in line or ("entrypoints.rank" in line and "-m" in line):
                    found.append(child)
            except psutil.Error:
                continue
        ranks = [w for w in found if not self._children(w.pid)]  # not their launcher
        return ranks or found

    def compilers(self) -> list[psutil.Process]:
        return [child for worker in self.workers() for child in self._children(worker.pid)]

    def _children(self, pid: int) -> list[psutil.Process]:
        try:
            return psutil.Process(pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def events(self) -> list[str]:
        """What the newest worker of this life has said so far."""
        new = [folder for folder in records(self.folder) if folder not in self.records]
        for name in ("events.jsonl", "events-0.jsonl"):
            if new and (path := max(new) / name).exists():
                lines = path.read_text(errors="replace").splitlines()
                return [json.loads(line)["event"] for line in lines if line.endswith("}")]
        return []

    def stage(self) -> str:
        found = self.page.stage
        if found != "measuring":
            return found
        stages = [SAID[event] for event in self.events() if event in SAID]
        return stages[-1] if stages else "start of a worker"


def _heeds_interrupts() -> None:
    """In the new process: a shell that starts it in the background would have it ignore them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def records(folder: Path) -> list[Path]:
    path = folder / "mlruns" / "records"
    return [entry for entry in path.iterdir() if entry.is_dir()] if path.is_dir() else []


def wait_for(condition: Any, life: Life) -> bool:
    while life.runs:
        if condition():
            return True
        time.sleep(0.002)
    return False


def aim(life: Life, point: Point, rng: random.Random, wanted: str) -> bool:
    """Waits until the moment to kill; False where the command has ended before. wanted: the stage,
    "" for any."""
    if point.target != COMPILER and wanted in SAID.values():
        point.chosen = "event"
        said = next(event for event, stage in SAID.items() if stage == wanted)
        seen = len([event for event in life.events() if event == said])
        if not wait_for(lambda: len([e for e in life.events() if e == said]) > seen, life):
            return False
        time.sleep(rng.uniform(0, 0.02))
    elif point.target != COMPILER and wanted in STEPPED:
        point.chosen = "stage"
        life.page.ask(wanted, rng.choice((1, 1, 2, 3, 5, 8, 13, 1000)))
        return wait_for(lambda: life.page.waits, life)
    elif wanted == "start of a worker" or point.target in (WORKER, COMPILER):
        point.chosen = "time"
        if not wait_for(life.compilers if point.target == COMPILER else life.workers, life):
            return False
        longest = {WORKER: 3.0, COMPILER: 0.05}.get(point.target, 0.5)
        time.sleep(rng.uniform(0, longest))
    elif rng.random() < 0.5:
        point.chosen = "step"
        life.page.ask("", rng.randint(1, 150))
        return wait_for(lambda: life.page.waits, life)
    else:
        point.chosen = "time"
        end = time.monotonic() + rng.uniform(0, 25)
        wait_for(lambda: time.monotonic() > end, life)
    return life.runs


def strike(life: Life, point: Point) -> bool:
    """Kills what the point says; True where the command goes on."""
    point.stage, point.step = life.stage(), life.page.step if life.page.waits else ""
    if point.target in (WORKER, COMPILER):
        found = life.workers() if point.target == WORKER else life.compilers()
        if not found:
            point.target = STUDY  # it has ended meanwhile
            return strike(life, point)
        victim = found[-1]
        try:
            family = [*victim.children(recursive=True), victim]
            victim.kill()
        except psutil.NoSuchProcess:
            family = [victim]
        start = time.monotonic()
        left = psutil.wait_procs(family, timeout=CLEAR_SECONDS)[1]
        point.clear_seconds = time.monotonic() - start
        point.problems += [f"process {process.pid} outlived its parent" for process in left]
        life.page.ask("", 0)
        return True
    how = {TERMINATE: signal.SIGTERM, INTERRUPT: signal.SIGINT}.get(point.target, signal.SIGKILL)
    if point.target in (GROUP, INTERRUPT):
        os.killpg(life.process.pid, how)
    else:
        life.process.send_signal(how)
    try:
        life.process.wait(60)
    except subprocess.TimeoutExpired:
        point.problems.append(f"does not end within 60 s of {how.name}")
        life.process.kill()
    return False


def settle(life: Life, point: Point) -> None:
    """The checks after a kill that ended the command."""
    point.exit_code = life.process.wait()
    seconds, left = kill_state.cleared(life.mark, CLEAR_SECONDS)
    point.clear_seconds = max(point.clear_seconds, seconds)
    point.problems += [f"orphan process: {line}" for line in left]


def compare(folder: Path, point: Point, before: dict[str, str]) -> None:
    after = kill_state.finished(folder / "mlflow.db")
    point.finished_before, point.finished_after = len(before), len(after)
    for run_id, digest in before.items():
        if run_id not in after:
            point.problems.append(f"finished run {run_id} is lost")
        elif after[run_id] != digest:
            point.problems.append(f"finished run {run_id} has changed")


class Soak:
    """Every point, and what is still to be hit. keep: the folders of whole studies too."""

    def __init__(self, seed: int, scratch: Path, pairs: int, keep: bool = False) -> None:
        self.rng, self.scratch, self.pairs = random.Random(seed), scratch, pairs
        self.keep = keep
        self.points: list[Point] = []
        self.hits, self.aimed = Counter[str](), Counter[str]()  # of stages
        self.studies: list[dict[str, Any]] = []

    def study(self, aims: Iterator[Aim]) -> None:
        """One study until it is complete, killed as often as `aims` says."""
        number = len(self.studies)
        name, folder = f"soak-{number}", self.scratch / f"study-{number}"
        folder.mkdir()
        command = words(name, arms := ARMS[number % len(ARMS)], self.pairs)
        problems: list[str] = []
        known: dict[str, str] = {}  # what was finished once, as it was then
        starts, kills, failed = 0, 0, False
        life: Life | None = None
        with here(folder):
            while len(problems) < MOST_PROBLEMS:
                if life is None:
                    life, failed, starts = Life(folder, command, f"{os.getpid()}-{number}"), False, starts + 1  # fmt: skip
                if aimed := next(aims, None):
                    point = Point(len(self.points), name, aimed.target, "")
                    known |= kill_state.finished(folder / "mlflow.db")
                    if aim(life, point, self.rng, aimed.stage):
                        if strike(life, point):
                            failed = True
                        else:
                            settle(life, point)
                            life = None
                        compare(folder, point, known)
                        if (folder / "mlflow.db").exists() and readable(folder, point):
                            point.problems += kill_state.half_pairs(name)
                        kills += 1
                        self._add(point)
                        continue
                code = self._end(life, problems)
                if code == 0:
                    break
                if code != 1 or not failed:
                    problems.append(f"start {starts} ended with exit code {code}: {last(life)}")
                life = None
            problems += kill_state.whole(name, folder)
            whole_ = Point(0, name, "", "")
            compare(folder, whole_, known)
            problems += whole_.problems
        self.studies.append(
            {"study": name, "arms": arms, "pairs": self.pairs, "starts": starts, "kills": kills,
             "finished_trials": len(kill_state.finished(folder / "mlflow.db")),
             "files_in_temporary_folder": sum(1 for _ in (folder / "scratch").rglob("*")),
             "problems": problems}
        )  # fmt: skip
        say(f"{name}: {kills} kills, {starts} starts; {problems or 'whole'}")
        if not problems and not self.keep:
            shutil.rmtree(folder)

    def alone(self, command: Sequence[str], aimed: Aim) -> None:
        """One kill of a trial or job, the same command again to its end, and `deliver`."""
        work = "job of 2 ranks" if "distributed" in command[0] else "trial"
        folder = self.scratch / f"alone-{len(self.points)}"
        folder.mkdir()
        point = Point(len(self.points), work, aimed.target, "")
        mark = f"{os.getpid()}-alone-{point.number}"
        with here(folder):
            life = Life(folder, command, mark)
            if not aim(life, point, self.rng, aimed.stage):
                point.problems.append(f"ended before the kill: {last(life)}")
            elif strike(life, point):
                life.process.wait(LIFE_SECONDS)
            settle(life, point)
            known = kill_state.finished(folder / "mlflow.db")
            for again in (command, DELIVER):
                life = Life(folder, again, mark)
                if (code := self._end(life, point.problems)) != 0:
                    point.problems.append(f"{again[0]} ended with exit code {code}: {last(life)}")
            left = kill_state.unfinished(folder / "mlflow.db") + kill_state.leftovers(folder)
            point.problems += [f"left over: {what}" for what in left]
            compare(folder, point, known)
            point.problems += kill_state.records(folder)
        self._add(point)
        if not point.problems and not self.keep:
            shutil.rmtree(folder)

    def _end(self, life: Life, problems: list[str]) -> int:
        """The exit code of a command that is left alone."""
        try:
            code = life.process.wait(max(1.0, LIFE_SECONDS - time.monotonic() + life.began))
        except subprocess.TimeoutExpired:
            life.process.send_signal(signal.SIGUSR1)
            time.sleep(1.0)
            problems.append(f"a start had not ended after {LIFE_SECONDS:.0f} s; where: {life.log}")
            life.process.kill()
            code = life.process.wait()
        left = kill_state.cleared(life.mark, CLEAR_SECONDS)[1]
        problems += [f"orphan process after the end: {line}" for line in left]
        return code

    def aims(self, points: int, most: int) -> Iterator[Aim]:
        """At most `most` for one study, while fewer than `points` are done in all: half of them as
        they fall, then those where they have fallen least."""
        begun = len(self.points)
        while len(self.points) < min(points, begun + most):
            target = self.rng.choices(list(TARGETS), list(TARGETS.values()))[0]
            if len(self.points) < points / 2:
                yield Aim(target)
            else:
                yield Aim(target, self._least(target))

    def _least(self, target: str) -> str:
        """The stage that this target was aimed at, or hit, least. A worker is in its own stages only."""
        own = ["start of a worker", *SAID.values()]
        aims = own if target in (WORKER, COMPILER) else [*STEPPED, *own]
        self.rng.shuffle(aims)
        stage = min(aims, key=lambda stage: self.aimed[stage] + self.hits[stage])
        self.aimed[stage] += 1
        return stage

    def _add(self, point: Point) -> None:
        self.points.append(point)
        self.hits[point.stage] += 1
        say(
            f"{point.number + 1}: {point.work}, {point.target} in '{point.stage}' {point.step} "
            f"(by {point.chosen}), clear after {point.clear_seconds:.1f} s, "
            f"{point.finished_after} finished; {point.problems or 'sound'}"
        )


def readable(folder: Path, point: Point) -> bool:
    """Whether the store can be opened as it was left: MLflow would refuse a half-made one."""
    from tracking import read

    try:
        read.studies()
    except InputError as error:
        point.problems.append(f"the store cannot be read: {error}")
        return False
    return True


def last(life: Life) -> str:
    lines = [line for line in life.log.read_text(errors="replace").splitlines() if line.strip()]
    return " | ".join(lines[-2:])[-400:]


TRIAL = (
    "entrypoints.trial", "mnist", "mlx", "--preset", "smoke", "--dataset", "synthetic", "--device",
    "cpu", "--epochs", "4",
)  # fmt: skip
JOB = (
    "entrypoints.distributed", "mnist", "mlx", "--preset", "smoke", "--dataset", "synthetic",
    "--device", "cpu", "--epochs", "4", "--ranks", "2",
)  # fmt: skip


DELIVER = ("entrypoints.deliver",)
ALONE = (
    (TRIAL, Aim(STUDY, "delivering")), (JOB, Aim(STUDY, "epochs")), (TRIAL, Aim(GROUP, "epochs")),
    (JOB, Aim(WORKER)), (TRIAL, Aim(TERMINATE, "model logging")), (JOB, Aim(GROUP, "delivering")),
    (TRIAL, Aim(STUDY, "opening the store")), (JOB, Aim(INTERRUPT, "warm")),
    (TRIAL, Aim(COMPILER)), (JOB, Aim(STUDY, "start of a worker")),
    (TRIAL, Aim(STUDY, "recording")), (JOB, Aim(TERMINATE, "epochs")),
)  # fmt: skip


def counts(points: Sequence[Point]) -> list[dict[str, Any]]:
    """A row for each stage: its kills by target, and problems."""
    rows = []
    known = [stage for stage in STAGES if stage != "measuring"]
    for stage in dict.fromkeys([*known, *(point.stage for point in points)]):
        here_ = [point for point in points if point.stage == stage]
        by_target = {target: sum(p.target == target for p in here_) for target in TARGETS}
        sound = sum(not point.problems for point in here_)
        rows.append({"stage": stage, "kills": len(here_), **by_target, "sound": sound})
    return rows


def draw(points: Sequence[Point], path: Path) -> None:
    """Kills by stage, a colour for what was killed."""
    rows = counts(points)[::-1]
    with style(LIGHT):
        figure, axes = plt.subplots(figsize=(8.5, 0.34 * len(rows) + 1.4))
        left = np.zeros(len(rows))
        for colour, target in zip(LIGHT.arms, TARGETS, strict=False):
            width = np.array([row[target] for row in rows])
            axes.barh([row["stage"] for row in rows], width, left=left, color=colour, label=target)
            left += width
        for y, row in enumerate(rows):
            wrong = row["kills"] - row["sound"]
            axes.text(left[y] + 0.1, y, f"{wrong} wrong" if wrong else "", va="center")
        axes.set_xlabel("kills")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(loc="lower right", fontsize=8)
        figure.savefig(path, dpi=150)
        plt.close(figure)


def public(text: str) -> str:
    """Without the folders of this machine."""
    for folder, name in ((tempfile.gettempdir(), "TMP"), (sys.prefix, "PYTHON"), (str(ROOT), ".")):
        text = text.replace(folder, name)
    return text


def write(soak: Soak, options: argparse.Namespace, seconds: float) -> None:
    """points.json, points.csv, stages.csv, report.md and stages.png."""
    folder: Path = options.output
    rows = counts(soak.points)
    wrong = [p for p in soak.points if p.problems], [s for s in soak.studies if s["problems"]]
    document = {
        "options": {"points": options.points, "seed": options.seed, "others": options.others},
        "seconds": seconds,
        "machine": machine.facts(),
        "commit": machine.commit(ROOT)[0],
        "studies": soak.studies,
        "points": [asdict(point) for point in soak.points],
    }
    (folder / "points.json").write_text(public(json.dumps(document, indent=1)) + "\n")
    write_csv(folder / "stages.csv", rows)
    write_csv(
        folder / "points.csv",
        [asdict(p) | {"problems": public("; ".join(p.problems))} for p in soak.points],
    )
    draw(soak.points, folder / "stages.png")
    slowest = max((point.clear_seconds for point in soak.points), default=0.0)
    head = ["stage", "kills", *TARGETS, "sound"]
    lines = [
        f"# {len(soak.points)} kills of {len(soak.studies)} studies and of trials and jobs alone",
        "",
        f"`python -m benchmarks.kill_soak --points {options.points} --seed {options.seed}`, "
        f"{seconds / 60:.0f} minutes. After each kill no process was left "
        f"(at most {slowest:.1f} s passed), no finished trial had changed, no half pair was compared; "
        "each study went on under its name to its end, whole."
        if not any(wrong)
        else f"**{len(wrong[0])} kills and {len(wrong[1])} studies have problems, see below.**",
        "",
        f"| {' | '.join(head)} |",
        f"|---|{'---:|' * (len(head) - 1)}",
        *(f"| {' | '.join(str(row[key]) for key in head)} |" for row in rows),
        "",
        "![kills by stage](stages.png)",
        "",
        *(f"- point {p.number + 1}, {p.work}, {p.target} in {p.stage}: {'; '.join(p.problems)}"
          for p in wrong[0]),
        *(f"- {s['study']}: {'; '.join(s['problems'])}" for s in wrong[1]),
    ]  # fmt: skip
    (folder / "report.md").write_text(public("\n".join(lines)).rstrip() + "\n")


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--points", type=whole, default=50, help="kills of studies")
    add(
        "--others",
        type=int,
        default=len(ALONE),
        help="kills of trials alone and of jobs of 2 ranks",
    )
    add("--pairs", type=whole, default=2, help="of each study")
    add("--kills", type=whole, default=6, help="of one study at most")
    add("--seed", type=int, default=0)
    add("--output", type=Path, default=Path("results/kill-soak"))
    add("--scratch", type=Path, help="folder of the studies; kept where something was wrong")
    options = parser.parse_args(given)
    options.output.mkdir(parents=True, exist_ok=True)
    scratch = options.scratch or Path(tempfile.mkdtemp(prefix="kill-soak-"))
    scratch.mkdir(parents=True, exist_ok=True)
    soak, start = Soak(options.seed, scratch.resolve(), options.pairs), time.monotonic()
    while len(soak.points) < options.points:
        soak.study(soak.aims(options.points, options.kills))
    for number in range(options.others):
        soak.alone(*ALONE[number % len(ALONE)])
    write(soak, options, time.monotonic() - start)
    wrong = (
        sum(bool(p.problems) for p in soak.points),
        sum(bool(s["problems"]) for s in soak.studies),
    )
    print((options.output / "report.md").read_text())
    if any(wrong):
        print(f"The folders are kept in {scratch}", file=sys.stderr)
        return 1
    shutil.rmtree(scratch)
    return 0


if __name__ == "__main__":
    sys.exit(main())

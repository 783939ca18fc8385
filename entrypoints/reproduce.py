"""`reproduce`: a trial again, from what its run says, and whether the result is the same.

    python -m entrypoints.reproduce --run_id 0123456789abcdef0123456789abcdef

Exit code 0: the same, bit for bit or within tolerance; 1: different; 2: it cannot be repeated.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

import models
from analysis import reproduction
from analysis.page import markdown
from analysis.reproduction import Ran
from analysis.reproduction_page import page
from entrypoints import checkout, installed, recipe, repeated, terminal
from entrypoints.deliver import LATER, Courier
from entrypoints.folder import writable, write_report
from entrypoints.options import Command, whole
from entrypoints.processes import ROOT, TrialFailed
from entrypoints.recipe import Own
from entrypoints.supervisor import TrialSpec, prepare_data
from entrypoints.terminal import UNDELIVERED
from entrypoints.trial import execute, progress
from measurement import identity, machine
from measurement.errors import InputError
from measurement.schedule import Condition
from tracking import artifacts, write
from tracking.bulk import Found

HERE, RECORDED = "here", "recorded"


def code(run: Found, asked: str) -> tuple[str, list[str]]:
    """(commit to check out, "" for the code here; what must be said about it). Raises InputError
    where the commit cannot be had."""
    recorded = run.tags.get("mlflow.source.git.commit", "")
    head, dirty = machine.commit(ROOT)
    if run.tags.get("code_sha256") == identity.code(ROOT):
        return "", []  # the very files that measured, whatever git knows of them
    if "DIRTY-TREE" in run.tags.get("flags", "").split(","):
        said = (
            f"code: the run's tree differed from its commit {recorded[:12]}, so its code is in no commit "
            "and an exact repetition is not possible"
        )
        away = recorded and recorded != head and asked != HERE and checkout.known(recorded)
        return (recorded if away else ""), [said]
    if not recorded:
        return "", ["code: the run names no commit"]
    if asked == HERE:
        same = recorded == head and not dirty
        here = f"{head[:12] or 'no commit'}{' with changes' if dirty else ''}"
        return "", [] if same else [f"code: {recorded[:12]} against {here}"]
    if recorded == head and not dirty:
        return "", []
    if not checkout.known(recorded):
        with checkout.tree(recorded):  # says what to do
            pass
    return recorded, []


def check_versions(run: Found, condition: Condition, asked: str) -> list[str]:
    """What differs between the run's packages and those here. Raises InputError where it is something
    that computes, unless asked for with `any`."""
    computes, rest = repeated.versions_apart(run, installed.environment(condition))
    if computes and asked != "any":
        raise InputError(
            f"versions differ from the run's: {', '.join(computes)}; install the run's "
            "(pip install -r requirements.txt at its commit), or go on with -P versions=any"
        )
    if rest:
        click.echo(f"other packages differ: {', '.join(rest)}", err=True)
    return [f"versions: {', '.join(computes)}"] if computes else []


def check_data(run: Found, spec: TrialSpec) -> list[str]:
    """Raises InputError for data whose digest is not the run's."""
    prepare_data(spec.workload, spec.dataset, spec.data_dir, [spec.sizes])
    recorded, here = run.tags.get("data_sha256"), data_sha256(spec)
    if recorded is None:
        return ["data: the run has no digest of its own, so they cannot be compared"]
    if recorded != here:
        raise InputError(
            f"the data here have the sha256 {here}, the run's {recorded}; expected the same: name their "
            "place with -P data_dir=FOLDER or -P dataset=FILE"
        )
    return []


def data_sha256(spec: TrialSpec) -> str:
    """Of the data that a trial would use."""
    config, data = (models.load(spec.workload, part) for part in ("config", "data"))
    own: dict[str, dict[str, Any]] = {
        "generate": {"checkpoint": spec.checkpoint},
        "switch": {"seed": spec.seed},
    }
    found = data.load(
        config.Config(**spec.sizes), spec.dataset, spec.data_dir, **own.get(config.KIND, {})
    )
    return str(found.sha256)


def words(spec: TrialSpec) -> list[str]:
    """The command line of a trial at another commit. Raises InputError for what no command line of a
    trial says."""
    condition, config = spec.condition, models.load(spec.workload, "config")
    for field, plain in (("version", "installed"), ("slowdown_percent", 0.0), ("fault", "none")):
        value = getattr(condition, field, plain)
        if value != plain:
            raise InputError(
                f"{field}={value}: only a study asks for that, so the trial of another commit cannot; "
                "repeat it with the code here: -P commit=here"
            )
    given: dict[str, object] = {
        n: getattr(spec, n) for n in ("preset", "seed", "dataset", "data_dir", "price_per_hour")
    }
    given |= {n: getattr(condition, n) for n in ("device", "dtype", "compile", "blas", "threads")}
    given |= {name: spec.sizes[name] for name in models.options(spec.workload)}
    if config.KIND == "train":
        given |= {"target": spec.target or config.TARGET, "epochs": spec.epochs or 1}
    if condition.ranks > 1:
        given |= {"ranks": condition.ranks, "backend": condition.backend,
                  "global_batch_size": given.pop("batch_size"), "max_restarts": spec.max_restarts,
                  "timeout_seconds": spec.timeout_seconds}  # fmt: skip
    else:
        given |= {"mode": spec.mode} if config.KIND == "train" else {}
        given |= {"checkpoint": spec.checkpoint} if config.KIND != "switch" else {}
    module = "entrypoints.distributed" if condition.ranks > 1 else "entrypoints.trial"
    pairs = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    return ["-m", module, spec.workload, condition.framework, *pairs]


def run_at(place: Path, spec: TrialSpec, run_id: str) -> None:
    """The trial by the code in `place`, to a run that is open already; what it keeps on disk is here.
    Raises TrialFailed."""
    path = os.pathsep.join(filter(None, (str(place), os.environ.get("PYTHONPATH"))))
    # -P: or the folder that this was started from, often a checkout, would come before the commit's.
    done = subprocess.run(
        [sys.executable, "-P", *words(spec)],
        env={**os.environ, "PYTHONPATH": path, "MLFLOW_RUN_ID": run_id},
        stdout=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode == UNDELIVERED:
        raise InputError(f"the repetition is kept, but the store does not have all of it; {LATER}")
    if done.returncode:
        write.finish(run_id, "FAILED")
        raise TrialFailed(f"the trial of that commit ended with exit code {done.returncode}")


def once(run: Found, spec: TrialSpec, place: Path | None) -> str:
    """One repetition to a run of its own; returns its id. place: other code, or None."""
    framework = spec.condition.framework
    tags = {"arm": framework, "reproduces": run.run_id}
    name = f"{framework} {spec.workload} again"
    if place is None:
        done = execute(spec, name, tags, progress(spec), Courier())
        if not done.run_id:
            raise InputError(
                f"the repetition is kept in {done.folder}, but the store that it is compared in does not "
                f"have it; {LATER}: then repeat, when the store is there"
            )
        return done.run_id
    run_id = write.begin("trial", name, tags)
    run_at(place, spec, run_id)
    return run_id


def repeat(run: Found, spec: TrialSpec, commit: str, repeats: int) -> list[str]:
    """The ids of as many repetitions."""
    if not commit:
        return [once(run, spec, None) for _ in terminal.each(range(repeats), "repetitions")]
    click.echo(f"code of commit {commit[:12]}, in a tree of its own", err=True)
    with checkout.tree(commit) as place:
        return [once(run, spec, place) for _ in terminal.each(range(repeats), "repetitions")]


def conclude(run: Found, spec: TrialSpec, new: list[str], notes: list[str], output: Path) -> bool:
    """Compares the repetitions with their original, says it, and keeps it with them; whether all are
    the same."""
    shapes = repeated.shapes(spec)
    initial = repeated.initial(spec)
    original, found = repeated.read(run, shapes), [repeated.read_id(one, shapes) for one in new]
    around = [*notes, *repeated.around(original, found[-1])]
    around.sort(key=lambda line: not line.startswith("record:"))  # what was changed comes first
    verdicts = [reproduction.judge(original, one, initial, around) for one in found]
    timed = time_of(original, found, around)
    report = page(original, found, verdicts, timed, around)
    texts = {"reproduction.md": markdown(report)}
    for one, verdict in zip(found, verdicts, strict=True):
        tags: Mapping[str, str] = {
            "reproduction": verdict.word,
            "reproduction_differs": verdict.first[:500] or "nothing",
            "reproduction_time": timed.sentence[:500],
            "reproduction_time_agrees": timed.agrees,
        }
        write.set_tags(one.run_id, tags)
        write_report(output, one.run_id, texts, {}, report.drawings)
    for line in around:
        click.echo(line)
    worst = next((verdict for verdict in verdicts if not verdict.same), verdicts[0])
    click.echo(worst.sentence)
    for reason in worst.reasons:
        click.echo(f"  {reason}")
    click.echo(timed.sentence)
    click.echo(f"run {', '.join(new)}; {output / 'reproduction.md'}, also an artifact of it")
    terminal.result(
        runs=dict(zip(new, verdicts, strict=True)), time=timed, around=around, folder=output
    )
    return all(verdict.same for verdict in verdicts)


def time_of(original: Ran, found: list[Ran], around: list[str]) -> reproduction.Timing:
    """Whether the times agree; where they must not be compared, why."""
    reason = repeated.untimed(original, found, around)
    share = None if reason else repeated.resolution(original.run_id)
    share = share or reproduction.from_repeats([one.seconds for one in found])
    return reproduction.timing(original, found, share, reason)


@click.command(cls=Command, help=__doc__, example="mlflow run . -e reproduce -P run_id=ID")
@click.option("--run_id", default="none", show_default=True, help="of a finished trial")
@click.option("--data_dir", default="auto", show_default=True, help="folder of the data files")
@click.option("--dataset", default=RECORDED, show_default=True, help="your file, if it was one")
@click.option("--checkpoint", default=RECORDED, show_default=True, help="if it was no random one")
@click.option("--blas", default=RECORDED, show_default=True, help="your library, if it was one")
@click.option("--repeats", type=whole(1), default=1, show_default=True)
@click.option("--versions", type=click.Choice(("same", "any")), default="same", show_default=True)
@click.option(
    "--commit",
    type=click.Choice((RECORDED, HERE)),
    default=RECORDED,
    show_default=True,
    help="the run's code, or that which is here",
)
@click.option("--output", default="auto", show_default=True, help="auto = results/reproduce-RUN")
def main(
    run_id: str,
    data_dir: str,
    dataset: str,
    checkpoint: str,
    blas: str,
    repeats: int,
    versions: str,
    commit: str,
    output: str,
) -> None:
    run = repeated.trial(run_id)
    spec = recipe.specification(
        recipe.read(run.tags, run.metrics), Own(data_dir, dataset, checkpoint, blas)
    )
    place, notes = code(run, commit)
    if place:
        words(spec)  # refuses now what that code cannot be asked for
    notes += check_versions(run, spec.condition, versions)
    notes += check_data(run, spec)
    folder = Path("results") / f"reproduce-{run_id[:8]}" if output == "auto" else Path(output)
    writable(folder)
    for note in notes:
        click.echo(note, err=True)
    try:
        new = repeat(run, spec, place, repeats)
    except TrialFailed as error:
        terminal.error(str(error))
        sys.exit(1)
    sys.exit(0 if conclude(artifacts.found(run_id) or run, spec, new, notes, folder) else 1)


if __name__ == "__main__":
    main()

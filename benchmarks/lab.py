"""The drill of the lab server: is everything there again after a backup, its loss and a restore?

    python -m benchmarks.lab --output results/lab

Two studies of one name are recorded on two machines, each in an SQLite store of its own. A server of
deploy/lab is started on an empty PostgreSQL; the admin's first password is changed, an account made, and
both histories are published by it, one of them through three SIGKILLs. The studies are
analysed over the server. Then backup.sh, the database and the files are thrown away, restore.sh into an
empty PostgreSQL, and every run, point, tag, file and model is read again and compared. Last: a damaged
backup must be refused. Exit code 1 if anything differs.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import runpy
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy

from benchmarks import concurrency
from benchmarks.common import say, whole
from benchmarks.postgres import missing, postgres, programs
from benchmarks.stores import end, free_port, wait_until_ready
from entrypoints.processes import ROOT, ends_with_parent
from measurement import machine
from measurement.errors import InputError
from tracking.contents import Content, Store, differences

LAB = ROOT / "deploy" / "lab"
ADMIN, USER = "labadmin", "student"
NODES = ("node-a", "node-b")
STUDY = "together-0"  # as benchmarks.concurrency names it
KINDS = ("runs", "params", "tags", "points", "data sets", "models", "files", "file bytes")
_KILLS = 3


@dataclass
class Drill:
    """What was counted on the server before and after, and what differed."""

    before: dict[str, int] = field(default_factory=dict)
    after: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def timed(self, name: str, work: Callable[[], Any]) -> Any:
        start = time.monotonic()
        found = work()
        self.seconds[name] = time.monotonic() - start
        say(f"{name}: {self.seconds[name]:.1f} s")
        return found

    def compare(self, before: Mapping[str, Content], after: Mapping[str, Content]) -> None:
        self.before, self.after = counts(before), counts(after)
        self.problems += unlike(before, after)

    def text(self) -> str:
        """Counts and times, Markdown."""
        lines = ["# Drill of the lab server", "", "| | before | restored |", "|---|---:|---:|"]
        lines += [f"| {k} | {self.before.get(k, 0):,} | {self.after.get(k, 0):,} |" for k in KINDS]
        lines += ["", "| step | seconds |", "|---|---:|"]
        lines += [f"| {name} | {seconds:.1f} |" for name, seconds in self.seconds.items()]
        lines += ["", f"{len(self.problems)} differences"]
        return "\n".join([*lines, *(f"- {problem}" for problem in self.problems)]) + "\n"


# --- a lab of one's own


@contextmanager
def database() -> Iterator[dict[str, str]]:
    """An empty PostgreSQL with both databases; yields libpq's variables, as lab.env would have them."""
    with postgres() as uri:
        found, folder = sqlalchemy.make_url(uri), programs()
        assert folder is not None
        variables = {
            "PGHOST": str(found.host),
            "PGPORT": str(found.port),
            "PGUSER": str(found.username),
            "PGPASSWORD": str(found.password),
            "LAB_DATABASE": "mlflow",
            "LAB_USERS_DATABASE": "mlflow_users",
            "LAB_PG_BIN": str((folder / "initdb").resolve().parent),  # PATH may hold a link to it
        }
        for name in ("mlflow", "mlflow_users"):
            made = [str(Path(variables["LAB_PG_BIN"]) / "createdb"), name]
            subprocess.run(made, env={**os.environ, **variables}, check=True)
        yield variables


def settings(folder: Path, variables: Mapping[str, str], **more: str) -> dict[str, str]:
    """The environment of the lab's scripts, nothing of this machine's MLflow in it."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "PG", "LAB_"))}
    own = {
        "LAB_FOLDER": str(folder),
        "LAB_ARTIFACTS": str(folder / "artifacts"),
        "LAB_BACKUPS": str(folder.parent / "backups"),
        "LAB_ADMIN": ADMIN,
        "LAB_PYTHON": sys.executable,
        "LAB_WORKERS": "1",
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16),
    }
    return kept | own | dict(variables) | more


@contextmanager
def served(environment: Mapping[str, str]) -> Iterator[str]:
    """serve.sh while the block runs; yields its address."""
    folder, port = Path(environment["LAB_FOLDER"]), str(free_port())
    folder.mkdir(exist_ok=True)
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            [str(LAB / "serve.sh")],
            env={**environment, "LAB_PORT": port, "LAB_NAMES": f"127.0.0.1:{port}"},
            stdout=log,
            stderr=log,
            preexec_fn=ends_with_parent(),
        )
    try:
        address = f"http://127.0.0.1:{port}"
        wait_until_ready(address, process, folder / "server.log")
        yield address
    finally:
        end(process)


@contextmanager
def account(address: str, name: str, password: str) -> Iterator[None]:
    """That server and that user for this process and those it starts."""
    given = {"URI": address, "USERNAME": name, "PASSWORD": password}
    before = {f"MLFLOW_TRACKING_{key}": os.environ.get(f"MLFLOW_TRACKING_{key}") for key in given}
    os.environ.update({f"MLFLOW_TRACKING_{key}": value for key, value in given.items()})
    try:
        yield
    finally:
        for variable, value in before.items():
            os.environ.pop(variable)
            if value is not None:
                os.environ[variable] = value


def users(*words: str) -> str:
    """deploy/lab/users.py with the account in use; returns what follows a colon: a password it made."""
    command = runpy.run_path(str(LAB / "users.py"))[
        "main"
    ]  # here: each import of MLflow takes seconds
    said = io.StringIO()
    with redirect_stdout(said):
        code = command([*words])
    if code:
        raise InputError(f"users.py {words[0]} failed")
    return said.getvalue().strip().rpartition(": ")[2]


def script(name: str, environment: Mapping[str, str], *words: str) -> str:
    """backup.sh or restore.sh; returns what it says. Raises InputError."""
    command = [str(LAB / name), *words]
    done = subprocess.run(command, env=dict(environment), capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"{name} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.stdout.strip()


def publish(source: str, kill: Callable[[], bool] = lambda: False) -> str:
    """One history to the account in use; "" where it was killed, as soon as `kill` says so."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "entrypoints.publish", "--source", source],
            cwd=ROOT,
            stdout=out,
            stderr=err,
            preexec_fn=ends_with_parent(),
        )
        try:
            while process.poll() is None:
                if kill():
                    process.kill()
                    process.wait()
                    return ""
                time.sleep(0.02)
        finally:
            process.kill()
            process.wait()
        out.seek(0), err.seek(0)
        if process.returncode:
            said = err.read().strip()[-500:]
            raise InputError(f"publish ended with {process.returncode}: {said}")
        return out.read().strip()


# --- what is compared


def all_of(found: Store) -> dict[str, Content]:
    """Every run of a store, by its id, with every file read."""
    return {one.run_id: one for one in found.contents([head.run_id for head in found.heads(())])}


def counts(runs: Mapping[str, Content]) -> dict[str, int]:
    """By `KINDS`."""
    found = dict.fromkeys(KINDS, 0)
    for run in runs.values():
        files = [*run.files.values(), *(f for model in run.models for f in model.files.values())]
        values = (
            1, len(run.params), len(run.tags), sum(len(s) for s, _, _ in run.points.values()),
            len(run.datasets), len(run.models), len(files), sum(f.size_bytes for f in files),
        )  # fmt: skip
        for kind, value in zip(KINDS, values, strict=True):
            found[kind] += value
    return found


def unlike(before: Mapping[str, Content], after: Mapping[str, Content]) -> list[str]:
    """What two states of a server do not share, in both directions."""
    wrong = [f"run {run_id} is lost" for run_id in before.keys() - after.keys()]
    wrong += [f"run {run_id} is of nobody" for run_id in after.keys() - before.keys()]
    for run_id in before.keys() & after.keys():
        one, other = before[run_id], after[run_id]
        words = [*differences(one, other), *differences(other, one)]
        if one.sha256 != other.sha256 and not words:
            words = ["its digest"]
        wrong += [f"run {run_id}: {word}" for word in dict.fromkeys(words)]
    return wrong


def damaged(backup: Path, environment: Mapping[str, str]) -> str:
    """ "" where a backup with one byte changed is refused, else what happened."""
    path = next(path for path in sorted((backup / "artifacts").rglob("*")) if path.is_file())
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        script("restore.sh", environment, str(backup))
    except InputError as error:
        return "" if "is damaged" in str(error) else str(error)
    finally:
        path.write_bytes(content)
    return "a damaged backup was restored"


# --- the drill


def drill(
    folder: Path,
    sources: Sequence[str],
    then: Callable[[Drill], None] = lambda found: None,
    kills: int = 0,
) -> Drill:
    """All of it but the recording. then: is called while the server has both histories, with the
    account in use."""
    found, lab = Drill(), folder / "lab"
    first = secrets.token_urlsafe(18)
    with ExitStack() as stack:
        environment = settings(lab, stack.enter_context(database()))
        start = time.monotonic()
        with served(environment | {"MLFLOW_AUTH_ADMIN_PASSWORD": first}) as address:
            found.seconds["first start, tables made"] = time.monotonic() - start
            with account(address, ADMIN, first):
                admin = users("password", ADMIN, "--generate")
            with account(address, ADMIN, admin):
                password = users("add", USER, "--generate")
                users("grant", USER, "Default", "EDIT")
            with account(address, USER, password):
                for number, source in enumerate(sources, start=1):
                    _interrupted(source, kills if number == len(sources) else 0, lab / "server.log")
                    say(found.timed(f"publish {number}", partial(publish, source)))
                    again = found.timed(f"publish {number} again", partial(publish, source))
                    if " new" in again or "brought up" in again or "completed" in again:
                        found.problems.append(f"published twice: {again.splitlines()[0]}")
                then(found)
                before = found.timed("reading all", lambda: all_of(Store(address)))
            said = found.timed("backup while it runs", lambda: script("backup.sh", environment))
            say(said)
    with restored(found, folder) as variables:
        environment = settings(lab, variables)
        start = time.monotonic()
        with served(environment) as address, account(address, USER, password):
            found.seconds["start"] = time.monotonic() - start
            after = found.timed("reading all again", lambda: all_of(Store(address)))
    found.compare(before, after)
    return found


@contextmanager
def restored(found: Drill, folder: Path) -> Iterator[dict[str, str]]:
    """The one backup in `folder` in an empty database and in place of the files, which are thrown away
    first, as the first database is; yields libpq's variables."""
    backup, lab = next((folder / "backups").glob("2*Z")), folder / "lab"
    shutil.rmtree(lab)
    with database() as variables:
        environment = settings(lab, variables)
        if wrong := damaged(backup, environment):
            found.problems.append(wrong)
        say(found.timed("restore", lambda: script("restore.sh", environment, str(backup))))
        yield variables


def _interrupted(source: str, kills: int, log: Path) -> None:
    """Publishes, and is killed as often: the first time when the server has had a few calls, then later."""
    for number in range(1, kills + 1):
        calls = _calls(log)
        done = publish(source, lambda: _calls(log) >= calls + 25 * number)  # noqa: B023 - it ends here
        say(f"publish, SIGKILL after {25 * number} calls: {'too late' if done else 'killed'}")


def _calls(log: Path) -> int:
    return log.read_text().count(" HTTP/1.1")


# --- the command: two machines recorded, and analysed together


def record(folder: Path, node: str, pairs: int) -> str:
    """A study of one machine in an SQLite store of its own; returns its URI. Raises InputError."""
    (folder / node).mkdir()
    before = os.environ.get(machine.IDENTITY)
    os.environ[machine.IDENTITY] = node
    try:
        with concurrency.stores("sqlite", folder / node) as place:
            if problems := concurrency.recorded(place, 1, pairs):
                raise InputError(f"the study of {node} was not recorded: {problems[0]}")
            return place.uri
    finally:
        os.environ.pop(machine.IDENTITY)
        if before is not None:
            os.environ[machine.IDENTITY] = before


def analysed(output: Path, **variables: str) -> Path:
    """The study of the store in use; its folder."""
    command = [
        sys.executable,
        "-m",
        "entrypoints.analyze",
        "--study",
        STUDY,
        "--output",
        str(output),
    ]
    done = subprocess.run(
        command, env={**os.environ, **variables}, cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode:
        raise InputError(f"analyze ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    return output


def table(path: Path) -> list[dict[str, str]]:
    """A CSV without the ids that a store gives."""
    with path.open() as file:
        return [{k: v for k, v in row.items() if k != "run_id"} for row in csv.DictReader(file)]


def together(folder: Path, sources: Sequence[str], found: Drill) -> None:
    """Over the server each machine's study says what it said in the store that it was recorded in."""
    whole_one = found.timed("analyze over the server", lambda: analysed(folder / "together"))
    for node, source in zip(NODES, sources, strict=True):
        alone = analysed(folder / f"alone-{node}", MLFLOW_TRACKING_URI=source)
        name = table(alone / "trials.csv")[0]["machine"]
        for file in ("comparisons.csv", "trials.csv"):
            if table(alone / file) != table(whole_one / name / file):
                found.problems.append(f"{node}: {file} is another one over the server")
    say(f"machines pooled: {[row['machine'] for row in table(whole_one / 'machines.csv')]}")


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=whole, default=6, help="blocks of each machine's study")
    parser.add_argument("--output", type=Path, help="folder of counts and times")
    options = parser.parse_args(given)
    # As Ctrl-C: servers and folders are gone afterwards.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if reason := missing():
        print(f"Error: {reason}; install it", file=sys.stderr)
        return 2
    folder = Path(tempfile.mkdtemp(prefix="lab-"))
    try:
        sources = [record(folder, node, options.pairs) for node in NODES]
        found = drill(folder, sources, lambda found: together(folder, sources, found), _KILLS)
    except InputError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped; nothing is left running", file=sys.stderr)
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(found.text())
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "report.md").write_text(found.text())
        facts = {"machine": machine.facts(), "commit": machine.commit(ROOT)[0]}
        (options.output / "conditions.json").write_text(json.dumps(facts, indent=1) + "\n")
    return 1 if found.problems else 0


if __name__ == "__main__":
    sys.exit(main())

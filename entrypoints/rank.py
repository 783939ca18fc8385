"""One rank of a job: a process that torchrun or mlx.launch has started, with the specification of the
trial as its only argument. It measures as a worker does, together with the other ranks; rank 0 puts
together what all of them found. Every rank appends what happens to a file of its own.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from safetensors.numpy import save_file

import frameworks
from entrypoints.node import Node
from entrypoints.processes import ROOT
from entrypoints.session import Session
from entrypoints.worker import Emitter, keep, save_trace
from measurement import blas, energy, job, machine, memory
from measurement.audit import completed, parity_difference
from measurement.checkpoints import Checkpoints
from measurement.disk import Appender
from measurement.errors import InputError
from measurement.framework import Ranks
from measurement.trial import Batches, Plan, run
from serving import predictions

START_SECONDS = 120.0  # until every rank has joined
_ENDED = {"refused": 2, "out_of_memory": 3, "stalled": 4, "unequal": 5}


class Watchdog:
    """Ends this process when it has not got any further for `seconds`: then another rank, or the way to
    it, does not answer, and not every backend notices."""

    def __init__(self, seconds: float, emit: Emitter) -> None:
        self.seconds, self._emit = seconds, emit
        self._last = time.monotonic()
        self.phase = "start"  # takes longer: a framework is imported, and others have to come
        threading.Thread(target=self._look, daemon=True).start()

    def beat(self) -> None:
        self._last = time.monotonic()

    def _look(self) -> None:
        while True:
            time.sleep(min(1.0, self.seconds / 10))
            limit = max(self.seconds, START_SECONDS) if self.phase == "start" else self.seconds
            if (silent := time.monotonic() - self._last) > limit:
                self._emit(
                    "stalled",
                    {"message": f"no progress for {silent:.0f} s in phase '{self.phase}'"},
                )
                os._exit(_ENDED["stalled"])


def end_with_launcher() -> None:
    """Ends this process within about a second of mlx.launch, which has started mpirun, which has started
    it: mpirun (Open MPI 5) goes on alone, but when a rank ends so, it ends the others."""
    mpirun = psutil.Process(os.getppid())
    launcher = mpirun.ppid()

    def look() -> None:
        with suppress(psutil.NoSuchProcess):  # then mpirun itself is gone
            while mpirun.ppid() == launcher:
                time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=look, daemon=True).start()


class Rank:
    """What a rank is, and what it says of itself."""

    def __init__(self, spec: dict[str, Any], folder: Path, stream: Appender) -> None:
        self.spec, self.folder = spec, folder
        self._emitter = Emitter(stream)
        self.watchdog = Watchdog(spec["timeout_seconds"], self._emitter)
        self.framework: Ranks
        self.window = energy.Window(None, "no window")
        self.energy: energy.Energy | None = None

    def emit(self, event: str, values: dict[str, Any]) -> None:
        """To this rank's file; energy windows open and close here, where the device is known."""
        if event == "energy_begin":
            self.window.start()
        elif event == "energy_end":
            self.energy = self.window.stop()
        self.watchdog.beat()
        self.watchdog.phase = f"epoch {values['epoch'] + 1}" if event == "epoch_begin" else event
        self._emitter(event, values)

    def join(self) -> None:
        spec = self.spec
        self.framework = frameworks.join(
            spec["framework"],
            spec["device"],
            spec["dtype"],
            spec["threads"],
            spec["backend"],
            spec["timeout_seconds"],
        )
        self.emit("joined", {"rank": self.framework.rank, "ranks": self.framework.ranks})
        if self.framework.ranks != spec["ranks"]:
            raise InputError(
                f"{self.framework.ranks} ranks have joined; expected {spec['ranks']}: start the job "
                "on every host of the hostfile, with the same options"
            )
        self._meter()

    @property
    def host(self) -> tuple[int, str]:
        """(number, name) of the host that this rank is on."""
        left = self.framework.rank
        for number, (name, ranks) in enumerate(self.spec["hosts"]):
            if left < ranks:
                return number, str(name)
            left -= ranks
        raise RuntimeError("more ranks than the hosts have")

    @property
    def leads(self) -> bool:
        """Whether it is the first one of its host."""
        number, _ = self.host
        return self.framework.rank == sum(ranks for _, ranks in self.spec["hosts"][:number])

    def _meter(self) -> None:
        device = self.framework.device
        # A Mac's counter is that of the whole chip, its GPU included.
        if (device == "cpu" or sys.platform == "darwin") and not self.leads:
            self.window = energy.Window(None, job.SHARED)
        else:
            self.window = energy.Window(*energy.find(device, self.framework.device_index))

    def agree(self, said: dict[str, Any], error: str | None = None) -> None:
        """Raises InputError on all ranks when one has an error, or they do not say the same."""
        own = {"error": error, "host": self.host[1], "said": said}
        found = [json.loads(value) for value in self.framework.gather(json.dumps(own).encode())]
        for number, one in enumerate(found):
            if one["error"]:
                where = f" on {one['host']}" if one["host"] else ""
                raise InputError(f"rank {number}{where}: {one['error']}")
        hosts = [one["said"] | {"host": one["host"]} for one in found]
        if difference := job.common(_named(hosts)):
            raise InputError(difference)

    def open(self) -> Session:
        """The session, when every rank has the same code, versions, options and data."""
        spec = self.spec
        own = ("hosts", "folder", "python", "data_dir", "packages")
        options = {k: v for k, v in spec.items() if k not in own and k != "plan"}
        plan = {k: v for k, v in spec["plan"].items() if k != "energy_seconds"}
        versions = self.framework.versions()
        commit, _ = machine.commit(ROOT)
        self.agree(
            {
                "version of the framework": versions["framework"],
                "version of Python": platform.python_version(),
                "commit": commit,
                "digest of the code": source_digest(ROOT),
                "options": options | plan,
            }
        )
        session, error = None, None
        try:
            session = Session(spec, framework=self.framework)
        except InputError as refused:
            error = str(refused)
        said = {"data": session.data.sha256} if session else {}
        self.agree(said, error)
        assert session is not None
        return session


def source_digest(root: Path) -> str:
    """Of the code that a rank may run, changes that are in no commit included."""
    digest = hashlib.sha256()
    for package in ("entrypoints", "frameworks", "measurement", "models", "serving"):
        for path in sorted((root / package).rglob("*.py")):
            digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _named(hosts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Options one by one, so that the one that differs is named; the host is for the sentence only."""
    return [
        {k: v for k, v in one.items() if k != "options"}
        | {f"option {k}": v for k, v in one.get("options", {}).items()}
        for one in hosts
    ]


class Resumed:
    """Keeps a rank's training after every epoch, and goes on from what all ranks have."""

    def __init__(self, rank: Rank, session: Session) -> None:
        self._rank, self._session = rank, session
        # The folder may be one that the hosts share.
        number, _ = rank.host
        self._checkpoints = Checkpoints(
            rank.folder / f"checkpoints{f'-{number}' if number else ''}"
        )

    def save(self, epochs: int, history: dict[str, Any]) -> None:
        if self._rank.leads:  # those of one host read the same folder
            state = self._rank.framework.read_state(self._session.state)
            self._checkpoints.save(epochs, state, history)

    def restore(self) -> dict[str, Any] | None:
        mine = json.dumps(self._checkpoints.epochs()).encode()
        sets = [set(json.loads(value)) for value in self._rank.framework.gather(mine)]
        if not (shared := set.intersection(*sets)):
            return None
        state, history = self._checkpoints.read(max(shared))
        self._rank.framework.write_state(self._session.state, state)
        self._rank.emit("resumed", {"epochs": max(shared)})
        return history


class Watched:
    """Notes which items the steps of each epoch are given, from the row numbers on the device."""

    def __init__(self, rank: Rank, session: Session) -> None:
        self._framework, self._session = rank.framework, session
        self.seen: dict[int, job.Seen] = {}

    def portions(self, epoch: int) -> Iterator[Batches]:
        self.seen[epoch] = found = job.Seen()
        for fed in self._session.portions(epoch):
            for shard, count in fed:
                found.add(self._framework.read(shard.rows)[:count])
            yield fed

    def rows(self, shard: Any) -> np.ndarray:
        """The items of a part; a rank without one has one that counts nothing."""
        rows = self._framework.read(shard.rows)
        return rows if float(self._framework.read(shard.weight)) > 0 else rows[:0]

    def as_json(self, epochs: int) -> list[Any]:
        return [self.seen[e].as_json() if e in self.seen else None for e in range(epochs)]


def measure(rank: Rank) -> None:
    """A whole trial of the job; rank 0 emits the result and saves the weights."""
    session, framework, spec = rank.open(), rank.framework, rank.spec
    with Node(rank.folder / f"node-{rank.host[0]}.jsonl", rank.leads and rank.host[0] > 0) as node:
        watched, resumed = Watched(rank, session), Resumed(rank, session)
        work = session.work()
        size = sum(value.size for value in session.initial.values())
        steps = _beating(work.step, rank.watchdog.beat)
        reduce = framework.all_reduce(size)
        work = replace(
            work,
            step=steps,
            rows=watched.rows,
            portions=watched.portions,
            reduce=reduce,
            reduce_bytes=size * memory.ITEM_BYTES[framework.dtype],
            save=resumed.save,
            restore=resumed.restore,
        )
        rank.emit("ready", session.conditions())
        plan = Plan(**spec["plan"])
        seconds = framework.agree(plan.energy_seconds)
        trial = run(work, framework, replace(plan, energy_seconds=seconds), report=rank.emit)
        rank.emit("evidence", {})
        session.step = _beating(session.step, rank.watchdog.beat)
        answered = session.predictions(trial.parameters)  # all ranks hold all weights
        evidence = session.evidence().summary()
    said = {
        "trial": trial.as_json(),
        "seen": watched.as_json(plan.epochs),
        "weights": job.weights_digest(trial.parameters),
        "energy": asdict(rank.energy or rank.window.stop()),
        "host": rank.host[1],
        "pid": os.getpid(),
        "parity": evidence,
        "samples": node.samples(),
        "restarts": int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")),
    }
    own = rank.folder / f"rank-{framework.rank}.json"
    keep(lambda: own.write_text(json.dumps(said)), own, rank.emit)
    rank.emit("gather", {})
    everybody = [json.loads(value) for value in framework.gather(json.dumps(said).encode())]
    if framework.rank == 0:
        weights = rank.folder / "weights.safetensors"
        keep(lambda: save_file(trial.parameters, weights), weights, rank.emit)
        place = rank.folder / predictions.FILE
        keep(lambda: predictions.save(place, answered), place, rank.emit)
        rank.emit("result", _result(rank, session, everybody))


def _result(rank: Rank, session: Session, everybody: list[dict[str, Any]]) -> dict[str, Any]:
    """What the supervisor makes a run of. Raises JobError when the ranks did not do one job's work."""
    for number, other in enumerate(everybody[1:], 1):
        if difference := parity_difference(everybody[0]["parity"], other["parity"]):
            raise job.JobError(f"rank {number} against rank 0: {difference}")
    merged = job.merge(everybody, len(session.data.train["labels"]))
    return {
        "mode": "train",
        "trial": merged,
        "ranks": job.table(everybody),
        "backend": rank.framework.backend,
        "restarts": max(one["restarts"] for one in everybody),
        "nodes": [one["samples"] for one in everybody if one["samples"]],
        "completed": completed(merged["completion_ratio"], merged["completion_residue"]),
        "conditions": session.conditions(),
        "parity": everybody[0]["parity"],
        "imported": [m for m in (*frameworks.packages(), "mlflow") if m in sys.modules],
    }


def _beating(step: Callable[[Any], Any], beat: Callable[[], None]) -> Callable[[Any], Any]:
    def beaten(batch: Any) -> Any:
        beat()
        return step(batch)

    return beaten


def trace(rank: Rank) -> None:
    """The evidence in full, for `verify`, of which all ranks take part and rank 0 keeps the arrays."""
    session = rank.open()
    rank.emit("ready", session.conditions())
    session.step = _beating(session.step, rank.watchdog.beat)
    evidence = session.evidence()
    updates = job.weights_digest(evidence.updates)
    rank.agree({"updates of ten steps": updates})
    if rank.framework.rank == 0:
        save_trace(evidence, rank.folder)
        rank.emit("result", {"parity": evidence.summary(), "conditions": session.conditions()})


def number() -> int:
    """This process's rank, by whatever started it."""
    for name in ("RANK", "MLX_RANK", "OMPI_COMM_WORLD_RANK"):
        if name in os.environ:
            return int(os.environ[name])
    raise InputError(
        "this process has no rank; expected to be started by torchrun or mlx.launch: use the entry "
        "points, as in 'mlflow run . -e mnist_pytorch_ddp'"
    )


ACTIONS: Mapping[str, Callable[[Rank], None]] = {"measure": measure, "trace": trace}


def main(actions: Mapping[str, Callable[[Rank], None]] = ACTIONS) -> int:
    if sys.platform == "linux":  # end with the launcher, even if it is killed
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    spec = json.loads(sys.argv[1])
    if _abandoned(spec):
        return 1
    if spec["backend"] == "mpi" and number() == 0:  # which is where mlx.launch is
        end_with_launcher()
    folder = Path(spec["folder"])
    folder.mkdir(parents=True, exist_ok=True)  # on another host there is none yet
    code = 0
    with closing(Appender(folder / f"events-{number()}.jsonl")) as stream:
        rank = Rank(spec, folder, stream)
        rank.emit("start", {"pid": os.getpid(), "rank": number()})
        try:
            blas.load(spec["blas"])
            rank.join()
            actions[spec["action"]](rank)
            rank.emit("end", {})
            rank.framework.leave()
        except InputError as error:
            code = _end(rank, "refused", error)
        except job.JobError as error:
            code = _end(rank, "unequal", error)
        except Exception as error:
            kind = "out_of_memory" if frameworks.out_of_memory(error) else "failed"
            code = _end(rank, kind, error)
            if kind == "failed":
                raise
    return code


def _abandoned(spec: dict[str, Any]) -> bool:
    """Whether the launcher was killed already, with its supervisor, before this process could ask to be
    told: the other ranks would be waited for."""
    if "supervisor" not in spec:  # it is on another host
        return os.getppid() == 1
    # Whom an orphan is given to is not always process 1: a desktop's session takes its own.
    try:
        return psutil.Process(spec["supervisor"]).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _end(rank: Rank, event: str, error: Exception) -> int:
    rank.emit(event, {"message": " ".join(str(error).split())[:500], "phase": rank.watchdog.phase})
    return _ENDED.get(event, 1)


if __name__ == "__main__":
    sys.exit(main())

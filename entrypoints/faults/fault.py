"""What a fault is, and how one gets into a trial."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import frameworks
import models

if TYPE_CHECKING:
    from analysis.comparison import Around
    from analysis.recorded import Samples
    from tracking.read import Row, Study

CLASSES = {
    "W": "unequal work",
    "T": "timing and waiting",
    "M": "model and numerics",
    "D": "device and machine",
    "S": "statistics",
    "P": "provenance",
    "E": "memory and energy meters",
}

Patch = Callable[[Any, str, Any], None]  # setattr, or what puts it back at the end of a test
Spec = dict[str, Any]  # of a worker


@dataclass(frozen=True)
class Fault:
    """One mistake, made in one arm only.

    what: a sentence for people. caught_by: flags, or words of a refusal, of which one must show.
    frameworks: in which it is made; against the other framework's sound arm of the same workload.
    Where it is made (one of them): `worker`: changes the worker's process before it begins;
    `supervisor`: is open while the trial runs; `arm`: the arm's words, where {framework} stands for its
    name and {sound} for the sound arm; `study`: changes what a sound study recorded, (study, its rows)
    -> the same; `around`: the same with its samples, and what else the store holds.
    """

    name: str
    kind: str
    what: str
    caught_by: tuple[str, ...]
    workload: str = "mnist"
    frameworks: tuple[str, ...] = ("mlx", "pytorch")
    worker: Callable[[Patch, Spec], None] | None = None
    supervisor: Callable[[], AbstractContextManager[Any]] | None = None
    arm: str = ""
    study: Callable[[Study, Sequence[Row]], tuple[Study, list[Row]]] | None = None
    metric: str = ""  # of an arm, in which it shows; the study's own by default
    around: Callable[[Study, Sequence[Row], Samples], tuple[Study, list[Row], Around]] | None = None

    @property
    def of_an_arm(self) -> bool:
        """Whether the arm's own trial is broken, by the word fault=NAME."""
        return bool(self.worker or self.supervisor)


def on_adapter(patch: Patch, change: Callable[[Any], None]) -> None:
    """`change` gets the adapter as soon as it is open."""
    load = frameworks.load

    def loaded(*arguments: Any, **keywords: Any) -> Any:
        adapter = load(*arguments, **keywords)
        change(adapter)
        return adapter

    patch(frameworks, "load", loaded)


def on_twin(patch: Patch, spec: Spec, change: Callable[[Any], dict[str, Any]]) -> None:
    """`change` gets the twin's module and returns what it has in place of its own names."""
    load = models.load

    def loaded(workload: str, part: str) -> Any:
        module = load(workload, part)
        if part != spec["framework"]:
            return module
        return SimpleNamespace(**{**vars(module), **change(module)})

    patch(models, "load", loaded)


def _worker() -> Any:
    """Not before it is needed: the worker reads what entrypoints has, and that has the registry."""
    from entrypoints import worker

    return worker


def on_session(patch: Patch, change: Callable[[Any], None]) -> None:
    """`change` gets the session when it is complete."""
    worker = _worker()
    opened = worker.open_session

    def broken(spec: Spec) -> Any:
        session = opened(spec)
        change(session)
        return session

    patch(worker, "open_session", broken)


def on_work(patch: Patch, change: Callable[[Any, Any], Any]) -> None:
    """`change` gets the session and the work that it gives to the trial, and returns other work."""

    def wrap(session: Any) -> None:
        work = session.work
        session.work = lambda: change(session, work())

    on_session(patch, wrap)


def on_run(patch: Patch, change: Callable[[Any, Any], tuple[Any, Any, dict[str, Any]]]) -> None:
    """`change` gets the work and the plan of a training, and returns others, and keywords of
    measurement.trial.run such as its clock."""
    worker = _worker()
    run = worker.run

    def broken(work: Any, framework: Any, plan: Any, **keywords: Any) -> Any:
        work, plan, more = change(work, plan)
        return run(work, framework, plan, **keywords, **more)

    patch(worker, "run", broken)


def on_text(patch: Patch, spec: Spec, old: str, new: str) -> None:
    """The twin with `old` replaced by `new` in its source, or else in that of its shared layers; made
    when it is asked for, because a BLAS is loaded before any framework. Raises ValueError then, where
    neither has it: the twin has changed, so must the fault."""
    folder = Path(str(models.__file__)).parent
    framework, load = spec["framework"], models.load

    @functools.cache
    def broken() -> ModuleType:
        text = (folder / spec["workload"] / f"{framework}.py").read_text()
        twin = _executed(text.replace(old, new), "broken_twin")
        if old not in text:
            layers = (folder / "layers" / f"{framework}.py").read_text()
            if old not in layers:
                raise ValueError(f"neither twin nor layers have '{old}' any more")
            # An operator is registered once, so the broken one has a name of its own.
            changed = layers.replace(old, new).replace("layers::adamw", "broken::adamw")
            twin.AdamW = _executed(changed, "broken_layers").AdamW  # type: ignore[attr-defined]
        return twin

    patch(models, "load", lambda name, part: broken() if part == framework else load(name, part))


def _executed(text: str, name: str) -> ModuleType:
    module = ModuleType(name)
    sys.modules[name] = module  # torch.compile looks a function up in its module
    exec(compile(text, name, "exec"), module.__dict__)
    return module

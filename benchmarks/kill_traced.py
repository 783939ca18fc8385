"""Runs an entry point as it is, and says in a page of shared memory where it has got to, so that whoever
kills it knows what was cut off; asked to, it waits before a step, to be killed right there.

    python -m benchmarks.kill_traced PAGE entrypoints.study --name first

Nothing of the entry point is changed: its functions are wrapped after it was imported, and its steps,
what it writes to disk and commits to a database, come from Python's audit events and SQLAlchemy.
"""

from __future__ import annotations

import faulthandler
import functools
import importlib
import mmap
import os
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy

SIZE = 512
WAIT_SECONDS = 120.0  # for a kill that never comes
# Stage -> the functions that are it, innermost first where one calls another.
STAGES = {
    "opening the store": (
        "tracking.sqlite:make",
        "tracking.store:prepare",
        "mlflow.store.tracking.sqlalchemy_store:SqlAlchemyStore.__init__",
    ),
    "opening the study": ("entrypoints.study:open_study",),
    "begin of a record": ("tracking.outbox:begin",),
    "measuring": ("entrypoints.supervisor:measure",),
    "recording": ("entrypoints.record:build", "tracking.outbox:close"),
    "begin of a run": ("tracking.delivery:open_run",),
    "delivering": ("tracking.delivery:fill",),
    "artifacts": ("mlflow.tracking:MlflowClient.log_artifacts",),
    "model logging": ("serving.log:log_model",),
    "end of a run": ("tracking.delivery:close", "tracking.outbox:receipt"),
    "catching up": ("entrypoints.deliver:Courier.retry",),
    "analysis": ("entrypoints.analyze:analyze",),
    "report writing": ("entrypoints.folder:write_report",),
}
START = "start"
BETWEEN = "between trials"
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_STEPS = (
    "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.truncate", "subprocess.Popen",
)  # fmt: skip


class Page:
    """A file in shared memory. Of the traced process: steps so far, whether it waits, stage and step.
    Of the other one: the stage to wait in ("" for any) and the number of the step, from 1, in it."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(SIZE))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), SIZE)

    def _number(self, at: int) -> int:
        return int(struct.unpack_from("<q", self._memory, at)[0])

    def _set_number(self, at: int, value: int) -> None:
        struct.pack_into("<q", self._memory, at, value)

    def _text(self, at: int) -> str:
        return self._memory[at : at + 120].split(b"\0")[0].decode(errors="replace")

    def _set_text(self, at: int, text: str) -> None:
        self._memory[at : at + 120] = text.encode()[:119].ljust(120, b"\0")

    @property
    def steps(self) -> int:
        return self._number(0)

    @property
    def waits(self) -> bool:
        return bool(self._number(8))

    @property
    def stage(self) -> str:
        return self._text(32) or START

    @property
    def step(self) -> str:
        return self._text(152)

    @property
    def asked(self) -> tuple[str, int]:
        """(stage, step in it); step 0 asks for nothing."""
        return self._text(272), self._number(16)

    def ask(self, stage: str, step: int) -> None:
        self._set_number(8, 0)
        self._set_text(272, stage)
        self._set_number(16, step)

    def say(self, stage: str | None = None, step: str | None = None, steps: int = 0) -> None:
        if stage is not None:
            self._set_text(32, stage)
        if step is not None:
            self._set_text(152, step)
            self._set_number(0, steps)

    def wait(self) -> None:
        """Until the kill comes, or is taken back. A signal that ends the wait ends the asking too: what
        the process does then to close its runs must not wait once more."""
        self._set_number(8, 1)
        end = time.monotonic() + WAIT_SECONDS
        try:
            while self.waits and time.monotonic() < end:
                time.sleep(0.001)
        finally:
            self.ask("", 0)


class Tracer:
    def __init__(self, page: Page) -> None:
        self._page = page
        self._stages: list[tuple[str, int]] = []  # stage, steps when it was entered
        self._steps = 0
        self._busy = threading.local()

    def stage(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, named while it runs."""

        @functools.wraps(function)
        def wrapped(*words: Any, **named: Any) -> Any:
            if threading.current_thread() is not threading.main_thread():
                return function(*words, **named)
            self._stages.append((name, self._steps))
            self._page.say(stage=name)
            try:
                found = function(*words, **named)
                # A step that was asked for and that the stage does not have is its last moment.
                stage, number = self._page.asked
                if number and stage == name:
                    self._page.say(step="its end", steps=self._steps)
                    self._page.wait()
                return found
            finally:
                self._stages.pop()
                self._page.say(stage=self._stages[-1][0] if self._stages else BETWEEN)

        return wrapped

    def event(self, name: str, words: tuple[Any, ...]) -> None:
        """An audit event of Python."""
        if name == "open":
            path, _, flags = words
            if flags & _WRITES and isinstance(path, str) and not path.startswith(("/proc", "/dev")):
                self.step(f"open {Path(path).name}")
        elif name in _STEPS:
            self.step(name)

    def statement(self, _connection: Any, _cursor: Any, text: str, *_: Any) -> None:
        """What changes tables is no part of a transaction everywhere."""
        if text.lstrip().startswith(("CREATE", "ALTER", "DROP")):
            self.step(" ".join(text.split()[:3]))

    def step(self, what: str) -> None:
        if getattr(self._busy, "now", False):
            return
        self._busy.now = True
        try:
            self._steps += 1
            self._page.say(step=what, steps=self._steps)
            stage, number = self._page.asked
            if not number:
                return
            if not stage:
                self._page.ask("", number - 1)
                if number == 1:
                    self._page.wait()
            elif any(name == stage and self._steps - n == number for name, n in self._stages):
                self._page.wait()
        finally:
            self._busy.now = False


def trace(page: Page, module: str) -> Any:
    """Imports `module`, wraps the functions of STAGES wherever the project has them, and returns it."""
    tracer = Tracer(page)
    loaded = importlib.import_module(module)  # noqa: TID251
    for stage, functions in STAGES.items():
        for name in functions:
            where, attribute = name.split(":")
            if "." in attribute:
                owner, method = attribute.split(".")
                kind = getattr(importlib.import_module(where), owner)  # noqa: TID251
                setattr(kind, method, tracer.stage(stage, getattr(kind, method)))
                continue
            original = getattr(importlib.import_module(where), attribute)  # noqa: TID251
            wrapped = tracer.stage(stage, original)
            for holder in list(sys.modules.values()):
                if getattr(holder, attribute, None) is original:
                    setattr(holder, attribute, wrapped)
    sqlalchemy.event.listen(sqlalchemy.Engine, "commit", lambda _: tracer.step("commit"))
    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", tracer.statement)
    sys.addaudithook(tracer.event)
    return loaded


def main() -> None:
    faulthandler.register(signal.SIGUSR1)  # where it hangs, if it does
    page, module = Page(Path(sys.argv[1])), sys.argv[2]
    loaded = trace(page, module)
    sys.argv[:] = [module, *sys.argv[3:]]
    page.say(stage=BETWEEN)
    loaded.main()


if __name__ == "__main__":
    main()

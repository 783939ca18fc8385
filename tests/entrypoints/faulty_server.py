"""MLflow's own server in this process, before a real store, that fails when it is told to."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from werkzeug.serving import WSGIRequestHandler, make_server

Answer = Callable[[Any], list[bytes]]


class Quiet(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:
        return


class Faults:
    """WSGI in front of the application. `fault(number, path)` of every call, from 1: None or "" lets it
    pass, "refuse" breaks the connection before the store hears of it, "lose" after, a number answers
    with that status, "slow" after `seconds`."""

    def __init__(self, application: Any) -> None:
        self._application = application
        self._lock = threading.Lock()
        self.address = ""
        self.seconds = 0.0
        self.reset()

    def reset(self, fault: Callable[[int, str], Any] = lambda number, path: None) -> None:
        self.calls: list[str] = []
        self.fault = fault

    def dies_after(self, calls: int, how: Any = "lose") -> None:
        """The call of that number is done, but its answer is lost; later ones are refused."""
        self.reset(
            lambda number, path: None if number < calls else how if number == calls else "refuse"
        )

    def __call__(self, environ: dict[str, Any], start: Any) -> Any:
        path = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}"
        with self._lock:
            self.calls.append(path)
            fault = self.fault(len(self.calls), path)
        if fault == "refuse":
            raise self._broken(environ)
        if fault == "slow":
            time.sleep(self.seconds)
        if isinstance(fault, int):
            start(f"{fault} no", [("Content-Type", "text/plain")])
            return [b"no"]
        answer = self._application(environ, start)
        if fault == "lose":
            list(answer)
            raise self._broken(environ)
        return answer

    def _broken(self, environ: dict[str, Any]) -> ConnectionError:
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        return ConnectionResetError()


@contextmanager
def serving(database: Path, artifacts: Path) -> Iterator[Faults]:
    """The server on a free port of this machine while the block runs."""
    import mlflow.server
    from mlflow.server import constants, handlers
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(constants.BACKEND_STORE_URI_ENV_VAR, f"sqlite:///{database}")
        patch.setenv(constants.ARTIFACT_ROOT_ENV_VAR, "mlflow-artifacts:/")
        patch.setenv(constants.ARTIFACTS_DESTINATION_ENV_VAR, str(artifacts))
        patch.setenv(constants.SERVE_ARTIFACTS_ENV_VAR, "true")
        # Left to make its store itself, the server makes it this process's own as well.
        store = SqlAlchemyStore(f"sqlite:///{database}", "mlflow-artifacts:/")
        patch.setattr(handlers, "_tracking_store", store)
        patch.setattr(handlers, "_artifact_repo", None)
        faults = Faults(mlflow.server.app)
        running = make_server("127.0.0.1", 0, faults, threaded=True, request_handler=Quiet)
        faults.address = f"http://127.0.0.1:{running.server_port}"
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield faults
        finally:
            running.shutdown()
            thread.join()
            running.server_close()

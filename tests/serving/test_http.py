"""`mlflow models serve` answers over HTTP for both frameworks, where the project is not."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from served import digits, images

from serving import log

pytestmark = pytest.mark.slow


@contextmanager
def served(model: Path, folder: Path) -> Iterator[str]:
    """The server's address; the server and its children are stopped on the way out."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # The server is started through a shell that looks for uvicorn on the PATH.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = ["mlflow", "models", "serve", "-m", str(model), "-p", str(port)]
    with (folder / "server.log").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command, "--env-manager", "local"],
            cwd=folder,
            env=environment | {"PATH": path, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            address = f"http://127.0.0.1:{port}"
            _await(address, process, folder / "server.log")
            yield address
        finally:
            os.killpg(process.pid, signal.SIGINT)
            process.wait(timeout=30)


def _await(address: str, process: subprocess.Popen[bytes], output: Path) -> None:
    for _ in range(240):
        assert process.poll() is None, output.read_text()[-2000:]
        try:
            urllib.request.urlopen(f"{address}/ping", timeout=5)
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.25)
    pytest.fail("no answer within a minute: " + output.read_text()[-2000:])


def _ask(address: str, body: bytes) -> list[int]:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}/invocations", body, headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return list(json.load(answer)["predictions"])


def test_the_server_answers_as_the_trial_does(trial: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    log.save_model(trial, model)
    x = images(32)
    with served(model, tmp_path) as address:

        def ask(rows: np.ndarray) -> list[int]:
            return _ask(address, json.dumps({"inputs": rows.tolist()}).encode())

        assert ask(x[:1]) == digits(x[:1]).tolist()
        with ThreadPoolExecutor(4) as clients:  # several requests at once
            answers = list(clients.map(ask, np.split(x, 8)))
        assert np.concatenate(answers).tolist() == digits(x).tolist()
        # The example that MLflow keeps beside the model is what `register` tells people to send.
        assert len(_ask(address, (model / "serving_input_example.json").read_bytes())) == 4
        with pytest.raises(urllib.error.HTTPError, match="400"):
            ask(x[:, :3])

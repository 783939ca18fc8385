"""A Docker engine and a Kubernetes API server that record what they are asked, over HTTP, for tests.

Only what MLflow's Kubernetes backend calls is answered. No container is made: `run` gets the Job that
was created, as a cluster would, and returns whether it ended well.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

DIGEST = "sha256:" + "5" * 64
Job = dict[str, Any]


class Cluster:
    """jobs: every Job created, as it arrived. calls: method and path of every request."""

    def __init__(self, image: str, run: Callable[[Job], bool]) -> None:
        self.image, self.run = image, run
        self.jobs: list[Job] = []
        self.calls: list[str] = []

    def docker(self, path: str) -> Any:
        """The engine's answer: one local image; a push that works; the digest in the registry."""
        if path.endswith("/version"):
            return {"ApiVersion": "1.47", "MinAPIVersion": "1.24", "Version": "27.0.0"}
        image = {"Id": "sha256:" + "1" * 64, "RepoTags": [self.image]}
        if "/images/json" in path:
            return [image]
        if "/push" in path:
            return {"status": "Pushed"}
        if "/distribution/" in path:
            return {"Descriptor": {"digest": DIGEST}, "Platforms": []}
        return image

    def kubernetes(self, method: str, path: str, body: Job) -> tuple[int, Job]:
        if method == "POST":
            self.jobs.append(body)
            return 201, body
        ended = "Complete" if self.run(self.jobs[-1]) else "Failed"
        condition = {"type": ended, "status": "True", "message": ended.lower()}
        status = {"startTime": "2026-01-01T00:00:00Z", "conditions": [condition]}
        return 200, {**self.jobs[-1], "status": status}


@contextmanager
def serving(cluster: Cluster) -> Iterator[str]:
    """Both on one free port while the block runs; yields its host and port."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            sent = self.rfile.read(length)
            path = self.path.partition("?")[0]
            cluster.calls.append(f"{self.command} {path}")
            if path.startswith("/apis/"):
                status, found = cluster.kubernetes(
                    self.command, path, json.loads(sent) if sent else {}
                )
            else:
                status, found = 200, cluster.docker(path)
            text = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = answer

        def log_message(self, *_: Any) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def configure(folder: Path, address: str) -> dict[str, str]:
    """The variables of someone who may use this engine and this cluster; their files in `folder`."""
    (folder / "bin").mkdir()
    program = folder / "bin" / "docker"  # MLflow asks it for `docker info`, and nothing else
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    named = {"cluster": {"server": f"http://{address}"}, "context": {"cluster": "c", "user": "u"}}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": named["cluster"]}],
        "contexts": [{"name": "c", "context": named["context"]}],
        "users": [{"name": "u", "user": {}}],
        "current-context": "c",
    }
    (folder / "kubeconfig").write_text(json.dumps(config))
    return {"DOCKER_HOST": f"tcp://{address}", "KUBECONFIG": str(folder / "kubeconfig")}

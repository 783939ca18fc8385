"""A server of one file on this machine, which breaks off, forgets ranges or changes its file as a test
asks."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Server:
    """What it sends, and what it saw."""

    base: str
    content: bytes
    ranges: bool = True
    tag: str | None = '"one"'
    cut: list[int] = field(default_factory=list)  # bytes to send before breaking off, per request
    status: int = 200
    asked: list[tuple[str | None, str | None]] = field(default_factory=list)  # Range, If-Range

    @property
    def url(self) -> str:
        return f"{self.base}/archive.zip"

    def answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        range_, condition = handler.headers["Range"], handler.headers["If-Range"]
        self.asked.append((range_, condition))
        start, status = 0, self.status
        if range_ and self.ranges and condition in (None, self.tag):
            start = int(range_.removeprefix("bytes=").removesuffix("-"))
            status = 206 if start < len(self.content) else 416
        body = self.content[start:] if status != 416 else b""
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        if self.tag:
            handler.send_header("ETag", self.tag)
        if status == 206:
            end = len(self.content) - 1
            handler.send_header("Content-Range", f"bytes {start}-{end}/{len(self.content)}")
        handler.end_headers()
        handler.wfile.write(body[: self.cut.pop(0)] if self.cut else body)


@contextmanager
def serving(content: bytes) -> Iterator[Server]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        found = Server(f"http://127.0.0.1:{running.server_port}", content)
        yield found
        running.shutdown()

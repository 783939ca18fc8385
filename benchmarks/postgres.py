"""A PostgreSQL server of its own, on loopback, in a temporary folder, gone afterwards in all cases."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import socket

from measurement.errors import InputError

USER, DATABASE = "mlflow", "postgres"
OWNER = "postgres"  # whom Debian's package makes; the server refuses to be root's
START_SECONDS = 60.0
CONNECTIONS = 400


def missing() -> str:
    """Why there can be no server here; "" where there can."""
    if not programs():
        return "PostgreSQL is not installed (Debian: apt-get install postgresql)"
    try:
        import psycopg2  # noqa: F401
    except ImportError:
        return "psycopg2 is not installed (pip install -c constraints.txt psycopg2-binary)"
    if os.geteuid() == 0 and not (shutil.which("setpriv") and _owner()):
        return f"PostgreSQL refuses to be root's, and here is no setpriv or no user {OWNER}"
    return ""


def programs() -> Path | None:
    """The folder of `postgres` and `initdb`, which Debian keeps out of PATH."""
    if found := shutil.which("initdb"):
        return Path(found).parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return versions[-1].parent if versions else None


def _owner() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(OWNER)
    except KeyError:
        return None


@contextmanager
def postgres() -> Iterator[str]:
    """A new, empty database while the block runs; yields its SQLAlchemy URI. Raises InputError."""
    if reason := missing():
        raise InputError(f"{reason}; install it, or leave this part out")
    found = programs()
    assert found is not None
    folder, prefix = Path(tempfile.mkdtemp(prefix="postgres-")), []
    process: subprocess.Popen[bytes] | None = None
    try:
        password = secrets.token_hex(16)
        (folder / "password").write_text(password)
        if os.geteuid() == 0:
            owner = _owner()
            assert owner is not None
            # pdeathsig: it ends even where this process is killed
            prefix = ["setpriv", f"--reuid={OWNER}", f"--regid={owner.pw_gid}", "--clear-groups"]
            prefix += ["--pdeathsig", "QUIT", "--"]
            for path in (folder, folder / "password"):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        data = folder / "data"
        words = ["-D", str(data), "-U", USER, "-A", "scram-sha-256", "-E", "UTF8", "--no-sync"]
        made = subprocess.run(
            [*prefix, str(found / "initdb"), *words, "--pwfile", str(folder / "password")],
            cwd=folder,
            capture_output=True,
            text=True,
        )
        if made.returncode:
            raise InputError(f"initdb failed: {made.stderr.strip()[-300:]}")
        with socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": str(CONNECTIONS),
            "fsync": "off",  # it is thrown away
        }
        given = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        log = folder / "log"
        with log.open("w") as file:
            process = subprocess.Popen(
                [*prefix, str(found / "postgres"), "-D", str(data), "-p", str(port), *given],
                cwd=folder,
                stdout=file,
                stderr=file,
            )
        address = f"{USER}:{password}@127.0.0.1:{port}/{DATABASE}"
        _wait(address, process, log)
        yield f"postgresql+psycopg2://{address}"
    finally:
        if process is not None:
            _end(process)
        shutil.rmtree(folder, ignore_errors=True)


def _wait(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    import psycopg2

    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            psycopg2.connect(f"postgresql://{address}", connect_timeout=2).close()
            return
        except psycopg2.OperationalError:
            time.sleep(0.1)
    raise InputError(f"PostgreSQL did not start: {log.read_text()[-300:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """A fast shutdown, whoever is connected; it takes its own children with it."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGQUIT)
        process.wait(30)

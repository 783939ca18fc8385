"""The code of another commit, beside the user's tree and without touching it."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from entrypoints.processes import ROOT
from measurement.errors import InputError


def known(commit: str) -> bool:
    """Whether the repository here has a commit; its name comes from a run, so it must be one."""
    return bool(re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", commit)) and not _git(
        "cat-file", "-e", f"{commit}^{{commit}}"
    )


@contextmanager
def tree(commit: str) -> Iterator[Path]:
    """A folder with the files of a commit, while it is open. Raises InputError where the repository
    does not have it."""
    if not known(commit):
        raise InputError(
            f"commit {commit[:60]} is not in this repository; fetch it (git fetch --all, or git fetch "
            "--unshallow), or repeat with the code here: -P commit=here"
        )
    with tempfile.TemporaryDirectory(prefix="commit-") as folder:
        place = Path(folder) / commit[:12]
        # No hook of the user's runs for a tree that nobody works in.
        quiet = ("-c", "core.hooksPath=/dev/null")
        if said := _git(*quiet, "worktree", "add", "--detach", "--quiet", str(place), commit):
            raise InputError(
                f"commit {commit[:12]} cannot be checked out in {place.parent} ({said}); expected room "
                "there: set TMPDIR, or repeat with -P commit=here"
            )
        try:
            yield place
        finally:
            _git("worktree", "remove", "--force", str(place))


def _git(*words: str) -> str:
    """'' where it succeeds, else what it said last."""
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False
        )
    except OSError as error:
        return str(error)
    if done.returncode == 0:
        return ""
    return (done.stderr.strip().splitlines() or ["git failed"])[-1][:200]

"""Studies at once on one store, in short: their trials take no time. benchmarks/concurrency.py with
real workers is the long form."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.postgres import missing

ROOT = Path(__file__).resolve().parents[2]


def together(*words: str) -> str:
    """What the command says; a process of its own, which forks one for each study."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.concurrency", "--measured", "recorded", *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, err = process.communicate()
    finally:
        process.terminate()  # it ends its servers
        process.wait(60)
    assert process.returncode == 0, out + err
    return out


def test_eight_studies_on_one_sqlite_file() -> None:
    said = together("--sqlite", "8", "--postgresql", "0")
    assert "| sqlite | 8 | 24 |" in said


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(missing() != "", reason=missing())
@pytest.mark.long
def test_sixteen_studies_on_one_server() -> None:
    said = together("--sqlite", "0", "--postgresql", "16")
    assert "| postgresql | 16 | 48 |" in said

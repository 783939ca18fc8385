"""A process has one identity, and shares it with no other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from measurement import identity

ASK = "from measurement import identity; print(identity.process())"


def test_a_process_is_itself_and_no_other() -> None:
    assert identity.process() == identity.process()
    other = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True)
    assert len(other.stdout.strip()) == len(identity.process()) == 16
    assert other.stdout.strip() != identity.process()


def test_code_is_its_files_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "a.py").write_text("x = 1\n")
    one = identity.code(tmp_path)
    (tmp_path / "README.md").write_text("no code")
    assert identity.code(tmp_path) == one
    (tmp_path / "models" / "a.py").write_text("x = 2\n")
    assert identity.code(tmp_path) != one

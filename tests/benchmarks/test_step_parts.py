"""Where a step's time goes, at the smallest size: every part is there, and its figures fit together."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import frameworks

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("framework", "workload"), [("mlx", "deit_small"), ("pytorch", "transformer_lm")]
)
def test_every_part_is_timed(framework: str, workload: str, tmp_path: Path) -> None:
    if not frameworks.available(framework):
        pytest.skip(f"{framework} is not installed")
    output = tmp_path / "parts.json"
    words = f"--workload {workload} --framework {framework} --preset smoke --pairs 2 --compile off"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.step_parts", *words.split(), "--output", str(output)],
        cwd=ROOT, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(output.read_text())["results"][0]
    rows = {row["part"]: row for row in found["rows"]}
    assert found["framework"] == framework
    for name in ("Attention", "FeedForward"):
        assert rows[name]["flop"] == rows[f"{name}, bare products"]["flop"] > 0
        assert rows[name]["count"] == 2
    assert rows["step"]["flop"] > rows["Attention"]["flop"] * 2
    assert all(row["seconds"] > 0 for part, row in rows.items() if part != "update")
    assert str(ROOT) not in output.read_text()
    for part in rows:
        assert part in done.stdout

"""The reading benchmark runs at a tiny size, compares all content and refuses what is unequal."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import read_speed, stores
from benchmarks.read_speed_report import Compared, Reading, exponent, markdown
from measurement.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.read_speed", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)


@pytest.mark.slow
@pytest.mark.long
def test_both_stores_and_sides(tmp_path: Path) -> None:
    small = ["--runs", "12", "--epochs", "2", "--repeats", "1", "--workers", "1"]
    done = run(*small, "--baseline_runs", "8", "--output", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "out" / "read_speed.json").read_text())["results"]
    assert [(r["store"], r["runs"]) for r in results] == [("sqlite", 12), ("http", 12)]
    for result in results:
        assert result["ours"][0]["points"] == result["runs"] * 10 * 2
        assert result["baseline"]["histories_of"] == 8
    assert "extrapolated from the histories of the first 8 runs" in done.stdout
    assert "times faster at 12 runs" in done.stdout and "peak memory" in done.stdout
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "read_speed.json",
        "read_speed.md",
        "read_speed.png",
        "read_speed_dark.png",
    }


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> tuple[read_speed.Content, ...]:
    """What both sides read of one small store: heads and histories of ours, then of MLflow's."""
    uri = stores.fill(tmp_path_factory.mktemp("speed") / "store.db", 5, epochs=3)
    sides = [
        read_speed._in_process(side, uri, 5) for side in (read_speed.ours, read_speed.baseline)
    ]
    return tuple(content for side in sides for content in side[1:])


def test_equal_content_is_equal(read: tuple[read_speed.Content, ...]) -> None:
    assert all(len(content) == 5 for content in read)
    assert read_speed.differences(read[:2], read[2:]) == ""  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "said"), [(0, "in their run"), (1, "in their metric history")])
def test_one_changed_value_is_noticed(
    read: tuple[read_speed.Content, ...], kind: int, said: str
) -> None:
    changed = [dict(content) for content in read[:2]]
    changed[kind]["0" * 32] = "other"
    found = read_speed.differences((changed[0], changed[1]), (read[2], read[3]))
    assert found.startswith("1 of 5 differ") and said in found
    del changed[0]["0" * 32]
    assert "1 runs were read by one side only" in read_speed.differences(
        (changed[0], changed[1]), (read[2], read[3])
    )


def test_digests_see_every_bit() -> None:
    point = ("loss", 1, 5, 0.1)
    other = ("loss", 1, 5, math.nextafter(0.1, 1))
    assert read_speed.digest_points([point]) != read_speed.digest_points([other])
    assert read_speed.digest_points([point, ("a", 0, 0, math.nan)]) == read_speed.digest_points(
        [("a", 0, 0, math.nan), point]
    )


def test_unequal_content_gives_no_ratio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = stores.fill(tmp_path / "store.db", 2, epochs=2)
    reading = Reading(2, 2, 40, 1.0, 1.0, 1)
    sides = {read_speed.ours: "x", read_speed.baseline: "y"}
    monkeypatch.setattr(
        read_speed, "_in_process", lambda side, *_: (reading, {"a": sides[side]}, {"a": "h"})
    )
    options = read_speed.parser().parse_args(["--repeats", "1"])
    with pytest.raises(InputError, match="no ratio of unequal work"):
        read_speed._compared("sqlite", uri, 2, True, options)


def compared(runs: int, seconds: float, theirs: float, peak: int = 2**20) -> Compared:
    ours = Reading(runs, runs, 200 * runs, seconds, 0.0, peak)
    return Compared("sqlite", runs, seconds, [ours], Reading(runs, runs, 1, theirs, 0.0, peak))


@pytest.mark.parametrize(
    ("small", "large", "said"),
    [
        (
            compared(1000, 1, 30),
            compared(10000, 10, 300),
            ["30.0 times", "at least 20", ", linear"],
        ),
        (compared(1000, 1, 30), compared(10000, 10, 190), ["19.0 times", "NOT 20 times"]),
        (compared(1000, 1, 30), compared(10000, 20, 900), ["MORE THAN LINEAR", "runs^1.30"]),
        (compared(1000, 2, 30), compared(10000, 10, 300), ["runs^0.70, less than linear"]),
        (compared(1000, 1, 30), compared(10000, 10, 300, 2**30), ["1024 MiB (NOT below 1 GiB)"]),
    ],
)
def test_sentences_say_what_failed(small: Compared, large: Compared, said: list[str]) -> None:
    text = markdown([small, large], workers=4)
    assert all(words in text for words in said)
    assert "extrapolated" not in text


def test_what_was_not_read_is_counted_at_the_mean() -> None:
    assert Reading(1000, 100, 1, 5.0, 2.0, 1).seconds == 25.0
    assert math.isnan(exponent([compared(10, 1, 1)]))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--stores", "redis"], "expected sqlite, http or both"),
        (["--runs", "0"], "expected 1 or more"),
        (["--output", "/proc/none"], "expected a folder to write to"),
    ],
)
def test_mistakes_are_told_without_a_traceback(words: list[str], expected: str) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert expected in done.stderr and "Traceback" not in done.stderr

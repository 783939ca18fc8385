"""The benchmark of jobs compares equal work only. No figure is checked."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import frameworks
from benchmarks import distributed_peers
from measurement.errors import InputError

SMALL = ["--pairs", "6", "--preset", "smoke", "--dataset", "synthetic", "--blas", "shipped"]
SMALL += ["--burst_seconds", "0"]
pytestmark = pytest.mark.skipif(
    sys.platform == "win32" or not frameworks.available("mlx"), reason="needs a job of MLX"
)


def options(*more: str):
    return distributed_peers.parser().parse_args([*SMALL, *more])


def test_a_peer_that_averages_is_equal_work_and_is_compared() -> None:
    found = distributed_peers.measure("mlx", options("mnist"))
    names = ["average_gradients", "average_gradients, compiled"]
    assert [row.comparison.split(" / ")[1] for row in found.rows] == [*names, "eager"]
    assert {len(values) for values in found.samples.values()} == {6}
    equal = [note.split(":")[0] for note in found.notes]
    assert equal == [f"equal work, {name}" for name in ("eager", names[1], names[0])]


def test_a_peer_that_sums_gradients_is_refused_before_anything_is_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(InputError, match="average_gradients, compiled: the losses of the first"):
        distributed_peers.measure("mlx", options("mnist"), "tests.benchmarks.summing_rank")
    (folder,) = tmp_path.glob("distributed-peers-*")
    assert '"samples"' not in (folder / "events-0.jsonl").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["mnist", "--ranks", "3"], "global batch of 256 cannot be shared evenly"),
        (["mnist", "--ranks", "1"], "expected 2 or more"),
        (["mnist", "--backend", "gloo"], "gloo"),
        (["mnist", "--framework", "tensorflow"], "--framework tensorflow: expected"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    framework = [] if "--framework" in words else ["--framework", "mlx"]
    monkeypatch.setattr(sys, "argv", ["distributed_peers", *SMALL, *framework, *words])
    assert distributed_peers.main() == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1

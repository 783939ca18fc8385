"""The seed CSV format: what is read, what is written, and every refusal in its own words."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.published import recordings
from measurement.errors import InputError

NAME = "mlx-train-gpu-n2-e2.csv"
HEAD = "epoch_0,epoch_1,avg,iter_total"
GOOD = f"{HEAD}\n1.0,3.0,2.0,4.5\n1.5,2.5,2.0,4.0\n"
BAD = [
    ("empty file", NAME, "", "is empty; expected a header"),
    ("header only", NAME, HEAD, "the name says 2 runs (n), the file has 0"),
    ("missing total", NAME, "epoch_0,epoch_1,avg\n1,3,2\n1,3,2\n", "column iter_total is missing"),
    ("missing avg", NAME, "epoch_0,epoch_1,iter_total\n1,3,4\n1,3,4\n", "column avg is missing"),
    ("gap in epochs", NAME, "epoch_0,epoch_2,avg,iter_total\n1,3,2,4\n", "column epoch_1 is missi"),
    ("unknown column", NAME, f"{HEAD},loss\n1,3,2,4.5,0\n", "unknown column 'loss'"),
    ("column twice", NAME, "epoch_0,epoch_1,avg,avg,iter_total\n1,3,2,2,4.5\n", "stands twice"),
    ("ragged, short", NAME, f"{HEAD}\n1,3,2,4.5\n1,3,2\n", "run 2: 3 values where the header has 4"),
    ("ragged, long", NAME, f"{HEAD}\n1,3,2,4.5,9\n", "run 1: 5 values where the header has 4"),
    ("NaN", NAME, f"{HEAD}\nnan,3,2,4.5\n1,3,2,4.5\n", "run 1: epoch_0 is 'nan'"),
    ("infinite", NAME, f"{HEAD}\n1,3,2,inf\n1,3,2,4.5\n", "run 1: iter_total is 'inf'"),
    ("too large", NAME, f"{HEAD}\n1,3,2,1e999\n1,3,2,4.5\n", "iter_total is '1e999'"),
    ("zero", NAME, f"{HEAD}\n1,3,2,4.5\n0,4,2,4.5\n", "run 2: epoch_0 is '0'"),
    ("negative", NAME, f"{HEAD}\n-1,5,2,4.5\n1,3,2,4.5\n", "run 1: epoch_0 is '-1'"),
    ("no number", NAME, f"{HEAD}\n1,x,2,4.5\n1,3,2,4.5\n", "run 1: epoch_1 is 'x'"),
    ("empty cell", NAME, f"{HEAD}\n1,,2,4.5\n1,3,2,4.5\n", "run 1: epoch_1 is ''"),
    ("underscore", NAME, f"{HEAD}\n1,3,2,1_000\n1,3,2,4.5\n", "iter_total is '1_000'"),
    ("wrong mean", NAME, f"{HEAD}\n1.0,3.0,2.1,4.5\n1,3,2,4.5\n", "the mean of its epochs is 2"),
    ("coarse digits", NAME, f"{HEAD}\n1,1,2,2\n1,3,2,4\n", "run 1: avg is 2, but the mean"),
    ("coarse total", NAME, f"{HEAD}\n1,3,2,3\n1,3,2,4\n", "run 1: iter_total is 3, less than"),
    ("mean in ms", NAME, f"{HEAD}\n1.0,3.0,2000.0,4.5\n1,3,2,4.5\n", "expected the mean, in the sa"),
    ("total too small", NAME, f"{HEAD}\n1.0,3.0,2.0,3.5\n1,3,2,4.5\n", "less than its epochs toget"),
    ("total in ms", NAME, f"{HEAD}\n1.0,3.0,2.0,4500.0\n1,3,2,4.5\n", "looks like milliseconds"),
    ("runs of the name", "mlx-train-gpu-n3-e2.csv", GOOD, "the name says 3 runs (n), the file has 2"),
    ("epochs of the name", "mlx-train-gpu-n2-e3.csv", GOOD, "the name says 3 epochs (e)"),
    ("no epochs in the name", "mlx-train-gpu-n2.csv", GOOD, "the name says 0 epochs (e)"),
    ("no batch column", "mlx-train-gpu-n2-e2-vbatch.csv", GOOD, "batch_size and '-vbatch'"),
    ("inference with epochs", "mlx-test-gpu-n2.csv", GOOD, "unknown column 'epoch_0'"),
    ("name outside", "results.csv", GOOD, "the name does not say which arm it is"),
    ("framework", "jax-train-gpu-n2-e2.csv", GOOD, "the name does not say which arm"),
    ("device", "mlx-train-tpu-n2-e2.csv", GOOD, "'tpu' names no device"),
    ("no CSV", NAME, 'epoch_0,"epoch_1\n\0"x,1\n', "expected"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "words"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_refusals(name: str, text: str, words: str) -> None:
    with pytest.raises(InputError, match=".") as refused:
        recordings.parse(name, text)
    said = str(refused.value)
    assert words in said and name in said and "\n" not in said


def test_a_run_that_stands_twice() -> None:
    row = "0.123456789012,0.123456789014,0.123456789013,0.25"
    with pytest.raises(InputError, match="run 2 repeats run 1"):
        recordings.parse(NAME, f"{HEAD}\n{row}\n{row}\n")
    coarse = "0.1,0.1,0.1,0.2"  # few digits agree by chance
    assert recordings.parse(NAME, f"{HEAD}\n{coarse}\n{coarse}\n").runs == 2


def test_rounded_files_are_judged_by_their_digits() -> None:
    found = recordings.parse("torch-train-cpu-n1-e3.csv",
                             "epoch_0,epoch_1,epoch_2,avg,iter_total\n0.33,0.33,0.34,0.333,0.997\n")  # fmt: skip
    assert found.total_seconds == (0.997,)


@pytest.mark.parametrize(
    ("name", "device", "label"),
    [
        ("mlx-test-DeviceType.cpu-n1.csv", "cpu", ""),
        ("torch-test-mps-n1.csv", "gpu", ""),
        ("torch-test-cuda-n1.csv", "gpu", ""),
        ("mlx-test-cpu.blas_mkl-n1.csv", "cpu", "blas_mkl"),
    ],
)
def test_devices_in_our_words(name: str, device: str, label: str) -> None:
    found = recordings.parse(name, "iter_total\n0.5\n")
    assert (found.device, found.label) == (device, label)


def test_spreadsheet_habits_are_read() -> None:
    """A byte order mark, CRLF and blank lines change nothing."""
    plain = recordings.parse(NAME, GOOD)
    other = recordings.parse(NAME, GOOD.replace("\n", "\r\n") + "\r\n\r\n")
    assert plain.epoch_seconds == other.epoch_seconds


def test_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no folder"):
        recordings.read_folder(tmp_path / "none")
    with pytest.raises(InputError, match="holds no CSV file"):
        recordings.read_folder(tmp_path)
    (tmp_path / NAME).write_text(GOOD)
    assert [found.file for found in recordings.read_folder(tmp_path)] == [NAME]
    (tmp_path / "torch-train-gpu-n2-e2.csv").write_text(GOOD)
    with pytest.raises(InputError, match=f"torch-train-gpu-n2-e2.csv is a duplicate of {NAME}"):
        recordings.read_folder(tmp_path)
    (tmp_path / "torch-train-gpu-n2-e2.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is no text file"):
        recordings.read_folder(tmp_path)


seconds = st.floats(min_value=1e-9, max_value=1e6, allow_nan=False)


@given(
    st.integers(1, 5).flatmap(
        lambda k: st.lists(st.lists(seconds, min_size=k, max_size=k), min_size=1, max_size=6)
    )
)
def test_what_is_written_reads_back_bit_for_bit(epochs: list[list[float]]) -> None:
    unique = [row for i, row in enumerate(epochs) if row not in epochs[:i]]
    totals = [float(np.sum(row)) for row in unique]
    name = recordings.file_name(
        "pytorch", "train", "gpu", "seed=1, again", len(unique), len(unique[0])
    )
    found = recordings.parse(name, recordings.text_of(unique, totals))
    assert [list(row) for row in found.epoch_seconds] == unique
    assert list(found.total_seconds) == totals
    assert (found.framework, found.device, found.label) == ("pytorch", "gpu", "seed_1_again")


def test_inference_is_written_as_one_column() -> None:
    text = recordings.text_of([], [0.1, math.pi])
    found = recordings.parse("mlx-test-cpu-n2.csv", text)
    assert found.total_seconds == (0.1, math.pi) and not found.epochs
    assert found.sha256 == hashlib.sha256(text.encode()).hexdigest()

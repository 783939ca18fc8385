"""The samples: split by circuit, the same everywhere; the file of many of them: whole or none."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from collections import Counter, namedtuple
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from twins import config_of

from entrypoints import supervisor
from entrypoints.session import Session
from measurement.errors import InputError
from models import download
from models.eis_predictor import data, simulator
from models.eis_predictor.config import KNOWN, OHM, Config
from models.eis_predictor.simulator import GRID, PATTERNS

BLOCK, BATCH, ITEMS = 512, 96, 2000  # portions of 480: five, the last one of 80


def one_line(error: pytest.ExceptionInfo[InputError]) -> str:
    line = str(error.value)
    assert "\n" not in line
    return line


def sizes(**changes: int) -> Config:
    found = config_of("eis_predictor", train_items=400, train_circuits=50, test_items=200)
    return replace(found, **{"test_circuits": 40, **changes})


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> Config:
    """A set that counts as too large for memory."""
    monkeypatch.setattr(data, "BLOCK", BLOCK)
    monkeypatch.setattr(data, "RESIDENT_ITEMS", 100)
    return sizes(train_items=ITEMS, train_circuits=300, batch_size=BATCH)


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in (folder / data.FOLDER).iterdir() if p.suffix != ".lock")


# --- samples


def test_arrays_are_what_the_rows_say():
    rows = np.zeros(10, data.ROW)
    rows["classes"], rows["pattern"] = np.arange(10)[:, None] % GRID, np.arange(10)
    rows["resnorm"] = np.arange(10) / 4
    arrays = data.arrays(rows)
    inputs, labels = arrays["inputs"], arrays["labels"]
    assert inputs.dtype == labels.dtype == np.float32
    assert (inputs.shape, labels.shape) == ((10, 10), (10, 6))
    known = PATTERNS
    np.testing.assert_array_equal(inputs[:, 5:], known)
    assert (inputs[:, :5][~known] == 0).all() and (labels[:, :5][known] == KNOWN).all()
    values = simulator.values(rows["classes"])
    np.testing.assert_allclose(inputs[:, :5][known], values[known], rtol=1e-6)
    np.testing.assert_array_equal(labels[:, :5][~known], rows["classes"][~known])
    np.testing.assert_array_equal(labels[:, 5], rows["resnorm"])
    assert (labels[:, :5] != KNOWN).sum() == 20


def test_labels_of_resnorm_are_those_of_the_circuits():
    (rows,) = data.blocks(data.TRAIN, 50, 120, 8)
    truths = simulator.ground_truths(50, [data.SEED, data.TRAIN])
    hertz = simulator.frequencies(8)
    expected = simulator.distance(
        simulator.grid_impedance(rows["classes"], hertz),
        simulator.impedance(truths[np.arange(120) % 50], hertz),
    )
    np.testing.assert_allclose(rows["resnorm"], expected * OHM, atol=0.5 / data.RESNORM_STEPS)
    assert (rows["resnorm"] > 0).any()


def test_no_circuit_of_the_test_is_trained_on():
    """Split by ground truth, and no sample of one part is made of the other's."""
    parts = [
        simulator.ground_truths(count, [data.SEED, part])
        for part, count in ((data.TRAIN, 100_000), (data.TEST, 5_000))
    ]
    assert all(len(np.unique(p, axis=0)) == len(p) for p in parts)
    rows = [{row.tobytes() for row in part} for part in parts]
    assert not rows[0] & rows[1]


def test_every_circuit_has_its_samples_in_turn(monkeypatch):
    asked: list[np.ndarray] = []

    def resnorms(classes, circuits, which, hertz):
        asked.append(which)
        return np.zeros(len(classes))

    monkeypatch.setattr(data, "BLOCK", 64)
    monkeypatch.setattr(simulator, "resnorms", resnorms)
    list(data.blocks(data.TRAIN, 30, 300, 4))
    counts = Counter(np.concatenate(asked).tolist())
    assert set(counts) == set(range(30)) and set(counts.values()) == {10}


def test_the_ten_patterns_are_uniform():
    found = data.load(sizes(train_items=50_000), "simulated", "auto")
    patterns = Counter(map(bytes, found.train["inputs"][:, 5:].astype(np.uint8)))
    assert len(patterns) == 10
    assert stats.chisquare(list(patterns.values())).pvalue > 1e-3


@pytest.mark.parametrize("dataset", ["simulated", "synthetic"])
def test_the_first_samples_of_more_are_the_same(dataset, monkeypatch):
    monkeypatch.setattr(data, "BLOCK", 128)
    few = data.load(sizes(), dataset, "auto")
    more = data.load(sizes(train_items=700, test_items=300), dataset, "auto")
    for name in ("inputs", "labels"):
        np.testing.assert_array_equal(few.train[name], more.train[name][:400])
        np.testing.assert_array_equal(few.test[name], more.test[name][:200])
    assert few.sha256 != more.sha256
    assert not np.array_equal(few.train["inputs"][:200], few.test["inputs"])


def test_the_digest_is_the_same_everywhere_and_changes_with_the_data():
    """Pinned: another seed, grid or rounding would be other data, on any machine."""
    config = sizes()
    digests = {data.load(config, dataset, "auto").sha256 for dataset in ("simulated", "synthetic")}
    assert digests == {
        "be4072d17242b5f8647ff13080bfb3ff8438722e1fe66f1be1e5de102b628399",
        "da850878a2dc99542aa00100cd41441ac7e0e87fc20ade4eaa676f4b89e55653",
    }
    changed = [
        data.load(replace(config, **change), "simulated", "auto").sha256
        for change in ({"frequencies": 9}, {"train_circuits": 51}, {"test_circuits": 41})
    ]
    assert len({*digests, *changed}) == 5


def test_half_a_million_samples_are_made_in_memory_in_seconds():
    start = time.perf_counter()
    found = data.load(Config(), "simulated", "auto")
    assert found.train["inputs"].shape == (500_000, 10) and found.portions is None
    assert time.perf_counter() - start < 60


@pytest.mark.parametrize("call", [data.prepare, lambda d, f: data.load(sizes(), d, f)])
def test_an_unknown_set_or_folder_is_one_line(call):
    with pytest.raises(InputError, match="no data set 'eis'; expected one of: simulated") as error:
        call("eis", "auto")
    one_line(error)
    with pytest.raises(InputError, match="is not a folder") as error:
        call("simulated", "/nowhere/at/all")
    one_line(error)


# --- the file


def test_a_large_set_streams_from_its_file(large, tmp_path, capsys):
    data.prepare_sizes(large, "simulated", str(tmp_path))
    said = capsys.readouterr()
    assert said.out == "" and "1,024 of 2,000 samples" in said.err
    (name, record) = files(tmp_path)
    assert record == f"{name}.json"
    rows = np.load(tmp_path / data.FOLDER / name)
    assert rows.dtype == data.ROW and rows.shape == (ITEMS,)
    found = data.load(large, "simulated", str(tmp_path))
    portions = found.portions
    assert portions is not None
    assert (portions.count, portions.items) == (5, ITEMS)
    assert [portions.sizes(k) for k in range(5)] == [480] * 4 + [80]
    assert portions.sizes(0) % BATCH == 0
    for number in range(5):
        arrays = portions.read(number)
        assert all(len(array) == 480 for array in arrays.values())  # padded
        own = portions.sizes(number)
        expected = data.arrays(rows[number * 480 : number * 480 + own])
        for key, array in expected.items():
            np.testing.assert_array_equal(arrays[key][:own], array)
    for key, array in portions.read(0).items():
        np.testing.assert_array_equal(found.train[key], array)


def test_the_file_has_the_samples_of_the_set_in_memory(large, tmp_path, monkeypatch):
    data.prepare_sizes(large, "simulated", str(tmp_path))
    streamed = data.load(large, "simulated", str(tmp_path))
    monkeypatch.setattr(data, "RESIDENT_ITEMS", ITEMS)
    whole = data.load(large, "simulated", str(tmp_path))
    assert streamed.sha256 == whole.sha256 and whole.portions is None
    for key, array in whole.train.items():
        np.testing.assert_array_equal(array[:480], streamed.train[key])
        np.testing.assert_array_equal(whole.test[key], streamed.test[key])


@pytest.mark.parametrize("framework", ["mlx", "pytorch"])
def test_an_epoch_sees_every_sample_once(framework, large, tmp_path):
    data.prepare_sizes(large, "simulated", str(tmp_path))
    spec = {
        "workload": "eis_predictor", "framework": framework, "device": "cpu", "dtype": "float32",
        "threads": None, "compile": "off", "sizes": asdict(large), "dataset": "simulated",
        "data_dir": str(tmp_path), "seed": 0, "mode": "train", "checkpoint": "random",
    }  # fmt: skip
    work, seen, steps = Session(spec), [], 0
    for fed in work.portions(3):
        for batch, items in fed:
            rows = work.framework.read(batch)
            assert len(rows) == items == (BATCH if steps else len(rows)) or items == 80
            seen += [
                (a.tobytes(), b.tobytes())
                for a, b in zip(*(work.framework.read(t)[rows] for t in work.train), strict=True)
            ]
            steps += 1
    (name, _) = files(tmp_path)
    whole = data.arrays(np.load(tmp_path / data.FOLDER / name))
    every = [(a.tobytes(), b.tobytes()) for a, b in zip(*whole.values(), strict=True)]
    assert Counter(seen) == Counter(every)
    assert steps == -(-ITEMS // BATCH) == large.decay_steps() // large.decay_epochs


def test_making_and_reading_take_bounded_memory(tmp_path, monkeypatch):
    """Five times the samples in no more memory than a few blocks."""
    monkeypatch.setattr(data, "BLOCK", 1 << 13)
    monkeypatch.setattr(data, "RESIDENT_ITEMS", 1)
    peaks = []
    for items in (2 << 13, 20 << 13):
        config = sizes(train_items=items, train_circuits=1000, batch_size=64)
        tracemalloc.start()
        data.prepare_sizes(config, "simulated", str(tmp_path))
        portions = data.load(config, "simulated", str(tmp_path)).portions
        assert portions is not None
        for number in range(portions.count):
            portions.read(number)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0] < 30e6


def test_a_set_that_fits_needs_no_file(tmp_path):
    data.prepare_sizes(sizes(), "simulated", str(tmp_path))
    data.prepare_sizes(replace(sizes(), train_items=5_000_000), "synthetic", str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_made_file_is_kept(large, tmp_path, monkeypatch):
    data.prepare_sizes(large, "simulated", str(tmp_path))
    monkeypatch.setattr(data, "_make", lambda *_: pytest.fail("made again"))
    data.prepare_sizes(large, "simulated", str(tmp_path))
    supervisor.prepare_data("eis_predictor", "simulated", str(tmp_path), [asdict(large)])


def test_other_sizes_have_a_file_of_their_own(large, tmp_path):
    for changed in (large, replace(large, frequencies=9), replace(large, train_circuits=301)):
        data.prepare_sizes(changed, "simulated", str(tmp_path))
    assert len(files(tmp_path)) == 6
    other = replace(large, batch_size=7, test_items=60, learning_rate=0.5)
    data.prepare_sizes(other, "simulated", str(tmp_path))
    assert len(files(tmp_path)) == 6


# --- what can go wrong with it


def test_a_missing_file_is_one_line(large, tmp_path):
    with pytest.raises(InputError, match="start a trial or study to make it") as error:
        data.load(large, "simulated", str(tmp_path))
    assert "simulated-2000-" in one_line(error)


@pytest.mark.parametrize("place", [0, 5, 200, -1])
def test_an_altered_file_is_refused_and_kept(large, tmp_path, place):
    data.prepare_sizes(large, "simulated", str(tmp_path))
    path = tmp_path / data.FOLDER / files(tmp_path)[0]
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    for attempt in (data.load, data.prepare_sizes):
        with pytest.raises(InputError, match="delete it and") as error:
            attempt(large, "simulated", str(tmp_path))
        assert str(path) in one_line(error)
    assert path.read_bytes() == content


@pytest.mark.parametrize("change", ["longer", "shorter", "empty", "record", "not json"])
def test_a_file_that_is_not_what_its_record_says_is_refused(large, tmp_path, change):
    data.prepare_sizes(large, "simulated", str(tmp_path))
    name, record = (tmp_path / data.FOLDER / part for part in files(tmp_path))
    content = name.read_bytes()
    if change in ("longer", "shorter", "empty"):
        name.write_bytes({"longer": content + b"x", "shorter": content[:-9], "empty": b""}[change])
    elif change == "record":
        record.write_text(json.dumps(json.loads(record.read_text()) | {"circuits": 299}))
    else:
        record.write_text("{")
    with pytest.raises(InputError, match="delete it and") as error:
        data.load(large, "simulated", str(tmp_path))
    one_line(error)


def test_without_space_nothing_is_begun(large, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(data.shutil, "disk_usage", lambda _: usage(10**12, 10**12, 19_999))
    with pytest.raises(InputError, match=r"has 0 MB free; expected 0 MB") as error:
        data.prepare_sizes(large, "simulated", str(tmp_path))
    assert "free some, or name another data_dir" in one_line(error)
    assert files(tmp_path) == []
    monkeypatch.setattr(data.shutil, "disk_usage", lambda _: usage(10**12, 10**12, 20_000))
    data.prepare_sizes(large, "simulated", str(tmp_path))


def test_a_disk_that_fills_up_leaves_nothing_that_counts(large, tmp_path, monkeypatch):
    made = data.blocks

    def full(*arguments):
        for number, rows in enumerate(made(*arguments)):
            if number == 2:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            yield rows

    monkeypatch.setattr(data, "blocks", full)
    with pytest.raises(InputError, match="No space left on device") as error:
        data.prepare_sizes(large, "simulated", str(tmp_path))
    assert "expected room for 0 MB" in one_line(error)
    assert files(tmp_path) == []
    monkeypatch.setattr(data, "blocks", made)
    data.prepare_sizes(large, "simulated", str(tmp_path))
    data.load(large, "simulated", str(tmp_path))


def test_a_record_that_cannot_be_written_leaves_no_data(large, tmp_path, monkeypatch):
    def fail(path, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as context:
        context.setattr(download, "write_atomically", fail)
        with pytest.raises(InputError, match="No space left"):
            data.prepare_sizes(large, "simulated", str(tmp_path))
    with pytest.raises(InputError, match="start a trial or study to make it"):
        data.load(large, "simulated", str(tmp_path))
    data.prepare_sizes(large, "simulated", str(tmp_path))  # makes it again
    data.load(large, "simulated", str(tmp_path))


def test_a_real_full_disk_is_one_line(large, tmp_path):
    """/dev/full fails every write as a full disk does."""
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    folder = tmp_path / data.FOLDER
    folder.mkdir()
    (folder / f"{data._name(large)}.part").symlink_to("/dev/full")
    with pytest.raises(InputError, match="No space left on device") as error:
        data.prepare_sizes(large, "simulated", str(tmp_path))
    one_line(error)
    assert files(tmp_path) == []


CHILD = """
import sys, time
from models.eis_predictor import data
from models.eis_predictor.config import Config
data.BLOCK, data.RESIDENT_ITEMS = 512, 100
made = data.blocks
def slowly(*arguments):
    for rows in made(*arguments):
        time.sleep(float(sys.argv[2]))
        yield rows
data.blocks = slowly
config = Config(**eval(sys.argv[3]))
data.prepare_sizes(config, "simulated", sys.argv[1])
"""


def child(folder: Path, config: Config, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, str(folder), str(seconds), repr(asdict(config))]
    root = Path(__file__).resolve().parents[2]
    return subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True)


def test_a_process_killed_in_the_middle_leaves_nothing_that_counts(large, tmp_path):
    process = child(tmp_path, large, 0.5)
    assert process.stderr is not None
    assert "512 of 2,000" in process.stderr.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    (left,) = files(tmp_path)
    assert left.endswith(".npy.part")
    with pytest.raises(InputError, match="start a trial or study to make it"):
        data.load(large, "simulated", str(tmp_path))
    data.prepare_sizes(large, "simulated", str(tmp_path))  # writes over what was left
    assert [name.partition(".")[2] for name in files(tmp_path)] == ["npy", "npy.json"]
    data.load(large, "simulated", str(tmp_path))


def test_two_processes_at_once_make_one_file(large, tmp_path):
    processes = [child(tmp_path, large, 0.2) for _ in range(3)]
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 3
    assert sum("2,000 of 2,000" in text for text in said) == 1
    assert sum("another process makes it; waiting" in text for text in said) >= 1
    data.load(large, "simulated", str(tmp_path))

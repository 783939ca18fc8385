"""The products of two devices in turn: against closed form, between twins, on devices that are not."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twins import assert_equal, config_of, evidence, needs_all, session, source

import frameworks
import models
from entrypoints import switch_session
from entrypoints.switch_session import SwitchSession
from measurement import switching
from measurement.audit import parity_difference, receipt_difference
from measurement.comparison import TOLERANCES
from measurement.errors import InputError
from models.device_switch import data
from models.device_switch.config import CPU, DATASETS, PLANS, PRESETS, SMOKE, Config

TWINS = models.frameworks("device_switch")
NAMES = ("r1", "r2", "r3", "a", "b", "c")
SECOND = switching.Plan(**PLANS["smoke"])  # type: ignore[arg-type]


def normalised(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    product = x @ y
    return product / product.max(axis=0)


def oracle(config: Config, seed: int, loops: int) -> list[dict[str, np.ndarray]]:
    """Every result of each loop, in float64."""
    a, b, c = (
        m.astype(np.float64) for m in data.load(config, "uniform", "auto", seed).test.values()
    )
    found = []
    for _ in range(loops):
        r1, r2, r3 = normalised(a, b), normalised(b, c), normalised(c, a)
        a, b, c = normalised(r1, r2), normalised(r2, r3), normalised(r3, r1)
        found.append(dict(zip(NAMES, (r1, r2, r3, a, b, c), strict=True)))
    return found


def opened(name: str, config: Config = SMOKE, **changes: Any) -> Any:
    return session("device_switch", name, config, **changes)


# --- what is computed


@needs_all
@pytest.mark.parametrize("name", TWINS)
def test_ten_loops_are_those_of_the_formula(name):
    expected = oracle(SMOKE, 0, 10)
    found = evidence("device_switch", name, SMOKE)
    assert list(found.outputs) == list(NAMES)
    for key, value in found.outputs.items():
        assert value.dtype == np.float32
        np.testing.assert_allclose(value, expected[0][key], rtol=2e-6)
    means = [float(loop[key].mean()) for loop in expected for key in NAMES[3:]]
    np.testing.assert_allclose(found.losses, means, rtol=2e-6)
    assert (found.parameters, found.optimiser, found.updates) == (0, "none", {})


@needs_all
@settings(max_examples=10)
@given(size=st.integers(2, 40), loops=st.integers(1, 4), seed=st.integers(0, 100))
def test_twins_agree_at_any_size(size, loops, seed):
    config = Config(size=size, loops=loops)
    assert_equal(*(evidence("device_switch", name, config) for name in TWINS))
    results = []
    for name in TWINS:
        mine = opened(name, config)
        matrices = mine.start = [
            mine.second.put(m) for m in data.load(config, "uniform", "auto", seed).test.values()
        ]
        for _ in range(loops):
            for side in mine.work().sides:
                matrices = side.half(*side.move(*matrices))
        results.append([mine.second.read(matrix) for matrix in matrices])
    expected = oracle(config, seed, loops)[-1]
    for found in results:
        for key, value in zip(NAMES[3:], found, strict=True):
            np.testing.assert_allclose(value, expected[key], rtol=1e-5)


@needs_all
def test_many_loops_keep_every_value_between_0_and_1_and_rows_apart():
    config = Config(size=64, loops=50)
    for loop in oracle(config, 0, 50)[::7]:
        for matrix in loop.values():
            assert np.isfinite(matrix).all() and matrix.min() > 0 and matrix.max() == 1
    last = oracle(config, 0, 50)[-1]["a"]
    assert np.abs(last / last[:, :1] - 1).max() < 1e-12  # the columns have become one
    assert np.ptp(last[:, 0]) > 0.1  # the rows have not
    for name in TWINS:
        mine = opened(name, config)
        found = switching.run(mine.work(), replace(SECOND, passes=1, audit_seconds=0.001))
        assert 0.01 < found.receipt.check_value < 0.5


@needs_all
def test_the_order_of_the_operands_is_in_every_result():
    """The published scripts differ in the third product; each of the six would be seen."""
    matrices = [m.astype(np.float64) for m in data.load(CPU, "uniform", "auto", 0).test.values()]
    for x, y in ((0, 1), (1, 2), (2, 0)):
        one, other = (normalised(matrices[i], matrices[j]) for i, j in ((x, y), (y, x)))
        assert np.abs(one - other).max() > 1000 * TOLERANCES["float32"][0]
        assert abs(one.mean() / other.mean() - 1) > 10 * TOLERANCES["float32"][2]


def test_operations_by_hand():
    assert Config(size=10, loops=3).flops_per_item() == 6 * 2 * 1000
    assert PRESETS["study"] == Config(size=10_000, loops=50)  # as published


def test_no_twin_names_a_device():
    """Where a half is computed is the session's to say; a twin that named a device could not be seen."""
    for name in TWINS:
        code = re.sub(r'"""[^"]*"""|#[^\n]*', "", source("device_switch", name))
        for word in ("stream", "device=", ".to(", ".cpu(", ".cuda(", "mx.gpu", "mx.cpu", "put("):
            assert word not in code, (name, word)


# --- data


def test_matrices_are_uniform_and_one_seed_gives_the_same_bytes():
    found = data.load(CPU, "uniform", "auto", 3)
    again, other = (data.load(CPU, "uniform", "auto", seed) for seed in (3, 4))
    assert found.sha256 == again.sha256 != other.sha256
    assert found.train == {} and list(found.test) == ["a", "b", "c"]
    assert found.source == "uniform random numbers, seed 3"
    for matrix in found.test.values():
        assert matrix.shape == (1024, 1024) and matrix.dtype == np.float32
        assert matrix.min() >= 0 and matrix.max() < 1
        assert abs(matrix.mean() - 0.5) < 0.002 and abs(matrix.var() - 1 / 12) < 0.001
    a, b, c = found.test.values()
    assert not np.array_equal(a, b) and not np.array_equal(b, c)


def test_every_name_of_the_data_is_the_same_matrices():
    digests = {data.load(SMOKE, dataset, "auto").sha256 for dataset in DATASETS}
    assert len(digests) == 1
    with pytest.raises(InputError, match="no data set 'mnist'; expected one of: uniform") as error:
        data.prepare("mnist", "auto")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "said"), [({"size": 1}, "size is 1"), ({"loops": 0}, "loops is 0")]
)
def test_sizes_that_cannot_be(changes, said):
    with pytest.raises(InputError, match=f"{said}; expected"):
        replace(SMOKE, **changes).check()


# --- the session


@needs_all
@pytest.mark.parametrize("name", TWINS)
def test_matrices_exist_before_the_clock_and_are_not_changed(name):
    mine = opened(name)
    before = [mine.second.read(matrix).copy() for matrix in mine.start]
    first = switching.run(mine.work(), SECOND)
    for matrix, kept in zip(mine.start, before, strict=True):
        np.testing.assert_array_equal(mine.second.read(matrix), kept)
    again = switching.run(mine.work(), SECOND)
    assert receipt_difference(vars(first.receipt), vars(again.receipt)) is None
    assert first.receipt.loops == 2 * SMOKE.loops and first.receipt.products == 24
    assert first.moved_seconds == [] and "nothing is moved" in (first.unmoved or "")


@needs_all
def test_the_work_of_both_frameworks_has_one_receipt():
    one, other = (vars(switching.run(opened(n).work(), SECOND).receipt) for n in TWINS)
    assert receipt_difference(one, other) is None
    other = vars(switching.run(opened(TWINS[0], Config(32, 3)).work(), SECOND).receipt)
    assert "loops" in (receipt_difference(one, other) or "")


@needs_all
@pytest.mark.parametrize("name", TWINS)
def test_other_sizes_are_other_work(name):
    a = evidence("device_switch", name, SMOKE).summary()
    for changes in ({"size": 33}, {"loops": 3}):
        b = evidence("device_switch", name, config_of("device_switch", **changes)).summary()
        assert "work" in (parity_difference(a, b) or "")


@needs_all
@pytest.mark.parametrize("name", TWINS)
def test_evidence_has_a_seed_of_its_own(name):
    """Any two trials of one size compare, whatever matrices they time."""
    mine, other = opened(name), opened(name)
    other.spec["seed"], other.start = 5, mine.start[::-1]
    assert parity_difference(mine.evidence().summary(), other.evidence().summary()) is None


@needs_all
@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize("asked", ["auto", "cpu-gpu"])
def test_without_a_gpu_there_is_nothing_to_switch_to(name, asked):
    try:
        frameworks.load(name, "gpu")
    except InputError:
        pass
    else:
        pytest.skip("this machine has a GPU that the framework sees")
    spec = {**opened(name).spec, "device": asked}
    with pytest.raises(InputError, match="nothing to switch to") as error:
        SwitchSession(spec)
    assert "device=cpu-gpu" in str(error.value) and "device=cpu-cpu runs both" in str(error.value)
    assert "\n" not in str(error.value)


class Elsewhere:
    """The CPU's adapter under the name of a GPU: what a session does with two devices."""

    def __init__(self, inner: Any, lies_on: str = "gpu") -> None:
        self.inner, self.lies_on, self.moved, self.device = inner, lies_on, 0, "gpu"

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def move(self, *arrays: Any) -> Any:
        self.moved += len(arrays)
        return self.inner.move(*arrays)

    def place(self, array: Any) -> str | None:
        return self.lies_on

    def numerics(self) -> dict[str, str]:
        return {**self.inner.numerics(), "tf32": "on"}

    def versions(self) -> dict[str, str]:
        return {**self.inner.versions(), "gpu": "a GPU"}


def switched(name: str, monkeypatch: pytest.MonkeyPatch, **lies: Any) -> Any:
    """A session on the CPU and a second device that is only said to be one."""
    away = Elsewhere(frameworks.load(name, "cpu"), **lies)
    monkeypatch.setattr(switch_session, "_first", lambda *_: away)
    return SwitchSession({**opened(name).spec, "device": "auto"})


@needs_all
@pytest.mark.parametrize("name", TWINS)
def test_two_devices_share_a_loop_and_are_recorded_as_they_are(name, monkeypatch):
    mine = switched(name, monkeypatch)
    state = mine.conditions()
    assert state["device"] == "cpu-gpu"
    assert state["numerics"]["tf32"] == "on" and state["versions"]["gpu"] == "a GPU"
    assert state["versions"]["framework"] and state["data"]["test_items"] == 3
    found = switching.run(mine.work(), SECOND)
    assert mine.first.moved > 3 * SMOKE.loops
    if name == "mlx":
        assert found.moved_seconds == [] and "belongs to no device" in (found.unmoved or "")
    else:
        assert found.unmoved is None
        assert len(found.moved_seconds) == len(found.moved_back_seconds) == SECOND.parts_loops
    assert_equal(mine.evidence(), evidence("device_switch", name, SMOKE))


@needs_all
@pytest.mark.parametrize("name", TWINS)
def test_a_half_that_ran_on_the_other_device_has_no_evidence(name, monkeypatch):
    """One device twice, under the name of two."""
    mine = switched(name, monkeypatch, lies_on="cpu")
    with pytest.raises(RuntimeError, match="result of the half on the gpu lies on the cpu"):
        mine.evidence()


@needs_all
def test_mlx_finishes_what_another_device_takes(monkeypatch):
    """After async_eval on CUDA the CPU went on with what the GPU had not written: NaN on an H100."""
    adapter: Any = frameworks.load("mlx", "cpu")
    module = sys.modules["frameworks.mlx"]
    waited: list[Any] = []
    monkeypatch.setattr(module.mx, "eval", lambda *arrays: waited.extend(arrays))
    arrays = [adapter.put(np.ones((2, 2), np.float32)) for _ in range(3)]
    waited.clear()
    assert adapter.move(*arrays) == tuple(arrays) and waited == arrays


@needs_all
def test_what_the_adapters_say_of_two_devices(rng):
    """PyTorch's arrays lie somewhere and are moved by a call, MLX's are not."""
    array = rng.random((3, 3), np.float32)
    for name in TWINS:
        adapter: Any = frameworks.load(name, "cpu")
        adapter.select()
        (moved,) = adapter.move(adapter.put(array))
        np.testing.assert_array_equal(adapter.read(moved), array)
        assert adapter.place(moved) == ("cpu" if name == "pytorch" else None)
        assert (adapter.unmoved() is None) == (name == "pytorch")

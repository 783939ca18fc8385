"""Calls of PyTorch recorded as CUDA graphs: on a GPU, and the bookkeeping anywhere, by a recorder that
does what CUDA's does: it runs nothing, and replays the same operations on the same memory."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import models
from entrypoints.processes import environment
from entrypoints.session import open_session
from entrypoints.supervisor import resolve
from frameworks.graphs import pytorch as graphs
from measurement.errors import InputError
from measurement.schedule import Condition
from models.layers.pytorch import AdamW


class _Recorder(TorchDispatchMode):
    """What is recorded has not run: everything that was changed is put back at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[Any, Any, Any, Any]] = []
        self.before: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.own: set[int] = set()  # made here

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for value in torch.utils._pytree.tree_leaves(args):
            if isinstance(value, torch.Tensor) and id(value) not in (*self.before, *self.own):
                self.before[id(value)] = value, value.detach().clone()
        output = func(*args, **(kwargs or {}))
        if isinstance(output, torch.Tensor) and id(output) not in self.before:
            self.own.add(id(output))
        self.made.append((func, args, kwargs or {}, output))
        return output

    def put_back(self) -> None:
        for value, before in self.before.values():
            value.copy_(before)

    def replay(self) -> None:
        for func, args, kwargs, output in self.made:
            found = func(*args, **kwargs)
            if isinstance(output, torch.Tensor) and found.data_ptr() != output.data_ptr():
                output.copy_(found)


class _Stream:
    def wait_stream(self, other: Any) -> None: ...


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[_Recorder]:
    """Every recording that was made."""
    made: list[_Recorder] = []

    @contextmanager
    def graph(cuda_graph: Any, pool: Any = None, stream: Any = None) -> Any:
        assert not gc.isenabled()
        cuda_graph.recorder = _Recorder()
        with torch.no_grad(), cuda_graph.recorder:
            yield
        with torch.no_grad():
            cuda_graph.recorder.put_back()
        made.append(cuda_graph.recorder)

    class Graph:
        recorder: _Recorder

        def replay(self) -> None:
            self.recorder.replay()

    @contextmanager
    def on(stream: Any) -> Any:
        yield

    for name, value in {
        "Stream": _Stream, "graph_pool_handle": lambda: 0, "current_stream": _Stream, "stream": on,
        "synchronize": lambda: None, "graph": graph, "CUDAGraph": Graph,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    return made


class _Sum:
    """A running sum, as a step changes a model."""

    def __init__(self) -> None:
        self.total = torch.zeros(2)
        self.moves = 0

    def add(self, table: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        self.total.add_(table.index_select(0, rows).sum(0))
        return self.total * 1

    def graphed(self) -> graphs.Graphed:
        return graphs.Graphed(self.add, lambda: [self.total], lambda: self.moves)


TABLE = torch.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])


def test_every_call_is_done_once_with_its_own_rows(recorded: list[_Recorder]) -> None:
    work = _Sum()
    call = work.graphed()
    rows = [torch.tensor(r) for r in ([0, 1], [1, 2], [2, 2], [0, 0], [1, 1])]
    found = [call(TABLE, r) for r in rows]
    # Results are the caller's own: no later call changes one.
    assert [int(f[0]) for f in found] == [3, 8, 14, 16, 20]
    assert [r.tolist() for r in rows] == [[0, 1], [1, 2], [2, 2], [0, 0], [1, 1]]
    assert len(recorded) == 1


@pytest.mark.parametrize("usual", [True, False])
def test_nothing_is_collected_while_a_graph_is_recorded(
    recorded: list[_Recorder], usual: bool
) -> None:
    (gc.enable if usual else gc.disable)()
    try:
        call = _Sum().graphed()
        for _ in range(2):
            call(TABLE, torch.tensor([0]))
        assert recorded
        assert gc.isenabled() == usual

        def fail(table: torch.Tensor) -> Any:
            calls.append(table)
            if len(calls) == 2:
                raise ValueError("in the recording")
            return table * 1

        calls: list[torch.Tensor] = []
        failing = graphs.Graphed(fail, list, lambda: 0)
        failing(TABLE)
        with pytest.raises(ValueError, match="in the recording"):
            failing(TABLE)
        assert gc.isenabled() == usual
    finally:
        gc.enable()


def test_each_shape_has_a_graph_of_its_own(recorded: list[_Recorder]) -> None:
    work = _Sum()
    call = work.graphed()
    found = [call(TABLE, torch.tensor(r)) for r in ([0, 1], [2], [1, 2], [1], [0, 0], [0])]
    assert [int(f[0]) for f in found] == [3, 6, 11, 13, 15, 16]
    assert len(recorded) == 2


def test_rows_that_begin_to_move_after_they_stood_still(recorded: list[_Recorder]) -> None:
    work = _Sum()
    call = work.graphed()
    same = torch.tensor([0, 1])
    for _ in range(3):
        call(TABLE, same)
    rows = [torch.tensor(r) for r in ([2, 2], [0, 0], [1, 0])]
    assert [int(call(TABLE, r)[0]) for r in rows] == [15, 17, 20]
    assert len(recorded) == 3  # of the first place, of the second, and of a copy


def test_a_table_that_is_replaced_now_and_then_is_not_copied(recorded: list[_Recorder]) -> None:
    """As the portions of a set that is too large for the device, while the rows change every time."""
    work = _Sum()
    call = work.graphed()
    tables = [TABLE.clone() * factor for factor in (1, 2, 3)]
    rows = [torch.tensor([i % 3]) for i in range(12)]
    found = [int(call(tables[i // 4], r)[0]) for i, r in enumerate(rows)]
    steps = [(i // 4 + 1) * (i % 3 + 1) for i in range(12)]
    assert found == [sum(steps[: i + 1]) for i in range(12)]
    assert len(recorded) == 3
    (shape,) = call._shapes.values()
    assert shape._copied == [False, True]


def test_state_that_was_put_elsewhere_is_recorded_anew(recorded: list[_Recorder]) -> None:
    work = _Sum()
    call = work.graphed()
    for _ in range(3):
        call(TABLE, torch.tensor([0]))
    work.total.zero_()
    work.moves += 1  # written in place: the graph still stands
    assert int(call(TABLE, torch.tensor([0]))[0]) == 1 and len(recorded) == 1
    work.total, work.moves = torch.zeros(2), work.moves + 1
    assert [int(call(TABLE, torch.tensor([1]))[0]) for _ in range(3)] == [2, 4, 6]
    assert len(recorded) == 2


def test_an_argument_that_is_changed_comes_back_itself(recorded: list[_Recorder]) -> None:
    """As a cache does, which a token is written into; another text has another cache."""

    def advance(token: torch.Tensor, cache: tuple[list[torch.Tensor], torch.Tensor]) -> Any:
        (kept,), position = cache
        return token + 1, ([kept.index_copy_(0, position, token)], position + 1)

    call = graphs.Graphed(advance, list, lambda: 0)
    for _ in range(2):
        kept, cache = torch.zeros(5), None
        token, cache = torch.ones(1), ([kept], torch.zeros(1, dtype=torch.int64))
        for _ in range(5):
            token, cache = call(token, cache)
            assert cache[0][0] is kept
        assert kept.tolist() == [1, 2, 3, 4, 5]


def test_who_looks_at_every_operation_sees_them(recorded: list[_Recorder]) -> None:
    class Names(TorchDispatchMode):
        seen: list[str]

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            self.seen.append(func.__name__)
            return func(*args, **(kwargs or {}))

    call = _Sum().graphed()
    for _ in range(3):
        call(TABLE, torch.tensor([0]))
    mode = Names()
    mode.seen = []
    with mode:
        call(TABLE, torch.tensor([0]))
    assert "index_select.default" in mode.seen


# --- as a trial asks for it


def _spec(workload: str, framework: str, **given: str) -> dict[str, Any]:
    condition = Condition(framework, **given)
    config = models.load(workload, "config")
    dataset = config.DATASETS[-1]
    return {
        "workload": workload, "framework": framework, "threads": None, "data_dir": "auto",
        "sizes": resolve(workload, "smoke", {}, dataset, condition), "dataset": dataset, "seed": 0,
        "mode": config.KIND, "checkpoint": "random", "dtype": condition.dtype,
        "device": condition.device, "compile": condition.compile,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("framework", "said"), [("pytorch", "need an NVIDIA GPU"), ("mlx", "by itself; use compile=on")]
)
def test_graphs_are_refused_where_there_are_none(framework: str, said: str) -> None:
    with pytest.raises(InputError, match=f"compile=graphs: .*{said}"):
        open_session(_spec("mnist", framework, device="cpu", compile="graphs"))


@pytest.mark.parametrize("framework", ["pytorch", "mlx"])
def test_tf32_is_refused_where_nothing_multiplies_in_it(framework: str) -> None:
    with pytest.raises(InputError, match="dtype=tf32: a format of NVIDIA GPUs"):
        open_session(_spec("mnist", framework, device="cpu", dtype="tf32"))


def test_a_process_multiplies_in_tf32_only_where_it_was_asked_to() -> None:
    found = {dtype: environment(2, dtype=dtype) for dtype in ("float32", "tf32", "bfloat16")}
    assert {d: v["MLX_ENABLE_TF32"] for d, v in found.items()} == {
        "float32": "0", "tf32": "1", "bfloat16": "0",
    }  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_optimiser_that_starts_again_stays_where_it_is(dtype: torch.dtype) -> None:
    """A recorded step knows its state by address."""
    model = torch.nn.Linear(3, 2).to(dtype)
    optimiser = AdamW(model, 0.1, 0, 0.01, (0.9, 0.99), 1e-8)
    places = [value.data_ptr() for value in optimiser.state]
    begun = [value.clone() for value in optimiser.state]
    optimiser.update([torch.ones_like(p) for p in model.parameters()])
    with torch.no_grad():
        model.weight.fill_(0.5)
    optimiser.restart()
    assert [value.data_ptr() for value in optimiser.state] == places
    fresh = AdamW(model, 0.1, 0, 0.01, (0.9, 0.99), 1e-8)
    assert all(map(torch.equal, optimiser.state, fresh.state))
    assert len(begun) == len(fresh.state) and torch.equal(begun[1], fresh.state[1])


on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("workload", ["tinyllama", "whisper_tiny"])
def test_recorded_tokens_are_those_of_plain_calls(workload: str) -> None:
    found = {}
    for compile in ("off", "graphs"):
        work = open_session(_spec(workload, "pytorch", device="gpu", compile=compile)).work()
        tokens = []
        for item in (0, 0, 0, 1 % work.items):
            token, cache = work.begin(item)
            for _ in range(6):
                token, cache = work.advance(token, cache)
                tokens.append(int(token))
        found[compile] = tokens
    assert found["off"] == found["graphs"]


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("workload", ["mnist", "transformer_lm", "eis_predictor", "deit_small"])
def test_recorded_steps_train_as_plain_ones(workload: str) -> None:
    found = {}
    for compile in ("off", "graphs"):
        session = open_session(_spec(workload, "pytorch", device="gpu", compile=compile))
        session.reset()
        losses = [
            float(session.framework.read(session.step(rows)))
            for epoch in range(2)
            for rows, _ in session.batches(epoch)
        ]
        found[compile] = losses, session.evaluate()
    assert np.allclose(found["off"][0], found["graphs"][0], rtol=1e-3)
    assert found["off"][1] == pytest.approx(found["graphs"][1], rel=0.02)

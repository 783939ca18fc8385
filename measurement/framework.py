"""What the measurement needs of a framework. An adapter in frameworks/ fulfils it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

from measurement.operations import Operations

Array = Any  # a framework's own array
# (model, loss) -> (model, *batch) -> (mean loss, its gradients as the optimisers of that framework's
# twins take them). Of several ranks: the loss of a rank's own part, and the gradients of the whole batch.
Differentiate = Callable[[Any, Callable[..., Array]], Callable[..., tuple[Array, Any]]]


NO_TF32 = (
    "dtype=tf32: a format of NVIDIA GPUs from Ampere on, as MLX and PyTorch multiply in it; use device=gpu "
    "with one, or dtype=float32"
)


def check_fit(shapes: Mapping[str, tuple[int, ...]], values: Mapping[str, np.ndarray]) -> None:
    """Raises ValueError naming the first parameter that is missing, has another shape, or that the
    model lacks: a stored network that is only half loaded would answer wrongly and say nothing."""
    for name, shape in shapes.items():
        if name not in values or values[name].shape != tuple(shape):
            got = values[name].shape if name in values else "nothing"
            raise ValueError(f"parameter {name}: expected {tuple(shape)}, got {got}")
    for name in values:
        if name not in shapes:
            raise ValueError(f"parameter {name}: the model has none of this name")


_PIECE = 256  # rows and columns


def factors(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Two (size, size) float32 matrices for a product that is timed: a random piece each, repeated,
    because drawing the largest ones whole takes seconds, and timing their product on a GPU a tenth of
    one."""
    generator = np.random.default_rng(0)
    side = min(size, _PIECE)
    times = -(-size // side)
    pieces = (generator.standard_normal((side, side), np.float32) for _ in range(2))
    whole = (np.tile(piece, (times, times))[:size, :size] for piece in pieces)
    a, b = map(np.ascontiguousarray, whole)
    return a, b


class Framework(Protocol):
    """One framework on one device with one dtype. Created once in a worker process, which is one of
    `ranks` that train together, or alone."""

    name: str
    device: str  # "cpu" or "gpu", as it is
    dtype: str  # of parameters and of the matrix products
    rank: int
    ranks: int
    step_compiled: bool | None  # what compile=auto is for a step; None: what its twin measured
    compiles_all: bool  # compile=auto: every call of a twin that was measured faster in any

    def versions(self) -> dict[str, str]:
        """Package versions and the device's own name."""
        ...

    def device_of(self, model: Any) -> str:
        """Where a model's parameters lie, or where work goes to where arrays have no place: cpu, gpu,
        or cpu+gpu."""
        ...

    def numerics(self) -> dict[str, str]:
        """State as read from the loaded library: tf32, blas_loaded, blas_core, blas_threads ..."""
        ...

    def can_compile(self) -> str | None:
        """None when its compile mode works here, else the reason why not."""
        ...

    def can_graph(self) -> str | None:
        """None when `graphed` works here, else the reason why not."""
        ...

    def graphed(self, submit: Callable[..., Any], state: Any) -> Callable[..., Any]:
        """What `compile_step` or `compile_predict` gave, submitted as a recorded graph of kernels from
        the third call of a shape on. state: all that it reads or changes and is no argument; it may
        lie elsewhere after `write_parameters` alone."""
        ...

    def put(self, array: np.ndarray) -> Array:
        """To the device; floats become this adapter's dtype, integers stay integers. Waits. May
        share memory with `array` on a CPU."""
        ...

    def read(self, array: Array) -> np.ndarray:
        """Back to NumPy; waits; reduced floats come back as float32."""
        ...

    def wait(self, *values: Any) -> None:
        """The barrier: returns when every value, and all work before it, is done."""
        ...

    def shard(self, rows: np.ndarray) -> tuple[Any, int]:
        """What a step is given of a batch, by row numbers (n,), and how many of its items are this
        rank's."""
        ...

    def meet(self) -> None:
        """Returns when all ranks are here."""
        ...

    def agree(self, value: float) -> float:
        """The largest of the ranks' values, on all of them; what ranks decide by must be the same."""
        ...

    def mean(self, values: Sequence[float], weights: Sequence[float]) -> list[float]:
        """Element by element the weighted mean over the ranks, on all of them."""
        ...

    def differentiate(
        self, model: Any, loss: Callable[..., Array]
    ) -> Callable[..., tuple[Array, Any]]:
        """See Differentiate."""
        ...

    def compile_step(
        self, step: Callable[..., Array], state: Any, compiled: bool
    ) -> Callable[..., Array]:
        """A callable that submits one step; `state` is all that the step changes."""
        ...

    def compile_predict(
        self, predict: Callable[..., Array], model: Any, compiled: bool
    ) -> Callable[..., Any]:
        """predict(model, *inputs) as a function of the inputs without gradient recording; arrays, or
        trees of arrays, in and out; submits."""
        ...

    def write_parameters(self, model: Any, values: Mapping[str, np.ndarray]) -> None:
        """Replace every parameter in place, or none: see check_fit."""
        ...

    def read_parameters(self, model: Any) -> dict[str, np.ndarray]:
        """name -> float32 array."""
        ...

    def gradients(
        self, loss: Callable[..., Array], model: Any, *batch: Array
    ) -> tuple[float, dict[str, np.ndarray]]:
        """The loss of a batch and its gradient by parameter name."""
        ...

    def layer_outputs(self, model: Any, *inputs: Array) -> dict[str, np.ndarray]:
        """Output of every submodule (of a tuple the first) by dotted name in the order of
        computation; "" is the model."""
        ...

    def count(self, call: Callable[[], Any], state: Any) -> Operations:
        """The operations of one call that submits what `compile_step` or `compile_predict` gave, as
        it is without compilation. state: all that it reads or changes and is no data: a model's, as
        the twin names it; afterwards as it was (where nothing is computed) or one call on."""
        ...

    def stored(self, model: Any, state: Any) -> dict[str, int]:
        """dtype -> elements of a model's parameters, and of the other arrays of floats in `state`;
        not of single numbers, such as a count of steps."""
        ...

    def inference(self) -> AbstractContextManager[Any]:
        """No gradient recording inside."""
        ...

    def reset_peak_memory(self) -> None: ...

    def device_peak_bytes(self) -> int | None:
        """Peak of the device allocator's live memory since the reset; None on a CPU."""
        ...

    def work_seconds(self) -> float:
        """Processor time so far of the threads that do a CPU's work themselves; of the whole process
        where they cannot be told from helpers, which may spin while they have nothing to do."""
        ...

    def matmul(self, size: int) -> Callable[[], None]:
        """A call that multiplies two resident (size, size) matrices of this dtype and waits."""
        ...


class Alone:
    """What an adapter of a single process says of ranks."""

    rank, ranks = 0, 1
    step_compiled: bool | None = None
    compiles_all = False

    def work_seconds(self) -> float:
        return time.process_time()

    def can_graph(self) -> str | None:
        return f"{self.name} records no graphs that its user chooses"  # type: ignore[attr-defined]

    def graphed(self, submit: Callable[..., Any], state: Any) -> Callable[..., Any]:
        raise NotImplementedError(self.can_graph())

    def shard(self, rows: np.ndarray) -> tuple[Any, int]:
        return self.put(rows), len(rows)  # type: ignore[attr-defined]

    def meet(self) -> None:
        pass

    def agree(self, value: float) -> float:
        return value

    def mean(self, values: Sequence[float], weights: Sequence[float]) -> list[float]:
        return list(values)


class Ranks(Framework, Protocol):
    """What an adapter says besides, whose process trains together with others."""

    backend: str  # of the communication, as it is
    device_index: int  # which of the GPUs that this process sees is its own

    def gather(self, value: bytes) -> list[bytes]:
        """Every rank's value, in the order of the ranks, on all of them."""
        ...

    def all_reduce(self, size: int) -> Callable[[], None]:
        """A call that adds up `size` values of this dtype over the ranks, and waits."""
        ...

    def read_state(self, state: Any) -> dict[str, np.ndarray]:
        """Every array that a step changes, by its place in `state`."""
        ...

    def write_state(self, state: Any, values: Mapping[str, np.ndarray]) -> None:
        """Puts back what `read_state` gave."""
        ...

    def leave(self) -> None:
        """Ends the group; every rank calls it last."""
        ...


class TwoDevices(Framework, Protocol):
    """What a workload needs besides, that computes on two devices in turn: a process then has one
    adapter for each of them."""

    def select(self) -> None:
        """Work from now on runs on this device, where its arrays do not decide that."""
        ...

    def move(self, *arrays: Array) -> tuple[Array, ...]:
        """The arrays on this device; submits. Arrays that are there already, or belong to every
        device, are returned as they are."""
        ...

    def unmoved(self) -> str | None:
        """None when `move` is the transfer, so that it can be timed; else why there is nothing to
        time."""
        ...

    def place(self, array: Array) -> str | None:
        """Where an array lies, cpu or gpu; None where the framework does not say."""
        ...

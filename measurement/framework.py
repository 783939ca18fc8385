"""What the measurement needs of a framework. An adapter in frameworks/ fulfils it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

Array = Any  # a framework's own array


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


class Framework(Protocol):
    """One framework on one device with one dtype. Created once in a worker process."""

    name: str
    device: str  # "cpu" or "gpu", as it is
    dtype: str  # of parameters and of the matrix products

    def versions(self) -> dict[str, str]:
        """Package versions and the device's own name."""
        ...

    def numerics(self) -> dict[str, str]:
        """State as read from the loaded library: tf32, blas_loaded, blas_core, blas_threads ..."""
        ...

    def can_compile(self) -> str | None:
        """None when its compile mode works here, else the reason why not."""
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

    def inference(self) -> AbstractContextManager[Any]:
        """No gradient recording inside."""
        ...

    def reset_peak_memory(self) -> None: ...

    def device_peak_bytes(self) -> int | None:
        """Peak of the device allocator's live memory since the reset; None on a CPU."""
        ...

    def matmul(self, size: int) -> Callable[[], None]:
        """A call that multiplies two resident (size, size) matrices of this dtype and waits."""
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

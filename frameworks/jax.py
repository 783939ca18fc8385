"""The JAX adapter: CPU and CUDA.

JAX differentiates and compiles functions of arrays. A model is made of modules as in models/layers/jax.py
(`named_modules()`, arrays as attributes, those that begin with _ constant): its arrays are taken out, go
into such a function, and what comes out is put back in their places.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np

from frameworks.counting import jax as counting
from measurement.errors import InputError
from measurement.framework import NO_TF32, Alone, check_fit, factors
from measurement.operations import Operations, tally

# See frameworks.About.
ABOUT = {
    "distributions": ("jax", "ml-dtypes"),
    "settings": ("JAX_DEFAULT_MATMUL_PRECISION", "JAX_ENABLE_X64", "NPROC", "PJRT_NPROC"),
    "cuda_extra": "cuda13",
    "products": "XLA's code",
}
_NAMED_SECONDS = 2.0
_IEEE = ("highest", "float32")  # values of jax_default_matmul_precision


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory was not enough, on the device or the host."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, jax.errors.JaxRuntimeError)
        and ("resource_exhausted" in text or "out of memory" in text)
    )


class _Arrays:
    """The arrays of a tree of dictionaries, lists and models, by their places in it."""

    def __init__(self, tree: Any) -> None:
        self._places = list(_places(tree))

    def take(self) -> list[jax.Array]:
        return [holder[key] for holder, key in self._places]

    def put(self, values: list[jax.Array]) -> None:
        for (holder, key), value in zip(self._places, values, strict=True):
            holder[key] = value

    def pure(self, function: Callable[..., Any]) -> Callable[..., tuple[Any, list[jax.Array]]]:
        """`function`, which reads and replaces these arrays, as one of (arrays, *inputs) that returns its
        result and the arrays after it, and leaves the tree as it was."""

        def run(values: list[jax.Array], *inputs: Any) -> tuple[Any, list[jax.Array]]:
            before = self.take()
            self.put(values)
            try:
                result = function(*inputs)
                return result, self.take()
            finally:
                self.put(before)

        return run


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """(dictionary or list, key) of every array."""
    if hasattr(tree, "named_modules"):
        for _, module in tree.named_modules():
            own = {key: value for key, value in vars(module).items() if not key.startswith("_")}
            yield from ((vars(module), k) for k, v in own.items() if isinstance(v, jax.Array))
    elif isinstance(tree, dict | list | tuple):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            if isinstance(value, jax.Array):
                yield tree, key
            else:
                yield from _places(value)


class Adapter(Alone):
    """See measurement.framework.Framework."""

    name = "jax"

    def __init__(self, device: str, dtype: str, threads: int | None) -> None:
        # Both are read when the first device is asked for, and never again. Without the first one JAX
        # would take three quarters of a card at once, and nobody could tell what was needed.
        wanted = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | os.environ
        with _variables(wanted | ({"PJRT_NPROC": str(threads)} if threads else {})):
            self._device = _device(device)
        if threads and (pool := _pool_threads(threads)) not in (threads, None):
            raise InputError(
                f"threads={threads}: XLA's pool of this process has {pool} threads, as its first device "
                "was opened; expected that number, or another process"
            )
        self.device = "cpu" if self._device.platform == "cpu" else "gpu"
        if dtype == "tf32":
            raise InputError(NO_TF32)
        self.dtype = dtype
        self._dtype = jnp.dtype(dtype)
        self._counted: list[Any] | None = None  # what a call reads back while it is counted
        jax.config.update("jax_default_device", self._device)
        # float32 means IEEE float32 in every framework here; JAX's own choice is TF32 on a GPU.
        jax.config.update("jax_default_matmul_precision", "highest")

    def versions(self) -> dict[str, str]:
        versions = {"framework": str(jax.__version__), "jaxlib": str(jaxlib.__version__)}
        if self.device == "gpu":
            versions["gpu"] = str(self._device.device_kind)
            about = str(self._device.client.platform_version)
            versions["cuda"] = " ".join(about.split())[:60]
        return versions

    def device_of(self, model: Any) -> str:
        found = {place.platform for p in _Arrays(model).take() for place in p.devices()}
        return "+".join(sorted({"cpu": "cpu"}.get(name, "gpu") for name in found)) or self.device

    def numerics(self) -> dict[str, str]:
        # No BLAS: XLA multiplies with kernels of its own, and with the libraries that are linked to it.
        threads = _pool_threads()
        return {
            "blas_name": "xla",
            "blas_version": str(jaxlib.__version__),
            "blas_core": "",
            "blas_threads": str(threads or "every core"),
            "blas_file": "",
            "blas_loaded": f"XLA in jaxlib {jaxlib.__version__}",
            "tf32": "on" if self._tf32() else "off",
            "float32_products": "reduced" if self._tf32() else "ieee",
            "matmul_precision": str(jax.config.jax_default_matmul_precision or "default"),
            "switched": ", ".join(_switched()),
            **({"pool_threads": str(threads)} if threads else {}),
        }

    def _tf32(self) -> bool:
        return self.device == "gpu" and jax.config.jax_default_matmul_precision not in _IEEE

    def can_compile(self) -> str | None:
        return None  # XLA brings its own compiler

    def put(self, array: np.ndarray) -> jax.Array:
        array = self._typed(array)
        # JAX's usual integers have 32 bits.
        with jax.enable_x64(True) if array.dtype.itemsize == 8 else nullcontext():
            # On the default device, see above: jax.device_put takes twice as long for one image.
            value = jnp.asarray(array)
        self.wait(value)
        return value

    def _typed(self, array: np.ndarray) -> np.ndarray:
        """As JAX computes with it: floats of this dtype, integers of 32 bits where they fit."""
        if np.issubdtype(array.dtype, np.floating):
            return array.astype(np.float32, copy=False).astype(self._dtype, copy=False)
        if array.dtype in (np.int64, np.uint64):
            short = array.astype(np.int32)
            return short if np.array_equal(short, array) else array
        return array

    def read(self, array: jax.Array) -> np.ndarray:
        if self._counted is not None:  # nothing is computed then
            self._counted.append(array)
            return np.zeros(array.shape, np.float32)
        # A copy: a view of what a step takes over would keep it from being written in place.
        found = np.array(array)
        reduced = jnp.issubdtype(array.dtype, jnp.floating) and found.dtype != np.float32
        return found.astype(np.float32) if reduced else found

    def wait(self, *values: Any) -> None:
        if self._counted is None:
            jax.block_until_ready(_Arrays(values).take())

    def differentiate(self, model: Any, loss: Callable[..., Any]) -> Callable[..., tuple[Any, Any]]:
        arrays = _Arrays(model)
        pure = arrays.pure(lambda *batch: loss(model, *batch))
        both = jax.value_and_grad(lambda values, *batch: pure(values, *batch)[0])

        def loss_and_gradients(model: Any, *batch: Any) -> tuple[Any, Any]:
            found: tuple[Any, Any] = both(arrays.take(), *batch)
            return found

        return loss_and_gradients

    def compile_step(
        self, step: Callable[..., Any], state: Any, compiled: bool
    ) -> Callable[..., Any]:
        if not compiled:
            return step
        arrays = _Arrays(state)
        # The state's memory is given to the step, which writes the new state into it.
        function = jax.jit(arrays.pure(step), donate_argnums=0)

        def submit(*batch: Any) -> Any:
            value, after = function(arrays.take(), *batch)
            arrays.put(after)
            return value

        return submit

    def compile_predict(
        self, predict: Callable[..., Any], model: Any, compiled: bool
    ) -> Callable[..., Any]:
        def bound(*inputs: Any) -> Any:
            return predict(model, *inputs)

        if not compiled:
            return bound
        arrays = _Arrays(model)
        pure = arrays.pure(bound)
        function = jax.jit(lambda values, *inputs: pure(values, *inputs)[0])
        return lambda *inputs: function(arrays.take(), *inputs)

    def write_parameters(self, model: Any, values: Mapping[str, np.ndarray]) -> None:
        named = dict(model.named_parameters())
        check_fit({name: tuple(parameter.shape) for name, parameter in named.items()}, values)
        # Copies: JAX may share an array's memory, even where it is asked not to (jax 0.10).
        typed = [np.array(self._typed(values[name])) for name in named]
        sent = [jax.device_put(value, self._device) for value in typed]
        _Arrays(model).put(sent)
        self.wait(sent)

    def read_parameters(self, model: Any) -> dict[str, np.ndarray]:
        return {name: self.read(value) for name, value in model.named_parameters()}

    def gradients(
        self, loss: Callable[..., Any], model: Any, *batch: Any
    ) -> tuple[float, dict[str, np.ndarray]]:
        names = [name for name, _ in model.named_parameters()]
        both = self.differentiate(model, loss)
        submit = self.compile_predict(
            both, model, True
        )  # at once: one by one each would be compiled
        value, gradients = submit(*batch)
        named = {name: self.read(g) for name, g in zip(names, gradients, strict=True)}
        return float(value), named

    def layer_outputs(self, model: Any, *inputs: Any) -> dict[str, np.ndarray]:
        found: dict[str, Any] = {}

        # As in MLX: for the time of one call every module's class is a recording subclass.
        def recording(original: type, name: str) -> type:
            def call(module: Any, *arguments: Any, **keywords: Any) -> Any:
                output = original.__call__(module, *arguments, **keywords)
                found[name] = output[0] if isinstance(output, tuple) else output
                return output

            return type(original.__name__, (original,), {"__call__": call})

        def watched(model: Any, *inputs: Any) -> list[Any]:
            originals = [(module, type(module)) for _, module in model.named_modules()]
            try:
                for name, module in model.named_modules():
                    module.__class__ = recording(type(module), name)
                model(*inputs)
                return list(found.values())
            finally:
                for module, original in originals:
                    module.__class__ = original

        outputs = self.compile_predict(watched, model, True)(*inputs)
        return {name: self.read(value) for name, value in zip(found, outputs, strict=True)}

    def count(self, call: Callable[[], Any], state: Any) -> Operations:
        arrays = _Arrays(state)
        read: list[Any] = []
        self._counted = read

        def counted() -> Any:
            return call(), read

        try:
            return counting.count(arrays.pure(counted), arrays.take(), self._tf32())
        finally:
            self._counted = None

    def stored(self, model: Any, state: Any) -> dict[str, int]:
        parameters = _Arrays(model).take()
        known = {id(value) for value in parameters}
        more = [value for value in _Arrays(state).take() if id(value) not in known and value.ndim]
        return tally(
            [(v.dtype.name, v.size) for v in parameters],
            [(v.dtype.name, v.size) for v in more if jnp.issubdtype(v.dtype, jnp.floating)],
        )

    def inference(self) -> AbstractContextManager[Any]:
        return nullcontext()  # JAX records gradients only where they are asked for

    def reset_peak_memory(self) -> None:
        pass  # XLA's allocator keeps its peak; before a trial's first step there are data and weights only

    def device_peak_bytes(self) -> int | None:
        if self.device == "cpu":
            return None
        return int((self._device.memory_stats() or {})["peak_bytes_in_use"])

    def matmul(self, size: int) -> Callable[[], None]:
        a, b = map(self.put, factors(size))

        def multiply() -> None:
            self.wait(jnp.matmul(a, b))

        return multiply


@contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    """These of the process meanwhile: how it is set stays as the supervisor set it."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def _switched() -> list[str]:
    """Switches that are unlike by default and change the speed of the same work."""
    names = (
        "debug_nans",
        "debug_infs",
        "disable_jit",
        "enable_checks",
        "enable_x64",
        "check_tracer_leaks",
    )
    return [f"{name} on" for name in names if getattr(jax.config, f"jax_{name}")]


def _device(asked: str) -> jax.Device:
    """The first one. Raises InputError for a GPU that JAX does not see."""
    if asked != "cpu":
        try:
            return jax.devices("gpu")[0]
        except RuntimeError:  # no such backend
            if asked == "gpu":
                raise InputError(
                    "device=gpu: JAX sees no GPU here; use device=cpu, or install jax[cuda13] (NVIDIA)"
                ) from None
    return jax.devices("cpu")[0]


def _pool_threads(expected: int | None = None) -> int | None:
    """Threads of the pool that XLA's CPU code runs on, as the system lists them by their name; None where
    it does not (no Linux). expected: how many are waited for, because a thread names itself when it
    first runs."""
    until = time.monotonic() + _NAMED_SECONDS
    while True:
        found = sum(map(_is_of_pool, Path("/proc/self/task").glob("*/comm")))
        if expected in (None, found) or sys.platform != "linux" or time.monotonic() > until:
            return found or None
        time.sleep(0.005)


def _is_of_pool(comm: Path) -> bool:
    try:
        return comm.read_text().startswith("tf_XLAEigen")
    except OSError:  # the thread has ended
        return False

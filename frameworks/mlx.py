"""The MLX adapter: CPU, Metal and CUDA."""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from importlib import metadata
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn
from mlx.utils import tree_flatten, tree_unflatten

from frameworks.counting import mlx as counting
from measurement import blas, processor
from measurement.errors import InputError
from measurement.framework import NO_TF32, Alone, check_fit, factors
from measurement.operations import Operations, tally

# See frameworks.About.
ABOUT = {"backends": ("ring", "mpi", "nccl", "jaccl"), "tf32": True}
_STREAM_THREADS: set[int] = set()
_DTYPES = {
    "float32": mx.float32, "tf32": mx.float32, "bfloat16": mx.bfloat16, "float16": mx.float16,
}  # fmt: skip


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory was not enough, on the device or the host."""
    # MLX has no type of its own for it: "[malloc] Unable to allocate", "[metal::malloc] ...",
    # "cudaMallocAsync ... failed: out of memory", "Insufficient Memory" of a Metal queue.
    text = str(error).lower()
    said = ("malloc", "out of memory", "insufficient memory")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(word in text for word in said)
    )


class Adapter(Alone):
    """See measurement.framework.Framework."""

    name = "mlx"

    def __init__(self, device: str, dtype: str, threads: int | None) -> None:
        gpu = mx.metal.is_available() or mx.cuda.is_available()
        if device == "gpu" and not gpu:
            raise InputError(
                "device=gpu: MLX sees no GPU here; use device=cpu, or install mlx[cuda13] (NVIDIA)"
            )
        self.device = "cpu" if device == "cpu" or not gpu else "gpu"
        self.select()
        if dtype == "tf32" and not (mx.cuda.is_available() and self._tf32()):
            raise InputError(NO_TF32)
        self.dtype = dtype
        self._dtype = _DTYPES[dtype]
        self._counting = False
        self._watch_stream()
        # MLX's own CPU kernels run on one thread; only its BLAS takes `threads`, which it reads
        # from the environment that the supervisor prepares.

    def _watch_stream(self) -> None:
        """MLX computes on a thread that its first evaluation starts. A process that has evaluated
        before cannot tell it from the others."""
        before = processor.threads()
        mx.eval(mx.zeros(1) + 1)
        _STREAM_THREADS.update(processor.threads() - before)

    @property
    def compiles_all(self) -> bool:  # type: ignore[override]
        """What twins say was measured on a CPU. On a GPU, to which every kernel is handed over, compiled
        calls were never the slower ones in twins that gain by it at all (docs/NVIDIA.md)."""
        return self.device == "gpu"

    def work_seconds(self) -> float:
        if not _STREAM_THREADS:
            return super().work_seconds()
        return time.thread_time() + processor.seconds(_STREAM_THREADS)

    def versions(self) -> dict[str, str]:
        versions = {"framework": metadata.version("mlx")}
        if self.device == "gpu":
            versions["gpu"] = str(mx.device_info(mx.gpu).get("device_name", "unknown"))
            versions["backend"] = "metal" if mx.metal.is_available() else "cuda"
        return versions

    def device_of(self, model: Any) -> str:
        return "gpu" if mx.default_device().type == mx.gpu else "cpu"

    def numerics(self) -> dict[str, str]:
        library = Path(mx.__file__).parent / "lib"
        name = "libmlx.dylib" if platform.system() == "Darwin" else "libmlx.so"
        state = blas.loaded(str(library / name)).tags()
        # MLX multiplies float32 in TF32 on CUDA and on newer Metal unless this variable is 0.
        state["tf32"] = "on" if self._tf32() else "off"
        return state

    def _tf32(self) -> bool:
        return self.device == "gpu" and os.environ.get("MLX_ENABLE_TF32", "1") != "0"

    def can_compile(self) -> str | None:
        if self.device == "cpu" and not any(map(shutil.which, ("g++", "clang++", "c++"))):
            return "mx.compile on the CPU needs a C++ compiler (g++ or clang++) on the PATH"
        return None

    def can_graph(self) -> str | None:
        return "MLX submits its work to CUDA as graphs by itself; use compile=on"

    def put(self, array: np.ndarray) -> mx.array:
        value = mx.array(np.ascontiguousarray(array).reshape(array.shape))
        if np.issubdtype(array.dtype, np.floating):
            value = value.astype(self._dtype)
        self.wait(value)
        return value

    def read(self, array: mx.array) -> np.ndarray:
        if self._counting:  # nothing is computed then
            return np.zeros(array.shape, np.float32)
        if mx.issubdtype(array.dtype, mx.floating):
            array = array.astype(mx.float32)
        return np.array(array)

    def wait(self, *values: Any) -> None:
        mx.eval(*values)
        # On the CPU eval has waited already, and this call alone would cost 10 % of a step.
        if self.device == "gpu" or not values:
            mx.synchronize()

    def differentiate(self, model: Any, loss: Callable[..., Any]) -> Callable[..., tuple[Any, Any]]:
        found: Callable[..., tuple[Any, Any]] = nn.value_and_grad(model, loss)
        return found

    def compile_step(
        self, step: Callable[..., Any], state: Any, compiled: bool
    ) -> Callable[..., Any]:
        function = mx.compile(step, inputs=state, outputs=state) if compiled else step
        # Without one of these nothing runs: the graph would grow until somebody reads a value. A
        # GPU is kept fed, as PyTorch keeps it (H200: 64 against 87 ms an epoch of MNIST); on the
        # CPU the hand-over costs more than it hides.
        evaluate = "async_eval" if self.device == "gpu" else "eval"

        def submit(*batch: mx.array) -> mx.array:
            value = function(*batch)
            getattr(mx, evaluate)(value, state)  # by its name: see frameworks/counting/mlx.py
            return value

        return submit

    def compile_predict(
        self, predict: Callable[..., Any], model: Any, compiled: bool
    ) -> Callable[..., Any]:
        def bound(*inputs: Any) -> Any:
            return predict(model, *inputs)

        function = mx.compile(bound, inputs=[model.state]) if compiled else bound
        evaluate = "async_eval" if self.device == "gpu" else "eval"  # see compile_step

        def submit(*inputs: Any) -> Any:
            output = function(*inputs)
            getattr(mx, evaluate)(output)
            return output

        return submit

    def write_parameters(self, model: Any, values: Mapping[str, np.ndarray]) -> None:
        named = dict(tree_flatten(model.parameters()))
        check_fit({name: tuple(parameter.shape) for name, parameter in named.items()}, values)
        model.update(tree_unflatten([(name, self.put(values[name])) for name in named]))
        self.wait(model.state)

    def read_parameters(self, model: Any) -> dict[str, np.ndarray]:
        return self.named(model.parameters())

    def gradients(
        self, loss: Callable[..., Any], model: Any, *batch: Any
    ) -> tuple[float, dict[str, np.ndarray]]:
        value, gradients = nn.value_and_grad(model, loss)(model, *batch)
        return float(value), self.named(gradients)

    def named(self, tree: Any) -> dict[str, np.ndarray]:
        """Parameters or gradients by name."""
        return {name: self.read(value) for name, value in tree_flatten(tree)}

    def layer_outputs(self, model: Any, *inputs: Any) -> dict[str, np.ndarray]:
        outputs: dict[str, np.ndarray] = {}

        # MLX has no hooks: for the time of one call every module's class is a recording subclass.
        def recording(original: type, name: str) -> type:
            def call(module: Any, *arguments: Any, **keywords: Any) -> Any:
                output = original.__call__(module, *arguments, **keywords)
                outputs[name] = self.read(output[0] if isinstance(output, tuple) else output)
                return output

            return type(original.__name__, (original,), {"__call__": call})

        originals = [(module, type(module)) for _, module in model.named_modules()]
        try:
            for name, module in model.named_modules():
                module.__class__ = recording(type(module), name)
            model(*inputs)
        finally:
            for module, original in originals:
                module.__class__ = original
        return outputs

    def count(self, call: Callable[[], Any], state: Any) -> Operations:
        self._counting = True
        try:
            return counting.count(call, state, self._tf32())
        finally:
            self._counting = False

    def stored(self, model: Any, state: Any) -> dict[str, int]:
        named = dict(tree_flatten(model.parameters()))
        parameters = {id(value) for value in named.values()}
        more = [
            value
            for name, value in tree_flatten(state)
            if id(value) not in parameters and not any(p[:1] == "_" for p in name.split("."))
        ]
        return tally(
            [(str(v.dtype).removeprefix("mlx.core."), v.size) for v in named.values()],
            [
                (str(v.dtype).removeprefix("mlx.core."), v.size)
                for v in more
                if isinstance(v, mx.array) and v.ndim and mx.issubdtype(v.dtype, mx.floating)
            ],
        )

    def inference(self) -> AbstractContextManager[Any]:
        return nullcontext()  # MLX records gradients only where they are asked for

    def select(self) -> None:
        mx.set_default_device(mx.cpu if self.device == "cpu" else mx.gpu)

    def move(self, *arrays: mx.array) -> tuple[mx.array, ...]:
        # After `async_eval` on a GPU the CPU does not wait for it (MLX 0.32.4, CUDA): of matrices of
        # 2048 it multiplied what was not there yet, and the results were NaN.
        mx.eval(*arrays)
        return arrays

    def unmoved(self) -> str | None:
        return "an MLX array belongs to no device: there is no call that moves it"

    def place(self, array: mx.array) -> str | None:
        return None

    def reset_peak_memory(self) -> None:
        mx.reset_peak_memory()

    def device_peak_bytes(self) -> int | None:
        return mx.get_peak_memory() if self.device == "gpu" else None

    def matmul(self, size: int) -> Callable[[], None]:
        a, b = map(self.put, factors(size))

        def multiply() -> None:
            self.wait(a @ b)

        return multiply

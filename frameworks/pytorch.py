"""The PyTorch adapter: CPU, CUDA and MPS."""

from __future__ import annotations

import functools
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from frameworks.counting import pytorch as counting
from frameworks.graphs.pytorch import Graphed
from measurement import blas
from measurement.errors import InputError
from measurement.framework import NO_TF32, Alone, check_fit, factors
from measurement.operations import Operations, tally

# See frameworks.About.
ABOUT = {"package": "torch", "backends": ("gloo", "nccl"), "tf32": True}
_HOPPER_ATTENTION = [
    SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]  # fmt: skip
_DTYPES = {
    "float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}  # fmt: skip


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory was not enough, on the device or the host."""
    # The CPU's allocator raises a plain RuntimeError ("DefaultCPUAllocator: can't allocate
    # memory"), every accelerator's a type of its own; MPS says "out of memory" in a plain one.
    text = str(error).lower()
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError)
        and ("defaultcpuallocator" in text or "out of memory" in text)
    )


def _keep_embedding_kernel() -> None:
    """Makes torch.compile call PyTorch's own kernel for the gradient of an embedding. Its compiled one
    adds rows up by atomics, in another order every time: no two trainings on two threads ended with
    the same bits (torch 2.13), and it took over twice as long (2.6 against 1.1 ms for 4,096 rows)."""
    from torch._inductor import decomposition  # a second, which only who compiles pays

    kernel = torch.ops.aten.embedding_dense_backward.default
    if decomposition.decompositions.pop(kernel, None):
        decomposition.fast_random_decomps.cache_clear()
        # Or a step that was compiled the other way would be found on disk.
        torch.compiler.config.cache_key_tag = "embedding_dense_backward kept"


@functools.cache  # or the collector would end the block, and with it the preference
def _prefer_cudnn_attention() -> AbstractContextManager[Any]:
    """For the rest of the process: on Hopper cuDNN's attention in 16 bits is the faster one, see
    docs/NVIDIA.md, and PyTorch asks it last. What it cannot serve, as float32, falls to the next."""
    block: AbstractContextManager[Any] = sdpa_kernel(_HOPPER_ATTENTION, set_priority=True)
    block.__enter__()
    return block


class Adapter(Alone):
    """See measurement.framework.Framework."""

    name = "pytorch"

    def __init__(self, device: str, dtype: str, threads: int | None) -> None:
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        if device == "gpu" and accelerator is None:
            raise InputError(
                "device=gpu: PyTorch sees no GPU here; use device=cpu, or install a CUDA build"
            )
        self._torch = torch.device("cpu") if device == "cpu" or accelerator is None else accelerator
        self.device = "cpu" if self._torch.type == "cpu" else "gpu"
        self.dtype = dtype
        self._dtype = _DTYPES[dtype]
        self._waits = self.device == "gpu"
        if threads:
            torch.set_num_threads(threads)
        if dtype == "tf32" and not self._multiplies_tf32():
            raise InputError(NO_TF32)
        # float32 means IEEE float32 in every framework here. cuDNN's convolutions default to TF32.
        torch.backends.cuda.matmul.allow_tf32 = dtype == "tf32"
        torch.backends.cudnn.allow_tf32 = dtype == "tf32"
        if self._torch.type == "cuda" and torch.cuda.get_device_capability(self._torch)[0] == 9:
            _prefer_cudnn_attention()
        # Lets torch.compile take the whole step, gradients and update included, as one graph. Before
        # 2.13 it cannot: loss and gradients are a graph then, and the update is its own kernel.
        self._traces_gradients = hasattr(torch._dynamo.config, "trace_autograd_ops")
        if self._traces_gradients:
            torch._dynamo.config.trace_autograd_ops = True
        self._compiles_loss = False
        self._writes = 0  # of whole models, which may have moved them

    def _multiplies_tf32(self) -> bool:
        return self._torch.type == "cuda" and torch.cuda.get_device_capability(self._torch)[0] >= 8

    def work_seconds(self) -> float:
        return time.thread_time()  # the calling thread takes its part of every CPU kernel

    def versions(self) -> dict[str, str]:
        versions = {"framework": str(torch.__version__)}
        if self._torch.type == "cuda":
            versions["cuda"] = str(torch.version.cuda)
            versions["gpu"] = torch.cuda.get_device_name(self._torch)
        elif self._torch.type == "mps":
            versions["gpu"] = "Apple GPU (MPS)"
        return versions

    def device_of(self, model: Any) -> str:
        places = {"cpu" if p.device.type == "cpu" else "gpu" for p in model.parameters()}
        return "+".join(sorted(places)) or self.device

    def numerics(self) -> dict[str, str]:
        library = Path(torch.__file__).parent / "lib"
        name = "libtorch_cpu.dylib" if os.uname().sysname == "Darwin" else "libtorch_cpu.so"
        state = blas.loaded(str(library / name)).tags()
        tf32 = torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32
        state["tf32"] = "on" if self._torch.type == "cuda" and tf32 else "off"
        counts = torch._dynamo.utils.counters
        hits = (
            counts["aot_autograd"]["autograd_cache_hit"] + counts["inductor"]["fxgraph_cache_hit"]
        )
        # A first step with its kernels on disk already takes a third of one without.
        state["compile_cache"] = "hit" if hits else "miss"
        state["pool_threads"] = str(torch.get_num_threads())
        # "high" and "medium" allow TF32 on a GPU, and bfloat16 on a CPU that multiplies in it.
        ieee = torch.get_float32_matmul_precision() == "highest"
        state["switched"] = ", ".join(_switched())
        state["float32_products"] = "ieee" if ieee else "reduced"
        return state

    def can_compile(self) -> str | None:
        if self._torch.type == "cpu" and not any(map(shutil.which, ("g++", "clang++", "c++"))):
            return "torch.compile on the CPU needs a C++ compiler (g++ or clang++) on the PATH"
        return None

    def can_graph(self) -> str | None:
        if self._torch.type != "cuda" or torch.version.hip:
            return "CUDA graphs need an NVIDIA GPU"
        if self.ranks > 1:
            return "ranks that train together are not recorded"
        return None

    def graphed(self, submit: Callable[..., Any], state: Any) -> Callable[..., Any]:
        def tensors() -> list[torch.Tensor]:
            if isinstance(state, torch.nn.Module):
                return [*state.parameters(), *state.buffers()]
            return [*_tensors(state)]

        return Graphed(submit, tensors, lambda: self._writes)

    def put(self, array: np.ndarray) -> torch.Tensor:
        # Shares memory with NumPy on the CPU; what must not be written to is copied.
        array = np.require(array, requirements=["C", "W"]).reshape(np.shape(array))
        tensor = torch.from_numpy(array)
        if tensor.is_floating_point():
            tensor = tensor.to(self._dtype)
        elif np.issubdtype(array.dtype, np.integer) and array.ndim == 1:
            tensor = tensor.long()  # class labels and row numbers: what PyTorch's own loaders give
        tensor = tensor.to(self._torch)
        self.wait()
        return tensor

    def read(self, array: torch.Tensor) -> np.ndarray:
        tensor = array.detach().cpu()
        return (tensor.float() if tensor.is_floating_point() else tensor).numpy()

    def _copied(self, array: torch.Tensor) -> np.ndarray:
        """`read` into memory of its own: a float32 array of the CPU is read as a view, which the next
        step would change."""
        found = self.read(array)
        return found.copy() if found.ctypes.data == array.data_ptr() else found

    def wait(self, *values: Any) -> None:
        if self._waits:  # CPU kernels have finished when the call returns
            torch.accelerator.synchronize()

    def differentiate(self, model: Any, loss: Callable[..., Any]) -> Callable[..., tuple[Any, Any]]:
        parameters = list(model.parameters())

        def loss_and_gradients(model: Any, *batch: Any) -> tuple[Any, Any]:
            value = loss(model, *batch)
            return value.detach(), torch.autograd.grad(value, parameters)

        if self._traces_gradients:
            return loss_and_gradients
        compiled = torch.compile(loss, fullgraph=True, dynamic=False)

        def apart(model: Any, *batch: Any) -> tuple[Any, Any]:
            value = (compiled if self._compiles_loss else loss)(model, *batch)
            return value.detach(), torch.autograd.grad(value, parameters)

        return apart

    def compile_step(
        self, step: Callable[..., Any], state: Any, compiled: bool
    ) -> Callable[..., Any]:
        if compiled and self.device == "cpu":
            _keep_embedding_kernel()
        if not self._traces_gradients:
            self._compiles_loss = compiled
            return step
        # dynamic=False: the short last batch gets its own kernels instead of slower general ones.
        return torch.compile(step, fullgraph=True, dynamic=False) if compiled else step

    def compile_predict(
        self, predict: Callable[..., Any], model: Any, compiled: bool
    ) -> Callable[..., Any]:
        function = torch.compile(predict, fullgraph=True, dynamic=False) if compiled else predict

        def submit(*inputs: Any) -> Any:
            with torch.inference_mode():
                return function(model, *inputs)

        return submit

    def write_parameters(self, model: Any, values: Mapping[str, np.ndarray]) -> None:
        named = dict(model.named_parameters())
        check_fit({name: tuple(parameter.shape) for name, parameter in named.items()}, values)
        self._writes += 1
        # The module itself moves too, so that buffers follow.
        model.to(device=self._torch, dtype=self._dtype)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(torch.from_numpy(np.array(values[name])))
        self.wait()

    def read_parameters(self, model: Any) -> dict[str, np.ndarray]:
        return {name: self._copied(value) for name, value in model.named_parameters()}

    def gradients(
        self, loss: Callable[..., Any], model: Any, *batch: Any
    ) -> tuple[float, dict[str, np.ndarray]]:
        names, parameters = zip(*model.named_parameters(), strict=True)
        value = loss(model, *batch)
        gradients = torch.autograd.grad(value, parameters)
        named = {n: self._copied(g) for n, g in zip(names, gradients, strict=True)}
        return float(value.detach()), named

    def layer_outputs(self, model: Any, *inputs: Any) -> dict[str, np.ndarray]:
        outputs: dict[str, np.ndarray] = {}
        handles = [
            module.register_forward_hook(
                lambda _module, _inputs, output, name=name: outputs.update(
                    {name: self._copied(output[0] if isinstance(output, tuple) else output)}
                )
            )
            for name, module in model.named_modules()
        ]
        try:
            with self.inference():
                model(*inputs)
        finally:
            for handle in handles:
                handle.remove()
        return outputs

    def count(self, call: Callable[[], Any], state: Any) -> Operations:
        found = counting.count(call)
        self.wait()
        return found

    def stored(self, model: Any, state: Any) -> dict[str, int]:
        parameters = list(model.parameters())
        known = {id(value) for value in parameters}
        return tally(
            [(_named(v.dtype), v.numel()) for v in parameters],
            [
                (_named(v.dtype), v.numel())
                for v in _tensors(state)
                if id(v) not in known and v.ndim and v.is_floating_point()
            ],
        )

    def inference(self) -> AbstractContextManager[Any]:
        return torch.inference_mode()

    def select(self) -> None:
        pass  # PyTorch computes where the arrays lie

    def move(self, *arrays: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if {self._torch.type, *(array.device.type for array in arrays)} != {"cpu", "cuda"}:
            return tuple(array.to(self._torch) for array in arrays)
        # Through page-locked memory, which PyTorch keeps for the next time: `to` alone took 2.5 times
        # as long for 200 MB to an H100, and 32 times as long back.
        locked = (
            torch.empty(array.shape, dtype=array.dtype, pin_memory=True).copy_(
                array, non_blocking=True
            )
            for array in arrays
        )
        found = tuple(array.to(self._torch, non_blocking=True) for array in locked)
        if self._torch.type == "cpu":  # whose work does not wait for what has not arrived
            torch.accelerator.synchronize()
        return found

    def unmoved(self) -> str | None:
        return None

    def place(self, array: torch.Tensor) -> str | None:
        return "cpu" if array.device.type == "cpu" else "gpu"

    def reset_peak_memory(self) -> None:
        if self._torch.type == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def device_peak_bytes(self) -> int | None:
        if self._torch.type == "cuda":
            return torch.cuda.max_memory_allocated()
        if self._torch.type == "mps":
            # MPS keeps no peak in this release; what the driver holds never shrinks in a trial.
            return torch.mps.driver_allocated_memory()
        return None

    def matmul(self, size: int) -> Callable[[], None]:
        a, b = map(self.put, factors(size))

        def multiply() -> None:
            torch.mm(a, b)
            self.wait()

        return multiply

    def servable(self, model: Any, answer: Callable[..., Any]) -> torch.nn.Module:
        """A module whose output is `answer`'s, for export."""

        class Servable(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.model = model

            def forward(self, inputs: torch.Tensor) -> torch.Tensor:
                return answer(self.model, inputs)

        return Servable().eval()


def _switched() -> list[str]:
    """Switches that are off, or on, unlike by default, and change the speed of the same work."""
    cudnn, on = torch.backends.cudnn, {True: "on", False: "off"}
    known = {
        "deterministic algorithms": (torch.are_deterministic_algorithms_enabled(), False),
        "anomaly detection": (torch.is_anomaly_enabled(), False),
        "profiler": (torch.autograd.profiler._is_profiler_enabled, False),
        "autocast": (torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"), False),
        "oneDNN": (torch.backends.mkldnn.enabled, True),
        "cuDNN": (cudnn.enabled, True),
        "cuDNN benchmark": (cudnn.benchmark, False),
        "cuDNN deterministic": (cudnn.deterministic, False),
        "hooks of every module": (bool(torch.nn.modules.module._has_any_global_hook()), False),
        "dispatch modes": (torch._C._len_torch_dispatch_stack() > 0, False),
        "default dtype": (torch.get_default_dtype() != torch.float32, False),
    }
    return [f"{name} {on[bool(now)]}" for name, (now, usual) in known.items() if now != usual]


def _named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _tensors(tree: Any) -> Iterator[torch.Tensor]:
    """Every tensor in nested lists, tuples and dictionaries."""
    if isinstance(tree, torch.Tensor):
        yield tree
    elif isinstance(tree, dict | list | tuple):
        for value in tree.values() if isinstance(tree, dict) else tree:
            yield from _tensors(value)

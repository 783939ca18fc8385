"""The adapter of tape: CPU, float32."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import tape

from measurement.errors import InputError
from measurement.framework import Alone, check_fit
from measurement.operations import Operations, tally

ABOUT = {"products": "NumPy"}  # see frameworks.About


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory was not enough."""
    return isinstance(error, MemoryError)


class Adapter(Alone):
    """See measurement.framework.Framework."""

    name = "tape"

    def __init__(self, device: str, dtype: str, threads: int | None) -> None:
        if device == "gpu":
            raise InputError(
                "device=gpu: tape has no GPU; use device=cpu, or install another framework"
            )
        if dtype != "float32":
            raise InputError(f"dtype={dtype}: tape has one; use dtype=float32")
        self.device, self.dtype = "cpu", dtype

    def versions(self) -> dict[str, str]:
        return {"framework": tape.__version__, "numpy": np.__version__}

    def device_of(self, model: Any) -> str:
        return self.device

    def numerics(self) -> dict[str, str]:
        return {
            "blas_name": "numpy",
            "blas_version": np.__version__,
            "blas_core": "",
            "blas_threads": "NumPy's",
            "blas_file": "",
            "blas_loaded": f"NumPy {np.__version__}",
            "tf32": "off",
        }

    def can_compile(self) -> str | None:
        return "tape has no compiler"

    def put(self, array: np.ndarray) -> tape.Tensor:
        floats = np.issubdtype(array.dtype, np.floating)
        return tape.Tensor(array.astype(np.float32) if floats else array)

    def read(self, array: tape.Tensor) -> np.ndarray:
        return np.array(array.value)

    def wait(self, *values: Any) -> None:
        pass  # NumPy has computed all when a call returns

    def differentiate(self, model: Any, loss: Callable[..., Any]) -> Callable[..., tuple[Any, Any]]:
        def loss_and_gradients(model: Any, *batch: Any) -> tuple[Any, Any]:
            value = loss(model, *batch)
            return value, tape.gradients(value, model.parameters())

        return loss_and_gradients

    def compile_step(
        self, step: Callable[..., Any], state: Any, compiled: bool
    ) -> Callable[..., Any]:
        return step

    def compile_predict(
        self, predict: Callable[..., Any], model: Any, compiled: bool
    ) -> Callable[..., Any]:
        return functools.partial(predict, model)

    def write_parameters(self, model: Any, values: Mapping[str, np.ndarray]) -> None:
        named = dict(model.named_parameters())
        check_fit({name: parameter.shape for name, parameter in named.items()}, values)
        for name, parameter in named.items():
            parameter.value = np.array(values[name], np.float32)

    def read_parameters(self, model: Any) -> dict[str, np.ndarray]:
        return {name: self.read(value) for name, value in model.named_parameters()}

    def gradients(
        self, loss: Callable[..., Any], model: Any, *batch: Any
    ) -> tuple[float, dict[str, np.ndarray]]:
        value, found = self.differentiate(model, loss)(model, *batch)
        names = [name for name, _ in model.named_parameters()]
        return float(value.value), dict(zip(names, found, strict=True))

    def layer_outputs(self, model: Any, *inputs: Any) -> dict[str, np.ndarray]:
        tape.Module.heard = []
        try:
            model(*inputs)
            names = {id(module): name for name, module in model.named_modules()}
            return {names[id(module)]: self.read(value) for module, value in tape.Module.heard}
        finally:
            tape.Module.heard = None

    def count(self, call: Callable[[], Any], state: Any) -> Operations:
        tape.products.clear()
        call()
        return Operations({"float32": sum(tape.products)})

    def stored(self, model: Any, state: Any) -> dict[str, int]:
        return tally([("float32", value.value.size) for value in model.parameters()])

    def inference(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def reset_peak_memory(self) -> None:
        pass

    def device_peak_bytes(self) -> int | None:
        return None

    def matmul(self, size: int) -> Callable[[], None]:
        generator = np.random.default_rng(0)
        a, b = (generator.standard_normal((size, size), np.float32) for _ in range(2))

        def multiply() -> None:
            self.wait(tape.Tensor(a @ b))

        return multiply

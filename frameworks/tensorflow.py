"""The TensorFlow adapter: CPU and CUDA.

A model is made of modules with `named_parameters()`, `named_modules()` and `to(dtype)`, as in
models/layers/tensorflow.py; TensorFlow has no such class that names parameters by their place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.util import _pywrap_util_port  # where the library tells of oneDNN

from frameworks.counting import tensorflow as counting
from measurement.errors import InputError
from measurement.framework import NO_TF32, Alone, check_fit, factors
from measurement.operations import Operations, tally

# See frameworks.About.
ABOUT = {
    "distributions": ("tensorflow", "keras", "ml-dtypes"),
    "settings": ("TF_DETERMINISTIC_OPS", "TF_ENABLE_ONEDNN_OPTS"),
    "cuda_extra": "and-cuda",
    "products": "oneDNN and Eigen",
}
_DTYPES = {"float32": tf.float32, "bfloat16": tf.bfloat16, "float16": tf.float16}


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory was not enough, on the device or the host."""
    # XLA's allocations fail as an InternalError, or as Unknown, that quotes the allocator.
    text = str(error).lower()
    return isinstance(error, MemoryError | tf.errors.ResourceExhaustedError) or (
        isinstance(error, tf.errors.OpError)
        and ("resource_exhausted" in text or "out of memory" in text)
    )


class Adapter(Alone):
    """See measurement.framework.Framework."""

    name = "tensorflow"
    # A forward pass is compiled by XLA, a training step is TensorFlow's own graph: of DeiT-small on a
    # quiet CPU XLA's step took 1.108 [1.094, 1.113] of the graph's time, its forward pass 0.966 [0.933,
    # 0.986]; benchmarks/deit_small_peers.py measures both. On a GPU, where nobody has, XLA does both.
    xla_step, xla_predict = False, True

    def __init__(self, device: str, dtype: str, threads: int | None) -> None:
        cards = tf.config.list_physical_devices("GPU")
        if device == "gpu" and not cards:
            raise InputError(
                "device=gpu: TensorFlow sees no GPU here; use device=cpu, or install "
                "tensorflow[and-cuda] (NVIDIA)"
            )
        self.device = "cpu" if device == "cpu" or not cards else "gpu"
        self._place = "/CPU:0" if self.device == "cpu" else "/GPU:0"
        self.xla_step = self.xla_step or self.device == "gpu"
        if dtype == "tf32":
            raise InputError(NO_TF32)
        self.dtype = dtype
        self._counting = False
        self._dtype = _DTYPES[dtype]
        for card in cards:
            # Or TensorFlow would take the whole card at once, and nobody could tell what was needed.
            tf.config.experimental.set_memory_growth(card, True)
        if threads and tf.config.threading.get_intra_op_parallelism_threads() != threads:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            # One operation at a time, on `threads` threads: two pools would be twice as many.
            tf.config.threading.set_inter_op_parallelism_threads(1)
        # float32 means IEEE float32 in every framework here.
        tf.config.experimental.enable_tensor_float_32_execution(False)

    def versions(self) -> dict[str, str]:
        versions = {"framework": str(tf.__version__)}
        if self.device == "gpu":
            card = tf.config.list_physical_devices("GPU")[0]
            details = tf.config.experimental.get_device_details(card)
            versions["gpu"] = str(details.get("device_name", "unknown"))
            versions["cuda"] = str(tf.sysconfig.get_build_info().get("cuda_version", "unknown"))
        return versions

    def device_of(self, model: Any) -> str:
        places = {"gpu" if "GPU" in v.device else "cpu" for _, v in model.named_parameters()}
        return "+".join(sorted(places)) or self.device

    def numerics(self) -> dict[str, str]:
        # No BLAS: products are oneDNN's in eager mode and Eigen's in what XLA compiles.
        onednn = bool(_pywrap_util_port.IsMklEnabled())
        name = "onednn+eigen" if onednn else "eigen"
        threads = tf.config.threading.get_intra_op_parallelism_threads()
        tf32 = tf.config.experimental.tensor_float_32_execution_enabled()
        return {
            "blas_name": name,
            "blas_version": str(tf.__version__),
            "blas_core": "",
            "blas_threads": str(threads or "every core"),
            "blas_file": "",
            "blas_loaded": f"{name} in TensorFlow {tf.__version__}",
            "tf32": "on" if self.device == "gpu" and tf32 else "off",
            "onednn": "on" if onednn else "off",
            "xla_step": "on" if self.xla_step else "off",
            "xla_predict": "on" if self.xla_predict else "off",
            "pool_threads": str(threads),
        }

    def can_compile(self) -> str | None:
        return None  # XLA brings its own compiler

    def put(self, array: np.ndarray) -> tf.Tensor:
        floats = np.issubdtype(array.dtype, np.floating)
        with tf.device(self._place):
            # A copy, so that the caller's array may change.
            value = tf.constant(np.array(array, np.float32 if floats else None, copy=True))
            value = tf.cast(value, self._dtype) if floats else tf.identity(value)
        self.wait(value)
        return value

    def read(self, array: tf.Tensor | tf.Variable) -> np.ndarray:
        if self._counting:  # nothing is computed then
            return np.zeros(array.shape, np.float32)
        value = tf.cast(array, tf.float32) if array.dtype.is_floating else array
        return np.asarray(value.numpy())

    def wait(self, *values: Any) -> None:
        if self.device == "gpu":  # on a CPU all has been computed when a call returns
            tf.test.experimental.sync_devices()

    def differentiate(self, model: Any, loss: Callable[..., Any]) -> Callable[..., tuple[Any, Any]]:
        def loss_and_gradients(model: Any, *batch: Any) -> tuple[Any, Any]:
            with tf.GradientTape() as tape:
                value = loss(model, *batch)
            return value, tape.gradient(value, model.parameters())

        return loss_and_gradients

    def compile_step(
        self, step: Callable[..., Any], state: Any, compiled: bool
    ) -> Callable[..., Any]:
        return self._placed(step, compiled, self.xla_step)

    def compile_predict(
        self, predict: Callable[..., Any], model: Any, compiled: bool
    ) -> Callable[..., Any]:
        return self._placed(lambda *inputs: predict(model, *inputs), compiled, self.xla_predict)

    def _placed(
        self, function: Callable[..., Any], compiled: bool, xla: bool
    ) -> Callable[..., Any]:
        """`function` on this adapter's device: TensorFlow's own choice is a GPU if there is one. A
        new shape is compiled anew: the short last batch gets its own code, no slower general one."""

        def inside(*inputs: Any) -> Any:
            with tf.device(self._place):
                return function(*inputs)

        if not compiled:
            return inside
        graph = tf.function(inside, jit_compile=xla, autograph=False, reduce_retracing=False)

        def submit(*inputs: Any) -> Any:
            with tf.device(self._place):
                return graph(*inputs)

        return submit

    def write_parameters(self, model: Any, values: Mapping[str, np.ndarray]) -> None:
        shapes = {name: tuple(value.shape) for name, value in model.named_parameters()}
        check_fit(shapes, values)
        with tf.device(self._place):
            model.to(self._dtype)
            for name, parameter in model.named_parameters():
                parameter.assign(self.put(values[name]))
        self.wait()

    def read_parameters(self, model: Any) -> dict[str, np.ndarray]:
        # A copy: on a CPU .numpy() may be a view, which the next step would change.
        return {name: self.read(value).copy() for name, value in model.named_parameters()}

    def gradients(
        self, loss: Callable[..., Any], model: Any, *batch: Any
    ) -> tuple[float, dict[str, np.ndarray]]:
        names, parameters = zip(*model.named_parameters(), strict=True)
        with tf.device(self._place), tf.GradientTape() as tape:
            value = loss(model, *batch)
        gradients = tape.gradient(value, parameters)
        named = {name: self.read(g).copy() for name, g in zip(names, gradients, strict=True)}
        return float(value), named

    def layer_outputs(self, model: Any, *inputs: Any) -> dict[str, np.ndarray]:
        outputs: dict[str, np.ndarray] = {}

        # As in MLX: for the time of one call every module's class is a recording subclass.
        def recording(original: type, name: str) -> type:
            def call(module: Any, *arguments: Any, **keywords: Any) -> Any:
                output = original.__call__(module, *arguments, **keywords)
                first = output[0] if isinstance(output, tuple) else output
                outputs[name] = self.read(first).copy()
                return output

            return type(original.__name__, (original,), {"__call__": call})

        originals = [(module, type(module)) for _, module in model.named_modules()]
        try:
            for name, module in model.named_modules():
                module.__class__ = recording(type(module), name)
            with tf.device(self._place):
                model(*inputs)
        finally:
            for module, original in originals:
                module.__class__ = original
        return outputs

    def count(self, call: Callable[[], Any], state: Any) -> Operations:
        tf32 = self.device == "gpu" and tf.config.experimental.tensor_float_32_execution_enabled()
        self._counting = True
        try:
            return counting.count(call, tf32)
        finally:
            self._counting = False

    def stored(self, model: Any, state: Any) -> dict[str, int]:
        parameters = model.parameters()
        known = {id(value) for value in parameters}
        return tally(
            [(v.dtype.name, int(tf.size(v))) for v in parameters],
            [
                (v.dtype.name, int(tf.size(v)))
                for v in tf.nest.flatten(state)
                if isinstance(v, tf.Tensor | tf.Variable)
                and id(v) not in known
                and v.shape.rank
                and v.dtype.is_floating
            ],
        )

    def inference(self) -> AbstractContextManager[Any]:
        return nullcontext()  # TensorFlow records gradients only on a tape

    def reset_peak_memory(self) -> None:
        if self.device == "gpu":
            tf.config.experimental.reset_memory_stats("GPU:0")

    def device_peak_bytes(self) -> int | None:
        if self.device == "cpu":
            return None
        return int(tf.config.experimental.get_memory_info("GPU:0")["peak"])

    def matmul(self, size: int) -> Callable[[], None]:
        a, b = map(self.put, factors(size))

        def multiply() -> None:
            with tf.device(self._place):
                self.wait(tf.matmul(a, b))

        return multiply

"""Operations of PyTorch, counted while they run: every one passes through a dispatch mode, those of
the backward pass too."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from measurement.operations import Counter, Operations

aten = torch.ops.aten
_ATTENTION = "_scaled_dot_product_"


def count(call: Callable[[], Any]) -> Operations:
    """Of one call, which is run; what torch.compile has compiled runs as it was before."""
    with torch.compiler.set_stance("force_eager"), _Count() as mode:
        call()
    return mode.counter.found(mode.recorded)


class _Count(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.counter = Counter()
        self.recorded = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        packet = func._overloadpacket
        attention = packet.__name__.startswith(_ATTENTION)
        if not attention and packet not in flop_registry and packet not in _OWN:
            with self:  # an operation made of others, as in inference
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        if torch.is_grad_enabled() and any(
            isinstance(value, torch.Tensor) and value.requires_grad for value in args
        ):
            self.recorded += 1
        output = func(*args, **kwargs)
        tensors = [value for value in args if isinstance(value, torch.Tensor)]
        if attention:
            self._add(tensors[:1], _attention(packet.__name__, tensors))
        elif packet in _OWN:
            transform = _OWN[packet] is _transform
            self._add(tensors, _OWN[packet](args, output), on_matrix_units=not transform)
        elif packet in flop_registry:
            flops = flop_registry[packet](*args, **kwargs, out_val=output)
            self._add(tensors, flops)
        return output

    def _add(self, tensors: list[torch.Tensor], flops: float, on_matrix_units: bool = True) -> None:
        self.counter.add(_dtype(tensors[-1], on_matrix_units), flops)


def _attention(name: str, tensors: list[torch.Tensor]) -> int:
    """Two products, and four of its gradient, whose first argument is that of the output."""
    backward = name.endswith("backward")
    queries, keys, values = tensors[1:4] if backward else tensors[:3]
    one = prod(queries.shape[:-1]) * keys.shape[-2] * (queries.shape[-1] + values.shape[-1])
    return 2 * one * (2 if backward else 1)


def _transform(args: Any, output: torch.Tensor) -> int:
    """A real or complex transform along the dimensions args[1], as products with its matrix."""
    x, dimensions = args[0], args[1]
    parts = 2 if x.is_complex() else 1
    return sum(2 * parts * 2 * output.numel() * x.shape[d] for d in dimensions)


def _vector(args: Any, output: torch.Tensor) -> int:
    """Of a matrix or a vector, the last argument but one, and a vector, the last."""
    return 2 * int(args[-2].numel())


_OWN: dict[Any, Callable[[Any, Any], int]] = {
    aten._fft_r2c: _transform,
    aten._fft_c2c: _transform,
    aten._fft_c2r: _transform,
    aten.mv: _vector,
    aten.addmv: _vector,
    aten.dot: _vector,
}


def _dtype(tensor: torch.Tensor, on_matrix_units: bool) -> str:
    """Of a product, as its hardware multiplies it: on matrix units in fewer bits than are stored, where
    the settings say so."""
    name = str(tensor.dtype).removeprefix("torch.")
    if name != "float32" or not on_matrix_units:
        return {"complex64": "float32", "complex128": "float64"}.get(name, name)
    precision = torch.get_float32_matmul_precision()
    if precision == "medium":
        return "bfloat16"
    on_gpu = tensor.device.type == "cuda"
    tf32 = torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32
    return "tf32" if precision == "high" or (on_gpu and tf32) else name

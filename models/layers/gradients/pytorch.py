"""Layers with gradients of their own for PyTorch on an NVIDIA Hopper GPU in 16 bits, where those that
torch.compile makes pass over memory more often than they must (PyTorch 2.11; docs/NVIDIA.md has the
profile). The functions are PyTorch's own; the kernels are in ../kernels."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
import torch._functorch.config
from torch.nn import functional

MOST_TOKENS = 256  # so many keys of a head fit in a multiprocessor
SIZES = (16, 32, 64)  # of a head
# What a compiler makes of these functions is kept for the next process, which PyTorch does for its own
# alone. An operator's name is in the key of what is kept; the text of its kernel would not be.
torch._functorch.config.autograd_cache_allow_custom_autograd_functions = True
_SOURCE = Path(__file__).parents[1] / "kernels" / "pytorch.py"
_TEXT = hashlib.sha256(_SOURCE.read_bytes()).hexdigest()[:8]
_cudnn_attention = torch.ops.aten._scaled_dot_product_cudnn_attention


def here(x: torch.Tensor) -> bool:
    """Whether `x` is in 16 bits on a Hopper GPU, and what records gradients is compiled: uncompiled,
    Python is slower to start these kernels than the GPU is to save by them."""
    short = x.dtype in (torch.bfloat16, torch.float16)
    recorded = torch.is_grad_enabled() and torch.compiler.is_compiling()
    return short and x.is_cuda and recorded and _on_hopper()


def fits(x: torch.Tensor, heads: int) -> bool:
    """Whether the kernel of attention's gradient takes x (n, t, width)."""
    return 1 < x.shape[1] <= MOST_TOKENS and x.shape[2] // heads in SIZES


@torch.compiler.assume_constant_result
def _on_hopper() -> bool:
    return torch.cuda.get_device_capability()[0] == 9


def _kernels() -> Any:
    from models.layers.kernels import pytorch  # Triton comes with PyTorch for CUDA alone

    return pytorch


@torch.library.triton_op(f"layers::gelu_{_TEXT}", mutates_args=())
def _gelu(x: torch.Tensor) -> torch.Tensor:
    return _kernels().gelu(x)


@_gelu.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


@torch.library.triton_op(f"layers::gelu_gradient_{_TEXT}", mutates_args=())
def _gelu_gradient(x: torch.Tensor, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return _kernels().gelu_gradient(x, gradient.contiguous())


@_gelu_gradient.register_fake
def _(x: torch.Tensor, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    sums = x.new_empty((_kernels().GELU_SUMS, x.shape[-1]), dtype=torch.float32)
    return torch.empty_like(x), sums


@torch.library.triton_op(f"layers::add_norm_{_TEXT}", mutates_args=())
def _add_norm(
    x: torch.Tensor, change: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, epsilon: float
) -> tuple[torch.Tensor, torch.Tensor]:
    return _kernels().add_norm(x.contiguous(), change.contiguous(), weight, bias, epsilon)


@_add_norm.register_fake
def _(
    x: torch.Tensor, change: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, epsilon: float
) -> tuple[torch.Tensor, torch.Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape)


@torch.library.triton_op(f"layers::norm_gradient_{_TEXT}", mutates_args=())
def _norm_gradient(
    x: torch.Tensor,
    weight: torch.Tensor,
    besides: torch.Tensor,
    gradient: torch.Tensor,
    epsilon: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    return _kernels().norm_gradient(
        x.contiguous(), weight, besides.contiguous(), gradient.contiguous(), epsilon
    )


@_norm_gradient.register_fake
def _(
    x: torch.Tensor,
    weight: torch.Tensor,
    besides: torch.Tensor,
    gradient: torch.Tensor,
    epsilon: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    sums = x.new_empty((_kernels().NORM_SUMS, 2, x.shape[-1]), dtype=torch.float32)
    return x.new_empty(x.shape), sums


@torch.library.triton_op(f"layers::attention_gradient_{_TEXT}", mutates_args=())
def _attention_gradient(
    output: torch.Tensor,
    gradient: torch.Tensor,
    logsumexp: torch.Tensor,
    qkv: torch.Tensor,
    heads: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    given = (output.contiguous(), gradient.contiguous(), logsumexp.contiguous())
    return _kernels().attention_gradient(*given, qkv, heads)


@_attention_gradient.register_fake
def _(
    output: torch.Tensor,
    gradient: torch.Tensor,
    logsumexp: torch.Tensor,
    qkv: torch.Tensor,
    heads: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    sums = qkv.new_empty((qkv.shape[0], qkv.shape[2]), dtype=torch.float32)
    return torch.empty_like(qkv), sums


def _linear_gradients(
    x: torch.Tensor, weight: torch.Tensor, gradient: torch.Tensor, sums: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of x (..., inputs), weight (outputs, inputs) and bias (outputs,), from the gradient of what the
    layer gives and sums of it (lines, outputs)."""
    rows = gradient.reshape(-1, gradient.shape[-1])
    of_weight = rows.T @ x.reshape(-1, x.shape[-1])
    return gradient @ weight, of_weight, sums.sum(0).to(weight.dtype)


class LinearGelu(torch.autograd.Function):
    """x (..., inputs), weight (outputs, inputs), bias (outputs,) -> GELU of the linear layer."""

    @staticmethod
    def forward(
        context: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        inner = functional.linear(x, weight, bias)
        context.save_for_backward(x, weight, inner)
        return _gelu(inner)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> Any:
        x, weight, inner = context.saved_tensors
        return _linear_gradients(x, weight, *_gelu_gradient(inner, gradient))


class LinearRelu(torch.autograd.Function):
    """x (..., inputs), weight (outputs, inputs), bias (outputs,) -> ReLU of the linear layer, taken
    where the product is written."""

    @staticmethod
    def forward(
        context: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        y = torch._addmm_activation(bias, x.reshape(-1, x.shape[-1]), weight.T)
        y = y.view(*x.shape[:-1], y.shape[1])
        context.save_for_backward(x, weight, y)
        return y

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> Any:
        x, weight, y = context.saved_tensors
        slope = torch.where(y > 0, gradient, 0)
        return _linear_gradients(x, weight, slope, slope.reshape(-1, slope.shape[-1]))


class SelfAttention(torch.autograd.Function):
    """x (n, t, width), weight (3 * width, width) and bias (3 * width,) of queries, keys and values ->
    attention of all to all, (n, t, width)."""

    @staticmethod
    def forward(
        context: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, heads: int
    ) -> torch.Tensor:
        qkv = functional.linear(x, weight, bias)
        n, t, width = x.shape
        parts = (p.view(n, t, heads, -1).transpose(1, 2) for p in torch.chunk(qkv, 3, dim=2))
        output, logsumexp = _cudnn_attention(*parts, None, True)[:2]
        output = output.transpose(1, 2).reshape(n, t, width)
        context.save_for_backward(x, weight, qkv, output, logsumexp)
        context.heads = heads
        return output

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> Any:
        x, weight, qkv, output, logsumexp = context.saved_tensors
        found = _attention_gradient(output, gradient, logsumexp, qkv, context.heads)
        return (*_linear_gradients(x, weight, *found), None)


class AddNorm(torch.autograd.Function):
    """x and change (..., width), weight and bias (width,) -> x + change and its layer norm."""

    @staticmethod
    def forward(
        context: Any,
        x: torch.Tensor,
        change: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        epsilon: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        total, y = _add_norm(x, change, weight, bias, epsilon)
        context.save_for_backward(total, weight)
        context.epsilon = epsilon
        return total, y

    @staticmethod
    def backward(context: Any, besides: torch.Tensor, gradient: torch.Tensor) -> Any:
        total, weight = context.saved_tensors
        slope, sums = _norm_gradient(total, weight, besides, gradient, context.epsilon)
        of_weight, of_bias = sums.sum(0).to(weight.dtype)
        return slope, slope, of_weight, of_bias, None

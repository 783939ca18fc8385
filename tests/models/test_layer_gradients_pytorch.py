"""The gradients that PyTorch is given on a Hopper GPU: here on the CPU with formulas in the place of the
kernels, and the kernels themselves where there is such a GPU. That they are faster there is measured
(docs/NVIDIA.md), not tested."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from twins import REFERENCE, assert_equal, config_of, evidence, needs_all

import frameworks

if not frameworks.available("pytorch"):
    pytest.skip("torch is not installed", allow_module_level=True)

import torch
from torch import nn
from torch._dynamo.utils import counters
from torch.nn import functional

from models.layers import pytorch as layers
from models.layers.gradients import pytorch as layer_gradients

LINES = 3  # of sums
ROOT = Path(__file__).resolve().parents[2]


def _sums(slope):
    """As of so many programs: the first has all but two rows, the others one each."""
    rows = slope.reshape(-1, slope.shape[-1]).float()
    return torch.stack([rows[:-2].sum(0), rows[-2], rows[-1]])


def _gelu_gradient(x, gradient):
    slope = gradient * (torch.special.ndtr(x) + x * torch.exp(-x * x / 2) / math.sqrt(2 * math.pi))
    return slope, _sums(slope)


def _add_norm(x, change, weight, bias, epsilon):
    total = x + change
    return total, functional.layer_norm(total, weight.shape, weight, bias, epsilon)


def _norm_gradient(x, weight, besides, gradient, epsilon):
    deviation = (x.var(-1, correction=0, keepdim=True) + epsilon).sqrt()
    x = (x - x.mean(-1, keepdim=True)) / deviation
    sums = torch.stack([_sums(gradient * x), _sums(gradient)], 1)
    gradient = gradient * weight
    along = (gradient * x).mean(-1, keepdim=True)
    slope = (gradient - gradient.mean(-1, keepdim=True) - x * along) / deviation
    return slope + besides, sums


def _heads(x, heads, parts):
    return (layers.split(part, heads) for part in torch.chunk(x, parts, dim=2))


def _attention_gradient(output, gradient, logsumexp, qkv, heads):
    scale = (output.shape[2] // heads) ** -0.5
    queries, keys, values = _heads(qkv, heads, 3)
    (output,), (gradient,) = _heads(output, heads, 1), _heads(gradient, heads, 1)
    share = torch.exp(queries @ keys.mT * scale - logsumexp[..., None])
    of_share = gradient @ values.mT - (gradient * output).sum(-1, keepdim=True)
    of_scores = share * of_share * scale
    slopes = (of_scores @ keys, of_scores.mT @ queries, share.mT @ gradient)
    slope = torch.cat([x.transpose(1, 2).flatten(2) for x in slopes], 2)
    return slope, slope.sum(1).float()


FORMULAS = SimpleNamespace(
    GELU_SUMS=LINES,
    NORM_SUMS=LINES,
    gelu=functional.gelu,
    gelu_gradient=_gelu_gradient,
    add_norm=_add_norm,
    norm_gradient=_norm_gradient,
    attention_gradient=_attention_gradient,
)


def _cudnn_on_cpu(queries, keys, values, bias, with_logsumexp):
    scores = queries @ keys.mT * queries.shape[3] ** -0.5
    output = (scores.softmax(3) @ values).transpose(1, 2).contiguous().transpose(1, 2)
    return output, scores.logsumexp(3)


@pytest.fixture
def formulas(monkeypatch):
    monkeypatch.setattr(layer_gradients, "_kernels", lambda: FORMULAS)
    monkeypatch.setattr(layer_gradients, "here", lambda x: torch.is_grad_enabled())
    monkeypatch.setattr(layer_gradients, "_cudnn_attention", _cudnn_on_cpu)


def _linear(outputs, inputs, of):
    layer = nn.Linear(inputs, outputs)
    with torch.no_grad():
        layer.weight.mul_(2)
    return layer.to(of)


def _cases(n, t, heads, size, of):
    """name -> (function, plain one, tensors that have gradients)."""
    width = heads * size
    x, change = (torch.randn(n, t, width).to(of) for _ in range(2))
    inner, qkv = _linear(4 * width, width, of), _linear(3 * width, width, of)
    norm = layers.norm(width, 1e-6).to(of)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)

    def plain_attention(x):
        found = functional.scaled_dot_product_attention(*_heads(qkv(x), heads, 3))
        return found.transpose(1, 2).reshape(x.shape)

    return {
        "linear_gelu": (
            lambda x: layers.linear_gelu(inner, x),
            lambda x: functional.gelu(inner(x)),
            [x, *inner.parameters()],
        ),
        "linear_relu": (
            lambda x: layers.linear_relu(inner, x),
            lambda x: functional.relu(inner(x)),
            [x, *inner.parameters()],
        ),
        "self_attend": (
            lambda x: layers.self_attend(qkv, x, heads),
            plain_attention,
            [x, *qkv.parameters()],
        ),
        "add_norm": (
            lambda x, change: layers.add_norm(x, change, norm),
            lambda x, change: (x + change, norm(x + change)),
            [x, change, *norm.parameters()],
        ),
    }


NAMES = ("linear_gelu", "linear_relu", "self_attend", "add_norm")


def _outputs_and_gradients(function, tensors, backend=None):
    arguments = [x.detach().requires_grad_() for x in tensors if not isinstance(x, nn.Parameter)]
    if backend:
        torch._dynamo.reset()  # or what another shape was compiled for serves here as well
        function = torch.compile(function, fullgraph=True, backend=backend)
    outputs = function(*arguments)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    generator = torch.Generator().manual_seed(1)
    cotangents = [torch.randn(y.shape, generator=generator).to(y) for y in outputs]
    parameters = [x for x in tensors if isinstance(x, nn.Parameter)]
    return [*outputs, *torch.autograd.grad(outputs, [*arguments, *parameters], cotangents)]


@pytest.mark.parametrize("backend", [None, "aot_eager"])  # which traces as a compiler does
@pytest.mark.parametrize("name", NAMES)
def test_function_and_gradients_are_those_of_its_definition(name, backend, formulas):
    torch.manual_seed(0)
    own, plain, tensors = _cases(2, 5, 2, 16, torch.device("cpu"))[name]
    found = _outputs_and_gradients(own, tensors, backend)
    for a, b in zip(found, _outputs_and_gradients(plain, tensors), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 1, 2, 16), (1, 300, 1, 16), (1, 5, 1, 24)])
def test_what_the_kernel_of_attention_does_not_take_is_pytorchs_own(shape, formulas, monkeypatch):
    monkeypatch.setattr(layer_gradients, "_cudnn_attention", lambda *_: pytest.fail("was asked"))
    torch.manual_seed(0)
    own, plain, tensors = _cases(*shape, torch.device("cpu"))["self_attend"]
    found = _outputs_and_gradients(own, tensors)
    for a, b in zip(found, _outputs_and_gradients(plain, tensors), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_what_was_compiled_serves_the_next_process(formulas, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.manual_seed(0)
    own, _, tensors = _cases(2, 5, 2, 16, torch.device("cpu"))["add_norm"]
    found = []
    for _ in range(2):
        counters.clear()
        _outputs_and_gradients(own, tensors, "inductor")
        found.append(
            [
                counters["aot_autograd"][f"autograd_cache_{word}"]
                for word in ("miss", "hit", "bypass")
            ]
        )
    assert found == [[1, 0, 0], [0, 1, 0]]


@needs_all
@pytest.mark.parametrize("workload", ["deit_small", "transformer_lm"])
def test_a_twin_with_them_agrees_with_the_reference(workload, formulas):
    config = config_of(workload)
    assert_equal(evidence(workload, REFERENCE, config), evidence(workload, "pytorch", config))


def test_what_is_not_compiled_as_what_is_counted_is_pytorchs_own(monkeypatch):
    monkeypatch.setattr(layer_gradients, "_on_hopper", lambda: True)
    x = SimpleNamespace(dtype=torch.bfloat16, is_cuda=True)
    assert not layer_gradients.here(x)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert layer_gradients.here(x)


@pytest.mark.gpu
@pytest.mark.parametrize("of", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "shape", [(3, 197, 6, 64), (2, 17, 2, 16), (2, 256, 1, 32), (1, 65, 3, 64)]
)
@pytest.mark.parametrize("name", NAMES)
def test_kernels_are_as_close_to_float32_as_pytorchs_own(name, shape, of, monkeypatch):
    """Within 1.5 times the error of the plain layer in the same 16 bits; compiled, for only so are
    they asked."""
    if not (torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9):
        pytest.skip("no NVIDIA Hopper GPU here, for which the kernels are")
    torch.manual_seed(0)
    own, plain, tensors = _cases(*shape, torch.device("cuda"))[name]
    for x in tensors:
        x.data = x.data.to(of)  # what is rounded here is not the layers' error
    asked, kernels = [], layer_gradients._kernels
    monkeypatch.setattr(layer_gradients, "_kernels", lambda: asked.append(name) or kernels())
    with torch._inductor.config.patch(force_disable_caches=True):
        found = _outputs_and_gradients(own, tensors, "inductor")
    assert asked or name == "linear_relu"  # which has no kernel of its own
    usual = _outputs_and_gradients(plain, tensors)
    for x in tensors:
        x.data = x.data.float()
    exact = _outputs_and_gradients(plain, tensors)
    for a, b, c in zip(found, usual, exact, strict=True):
        assert a.dtype == b.dtype == of
        error, usual_error = ((x.float() - c).norm() / c.norm() for x in (a, b))
        assert error <= 1.5 * usual_error + 1e-4, (name, float(error), float(usual_error))


def test_a_twins_layers_can_be_imported_first():
    """In a process where nothing else has imported the parts of PyTorch that they set."""
    code = "import models.layers.pytorch"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert found.returncode == 0, found.stderr

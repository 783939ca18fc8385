"""The gradients that MLX is given on an NVIDIA GPU, here on the CPU: those of the functions themselves.
That they are faster there is measured (docs/NVIDIA.md), not tested."""

from __future__ import annotations

from dataclasses import asdict
from types import SimpleNamespace

import pytest
from twins import REFERENCE, assert_equal, config_of, evidence, needs_all, session

import frameworks

if not frameworks.available("mlx"):
    pytest.skip("mlx is not installed", allow_module_level=True)

import mlx.core as mx
import numpy as np

from entrypoints.session import Base
from frameworks.counting import mlx as counting
from models.layers import mlx as layers
from models.layers.gradients import mlx as layer_gradients

RNG = np.random.default_rng(0)


def values(*shape: int) -> mx.array:
    return mx.array(RNG.standard_normal(shape).astype(np.float32))


def _norm_gradient(x, weight, besides, gradient, epsilon):
    """What the kernel gives, of three warps."""
    deviation = mx.sqrt(mx.var(x, axis=-1, keepdims=True) + epsilon)
    n = (x - mx.mean(x, axis=-1, keepdims=True)) / deviation
    rows = mx.concatenate([gradient * n, gradient], axis=-1).reshape(-1, 2 * x.shape[-1])
    sums = mx.stack([rows[:-2].sum(0), rows[-2], rows[-1]])
    g = gradient * weight
    along = mx.mean(g, axis=-1, keepdims=True) + n * mx.mean(g * n, axis=-1, keepdims=True)
    return (g - along) / deviation + (0 if besides is None else besides), sums


FORMULAS = SimpleNamespace(norm_gradient=_norm_gradient)


def _plain_norm(x, weight, bias):
    centred = x - mx.mean(x, axis=-1, keepdims=True)
    return weight * centred * mx.rsqrt(mx.var(x, axis=-1, keepdims=True) + 1e-5) + bias


CASES = {
    "norm": (layer_gradients.norm(1e-5), _plain_norm, [(3, 7, 128), (128,), (128,)]),
    "residual and norm": (
        layer_gradients.norm_sum(1e-5),
        lambda x, change, *rest: (_plain_norm(x + change, *rest), x + change),
        [(5, 128), (5, 128), (128,), (128,)],
    ),
    "linear": (
        layer_gradients.linear,
        lambda x, weight, bias: x @ weight.T + bias,
        [(3, 7, 16), (24, 16), (24,)],
    ),
    "linear without bias": (
        layer_gradients.linear,
        lambda x, weight: x @ weight.T,
        [(5, 16), (24, 16)],
    ),
    "attention": (
        layer_gradients.attend,
        lambda q, k, v: mx.softmax(q @ k.swapaxes(2, 3) * q.shape[3] ** -0.5, axis=3) @ v,
        [(2, 3, 19, 8)] * 3,
    ),
    "attention of a whole tile": (
        layer_gradients.attend,
        lambda q, k, v: mx.softmax(q @ k.swapaxes(2, 3) * q.shape[3] ** -0.5, axis=3) @ v,
        [(1, 2, layer_gradients.TILE, 8)] * 3,
    ),
}


def _outputs(function, arguments):
    found = function(*arguments)
    return found if isinstance(found, tuple) else (found,)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("compiled", [False, True])
def test_function_and_gradients_are_those_of_its_definition(name, compiled, monkeypatch):
    monkeypatch.setattr(layer_gradients, "_kernels", lambda: FORMULAS)
    own, plain, shapes = CASES[name]
    given = [values(*shape) for shape in shapes]
    cotangents = [values(*y.shape) for y in _outputs(plain, given)]

    def gradients(function, *arguments):
        outputs, found = mx.vjp(
            function, list(arguments[: len(given)]), list(arguments[len(given) :])
        )
        return [*outputs, *found]

    def ours(*arguments):
        return gradients(own, *arguments)

    found = (mx.compile(ours) if compiled else ours)(*given, *cotangents)
    expected = gradients(plain, *given, *cotangents)
    assert len(found) == len(expected) == len(cotangents) + len(given)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(np.array(a), np.array(b), rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
def test_sums_of_16_bits_are_added_in_more():
    """4,096 ones in bfloat16 are 4,096, and not the 256 at which adding one no longer changes it."""
    if not mx.cuda.is_available():
        pytest.skip("no NVIDIA GPU here that MLX sees; its sums on a CPU are added in float32")
    with mx.stream(mx.gpu):
        rows = mx.ones((4096, 3), mx.bfloat16)
        total = mx.vjp(
            layer_gradients.linear,
            [rows, mx.ones((3, 3), mx.bfloat16), mx.ones(3, mx.bfloat16)],
            [rows],
        )
        found = np.array(total[1][2].astype(mx.float32)).tolist()
    assert found == [4096.0] * 3


@pytest.mark.gpu
@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("of", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize(
    "rows, width", [(1, 128), (7, 384), (3000, 1024), (50_000, 256), (5, 2048)]
)
def test_the_kernel_of_a_norms_gradient_is_as_close_to_float32_as_mlxs_own(rows, width, of, beside):
    """Within 1.5 times the error of MLX's own in the same floats."""
    if not mx.cuda.is_available():
        pytest.skip("no NVIDIA GPU here that MLX sees")
    floats = getattr(mx, of)
    name = "residual and norm" if beside else "norm"
    own, plain, _ = CASES[name]
    with mx.stream(mx.gpu):
        given = [values(rows, width) for _ in range(1 + beside)]
        given += [1 + values(width) / 2, values(width)]
        cotangents = [values(rows, width) for _ in range(1 + beside)]
        exact = mx.vjp(plain, given, cotangents)[1]
        short = [x.astype(floats) for x in given], [x.astype(floats) for x in cotangents]

        def usual(*given):
            total = given[0] + given[1] if beside else given[0]
            y = mx.fast.layer_norm(total, *given[-2:], 1e-5)
            return (y, total) if beside else y

        for a, b, c in zip(mx.vjp(own, *short)[1], mx.vjp(usual, *short)[1], exact, strict=True):
            assert a.dtype == floats and a.shape == c.shape
            error, usual_error = (
                float(mx.linalg.norm((x.astype(mx.float32) - c).reshape(-1)))
                / float(mx.linalg.norm(c.reshape(-1)))
                for x in (a, b)
            )
            assert error <= 1.5 * usual_error + 1e-6, (name, error, usual_error)


@needs_all
@pytest.mark.parametrize("workload", ["transformer_lm", "deit_small"])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_twin_with_them_agrees_with_the_reference(workload, compiled, monkeypatch):
    monkeypatch.setattr(layer_gradients, "here", lambda: True)
    monkeypatch.setattr(layer_gradients, "fits", lambda x: True)
    monkeypatch.setattr(layer_gradients, "_kernels", lambda: FORMULAS)
    config = config_of(workload)
    assert_equal(
        evidence(workload, REFERENCE, config), evidence(workload, "mlx", config, compiled=compiled)
    )


@needs_all
@pytest.mark.parametrize("workload", ["transformer_lm", "deit_small"])
def test_its_work_is_counted_as_without(workload, monkeypatch):
    plain = session(workload, "mlx", config_of(workload)).counted()
    monkeypatch.setattr(mx.cuda, "is_available", lambda: True)
    monkeypatch.setattr(layer_gradients, "here", lambda: mx.cuda.is_available())
    monkeypatch.setattr(layers, "_in_16_bits_on_cuda", lambda x: layer_gradients.here())
    monkeypatch.setattr(layer_gradients, "fits", lambda x: True)
    monkeypatch.setattr(layer_gradients, "_kernels", lambda: None)  # what is counted takes none
    assert session(workload, "mlx", config_of(workload)).counted() == plain


@pytest.mark.parametrize(
    ("workload", "device", "compiled"),
    [
        ("deit_small", "cpu", (True, False)),
        ("deit_small", "gpu", (True, True)),
        ("bert_tiny", "gpu", (True, True)),
        ("tinyllama", "gpu", (False, False)),
    ],
)
def test_on_a_gpu_mlx_compiles_every_call_of_a_twin_that_gains_by_it(workload, device, compiled):
    adapter = frameworks.load("mlx", "cpu")
    adapter.device = device
    spec = {
        "workload": workload,
        "framework": "mlx",
        "sizes": asdict(config_of(workload)),
        "compile": "auto",
    }
    opened = Base(spec, framework=adapter)
    assert (opened.compiled, opened.compiled_inference) == compiled


def test_what_is_there_for_cuda_alone_is_not_counted(monkeypatch):
    """What fills attention up to whole tiles adds products that PyTorch's arm has not; and MLX exports no
    function with a gradient of its own."""
    monkeypatch.setattr(mx.cuda, "is_available", lambda: True)
    seen = []

    def call():
        seen.append(mx.cuda.is_available())
        mx.eval(mx.ones((4, 5)) @ mx.ones((5, 6)))

    assert counting.count(call, {}, tf32=False).products == {"float32": 2 * 4 * 5 * 6}
    assert seen and not any(seen) and mx.cuda.is_available()


def test_attention_is_counted_as_its_products():
    x = values(1, 2, 19, 8)

    def loss(x):
        return mx.fast.scaled_dot_product_attention(x, x, x, scale=0.5, mask="causal").sum()

    found = counting.count(lambda: mx.eval(mx.grad(loss)(x)), {}, tf32=False)
    one = 2 * 2 * 19 * 19 * 8
    # Of the output nothing depends on the output itself here: one product less than the six.
    assert found.products == {"float32": 5 * one}


def test_a_transform_is_not_multiplied_in_tf32():
    x = values(1, 64)
    transform = counting.count(lambda: mx.eval(mx.abs(mx.fft.rfft(x))), {}, tf32=True)
    product = counting.count(lambda: mx.eval(x @ x.T), {}, tf32=True)
    assert list(transform.products) == ["float32"] and list(product.products) == ["tf32"]

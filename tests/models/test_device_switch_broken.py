"""Every deliberately broken twin of the switch is refused, with the product that differs by name."""

from __future__ import annotations

import pytest
from twins import broken_twin, config_of, evidence, needs_all

from measurement.audit import parity_difference
from measurement.comparison import TOLERANCES, first_difference

THIRD, SECOND, FIRST = "normalised(c, a)", "normalised(b, c)", "normalised(a, b)"
ALL = "return normalised(a, b), normalised(b, c), normalised(c, a)"
IN_MLX, IN_TORCH = (
    "return product / product.max(axis=0)",
    "return product.div_(product.amax(dim=0))",
)
HALF = "return model(a, b, c)"
# Every second call is that of the second device.
SKIPPED = (
    "model.__dict__['calls'] = model.__dict__.get('calls', 0) + 1; "
    "return (a, b, c) if model.__dict__['calls'] % 2 == {} else model(a, b, c)"
)

# name -> (the first product that differs, MLX: text and its mistake, PyTorch: text and its mistake)
BROKEN: dict[str, tuple[str, tuple[str, str], tuple[str, str]]] = {
    "third product the other way round": (  # as the PyTorch half of the published pair has it
        "r3", (THIRD, "normalised(a, c)"), (THIRD, "normalised(a, c)")),
    "second product the other way round": (
        "r2", (SECOND, "normalised(c, b)"), (SECOND, "normalised(c, b)")),
    "first product the other way round": (
        "r1", (FIRST, "normalised(b, a)"), (FIRST, "normalised(b, a)")),
    "third product of the new first": (
        "r3", (THIRD, "normalised(c, normalised(a, b))"),
        (THIRD, "normalised(c, normalised(a, b))")),
    "results in another order": (
        "r1", (ALL, "return normalised(b, c), normalised(a, b), normalised(c, a)"),
        (ALL, "return normalised(b, c), normalised(a, b), normalised(c, a)")),
    "an operand transposed": ("r1", ("x @ y", "x @ y.T"), ("x @ y", "x @ y.T")),
    "normalised by rows": (
        "r1", (IN_MLX, "return product / product.max(axis=1, keepdims=True)"),
        (IN_TORCH, "return product.div_(product.amax(dim=1, keepdim=True))")),
    "columns divided by the rows' largest": (
        "r1", (IN_MLX, "return product / product.max(axis=1)"),
        (IN_TORCH, "return product.div_(product.amax(dim=1))")),
    "normalised by the largest of all": (
        "r1", (IN_MLX, "return product / product.max()"),
        (IN_TORCH, "return product.div_(product.amax())")),
    "normalised by the smallest": (
        "r1", (IN_MLX, "return product / product.min(axis=0)"),
        (IN_TORCH, "return product.div_(product.amin(dim=0))")),
    "normalised by the mean": (
        "r1", (IN_MLX, "return product / product.mean(axis=0)"),
        (IN_TORCH, "return product.div_(product.mean(dim=0))")),
    "not normalised": ("r1", (IN_MLX, "return product"), (IN_TORCH, "return product")),
    "a small number in the divisor": (
        "r1", (IN_MLX, "return product / (product.max(axis=0) + 1e-3)"),
        (IN_TORCH, "return product.div_(product.amax(dim=0) + 1e-3)")),
    "float16": (
        "r1", ("x @ y", "(x.astype(mx.float16) @ y.astype(mx.float16)).astype(mx.float32)"),
        ("x @ y", "(x.half() @ y.half()).float()")),
    "bfloat16": (
        "r1", ("x @ y", "(x.astype(mx.bfloat16) @ y.astype(mx.bfloat16)).astype(mx.float32)"),
        ("x @ y", "(x.bfloat16() @ y.bfloat16()).float()")),
    "both halves skipped": ("r1", (HALF, "return a, b, c"), (HALF, "return a, b, c")),
    "first half skipped": (
        "r1", (HALF, SKIPPED.format(1)), (HALF, SKIPPED.format(1))),
    "second half skipped": ("a", (HALF, SKIPPED.format(0)), (HALF, SKIPPED.format(0))),
    "a half done twice": (
        "r1", (HALF, "return model(*model(a, b, c))"), (HALF, "return model(*model(a, b, c))")),
    "a product copied": (
        "r3", (ALL, "r = normalised(a, b); return r, normalised(b, c), r"),
        (ALL, "r = normalised(a, b); return r, normalised(b, c), r")),
}  # fmt: skip
CASES = [
    pytest.param(case, framework, id=f"{framework}: {name}")
    for name, case in BROKEN.items()
    for framework in ("mlx", "pytorch")
]


@needs_all
@pytest.mark.parametrize(("case", "framework"), CASES)
def test_a_broken_twin_is_refused_with_what_differs(case, framework):
    product, in_mlx, in_pytorch = case
    config = config_of("device_switch")
    reference = evidence("device_switch", "mlx" if framework == "pytorch" else "pytorch", config)
    change = in_mlx if framework == "mlx" else in_pytorch
    broken = evidence(
        "device_switch", framework, config, twin=broken_twin("device_switch", framework, change)
    )
    said = parity_difference(reference.summary(), broken.summary()) or ""
    assert "the evidence differs in output" in said
    found = first_difference(reference.outputs, broken.outputs, TOLERANCES["float32"][0]) or ""
    assert found.startswith(f"{product} ")

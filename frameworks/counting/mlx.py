"""Operations of MLX, counted in its graph: a call is traced, which computes nothing, and every
primitive that its results need is looked at, as MLX itself would compute them."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from math import prod
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from measurement.operations import Counter, Operations

Array = tuple[str, tuple[int, ...], Any]  # name, shape, dtype
_SHAPES = ("Transpose", "Broadcast", "Reshape", "ExpandDims", "Squeeze", "Flatten", "Unflatten",
           "Copy", "AsType")  # fmt: skip
_PRODUCTS = ("Matmul", "AddMM", "GatherMM", "BlockMaskedMM")
_QUANTISED = ("QuantizedMatmul", "GatherQMM", "QQMatmul")
_ATTENTION = {"ScaledDotProductAttention": 2, "ScaledDotProductAttentionVJP": 4}  # products
_COUNTED = (*_PRODUCTS, *_QUANTISED, *_ATTENTION, "SegmentedMM", "Convolution", "FFT")


def count(call: Callable[[], Any], state: Any, tf32: bool) -> Operations:
    """Of one call, which is traced; `state`, what it reads and changes, is then as it was. tf32:
    whether float32 is multiplied in fewer bits. What cannot be traced is `unknown`."""
    places = list(_places(state))
    before = [tree[key] for tree, key in places]
    labels: list[str] = []

    def traced(*values: mx.array) -> list[mx.array]:
        with _submitted() as results:
            for (tree, key), value in zip(places, values, strict=True):
                tree[key] = value
            results += [call(), [tree[key] for tree, key in _places(state)]]
        found = [value for _, value in tree_flatten(results) if isinstance(value, mx.array)]
        labels[:] = _labels(found)
        return found

    reason = ""
    try:
        # A function with a gradient of its own cannot be exported (MLX 0.32); mapped over one state
        # it is the same function without.
        for mapped in (False, True):
            graph = _Graph(tf32)
            values = [value[None] for value in before] if mapped else before
            try:
                mx.export_function(graph, mx.vmap(traced) if mapped and before else traced, *values)
            except ValueError as error:
                reason = reason or str(error)
                continue
            return graph.found(labels)
    finally:
        for (tree, key), value in zip(places, before, strict=True):
            tree[key] = value
    if "eval" in reason:
        reason = "it reads a value before it is submitted"
    elif "Depends" in labels:
        reason = "it computes a part again for its gradient (mx.checkpoint)"
    return Operations({}, unknown=reason)


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """(dictionary or list, key) of every array in a tree of them; a module is a dictionary."""
    for key, value in list(tree.items() if isinstance(tree, dict) else enumerate(tree)):
        if isinstance(value, mx.array):
            yield tree, key
        elif isinstance(value, dict | list):
            yield from _places(value)


def _attention(
    fused: Callable[..., mx.array],
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    *,
    scale: float,
    **options: Any,
) -> mx.array:
    """Attention as the products that it is made of, so that its gradient is too, whatever MLX has a
    kernel for. A mask changes none of them. Queries that share a head stay with MLX's own."""
    if queries.shape[1] != keys.shape[1]:
        return fused(queries, keys, values, scale=scale, **options)
    weights = mx.softmax((queries * scale) @ keys.swapaxes(-1, -2), axis=-1)
    return weights @ values


@contextmanager
def _submitted() -> Iterator[list[Any]]:
    """Collects what is submitted meanwhile, which is not computed. Nor is anything compiled: the
    graph is that of the function as it is written, without what is only there for CUDA's kernels."""
    results: list[Any] = []
    fused = mx.fast.scaled_dot_product_attention

    def collect(*values: Any) -> None:
        results.extend(values)

    def itself(value: mx.array, *_: Any, **__: Any) -> mx.array:
        return value

    instead = [
        (mx, "eval", collect),
        (mx, "async_eval", collect),
        (mx, "synchronize", lambda *_: None),
        (mx, "contiguous", itself),  # no arithmetic, and cannot be exported
        (mx.distributed, "all_sum", itself),  # the same
        # Gradients that are there for CUDA alone fill attention up to whole tiles.
        (mx.cuda, "is_available", lambda: False),
        (mx.fast, "scaled_dot_product_attention", partial(_attention, fused)),
    ]
    usual = [(module, name, getattr(module, name)) for module, name, _ in instead]
    mx.disable_compile()
    try:
        for module, name, function in instead:
            setattr(module, name, function)
        yield results
    finally:
        for module, name, function in usual:
            setattr(module, name, function)
        if "MLX_DISABLE_COMPILE" not in os.environ:
            mx.enable_compile()


def _labels(results: list[mx.array]) -> list[str]:
    """The primitives that results need, as often as they stand there."""
    text = io.StringIO()
    mx.export_to_dot(text, *results)
    return re.findall(r'label ="([^"]*)"', text.getvalue())


class _Graph:
    """What mx.export_function tells of a graph, one primitive after the other."""

    def __init__(self, tf32: bool) -> None:
        self._tf32 = tf32
        self._counter, self._batched = Counter(), Counter()
        self._kinds: dict[str, str] = {}  # array -> primitive behind it, through changes of shape
        self._masks: list[tuple[int, ...]] = []  # of a causal mask's strips
        self._primitives = 0  # that were counted

    def __call__(self, told: dict[str, Any]) -> None:
        if told["type"] != "primitive":
            return
        name, inputs, outputs = told["name"], told["inputs"], told["outputs"]
        kind = self._kinds.get(inputs[0][0], "") if name in _SHAPES else name
        self._kinds.update({output[0]: kind for output in outputs})
        shape = outputs[0][1]
        if name == "Greater" and all(self._kinds.get(x[0]) == "Arange" for x in inputs):
            self._masks.append(shape[-2:])
        if name in _COUNTED:
            self._primitives += 1
            batched = name == "Matmul" and prod(shape[:-2]) > 1
            dtype = "quantised" if name in _QUANTISED else self._dtype(name, inputs[0][2])
            (self._batched if batched else self._counter).add(
                dtype, self._flops(name, inputs, shape)
            )

    def found(self, labels: list[str]) -> Operations:
        """labels: of the graph before MLX left out what stands there twice, which only a compiled
        function does; what was left out counts like the average of the others."""
        missing = max(0, sum(label in _COUNTED for label in labels) - self._primitives)
        times = 1 + missing / max(1, self._primitives)
        widest = max((columns for _, columns in self._masks), default=0)
        pairs = sum(rows * columns for rows, columns in self._masks)
        # A causal mask is counted in full: strips leave out what no query of theirs may look at.
        whole = sum(rows * widest for rows, _ in self._masks) / pairs if pairs else 1
        found = Counter()
        for counter, share in ((self._counter, 1), (self._batched, whole)):
            for dtype, flops in counter.products.items():
                found.add(dtype, flops * share * times)
        return found.found()

    def _flops(self, name: str, inputs: list[Array], shape: tuple[int, ...]) -> int:
        first, second = inputs[0][1], (inputs[1][1] if len(inputs) > 1 else ())
        if name in _ATTENTION:
            keys, values = second, inputs[2][1]
            one = prod(first[:-1]) * keys[-2] * (first[-1] + values[-1])
            return one * _ATTENTION[name]
        if name == "Convolution":
            return 2 * prod(shape) * prod(second[1:])
        if name == "FFT":
            return 4 * prod(shape) * first[-1]
        if name == "SegmentedMM":
            return 2 * prod(shape[-2:]) * first[-1]
        if any(self._kinds.get(x[0]) == "Full" and 1 in x[1][-2:] for x in inputs[:2]):
            return 0  # a sum, as a product with ones
        return 2 * prod(shape) * first[-1]

    def _dtype(self, primitive: str, dtype: Any) -> str:
        name = str(dtype).removeprefix("mlx.core.")
        if primitive == "FFT":  # no matrix unit computes it
            return {"complex64": "float32"}.get(name, name)
        return "tf32" if name == "float32" and self._tf32 else name

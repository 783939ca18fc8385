"""Operations of TensorFlow, counted in the graph that a call makes, where nothing is computed."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import tensorflow as tf
from tensorflow.python.framework.func_graph import func_graph_from_py_func

from measurement.operations import Counter, Operations

_PRODUCTS = ("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3")
_CONVOLUTIONS = ("Conv2D", "Conv3D", "DepthwiseConv2dNative")
_TRANSFORMS = ("RFFT", "FFT", "IFFT", "IRFFT")


def count(call: Callable[[], Any], tf32: bool) -> Operations:
    """Of one call, which is traced. tf32: whether float32 is multiplied in fewer bits. What cannot be
    traced is `unknown`."""
    compiled = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)  # what is compiled is traced like the rest
    try:
        graph = func_graph_from_py_func("counted", call, args=(), kwargs={})
    except (NotImplementedError, TypeError, AttributeError) as error:
        return Operations({}, unknown=f"it cannot be traced ({str(error).splitlines()[0]})")
    finally:
        tf.config.run_functions_eagerly(compiled)
    counter = Counter()
    for operation in graph.get_operations():
        if flops := _flops(operation):
            name = operation.inputs[-1].dtype.name
            fewer = tf32 and name == "float32" and operation.type not in _TRANSFORMS
            counter.add("tf32" if fewer else name, flops)
    return counter.found()


def _flops(operation: Any) -> int:
    kind = operation.type
    if kind in _PRODUCTS:
        across = operation.get_attr("transpose_a" if kind == "MatMul" else "adj_x")
        inner = operation.inputs[0].shape[-2 if across else -1]
        return int(2 * prod(operation.outputs[0].shape) * inner)
    if kind in _CONVOLUTIONS:
        *window, inputs, _ = operation.inputs[1].shape
        inner = prod(window) * (1 if kind.startswith("Depthwise") else inputs)
        return int(2 * prod(operation.outputs[0].shape) * inner)
    if kind.startswith("Conv") and "Backprop" in kind:
        # One product more for each value of the output's gradient, as often as forward.
        gradient = operation.inputs[2].shape
        weight = operation.outputs[0].shape if "Filter" in kind else operation.inputs[1].shape
        return int(2 * prod(gradient) * prod(weight[:-1]))
    if kind == "Einsum":
        terms = operation.get_attr("equation").decode().split("->")[0].split(",")
        sizes = {
            letter: size
            for term, value in zip(terms, operation.inputs, strict=True)
            for letter, size in zip(term, value.shape, strict=True)
        }
        return int(2 * prod(sizes.values())) if len(terms) > 1 else 0
    if kind in _TRANSFORMS:
        return int(4 * prod(operation.outputs[0].shape) * operation.inputs[0].shape[-1])
    return 0

"""Operations of JAX, counted in the jaxpr of a call: it is traced, which computes nothing. What no result
needs is left out, as XLA leaves it out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from measurement.operations import Counter, Operations

_SAME_RESULTS = ("jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call")
# cuDNN's, whose gradient does not count the scores again: products.
_ATTENTION = {"dot_product_attention_fwd_wrapper": 2, "dot_product_attention_bwd_wrapper": 4}


def count(pure: Callable[..., Any], values: list[Any], tf32: bool) -> Operations:
    """Of one call as a function of arrays. tf32: whether float32 is multiplied in fewer bits. What cannot
    be traced, or repeats as often as its values say, is `unknown`."""

    def traced(values: list[Any]) -> list[Any]:
        return [leaf for leaf in jax.tree.leaves(pure(values)) if isinstance(leaf, jax.Array)]

    try:
        graph = jax.make_jaxpr(traced)(values).jaxpr
        counter = Counter()
        for dtype, flops in _products(graph, [True] * len(graph.outvars)):
            counter.add("tf32" if tf32 and dtype == "float32" else dtype, flops)
    except (TypeError, NotImplementedError) as error:  # jax.errors are TypeErrors
        return Operations({}, unknown=f"it cannot be traced ({str(error).splitlines()[0]})")
    return counter.found()


def _products(graph: Jaxpr, wanted: list[bool]) -> Iterator[tuple[str, float]]:
    """(dtype, FLOPs) of what the wanted results need."""
    needed = {v for v, want in zip(graph.outvars, wanted, strict=True) if want and _variable(v)}
    for equation in reversed(graph.eqns):
        results = [result in needed for result in equation.outvars]
        if not (any(results) or equation.effects):
            continue
        needed.update(filter(_variable, equation.invars))
        yield from _of(equation, results)


def _of(equation: Any, wanted: list[bool]) -> Iterator[tuple[str, float]]:
    name, parameters = equation.primitive.name, equation.params
    inner = [graph for value in parameters.values() for graph in _graphs(value)]
    if name in ("dot_general", "conv_general_dilated", "fft"):
        operand = equation.invars[0].aval
        yield operand.dtype.name, _flops(name, equation)
    elif name in _ATTENTION:
        queries, keys = (operand.aval for operand in equation.invars[:2])  # (n, t, heads, size)
        yield queries.dtype.name, _ATTENTION[name] * 2 * prod(queries.shape) * keys.shape[1]
    elif name == "while" and any(list(_products(g, [True] * len(g.outvars))) for g in inner):
        raise NotImplementedError("a while loop repeats as often as its values say")
    elif name == "cond":
        branches = [list(_products(g, [True] * len(g.outvars))) for g in inner]
        yield from max(branches, key=lambda found: sum(flops for _, flops in found))
    else:
        for graph in inner:
            same = name in _SAME_RESULTS and len(graph.outvars) == len(wanted)
            for dtype, flops in _products(graph, wanted if same else [True] * len(graph.outvars)):
                yield dtype, flops * parameters.get("length", 1)  # of a scan


def _flops(name: str, equation: Any) -> int:
    first, second = equation.invars[0].aval, equation.invars[-1].aval
    result = prod(equation.outvars[0].aval.shape)
    if name == "dot_general":
        (across, _), _ = equation.params["dimension_numbers"]
        return 2 * result * prod(first.shape[axis] for axis in across)
    if name == "fft":
        return 4 * result * prod(equation.params["fft_lengths"])
    outputs = second.shape[equation.params["dimension_numbers"].rhs_spec[0]]
    return 2 * result * prod(second.shape) // outputs


def _graphs(value: Any) -> Iterator[Jaxpr]:
    if isinstance(value, ClosedJaxpr):
        yield value.jaxpr
    elif isinstance(value, Jaxpr):
        yield value
    elif isinstance(value, tuple | list):
        for one in value:
            yield from _graphs(one)


def _variable(value: Any) -> bool:
    return not isinstance(value, Literal)

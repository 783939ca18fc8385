"""CUDA graphs of PyTorch: the kernels of a call are recorded once, and submitted again as one.

As in "Accelerating PyTorch with CUDA Graphs" (pytorch.org, 2021), but for calls that are never told
apart beforehand: the first of a shape runs as it is, the second is recorded, every later one replayed.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils import _pytree as pytree

_MOST = 8  # graphs of one shape: a new cache at another address needs another one


class Graphed:
    """`call` as a function of the same arguments, which may be trees of tensors on a CUDA device; the
    results are the caller's own. An argument that the call changes must be among its results.

    state: gives every tensor besides that the call reads or changes; changed: a number that is another
    one whenever those may lie elsewhere than before.
    """

    def __init__(
        self,
        call: Callable[..., Any],
        state: Callable[[], list[torch.Tensor]],
        changed: Callable[[], int],
    ) -> None:
        self._call, self._state, self._changed = call, state, changed
        self._shapes: dict[Any, _Shape] = {}
        self._seen, self._places = -1, [0]
        self._stream = torch.cuda.Stream()
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, *arguments: Any) -> Any:
        if torch._C._len_torch_dispatch_stack():  # whoever looks at each operation
            return self._call(*arguments)
        self._forget_what_moved()
        inputs, tree = pytree.tree_flatten(arguments)
        key = (tree, tuple((x.shape, x.dtype) for x in inputs))
        shape = self._shapes.get(key)
        if shape is None:
            shape = self._shapes[key] = _Shape(self._call, tree, self._stream, self._pool)
            return shape.first(inputs)
        return shape.next(inputs)

    def _forget_what_moved(self) -> None:
        if self._seen == (now := self._changed()):
            return
        places = [value.data_ptr() for value in self._state()]
        if places != self._places:
            self._shapes.clear()
            self._places = places
        self._seen = now


class _Shape:
    """The graphs of a call whose arguments have one shape."""

    def __init__(self, call: Callable[..., Any], tree: Any, stream: Any, pool: Any) -> None:
        self._call, self._tree, self._stream, self._pool = call, tree, stream, pool
        # Of each input: it comes from another place every time; it is among the results, and never
        # copied; it had moved when the last call came, and where it was then.
        self._copied: list[bool] = []
        self._changed: list[bool] = []
        self._moved: list[bool] = []
        self._places: list[int] = []
        self._recorded: dict[tuple[int, ...], _Recorded] = {}

    def first(self, inputs: list[torch.Tensor]) -> Any:
        """As it is: it may compile, choose kernels, and ask for memory for good."""
        self._places = [x.data_ptr() for x in inputs]
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            found = self._call(*pytree.tree_unflatten(inputs, self._tree))
        torch.cuda.synchronize()
        results = {x.data_ptr() for x in pytree.tree_leaves(found)}
        self._changed = [place in results for place in self._places]
        self._copied, self._moved = [False] * len(inputs), [True] * len(inputs)
        return found

    def next(self, inputs: list[torch.Tensor]) -> Any:
        places = [x.data_ptr() for x in inputs]
        moved = [a != b for a, b in zip(places, self._places, strict=True)]
        # What moved once may stay there, as the next portion of a large set, and must not be copied.
        often = [
            now and before and not changed
            for now, before, changed in zip(moved, self._moved, self._changed, strict=True)
        ]
        self._places, self._moved = places, moved
        if any(o and not c for o, c in zip(often, self._copied, strict=True)):
            self._copied = [o or c for o, c in zip(often, self._copied, strict=True)]
            self._recorded.clear()
        fixed = tuple(p for p, c in zip(places, self._copied, strict=True) if not c)
        if fixed not in self._recorded:
            while len(self._recorded) >= _MOST:
                del self._recorded[next(iter(self._recorded))]
            self._recorded[fixed] = _Recorded(
                self._call, self._tree, inputs, self._copied, self._stream, self._pool
            )
        return self._recorded[fixed].replay(inputs)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without Python's collector: what it frees may be a graph or kernels of a call that is gone, and
    CUDA refuses a recording in whose course something is unloaded."""
    usual = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if usual:
            gc.enable()


class _Recorded:
    """One graph. It holds inputs that are not copied by their address alone."""

    def __init__(
        self,
        call: Callable[..., Any],
        tree: Any,
        inputs: list[torch.Tensor],
        copied: list[bool],
        stream: Any,
        pool: Any,
    ) -> None:
        given = [x.clone() if c else x for x, c in zip(inputs, copied, strict=True)]
        self._graph = torch.cuda.CUDAGraph()
        with _uncollected(), torch.cuda.graph(self._graph, pool=pool, stream=stream):
            found = call(*pytree.tree_unflatten(given, tree))
        results, self._tree = pytree.tree_flatten(found)
        place = {x.data_ptr(): i for i, x in enumerate(inputs)}
        # A result that is an input: the caller's own tensor, whichever lies there at that time.
        self._results = [place.get(x.data_ptr(), x) for x in results]
        self._copies = [(i, x) for i, (x, c) in enumerate(zip(given, copied, strict=True)) if c]

    def replay(self, inputs: list[torch.Tensor]) -> Any:
        with torch.no_grad():
            for i, place in self._copies:
                place.copy_(inputs[i], non_blocking=True)
            self._graph.replay()
            results = [inputs[x] if isinstance(x, int) else x.clone() for x in self._results]
        return pytree.tree_unflatten(results, self._tree)

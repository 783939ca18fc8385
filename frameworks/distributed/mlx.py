"""MLX with its own communication, in processes that mlx.launch has started."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn

from frameworks.distributed import Shard, pack, part, unpack, weight
from frameworks.mlx import Adapter as Single
from measurement.errors import InputError


class Adapter(Single):
    """See measurement.framework.Ranks."""

    def __init__(
        self, device: str, dtype: str, threads: int | None, backend: str, seconds: float
    ) -> None:
        """seconds: MLX knows no limit; the process that a rank runs in keeps watch."""
        super().__init__(device, dtype, threads)
        chosen = backend
        if backend == "auto":
            chosen = "nccl" if self.device == "gpu" and mx.cuda.is_available() else "ring"
        if not mx.distributed.is_available(chosen):
            raise InputError(
                f"backend={chosen}: this MLX cannot use it here; use backend=ring, which it always has"
            )
        self._group = mx.distributed.init(strict=True, backend=chosen)
        self.backend, self.rank, self.ranks = chosen, self._group.rank(), self._group.size()
        self.device_index = 0  # mlx.launch shows a process one GPU
        self._weight = [mx.array(1.0)]  # a list, so that mx.compile takes it as part of the state

    def shard(self, rows: np.ndarray) -> tuple[Shard, int]:
        where, count = part(len(rows), self.rank, self.ranks)
        share = mx.array(weight(len(rows), count, self.ranks), mx.float32)
        mx.eval(share)
        return Shard(self.put(rows[where]), share), count

    def wait(self, *values: Any) -> None:
        super().wait(*(_plain(value) for value in values))

    def meet(self) -> None:
        self.agree(0.0)

    def agree(self, value: float) -> float:
        # float32: NCCL is on the GPU, which has no float64; the same on every rank all the same.
        return float(mx.distributed.all_max(mx.array(value, mx.float32), group=self._group))

    def mean(self, values: Sequence[float], weights: Sequence[float]) -> list[float]:
        given, share = np.asarray(values, np.float64), np.asarray(weights, np.float64)
        # A rank without an item has no loss either.
        weighed = np.stack([np.where(share > 0, given * share, 0.0), share])
        found = mx.distributed.all_sum(mx.array(weighed.astype(np.float32)), group=self._group)
        total = np.array(found, np.float64)
        return [float(value) for value in total[0] / total[1]]

    def gather(self, value: bytes) -> list[bytes]:
        mine = pack(value, int(self.agree(len(value))))
        found = mx.distributed.all_gather(mx.array(mine)[None], group=self._group)
        return unpack(list(np.array(found)))

    def differentiate(self, model: Any, loss: Callable[..., Any]) -> Callable[..., tuple[Any, Any]]:
        def weighed(model: Any, *batch: Any) -> tuple[mx.array, mx.array]:
            value = loss(model, *batch)
            return value * self._weight[0], value

        both = nn.value_and_grad(model, weighed)

        def loss_and_gradients(model: Any, *batch: Any) -> tuple[Any, Any]:
            (_, value), gradients = both(model, *batch)
            return value, nn.average_gradients(gradients, self._group)

        return loss_and_gradients

    def compile_step(
        self, step: Callable[..., Any], state: Any, compiled: bool
    ) -> Callable[..., Any]:
        inner = super().compile_step(step, [state, self._weight], compiled)

        def submit(*batch: Any) -> mx.array:
            *arrays, shard = batch
            self._weight[0] = shard.weight
            value: mx.array = inner(*arrays, shard.rows)
            return value

        return submit

    def gradients(
        self, loss: Callable[..., Any], model: Any, *batch: Any
    ) -> tuple[float, dict[str, np.ndarray]]:
        """Of the whole batch, by the way that a step takes: each rank from its own part."""
        items = len(batch[0])
        where, count = part(items, self.rank, self.ranks)
        self._weight[0] = mx.array(weight(items, count, self.ranks), mx.float32)
        value, found = self.differentiate(model, loss)(model, *(array[where] for array in batch))
        named = self.named(found)
        return self.mean([float(value)], [count])[0], named

    def all_reduce(self, size: int) -> Callable[[], None]:
        values = mx.zeros(size, self._dtype)
        mx.eval(values)

        def reduce() -> None:
            self.wait(mx.distributed.all_sum(values, group=self._group))

        return reduce

    def read_state(self, state: Any) -> dict[str, np.ndarray]:
        return self.named(state)

    def write_state(self, state: Any, values: Mapping[str, np.ndarray]) -> None:
        _put(state, values)
        self.wait(state)

    def leave(self) -> None:
        self.meet()


def _put(tree: Any, values: Mapping[str, np.ndarray], place: str = "") -> None:
    """Replaces the arrays in nested dictionaries (a module is one) and lists, by mlx.utils' names."""
    for key, value in list(tree.items() if isinstance(tree, dict) else enumerate(tree)):
        if isinstance(value, mx.array):
            tree[key] = mx.array(values[f"{place}{key}"]).astype(value.dtype)
        elif isinstance(value, dict | list):
            _put(value, values, f"{place}{key}.")


def _plain(value: Any) -> Any:
    """Shards as the arrays that they hold, which is what MLX can wait for."""
    if isinstance(value, Shard):
        return value.rows, value.weight
    return [_plain(part) for part in value] if isinstance(value, list) else value

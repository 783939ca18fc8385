"""PyTorch with DistributedDataParallel, in processes that torchrun has started."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from frameworks.distributed import Shard, pack, part, unpack, weight
from frameworks.pytorch import Adapter as Single
from measurement.errors import InputError


class _Loss(torch.nn.Module):
    """The loss as a module, so that DistributedDataParallel sees all that has a gradient."""

    def __init__(self, model: torch.nn.Module, loss: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, *batch: Any) -> torch.Tensor:
        return self.loss(self.model, *batch)


class Adapter(Single):
    """See measurement.framework.Ranks."""

    # Compiled, its hooks cost more than the kernels gain: see benchmarks/distributed_peers.py.
    step_compiled = False

    def __init__(
        self, device: str, dtype: str, threads: int | None, backend: str, seconds: float
    ) -> None:
        """seconds: after which a rank that hears nothing from the others gives up."""
        self.device_index = 0
        if torch.cuda.is_available() and device != "cpu":
            self.device_index = int(os.environ["LOCAL_RANK"])
            torch.cuda.set_device(self.device_index)
        elif device == "auto":
            device = "cpu"  # gloo, which is left, adds up no array of an Apple GPU
        super().__init__(device, dtype, threads)
        if self._torch.type == "mps":
            raise InputError(
                "device=gpu: torch.distributed has no backend for an Apple GPU; use device=cpu"
            )
        chosen = {"cpu": "gloo", "cuda": "nccl"}[self._torch.type] if backend == "auto" else backend
        if chosen == "nccl" and self._torch.type == "cpu":
            raise InputError("backend=nccl: needs NVIDIA GPUs; use backend=gloo")
        limit = datetime.timedelta(seconds=seconds)
        store, rank, ranks = next(rendezvous("env://", timeout=limit))
        # torchrun keeps its store when it starts the ranks again (2.13): without a prefix they find
        # the addresses of those that have ended, now and then, and wait for them.
        life = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = PrefixStore(f"life-{life}", store)
        dist.init_process_group(chosen, timeout=limit, store=store, rank=rank, world_size=ranks)
        self.backend, self.rank, self.ranks = chosen, dist.get_rank(), dist.get_world_size()
        # What ranks tell each other besides gradients goes over the CPU: it must not wait in a queue.
        self._control = None if chosen == "gloo" else dist.new_group(backend="gloo", timeout=limit)
        self._weight = torch.ones((), device=self._torch)
        self._compiled = False
        self._wrapped: dict[int, Callable[..., torch.Tensor]] = {}

    def versions(self) -> dict[str, str]:
        versions = super().versions()
        if self.backend == "nccl":
            versions["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
        return versions

    def shard(self, rows: np.ndarray) -> tuple[Shard, int]:
        where, count = part(len(rows), self.rank, self.ranks)
        share = torch.tensor(weight(len(rows), count, self.ranks), device=self._torch)
        return Shard(self.put(rows[where]), share), count

    def meet(self) -> None:
        self.wait()
        dist.barrier(self._control)

    def agree(self, value: float) -> float:
        found = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(found, dist.ReduceOp.MAX, self._control)
        return float(found)

    def mean(self, values: Sequence[float], weights: Sequence[float]) -> list[float]:
        weighed = np.stack([np.multiply(values, weights), np.asarray(weights, np.float64)])
        # A rank without an item has no loss either.
        total = torch.from_numpy(np.where(weighed[1] > 0, weighed, 0.0))
        dist.all_reduce(total, dist.ReduceOp.SUM, self._control)
        return [float(value) for value in total[0] / total[1]]

    def gather(self, value: bytes) -> list[bytes]:
        mine = torch.from_numpy(pack(value, int(self.agree(len(value)))))
        found = [torch.empty_like(mine) for _ in range(self.ranks)]
        dist.all_gather(found, mine, self._control)
        return unpack([row.numpy() for row in found])

    def differentiate(self, model: Any, loss: Callable[..., Any]) -> Callable[..., tuple[Any, Any]]:
        parameters = list(model.parameters())

        def loss_and_gradients(model: Any, *batch: Any) -> tuple[Any, Any]:
            for parameter in parameters:
                parameter.grad = None
            value = self._together(model, loss)(*batch)
            # Averages over the ranks, bucket by bucket, while gradients of earlier layers are still
            # being computed.
            (value * self._weight).backward()
            return value.detach(), [parameter.grad for parameter in parameters]

        return loss_and_gradients

    def _together(self, model: Any, loss: Callable[..., Any]) -> Callable[..., torch.Tensor]:
        """The loss of a model under DistributedDataParallel, made at the first call: by then the model
        is on its device, and every rank is here."""
        key = id(model)
        if key not in self._wrapped:
            module = DistributedDataParallel(_Loss(model, loss), gradient_as_bucket_view=True)
            self._wrapped[key] = torch.compile(module, dynamic=False) if self._compiled else module
        return self._wrapped[key]

    def compile_step(
        self, step: Callable[..., Any], state: Any, compiled: bool
    ) -> Callable[..., Any]:
        # DistributedDataParallel hooks into the backward pass, which no graph of a whole step has.
        self._compiled = compiled

        def submit(*batch: Any) -> torch.Tensor:
            *arrays, shard = batch
            self._weight = shard.weight
            value: torch.Tensor = step(*arrays, shard.rows)
            return value

        return submit

    def gradients(
        self, loss: Callable[..., Any], model: Any, *batch: Any
    ) -> tuple[float, dict[str, np.ndarray]]:
        """Of the whole batch, by the way that a step takes: each rank from its own part."""
        items = len(batch[0])
        where, count = part(items, self.rank, self.ranks)
        share = weight(items, count, self.ranks)
        self._weight = torch.tensor(share, device=self._torch)
        value, found = self.differentiate(model, loss)(model, *(array[where] for array in batch))
        names = [name for name, _ in model.named_parameters()]
        named = {n: self.read(g).copy() for n, g in zip(names, found, strict=True)}
        return self.mean([float(value)], [count])[0], named

    def all_reduce(self, size: int) -> Callable[[], None]:
        values = torch.zeros(size, dtype=self._dtype, device=self._torch)

        def reduce() -> None:
            dist.all_reduce(values)
            self.wait()

        return reduce

    def read_state(self, state: Any) -> dict[str, np.ndarray]:
        return {name: self.read(value).copy() for name, value in _arrays(state)}

    def write_state(self, state: Any, values: Mapping[str, np.ndarray]) -> None:
        with torch.no_grad():
            for name, value in _arrays(state):
                value.copy_(torch.from_numpy(values[name]))
        self.wait()

    def leave(self) -> None:
        self._wrapped.clear()
        self.meet()
        dist.destroy_process_group()


def _arrays(tree: Any, place: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """The arrays in nested lists, each with the numbers that lead to it."""
    for number, value in enumerate(tree):
        if isinstance(value, torch.Tensor):
            yield f"{place}{number}", value
        else:
            yield from _arrays(value, f"{place}{number}.")

"""A rank that goes wrong on purpose: what `entrypoints.rank` runs, with one mistake, named by the
environment variable BROKEN, in rank 1 or in all of them."""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import models
from entrypoints import rank
from frameworks import distributed


def other_data(number: int) -> None:
    if number:
        module = models.load("mnist", "data")
        load = module.load
        module.load = lambda *given: replace(load(*given), sha256="0" * 64)  # type: ignore[attr-defined]


def missing_data(number: int) -> None:
    if number:
        from measurement.errors import InputError

        def refuse(*given: Any) -> Any:
            raise InputError("train-images-idx3-ubyte is not in /data; expected it there")

        models.load("mnist", "data").load = refuse  # type: ignore[attr-defined]


def other_version(number: int) -> None:
    adapter = _adapter()
    versions = adapter.versions
    if number:
        adapter.versions = lambda self: versions(self) | {"framework": "0.0.1"}


def summed(number: int) -> None:
    """Gradients are added up and not averaged."""
    _scaled(lambda self: float(self.ranks))


def not_averaged(number: int) -> None:
    """Every rank learns from its own part alone."""
    from mlx import nn

    nn.average_gradients = lambda gradients, group: gradients


def unweighted(number: int) -> None:
    """Every rank counts alike, whatever it has of a batch."""
    for module in _modules():
        module.weight = lambda items, count, ranks: 1.0


def same_part(number: int) -> None:
    """All ranks take the first part of every batch."""
    part = distributed.part
    for module in _modules():
        module.part = lambda items, rank, ranks: part(items, 0, ranks)


def last_batch_dropped(number: int) -> None:
    from entrypoints.session import Session

    batches = Session._batches

    def fewer(self: Any, portion: int, items: int, epoch: int, seed: int | None) -> Any:
        found = batches(self, portion, items, epoch, seed)
        return found[:-1] if epoch and seed is None else found

    Session._batches = fewer  # type: ignore[method-assign]


def dies_once(number: int) -> None:
    """Rank 1 is gone in the third epoch of its first life; the second life is as it should be."""
    if number and os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0":
        begin = rank.Watched.portions

        def portions(self: Any, epoch: int) -> Any:
            for fed in begin(self, epoch):
                if epoch == 2:
                    os.kill(os.getpid(), 9)
                yield fed

        rank.Watched.portions = portions  # type: ignore[method-assign]


def late(number: int) -> None:
    """Rank 1 does not come."""
    if number:
        time.sleep(60)


def _scaled(factor: Callable[[Any], float]) -> None:
    adapter = _adapter()
    differentiate = adapter.differentiate

    def wrong(self: Any, model: Any, loss: Any) -> Any:
        inner = differentiate(self, model, loss)

        def loss_and_gradients(model: Any, *batch: Any) -> Any:
            from mlx.utils import tree_map

            value, gradients = inner(model, *batch)
            return value, tree_map(lambda g: g * factor(self), gradients)

        return loss_and_gradients

    adapter.differentiate = wrong


def _adapter() -> Any:
    return importlib.import_module("frameworks.distributed.mlx").Adapter


def _modules() -> list[Any]:
    return [importlib.import_module("frameworks.distributed.mlx")]


def main() -> int:
    join = rank.Rank.join

    def broken(self: rank.Rank) -> None:
        globals()[os.environ["BROKEN"]](rank.number())  # now, when the BLAS has been loaded
        join(self)

    rank.Rank.join = broken  # type: ignore[method-assign]
    return rank.main()


if __name__ == "__main__":
    sys.exit(main())

"""Adapters of processes that train together: `ranks` of them, each with its part of every batch. They
are the adapters above this folder with a group; twins and measurement do not see the difference."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Shard:
    """A rank's part of a batch, on the device. weight: its items over the mean number of items of a
    rank, so that the mean over the ranks of weighted mean losses is the mean over the batch: a batch
    that cannot be cut evenly, the short last one above all, counts every item alike."""

    rows: Any
    weight: Any


def part(items: int, rank: int, ranks: int) -> tuple[slice, int]:
    """(where a rank's part of a batch lies, how many items it has): neighbouring rows, the first
    ranks have one more where they do not divide evenly. A rank without an item gets the first one
    of the batch, to be weighted with 0, because a mean over nothing is no number."""
    size, more = divmod(items, ranks)
    start = rank * size + min(rank, more)
    count = size + (rank < more)
    return (slice(start, start + count) if count else slice(0, 1)), count


def weight(items: int, count: int, ranks: int) -> float:
    """Of a part of `count` out of `items`; exactly 1 where every rank has as many."""
    return count * ranks / items


def pack(value: bytes, length: int) -> np.ndarray:
    """A value as `length` bytes of the same kind on every rank: its own length, itself, zeros."""
    return np.frombuffer(
        struct.pack("<q", len(value)) + value.ljust(length, b"\0"), np.uint8
    ).copy()


def unpack(rows: Sequence[np.ndarray]) -> list[bytes]:
    """The values of all ranks from what each packed."""
    found = []
    for row in rows:
        content = np.asarray(row, np.uint8).tobytes()
        (size,) = struct.unpack("<q", content[:8])
        found.append(content[8 : 8 + size])
    return found

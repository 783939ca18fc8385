"""Ranks made into a job: which items they saw, and what must be the same on all of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frameworks.distributed import pack, part, unpack, weight
from measurement.checkpoints import KEPT, Checkpoints
from measurement.job import JobError, Seen, _complete, common, rows_digest


@given(items=st.integers(1, 200), ranks=st.integers(1, 9))
def test_parts_are_disjoint_complete_and_count_every_item_alike(items: int, ranks: int) -> None:
    rows, values = np.arange(items), np.linspace(-1.0, 2.0, items)
    seen, means = [], []
    for rank in range(ranks):
        where, count = part(items, rank, ranks)
        seen += list(rows[where][:count])
        means.append(weight(items, count, ranks) * float(np.mean(values[where])))
    assert seen == list(rows)
    assert np.mean(means) == pytest.approx(np.mean(values), abs=1e-12)


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=5))
def test_what_ranks_tell_each_other_arrives(values: list[bytes]) -> None:
    length = max(map(len, values))
    assert unpack([pack(value, length) for value in values]) == values


@given(st.permutations(range(12)), st.integers(0, 12))
def test_the_digest_is_that_of_the_set_whatever_the_order_and_the_ranks(
    order: list[int], cut: int
) -> None:
    one, other = Seen(), Seen()
    one.add(np.array(order[:cut], np.int32))
    other.add(np.array(order[cut:], np.int32))
    assert (one.digest + other.digest) % 2**64 == rows_digest(np.arange(12))
    assert one.items + other.items == 12


def ranks_of(*parts: list[int]) -> list[dict[str, Any]]:
    found = []
    for rows in parts:
        seen = Seen()
        seen.add(np.array(rows, np.int32))
        found.append({"seen": [seen.as_json()]})
    return found


def test_an_epoch_with_an_item_twice_or_missing_is_refused() -> None:
    _complete(ranks_of([0, 3], [2, 1]), 4)
    for parts in ([0, 1], [1, 2]), ([0, 1], [2]), ([0, 0], [2, 3]), ([0, 1], [2, 4]):
        with pytest.raises(JobError, match="not each of the 4 once"):
            _complete(ranks_of(*parts), 4)


def test_the_first_difference_is_named_with_its_host() -> None:
    same = [{"data": "a", "host": "one"}, {"data": "a", "host": "two"}]
    assert common(same) is None
    said = common([same[0], {"data": "b", "host": "two"}])
    assert said and said.startswith("rank 1 on two has data 'b', rank 0 on one has 'a'")
    assert common([same[0], {"data": "a", "more": 1, "host": "two"}])


def test_a_checkpoint_is_whole_or_absent_and_the_last_ones_stay(tmp_path: Any) -> None:
    kept = Checkpoints(tmp_path / "checkpoints")
    assert kept.epochs() == []
    for epoch in range(1, 5):
        kept.save(epoch, {"w": np.full(3, epoch, np.float32)}, {"epoch_seconds": [0.5] * epoch})
    assert kept.epochs() == [3, 4] and len(kept.epochs()) == KEPT
    arrays, history = kept.read(3)
    assert arrays["w"].tolist() == [3.0] * 3 and history == {"epoch_seconds": [0.5] * 3}
    (tmp_path / "checkpoints" / "epoch-5.safetensors").write_bytes(b"half")  # killed while writing
    assert kept.epochs() == [3, 4]

"""Initial values and batches: drawn from named streams, the same for every framework."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.batches import epoch_rows
from models.parameters import draw

RECORDED_VALUES = [[0.19667235, 0.4325316], [-0.15159442, -0.45806235]]
RECORDED_ROWS = [[0, 4, 2, 5], [7, 9, 3, 1], [8, 6]]

seeds = st.integers(0, 2**63)
shapes = st.dictionaries(
    st.text("abc.", min_size=1, max_size=6),
    st.tuples(st.lists(st.integers(1, 5), max_size=3).map(tuple), st.integers(1, 900)),
    min_size=1,
    max_size=6,
)


@given(shapes, seeds)
def test_a_parameters_values_do_not_depend_on_the_others(asked, seed):
    together = draw(asked, seed)
    backwards = draw(dict(reversed(asked.items())), seed)
    for name, spec in asked.items():
        alone = draw({name: spec}, seed)[name]
        np.testing.assert_array_equal(together[name], alone)
        np.testing.assert_array_equal(backwards[name], alone)
    assert list(together) == list(asked)


@given(shapes, seeds)
def test_values_have_shape_type_and_bounds(asked, seed):
    for name, values in draw(asked, seed).items():
        shape, fan_in = asked[name]
        assert values.shape == shape and values.dtype == np.float32
        assert np.all(np.abs(values) <= np.float32(fan_in**-0.5))


def test_values_differ_by_name_and_seed_and_fill_their_range():
    spec = ((400, 25), 25)
    a = draw({"a": spec, "b": spec}, 0)
    b = draw({"a": spec, "b": spec}, 1)
    every = [a["a"], a["b"], b["a"], b["b"]]
    for i, one in enumerate(every):
        for other in every[:i]:
            assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.05
    assert abs(a["a"].mean()) < 0.01
    np.testing.assert_allclose(a["a"].std(), 0.2 / 3**0.5, rtol=0.03)  # uniform on +-0.2
    assert a["a"].min() < -0.199 and a["a"].max() > 0.199


def test_values_stay_the_same_from_release_to_release():
    """Recorded runs name a seed: the numbers behind it must not move."""
    drawn = draw({"hidden.0.linear.weight": ((2, 2), 4)}, 0)["hidden.0.linear.weight"]
    np.testing.assert_allclose(drawn, RECORDED_VALUES, rtol=1e-6)
    rows = epoch_rows(10, 4, 0, 1)
    assert [batch.tolist() for batch in rows] == RECORDED_ROWS


@given(st.integers(1, 500), st.integers(1, 600), seeds, st.integers(0, 1000))
def test_every_item_comes_once_an_epoch_and_only_the_last_batch_is_short(items, size, seed, epoch):
    batches = epoch_rows(items, size, seed, epoch)
    assert len(batches) == -(-items // size)
    assert sorted(np.concatenate(batches).tolist()) == list(range(items))
    assert all(len(batch) == size for batch in batches[:-1])
    assert len(batches[-1]) == (items - 1) % size + 1
    assert all(batch.dtype == np.int32 for batch in batches)
    again = epoch_rows(items, size, seed, epoch)
    assert all(np.array_equal(a, b) for a, b in zip(batches, again, strict=True))


@given(st.integers(1, 200), st.integers(1, 200), seeds)
def test_the_order_of_items_does_not_depend_on_the_batch_size(one, other, seed):
    a, b = (np.concatenate(epoch_rows(100, size, seed, 3)) for size in (one, other))
    np.testing.assert_array_equal(a, b)


def test_orders_differ_by_epoch_and_seed():
    orders = {tuple(epoch_rows(50, 50, s, e)[0].tolist()) for s in range(6) for e in range(6)}
    assert len(orders) == 36


def test_without_room_for_all_none_is_drawn(monkeypatch):
    """Threads that have begun would fill the memory that there is, while one has failed already."""
    monkeypatch.setattr(np.random, "default_rng", lambda seed: pytest.fail("drawn in vain"))
    with pytest.raises(MemoryError):
        draw({"bias": ((4,), 3), "weight": ((2**30, 2**25), 3)}, 0)

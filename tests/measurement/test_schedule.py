"""Arms from text, and the randomised order of a study."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from measurement.errors import InputError
from measurement.schedule import Condition, blocks, parse_arm, part

BASE = Condition("any", device="cpu", compile="off", threads=2)
arms = st.lists(st.text("abcdef", min_size=1), min_size=1, max_size=7, unique=True).map(tuple)
seeds = st.integers(0, 2**32 - 1)


@given(arms, st.integers(0, 12), seeds)
def test_each_arm_runs_once_in_every_block(names, pairs, seed):
    slots = blocks(names, pairs, seed)
    assert len(slots) == pairs * len(names)
    assert [slot.pair for slot in slots] == sorted(slot.pair for slot in slots)
    for pair in range(pairs):
        block = [slot for slot in slots if slot.pair == pair]
        assert Counter(slot.arm for slot in block) == Counter(names)
        assert [slot.order for slot in block] == list(range(len(names)))


@given(arms, st.integers(1, 6), st.integers(1, 6), seeds)
def test_a_schedule_is_seeded_and_grows_without_changing(names, pairs, more, seed):
    """A study that is given more pairs repeats none of those it has."""
    assert blocks(names, pairs, seed) == blocks(names, pairs, seed)
    assert blocks(names, pairs + more, seed)[: pairs * len(names)] == blocks(names, pairs, seed)


def test_orders_vary_between_blocks_and_seeds_and_are_fair():
    names = ("a", "b")
    first = Counter(slot.arm for slot in blocks(names, 400, 1) if slot.order == 0)
    assert 150 < first["a"] < 250  # binomial: 200 +- 10, five standard deviations
    five = tuple("abcde")
    orders = {tuple(s.arm for s in blocks(five, 1, seed)) for seed in range(50)}
    assert len(orders) > 25
    places = Counter((s.arm, s.order) for s in blocks(five, 500, 0))
    assert set(places) == {(arm, place) for arm in five for place in range(5)}
    assert 60 < min(places.values()) <= max(places.values()) < 145  # 100 +- 9


@pytest.mark.parametrize(
    ("text", "said"), [("all", range(10)), ("5", range(5, 6)), ("5-9", range(5, 10))]
)
def test_a_part_is_all_blocks_or_one_or_some_in_a_row(text, said):
    assert part(text, 10) == said


@given(arms, st.integers(1, 12), st.sets(st.integers(1, 11)), seeds)
def test_parts_that_cover_the_blocks_give_every_slot_once(names, pairs, cuts, seed):
    starts = [0, *sorted(cut for cut in cuts if cut < pairs), pairs]
    words = [f"{a}-{b - 1}" if b - a > 1 else f"{a}" for a, b in pairwise(starts)]
    slots = blocks(names, pairs, seed)
    taken = [[slot for slot in slots if slot.pair in part(text, pairs)] for text in words]
    assert [slot for some in taken for slot in some] == slots


@pytest.mark.parametrize(
    "text",
    [
        *("", "-", "5-", "-5", "9-5", "0-10", "10", "x", "1-2-3", " 1", "1_0", "+1", "ALL", "1.0"),
        "\uff11",  # a full-width 1
        "9" * 5000,
        "\x1b[31m",
    ],
)
def test_what_is_no_part_is_one_line_that_says_what_is_expected(text):
    with pytest.raises(InputError, match=r"expected all, or numbers from 0 to 9 as in 0-9$") as e:
        part(text, 10)
    assert str(e.value).isprintable() and len(str(e.value)) < 300


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("mlx", {}),
        ("mlx (again)", {}),
        ("mlx blas=mkl (again)", {"blas": "mkl"}),
        ("  mlx   blas=/a/b.so threads=1 ", {"blas": "/a/b.so", "threads": 1}),
        ("mlx device=gpu dtype=bfloat16 compile=on", {"device": "gpu", "dtype": "bfloat16"}),
        ("mlx blas=/opt/x=1/lib.so", {"blas": "/opt/x=1/lib.so"}),
        ("mlx version=0.31.2", {"version": "0.31.2"}),
        ("mlx slowdown_percent=5", {"slowdown_percent": 5.0}),
    ],
)
def test_an_arm_is_a_framework_and_settings(text, changes):
    condition, sizes = parse_arm(text, BASE)
    assert (condition.framework, sizes) == ("mlx", {})
    expected = {**asdict(BASE), "framework": "mlx", **changes}
    if "compile=on" in text:
        expected["compile"] = "on"
    assert asdict(condition) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ("(again)", "empty"),
        ("mlx pytorch", "'pytorch' is no setting"),
        ("mlx speed=9", "'speed=9' is no setting"),
        ("mlx framework=pytorch", "is no setting"),
        ("mlx blas=", "'blas=' is no setting"),
        ("mlx =mkl", "is no setting"),
        ("mlx threads=two", "threads must be a whole number, got 'two'"),
        ("mlx threads=1.5", "whole number"),
        ("mlx blas=mkl blas=openblas", "blas is given twice"),
        ("mlx slowdown_percent=-1", "expected 0 to 1000"),
        ("mlx slowdown_percent=nan", "expected 0 to 1000"),
        ("mlx slowdown_percent=five", "must be a number, got 'five'"),
        ("mlx batch_size=64", "'batch_size=64' is no setting"),
    ],
)
def test_a_bad_arm_is_one_line_that_says_what_is_wrong(text, said):
    with pytest.raises(InputError) as raised:
        parse_arm(text, BASE)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_sizes_of_the_workload_are_told_apart_from_the_condition():
    known = {"batch_size": int, "learning_rate": float}
    condition, sizes = parse_arm("mlx threads=1 batch_size=64 learning_rate=0.5", BASE, known)
    assert condition.threads == 1
    assert sizes == {"batch_size": 64, "learning_rate": 0.5}
    with pytest.raises(InputError, match="batch_size must be a whole number, got '6.5'"):
        parse_arm("mlx batch_size=6.5", BASE, known)

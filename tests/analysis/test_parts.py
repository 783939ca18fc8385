"""Blocks of one study, run in parts on GPUs and processors of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from fleet import MLX, measured

from analysis import comparison
from analysis.findings import Comparison
from measurement.errors import InputError
from tracking.names import BOOT
from tracking.read import Row, Study

PLACES = tuple(
    f"CUDA_VISIBLE_DEVICES={gpu}, NCCL_VERSION=2.28, processors={cores} of 8"
    for gpu, cores in ((0, "0,1,2,3"), (1, "4,5,6,7"))
)


def in_parts(
    places: Sequence[str] = PLACES, at_once: bool = True, other: str = ""
) -> tuple[Study, list[Row]]:
    """Ten blocks, the last five in another part, at the same time or later. other: settings of one
    trial of the first part."""
    study, rows = measured("split", "m1", {MLX: 0.8})
    made = []
    for row in rows:
        assert row.pair is not None
        part = row.pair // 5
        start = row.start_seconds - part * (500 - 3 if at_once else 0)
        settings = other if other and (row.pair, row.arm) == (0, MLX) else places[part]
        made.append(
            replace(
                row,
                parent=("parent-split", "other")[part],
                start_seconds=start,
                end_seconds=start + 8,
                cell={**row.cell, "settings": settings},
                tags={**row.tags, "settings": settings},
            )
        )
    return replace(study, parts=("other",)), made


def headline(study: Study, rows: list[Row]) -> tuple[Comparison, set[str]]:
    found = comparison.analyse(study, rows, np.random.default_rng(0)).comparisons[0]
    return found, {flag.name for flag in found.flags}


def test_parts_at_once_on_gpus_of_their_own_give_a_verdict_that_says_so() -> None:
    found, flags = headline(*in_parts())
    assert "PARTS-AT-ONCE" in flags and not {"OVERLAP", "NOT-INTERLEAVED", "LATE-PAIR"} & flags
    assert found.outcome == "better"
    study, rows = in_parts((PLACES[0], PLACES[0]))
    rows = [replace(row, tags={**row.tags, BOOT: row.parent}) for row in rows]  # of two machines
    assert not {"PARTS-AT-ONCE", "OVERLAP"} & headline(study, rows)[1]
    found, flags = headline(*in_parts(at_once=False))
    assert not {"PARTS-AT-ONCE", "OVERLAP"} & flags


@pytest.mark.parametrize(
    "places",
    [
        (PLACES[0], PLACES[0]),
        (PLACES[0], PLACES[1].replace("DEVICES=1", "DEVICES=0")),
        (PLACES[0], PLACES[1].replace("DEVICES=1", "DEVICES=00")),
        (PLACES[0], PLACES[1].replace("4,5,6,7", "3,4,5,6")),
        ("CUDA_VISIBLE_DEVICES=0", "CUDA_VISIBLE_DEVICES=0"),
        ("default", "default"),
    ],
    ids=["both", "one GPU", "written otherwise", "one processor", "no processors", "nothing said"],
)
def test_parts_at_once_that_share_one_give_none(places: tuple[str, str]) -> None:
    found, flags = headline(*in_parts(places))
    assert "OVERLAP" in flags and found.outcome == "undecided"


@pytest.mark.parametrize(
    "places",
    [
        (PLACES[0], PLACES[1].replace("2.28", "2.29")),
        (PLACES[0], PLACES[1].replace("4,5,6,7", "4,5,6")),
        (PLACES[0], PLACES[1].replace("DEVICES=1", "DEVICES=1,2")),
        (PLACES[0], PLACES[1].replace("DEVICES=1", "DEVICES=GPU-46db77c8")),
        tuple(place.replace("DEVICES=", "DEVICES=#00ff00f") for place in PLACES),
    ],
    ids=["another setting", "fewer processors", "more GPUs", "another name of one", "hashes"],
)
def test_nothing_but_the_place_may_differ_between_parts(places: tuple[str, str]) -> None:
    with pytest.raises(InputError, match="mixes conditions: settings is"):
        headline(*in_parts(places))


def test_a_part_has_one_place() -> None:
    with pytest.raises(InputError, match="used other GPUs or processors in run"):
        headline(*in_parts(other=PLACES[1]))


def test_a_study_in_one_part_has_one_place_too() -> None:
    study, rows = in_parts()
    rows = [replace(row, parent="parent-split") for row in rows]
    with pytest.raises(InputError, match="mixes conditions: settings is"):
        headline(replace(study, parts=()), rows)

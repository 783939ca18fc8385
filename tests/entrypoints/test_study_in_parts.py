"""Blocks of one study, measured in parts into stores of their own, are one study where `publish` brings
them together."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from analysis.table import build
from tests.entrypoints.conftest import use_store
from tracking import names, read
from tracking.read import Row, Study

sys.path.append(str(Path(__file__).resolve().parents[1] / "analysis"))
from fleet import MLX, TORCH, measured  # noqa: E402
from stored import store as keep  # noqa: E402

Run = Callable[..., tuple[int, str, str]]

WHOLE = measured("split", "m0", {MLX: 0.8}, 6, arms=(MLX, TORCH))
FIRST, LAST = {names.BLOCKS: "0-2"}, {names.BLOCKS: "3-5"}


def some(*blocks: int, **changes: Any) -> list[tuple[Study, list[Row]]]:
    """The study with these blocks of its trials. changes: of its design."""
    study, rows = WHOLE
    return [(replace(study, **changes), [row for row in rows if row.pair in blocks])]


def test_parts_together_say_what_the_study_says_that_ran_whole(
    empty_store: Path, tmp_path: Path, run: Run, undrawn: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def use(name: str) -> str:
        (tmp_path / name).mkdir()
        return f"sqlite:///{use_store(empty_store, tmp_path / name, monkeypatch)}"

    def compared() -> list[dict[str, str]]:
        code, _, err = run("analyze", "--study", "split", "--output", "report")
        assert code == 0, err
        with Path("report/comparisons.csv").open() as file:
            return [*csv.DictReader(file)]

    use("whole")
    keep([WHOLE])
    whole, sources = compared(), []
    for made, tags in ((some(0, 1, 2), FIRST), (some(3, 4, 5), LAST)):
        sources.append(use(tags[names.BLOCKS]))
        keep(made, **tags)
    use("server")
    for uri in reversed(sources):  # in whatever order they come
        code, out, err = run("publish", "--source", uri)
        assert code == 0 and "7 new" in out, err
    (study,) = read.studies()
    assert study.blocks == (range(3), range(3, 6)) and len(study.parts) == 1
    assert compared() == whole
    assert {row["pairs"] for row in whole if row["metric"] == study.metric} == {"6"}
    flags = " ".join(row["flags"] for row in whole)
    assert "INCOMPLETE" not in flags and "REPEATED" not in flags


@pytest.mark.parametrize(
    ("first", "last", "changes"),
    [
        (FIRST, {names.BLOCKS: "2-5"}, {}),
        (FIRST, {}, {}),
        ({}, LAST, {}),
        (FIRST, LAST, {"margin": 0.1}),
        (FIRST, LAST, {"design": {"workload": "mnist", "seed": 1}}),
        (FIRST, LAST, {"name": "other"}),
        (FIRST, LAST, {"machine": "m1"}),
        (FIRST, LAST, None),
    ],
    ids=["overlap", "no tag", "none at first", "margin", "seed", "name", "machine", "deleted"],
)
def test_what_is_no_other_part_of_a_study_is_not_joined(
    store: Path, first: dict[str, str], last: dict[str, str], changes: dict[str, Any] | None
) -> None:
    keep(some(0), **first)
    (run_id,) = keep(some(3, **(changes or {})), **last)
    if changes is None:
        MlflowClient().delete_run(run_id)
    study = read.study("split", "m0")
    assert (study.blocks, study.parts) == ((range(3),) if first else (), ())
    used = build(study, read.trials_of(study)).arms
    assert [by_pair.keys() for by_pair in used.values()] == [{0}, {0}]


@pytest.mark.parametrize(
    "texts",
    [
        ("", "3-", "5-3", "3-6", "-1", "all of them", "3-5,1", "null"),
        ("9" * 5000,),
        ("\n3-5", "\x1b[1m"),
    ],
    ids=["words", "a long number", "control characters"],
)
def test_a_part_that_says_nonsense_is_left_out_and_stops_nobody(
    store: Path, texts: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    keep(some(0), **FIRST)
    foreign = [keep(some(3), **{names.BLOCKS: text})[0] for text in texts]
    (study,) = read.studies()
    assert (study.blocks, study.parts) == ((range(3),), ())
    assert len(caplog.messages) == len(foreign)
    for run_id, line in zip(sorted(foreign), sorted(caplog.messages), strict=True):
        assert f"run {run_id} is left out, it is no study: blocks=" in line and line.isprintable()

"""A study that goes on after the machine was started anew, or on another one of its kind: no block is
half of one and half of the other."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from entrypoints import opening
from entrypoints.deliver import Courier, send
from measurement import identity
from measurement.errors import InputError
from tests.entrypoints.conftest import use_store
from tests.entrypoints.test_agreement import A, plan_of
from tracking import names, outbox, read
from tracking.write import Point, Record

Run = Callable[..., tuple[int, str, str]]

PLAN = plan_of(A, pairs=2)
ARMS = PLAN["arms"]
AWAY = "http://127.0.0.1:9"


def start(name: str, patch: pytest.MonkeyPatch) -> None:
    """The machine starts, or another one takes its place."""
    patch.setattr(identity, "_boot", lambda: name)


def measured(slots: list[tuple[int, str]], boot: str | None = None) -> None:
    """Opens the study and fills these slots, as trials do. boot: in place of that of now."""
    courier = Courier()
    with opening.open_study("stretch", PLAN, courier) as opened:
        for pair, arm in slots:
            folder = outbox.RECORDS.resolve() / f"{pair}-{arm}-{identity.boot()}".replace(" ", "_")
            folder.mkdir()
            tags = {"study": "stretch", "machine": A, "arm": arm, "pair": str(pair),
                    "framework": arm.split()[0], "workload": "mnist", "seed": "0",
                    names.BOOT: identity.boot() if boot is None else boot}  # fmt: skip
            blank = Record(f"{arm} {pair}", "", {}, tags, [], {})
            kept = outbox.begin(folder, blank, opened.kept.id)
            point = Point("train/total_seconds", 1.5, 0, 0.0)
            whole = Record(
                blank.name, "", {}, tags, [point], {"name": "d", "sha256": "a", "source": "s"}
            )
            courier.send(outbox.close(kept, whole), opened.run_id)


def done() -> set[tuple[int, str]]:
    with opening.open_study("stretch", PLAN, Courier()) as opened:
        return opened.done


def rows() -> dict[tuple[int | None, str, str], dict[str, str]]:
    """(pair, arm, status) -> tags, of everything that ever began."""
    found = read.trials_of(read.study("stretch"))
    return {(row.pair, row.arm, row.status): row.tags for row in found}


FIRST = [(0, arm) for arm in ARMS] + [(1, ARMS[0])]


def test_a_block_that_a_restart_cut_in_two_is_measured_again_whole(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start("one", monkeypatch)
    measured(FIRST)
    assert done() == set(FIRST)  # the same start goes on inside the block
    start("two", monkeypatch)
    assert done() == {(0, arm) for arm in ARMS}
    tags = rows()[1, ARMS[0], "KILLED"]
    assert "started anew" in tags[names.SUPERSEDED] and tags[names.DELIVERED] == "KILLED"
    (aside,) = (o for o in outbox.of_study("stretch", A) if names.SUPERSEDED in o.record.tags)
    assert aside.points()[0].value == 1.5  # all that it measured is still there
    assert outbox.delivered(aside.folder, "KILLED")
    measured([(1, arm) for arm in ARMS])
    assert done() == {(pair, arm) for pair in (0, 1) for arm in ARMS}
    start("three", monkeypatch)  # a whole block is left alone, whenever it ran
    assert done() == {(pair, arm) for pair in (0, 1) for arm in ARMS}
    assert len(rows()) == 2 * len(ARMS) + 1


def test_delivering_again_does_not_bring_it_back(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start("one", monkeypatch)
    measured(FIRST)
    start("two", monkeypatch)
    done()
    for kept in outbox.of_study("stretch", A):
        if kept.record.kind == "trial":
            send(kept, again=True)
    assert (1, ARMS[0], "KILLED") in rows() and len(rows()) == len(FIRST)


def test_it_is_found_where_only_the_store_was_brought_along(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start("one", monkeypatch)
    measured(FIRST)
    shutil.rmtree(outbox.RECORDS)
    start("two", monkeypatch)
    assert done() == {(0, arm) for arm in ARMS}
    run_id = next(r.run_id for r in read.trials_of(read.study("stretch")) if r.pair == 1)
    assert MlflowClient().get_run(run_id).info.status == "KILLED"


def test_with_the_store_away_the_local_records_say_it(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"sqlite:///{store}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", AWAY)
    start("one", monkeypatch)
    measured(FIRST)
    start("two", monkeypatch)
    assert done() == {(0, arm) for arm in ARMS}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    assert done() == {(0, arm) for arm in ARMS}
    assert (1, ARMS[0], "KILLED") in rows() and len(rows()) == len(FIRST)


def test_trials_that_say_no_start_count_as_before(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(FIRST, boot="")
    start("two", monkeypatch)
    assert done() == set(FIRST)


def test_the_start_of_a_machine_is_told_by_a_hash_alone() -> None:
    assert identity.boot() == identity.boot() != identity.process()
    assert len(identity.boot()) == 16 and identity._boot() not in identity.boot()


@pytest.mark.parametrize(("only", "tag"), [("0-1", "0-1"), ("1", "1"), ("all", None)])
def test_a_study_of_which_a_part_is_run_says_so(store: Path, only: str, tag: str | None) -> None:
    with opening.open_study("stretch", PLAN, Courier(), only) as opened:
        assert opened.kept.record.tags.get(names.BLOCKS) == tag
        assert MlflowClient().get_run(opened.run_id).data.tags.get(names.BLOCKS) == tag


def test_a_part_goes_on_with_its_blocks_or_all_of_them(store: Path) -> None:
    with opening.open_study("stretch", PLAN, Courier(), "0") as opened:
        first = opened.run_id
    with (
        pytest.raises(InputError, match="has blocks 0 here, not 1; expected the same, or all"),
        opening.open_study("stretch", PLAN, Courier(), "1"),
    ):
        pass
    with opening.open_study("stretch", PLAN, Courier(), "0") as opened:
        assert opened.run_id == first
    with opening.open_study("stretch", PLAN, Courier()) as opened:
        assert opened.run_id == first
    assert MlflowClient().get_run(first).data.tags[names.BLOCKS] == "all"


def test_a_part_of_another_clone_has_no_place_in_the_same_store(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opening.open_study("stretch", PLAN, Courier(), "0") as opened:
        first = opened.run_id
    (tmp_path / "clone").mkdir()
    monkeypatch.chdir(tmp_path / "clone")
    for only in ("1", "all"):
        with (
            pytest.raises(InputError, match="a part in this store already; expected a store of"),
            opening.open_study("stretch", PLAN, Courier(), only),
        ):
            pass
    with opening.open_study("stretch", PLAN, Courier(), "0") as opened:  # goes on
        assert opened.run_id == first
    assert MlflowClient().get_run(first).data.tags[names.BLOCKS] == "0"


def test_a_part_goes_on_in_its_own_run_where_an_older_part_was_published(
    empty_store: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores, runs = [], []
    for only in ("0", "1"):
        (tmp_path / only).mkdir()
        stores.append(use_store(empty_store, tmp_path / only, monkeypatch))
        with opening.open_study("stretch", PLAN, Courier(), only) as opened:
            runs.append(opened.run_id)
    code, _, err = run("publish", "--source", f"sqlite:///{stores[0]}")
    assert code == 0, err
    for _ in range(2):
        with opening.open_study("stretch", PLAN, Courier(), "1") as opened:
            assert opened.run_id == runs[1]
    (joined,) = read.studies()
    assert joined.run_id != runs[1] and joined.parts == (runs[1],)

"""Trials that are not what they say, or not all of them: each by the name of what caught it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import signed

from analysis import comparison
from analysis.comparison import Around
from analysis.findings import Comparison
from analysis.table import build
from entrypoints.faults import recorded
from entrypoints.faults.fault import Fault
from entrypoints.faults.of_studies import OF_STUDIES
from measurement.errors import InputError
from tracking.names import BOOT, SUPERSEDED
from tracking.read import Row, Study

PRIMARY = "train/total_seconds"
FIRST, SECOND = signed.ARMS[:2]


@cache
def sound() -> tuple[Study, tuple[Row, ...], Around]:
    plan = signed.study()
    found, samples = signed.rows(plan)
    return plan, tuple(found), Around(samples)


def headline(plan: Study, found: object, around: Around | None = None) -> Comparison:
    findings = comparison.analyse(plan, found, np.random.default_rng(0), around)  # type: ignore[arg-type]
    return next(c for c in findings.comparisons if (c.role, c.metric) == ("headline", PRIMARY))


def names(c: Comparison) -> set[str]:
    return {flag.name for flag in c.flags}


def test_a_sound_study_is_believed() -> None:
    c = headline(*sound())
    assert c.outcome == "better" and names(c) == {"COMPILE-DIFFERS"}
    assert all(row.altered == () for row in sound()[1])


@pytest.mark.parametrize("fault", OF_STUDIES.values(), ids=lambda fault: fault.name)
def test_every_fault_is_caught_by_name(fault: Fault) -> None:
    plan, found, around = sound()
    try:
        if fault.around:
            c = headline(*fault.around(plan, found, around.samples))
        else:
            assert fault.study is not None
            c = headline(*fault.study(plan, found))
    except InputError as error:
        assert any(word in str(error) for word in fault.caught_by)
        return
    caught = names(c) | {(c.refused or "").partition(":")[0]}
    assert caught & set(fault.caught_by), (c.verdict, caught)
    if fault.name not in ("dirty_tree", "cold_mean"):
        assert c.outcome in ("none", "undecided"), c.verdict


@pytest.mark.parametrize(
    ("other", "flagged"),
    [({}, False), ({"data_sha256": "seen"}, True), ({"data_source": "a file"}, True)],
    ids=["sound", "other data in a block", "a trial whose data are not drawn"],
)
def test_data_drawn_from_a_blocks_seed_are_the_same_in_the_block(
    other: dict[str, str], flagged: bool
) -> None:
    """As device_switch's matrices: every block has its own."""
    plan, found, _ = sound()

    def drawn(row: Row) -> Row:
        tags = {"data_sha256": str(row.seed), "data_source": f"random numbers, seed {row.seed}"}
        changed = other if row.arm == SECOND and row.pair == 3 else {}
        return replace(row, tags={**row.tags, **tags, **changed})

    c = headline(plan, [drawn(row) for row in found])
    assert ("MIXED-DATA" in names(c)) == flagged, names(c)


def test_one_interruption_is_told_and_forbids_nothing() -> None:
    plan, found, _ = sound()
    cut = replace(found[4], status="KILLED", run_id="cut", altered=None, end_seconds=None)
    c = headline(plan, [*found, cut])
    assert c.outcome == "better" and names(c) <= {"COMPILE-DIFFERS", "RERUN"}


def test_the_later_of_two_that_finished_may_be_deleted_the_first_may_not() -> None:
    plan, found, _ = sound()
    place = next(i for i, row in enumerate(found) if row.arm == FIRST)
    extra = {"process": "p", "started": "9000.000", "ended": "9001.000", "samples_sha256": "5"}
    twice = replace(recorded.again(found[place], extra), run_id="twice")
    first_gone = [replace(found[place], deleted=True), *found[:place], *found[place + 1 :], twice]
    assert "DROPPED" not in names(headline(plan, [*found, replace(twice, deleted=True)]))
    assert "DROPPED" in names(headline(plan, first_gone))


def test_a_trial_that_is_gone_for_good_leaves_a_gap() -> None:
    plan, found, _ = sound()
    c = headline(plan, [row for row in found if row.arm != signed.ARMS[2] or row.pair != 3])
    assert "DROPPED" in names(c) and c.outcome == "undecided"
    said = next(flag.sentence for flag in c.flags if flag.name == "DROPPED")
    assert said.startswith("1 trials that ran in this study are no longer in the store")


def test_older_trials_without_a_digest_stay_readable() -> None:
    plan, found, _ = sound()
    new = ("process", "code_sha256", "started", "ended", "samples_sha256", "design_sha256")
    old = [
        recorded.edited(row, dict.fromkeys((*new, "recorded", "record_sha256", "previous"), ""))
        for row in found
    ]
    findings = comparison.analyse(plan, old, np.random.default_rng(0))
    assert any("UNSIGNED" in note for note in findings.notes)
    assert headline(plan, old).outcome == "better"


def test_studies_that_agree_answer_together() -> None:
    plan, found, around = sound()
    other = replace(plan, name="before", run_id="before")
    moved = [replace(r, study="before", run_id=f"before-{r.run_id}", tags={}) for r in found]
    alike = [recorded.again(r, {"code_sha256": ""}) for r in found]
    c = headline(plan, alike, replace(around, others=[(other, moved)]))
    assert "REPEATED" in names(c) and c.outcome == "better"
    assert "before 0.79" in next(flag.sentence for flag in c.flags if flag.name == "REPEATED")


def test_a_cold_start_that_makes_the_difference_forbids_a_verdict() -> None:
    plan, found, around = sound()
    even = {FIRST: 1.0, SECOND: 1.0}
    rng = np.random.default_rng(1)
    rows, samples = [], {}
    for row in found:
        epochs = np.exp(rng.normal(0, 0.02, 5)) * even.get(row.arm, 1.0)
        if row.arm == SECOND:
            epochs[0] *= 5
        samples[row.run_id] = {"epoch_seconds": epochs}
        total = float(epochs.sum())
        items = row.receipt["items"]  # type: ignore[index]
        values = {PRIMARY: total, "train/items_per_second": items / total}
        rows.append(recorded.again(row, {"samples_sha256": ""}, values))
    samples = {run: {**around.samples[run], **one} for run, one in samples.items()}
    c = headline(plan, rows, Around(samples))
    assert {"COLD-START", "COLD-RATIO"} <= names(c) and c.outcome == "undecided"
    said = next(flag.sentence for flag in c.flags if flag.name == "COLD-START")
    assert said.startswith(f"The first of {SECOND}'s samples takes 5")


@pytest.mark.parametrize("other_start", [True, False])
def test_a_trial_set_aside_for_a_restart_is_told_and_the_word_alone_excuses_nothing(
    other_start: bool,
) -> None:
    plan, found, _ = sound()
    wanted = [row for row in found if row.arm == FIRST][:4]
    tags = {SUPERSEDED: "x", BOOT: "another" if other_start else ""}
    aside = [
        replace(r, status="KILLED", run_id=f"a{r.pair}", altered=None, tags={**r.tags, **tags})
        for r in wanted
    ]
    c = headline(plan, [*found, *[replace(r, end_seconds=None) for r in aside]])
    said = build(plan, [*found, *aside]).left_out
    assert said == (
        "4 whole trials were set aside with the block that a restart of the machine cut in two.",
    )
    if other_start:
        assert c.outcome == "better" and names(c) == {"COMPILE-DIFFERS", "CUT-BLOCK"}
        (flag,) = (flag for flag in c.flags if flag.name == "CUT-BLOCK")
        assert flag.sentence.startswith(f"4 trials ({FIRST} 4) were whole")
    else:
        assert c.outcome in ("none", "undecided") and {"RERUN", "SELECTED"} <= names(c)

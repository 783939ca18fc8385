"""Over versions of a framework: what is compared, what is refused by key, what may be said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fleet import AGAIN, MLX, PRIMARY, TORCH, measured

from analysis.versions import Asked, Change, History, history
from measurement.errors import InputError
from tracking.names import CELL
from tracking.read import Pairing

OLD, NEW = {MLX: {"version_framework": "0.31.2"}}, {MLX: {"version_framework": "0.32.4"}}
KEYS = [key for key in CELL if key not in ("version_framework", "framework")]


def run(made, **asked) -> History:
    return history("mnist", made, Asked(**{"framework": "mlx", **asked}))


def only(found: History) -> Change:
    assert len(found.changes) == 1
    return found.changes[0]


def names(c: Change) -> list[str]:
    return [flag.name for flag in c.flags]


def merged(*cells):
    found = {}
    for cell in cells:
        for arm, keys in cell.items():
            found[arm] = {**found.get(arm, {}), **keys}
    return found


def two(change=1.0, machine="m1", pairs=20, new=None, old=None, **more):
    """Two sessions, a year apart and of different speed, with PyTorch as control in both."""
    return [
        measured(f"old-{machine}", machine, {MLX: 0.8}, pairs, 0, cells=merged(OLD, old or {}), **more),
        measured(
            f"new-{machine}", machine, {MLX: 0.8 * change}, pairs, 365, session_speed=1.4,
            cells=merged(NEW, new or {}), **more,
        ),
    ]  # fmt: skip


def one_study(change=1.0, pairs=20, **more):
    arms = (f"{MLX} version=0.32.4", f"{MLX} version=0.31.2", TORCH, AGAIN)
    return measured(
        "both",
        "m1",
        {arms[0]: 0.8 * change, arms[1]: 0.8},
        pairs,
        arms=arms,
        cells={arms[0]: NEW[MLX], arms[1]: OLD[MLX]},
        comparisons=(Pairing(arms[0], arms[1], "version"), Pairing(AGAIN, TORCH, "resolution")),
        **more,
    )


def test_a_regression_of_ten_percent_is_found_against_the_control():
    c = only(run(two(1.1)))
    assert (c.old, c.new, c.outcome) == ("0.31.2", "0.32.4", "regression")
    assert c.ratio.low < 1.1 < c.ratio.high
    assert c.verdict.startswith("regression: mlx 0.32.4 is slower than mlx 0.31.2")
    assert "(lower is better)" in c.verdict
    assert "two sessions, pytorch 2.13.0 as the one control" in c.verdict
    assert "TWO-SESSIONS" in names(c)
    assert "NOT-INTERLEAVED" not in names(c)
    assert not [name for name in names(c) if name.endswith("-DIFFERS")]  # that is the control's
    assert c.studies == ("old-m1", "new-m1")


def test_an_improvement_is_one():
    assert only(run(two(0.9))).outcome == "improvement"
    assert only(run(two(0.9), metric="train/items_per_second")).outcome == "improvement"
    assert only(run(two(1.1), metric="train/items_per_second")).outcome == "regression"


def test_no_change_is_not_accused_although_the_machine_became_slower():
    c = only(run(two(1.0)))
    assert c.outcome == "same"
    assert "the same within the margin of 5 %" in c.verdict
    assert only(run(two(1.0, pairs=6))).outcome in ("undecided", "same")


def test_unchanged_versions_are_rarely_accused():
    rng, accused = np.random.default_rng(0), 0
    for seed in rng.integers(0, 10**6, 15):
        accused += only(run(two(1.0, pairs=8, seed=int(seed)))).outcome == "regression"
    assert accused <= 2  # of a rate of at most 2.5 %: above 2 in 0.5 % of such tests


def test_both_versions_in_one_study_are_compared_at_full_strength():
    c = only(run([one_study(1.1)]))
    assert c.measured.evidence == "interleaved"
    assert c.outcome == "regression"
    assert "20 interleaved pairs of one study" in c.verdict
    assert "TWO-SESSIONS" not in names(c)
    assert only(run([one_study(1.0, seed=3)])).outcome == "same"


def test_one_study_is_better_evidence_than_two_sessions():
    c = only(run([*two(1.3), one_study(1.0, seed=3)]))
    assert (c.measured.evidence, c.studies) == ("interleaved", ("both",))


def test_without_a_common_control_there_is_a_ratio_and_no_verdict():
    made = two(1.5, new={"*": {}, TORCH: {"version_framework": "2.14.0"},
                         AGAIN: {"version_framework": "2.14.0"}})  # fmt: skip
    c = only(run(made))
    assert (c.measured.evidence, c.outcome, c.p) == ("unpaired", "none", None)
    assert "NOT-INTERLEAVED" in names(c)
    assert c.verdict.startswith("no verdict (NOT-INTERLEAVED)")
    assert c.ratio.estimate == pytest.approx(1.5 * 1.4, rel=0.1)  # the machine's part is in it


@pytest.mark.parametrize("key", KEYS)
def test_a_key_other_than_the_version_is_named_and_refused(key):
    with pytest.raises(InputError) as error:
        run(two(1.1, new={MLX: {key: "9"}}))
    text = str(error.value)
    assert f"0.31.2 and 0.32.4 are not compared: {key} is '" in text
    assert "in old-m1 and '9' in new-m1 (mlx blas=mkl)" in text
    assert "\n" not in text


@pytest.mark.parametrize("key", [*KEYS, "version_framework"])
def test_a_control_that_changed_is_no_control(key):
    changed = {arm: {key: "9"} for arm in (TORCH, AGAIN)}
    assert only(run(two(1.1, new=changed))).measured.evidence == "unpaired"


def test_one_machine_that_cannot_is_named_beside_one_that_can():
    made = [*two(1.1), *two(1.1, "m2", new={MLX: {"threads": "8"}})]
    found = run(made)
    assert only(found).machine == "m1"
    assert found.refused[0].startswith("m2: 0.31.2 and 0.32.4 are not compared: threads is '2'")
    with pytest.raises(InputError, match="threads is '2'"):
        run(made, machine="m2")


def test_three_versions_give_two_steps_and_one_family():
    made = [
        *two(1.1),
        measured("mid", "m1", {MLX: 0.8}, 20, 100, cells={MLX: {"version_framework": "0.32.0"}}),
    ]
    found = run(made)
    assert [(c.old, c.new) for c in found.changes] == [("0.32.0", "0.32.4"), ("0.31.2", "0.32.0")]
    assert [c.family for c in found.changes] == [2, 2]
    assert [c.outcome for c in found.changes] == ["regression", "same"]
    assert found.changes[0].p >= found.changes[0].measured.p
    [track] = found.tracks
    assert [level.version for level in track.levels] == ["0.31.2", "0.32.0", "0.32.4"]
    c = only(run(made, old="0.31.2", new="0.32.4"))
    assert (c.old, c.new, c.family) == ("0.31.2", "0.32.4", 1)


def test_versions_are_ordered_as_versions():
    made = [
        measured(f"v{v}", "m1", pairs=6, day=day, cells={MLX: {"version_framework": v}})
        for day, v in enumerate(["0.10.0", "0.9.1", "0.9.1rc1"])
    ]
    [track] = run(made).tracks
    assert [level.version for level in track.levels] == ["0.9.1rc1", "0.9.1", "0.10.0"]


def test_conditions_and_machines_have_tracks_of_their_own():
    made = [*two(1.1), *two(1.0, "m2"), *two(1.0, "m3", new={"*": {"dtype": "bfloat16"}},
                                             old={"*": {"dtype": "bfloat16"}})]  # fmt: skip
    found = run(made)
    assert [t.machine for t in found.tracks] == ["m3", "m2", "m1"] or len(found.tracks) == 3
    assert {c.family for c in found.changes} == {3}
    assert only(run(made, machine="m1")).outcome == "regression"


def test_the_newest_complete_study_of_a_version_speaks():
    study, rows = measured("newer", "m1", {MLX: 8.0}, 20, 400, cells=NEW)
    short = (study, [r for r in rows if (r.pair or 0) < 9])
    c = only(run([*two(1.0), short]))
    assert c.studies == ("old-m1", "new-m1")
    whole = only(run([*two(1.0), (study, rows)]))
    assert whole.studies == ("old-m1", "newer")


def test_an_incomplete_session_allows_no_verdict():
    old, (study, rows) = two(1.3)
    c = only(run([old, (study, [r for r in rows if (r.pair or 0) < 9])]))
    assert c.outcome == "none"
    assert "INCOMPLETE" in c.verdict


def test_a_session_in_which_the_control_differs_from_itself_allows_none():
    old, _ = two(1.0)
    new = measured("new-m1", "m1", {MLX: 0.9, AGAIN: 0.8}, 20, 365, cells=NEW)
    c = only(run([old, new]))
    assert c.outcome == "none"
    assert "A/A" in c.verdict


def test_unequal_work_is_refused():
    old, (study, rows) = two(1.1)
    other = [
        replace(r, parity={**r.parity, "parameters": 999}) for r in rows
    ]  # both arms of the new session agree with each other, not with the old one
    c = only(run([old, (study, other)]))
    assert c.ratio is None
    assert "not equal work: the evidence differs in parameters" in c.verdict


def test_a_system_that_changed_is_said():
    old, (study, rows) = two(1.1)
    later = [replace(r, facts={**r.facts, "machine_os": "Linux 7.0"}) for r in rows]
    c = only(run([old, (study, later)]))
    assert "SYSTEM-CHANGED" in names(c)


def test_five_pairs_give_a_ratio_and_no_verdict():
    c = only(run(two(1.3, pairs=5)))
    assert (c.outcome, c.p, c.ratio.low) == ("none", None, None)


def test_a_metric_that_was_not_measured_is_refused_with_its_reason():
    c = only(run(two(1.1), metric="energy/joules"))
    assert c.verdict == "no verdict: not measured: no meter on this machine"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"framework": "tensorflow"}, "a change needs two versions of tensorflow .* are: none"),
        ({"framework": "pytorch"}, "a change needs two versions of pytorch .* are: 2.13.0"),
        ({"old": "0.1"}, "no study of mnist with mlx 0.1; there are: 0.31.2, 0.32.4"),
        ({"old": "0.31.2"}, "expected two versions or neither"),
        ({"old": "0.31.2", "new": "0.31.2"}, "expected two versions or neither"),
        ({"machine": "m9"}, "no trial of mlx from the machine 'm9'; there are: m1"),
        ({"metric": "speed"}, "'speed' is no metric with a better direction"),
    ],
)
def test_mistakes_are_one_line(asked, said):
    with pytest.raises(InputError, match=said):
        run(two(1.1), **asked)


def test_a_version_that_is_none_is_refused():
    with pytest.raises(InputError, match="'nightly' is no version"):
        run(two(1.0, new={MLX: {"version_framework": "nightly"}}))


def test_a_study_that_cannot_be_read_is_named():
    study, rows = measured("mixed", "m1", cells=NEW)
    rows[3] = replace(rows[3], machine="m8")
    found = run([*two(1.1), (study, rows)])
    assert "study mixed mixes the machines" in found.left_out[0]
    assert found.metric == PRIMARY

"""What a run recorded stays what is read: edits are named, additions are nobody's business."""

from __future__ import annotations

import math

import pytest

from tracking import digest
from tracking.write import Point

TAGS = {"arm": "mlx", "pair": "3", "flags": "", "receipt": '{"items": 4}'}
POINTS = [
    Point("train/loss", 0.5, 0, 10.0),
    Point("train/loss", 0.25, 1, 11.0),
    Point("train/total_seconds", 4.000000000000001, 0, 11.0),
    Point("eval/accuracy", math.nan, 0, 11.0),
    Point("eval/perplexity", math.inf, 0, 11.0),
    Point("system/cpu", 3.0, 7, 11.0),
]
METRICS = {
    "train/loss": 0.25,
    "train/total_seconds": 4.000000000000001,
    "eval/accuracy": math.nan,
    "eval/perplexity": 1.7976931348623157e308,  # as a database holds it
}


def signed(**changes: str) -> dict[str, str]:
    tags = {**TAGS, **digest.sign(TAGS, POINTS), "note": "somebody's", **changes}
    return {key: value for key, value in tags.items() if value}  # a store keeps no empty tag


def test_what_was_recorded_is_as_it_was() -> None:
    assert digest.altered(signed(), METRICS | {"system/cpu": 3.0, "mine": 1.0}) == ()
    assert digest.last_values(POINTS)["train/loss"] == 0.25


@pytest.mark.parametrize(
    ("tags", "metrics", "named"),
    [
        ({"pair": "4"}, {}, ("pair",)),
        ({"flags": "LOAD"}, {}, ("flags",)),
        ({"receipt": ""}, {}, ("receipt",)),
        ({}, {"train/total_seconds": 4.0}, ("train/total_seconds",)),
        ({}, {"eval/accuracy": 0.9}, ("eval/accuracy",)),
        ({"arm": "pytorch"}, {"train/loss": 1.0}, ("arm", "train/loss")),
        ({digest.PARTS: ""}, {}, (digest.PARTS,)),
        ({digest.PARTS: '{"tags": 3}'}, {}, (digest.PARTS,)),
        ({digest.PARTS: '{"tags": {}, "metrics": {}}'}, {}, (digest.TAG,)),
        ({digest.TAG: "0" * 64}, {}, (digest.TAG,)),
    ],
)
def test_what_was_edited_is_named(
    tags: dict[str, str], metrics: dict[str, float], named: tuple[str, ...]
) -> None:
    assert digest.altered(signed(**tags), METRICS | metrics) == named


def test_a_metric_that_was_removed_is_named() -> None:
    left = {key: value for key, value in METRICS.items() if key != "train/loss"}
    assert digest.altered(signed(), left) == ("train/loss",)


def test_samples_and_designs_have_digests_of_their_own() -> None:
    one = digest.of_samples({"a": [1.0, 2.0], "b": [3.0], "none": []})
    assert one == digest.of_samples({"b": [3.0], "a": [1.0, 2.0]})
    assert one != digest.of_samples({"a": [1.0, 2.0, 3.0], "b": []})
    assert one != digest.of_samples({"a": [2.0, 1.0], "b": [3.0]})
    assert digest.of_design({"a": 1, "b": [2]}) == digest.of_design({"b": [2], "a": 1})
    assert digest.of_design({"pairs": 6}) != digest.of_design({"pairs": 7})

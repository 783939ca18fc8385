"""What two summaries of counted operations say of each other."""

from __future__ import annotations

import json
from typing import Any

import pytest

from measurement.operations import Counted, Operations, counted_difference, tally, total


def summary(**changes: Any) -> dict[str, Any]:
    found = {
        "products": {"step": {"float32": 3000}, "answer": {"float32": 100}},
        "recorded": 0,
        "stored": {"float32": 600},
    }
    return {"counted": {**found, **changes}}


def said(a: dict[str, Any], b: dict[str, Any]) -> str:
    found = counted_difference(a, b)
    back = counted_difference(b, a)
    assert (found is None) == (back is None)
    assert found is None or "\n" not in found
    return found or ""


def test_equal_counts_pass_and_old_evidence_compares_with_old():
    assert said(summary(), json.loads(json.dumps(summary()))) == ""
    assert said({}, {}) == ""
    assert "was counted and that of the other was not" in said(summary(), {})


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"products": {"step": {"float32": 3004}, "answer": {"float32": 100}}}, "step differs"),
        ({"products": {"step": {"float32": 3000}, "answer": {"float32": 103}}}, "answer differs"),
        ({"products": {"step": {"float32": 3000}}}, "what was counted"),
        ({"products": {"step": {"bfloat16": 3000}, "answer": {"float32": 100}}}, "bfloat16"),
        (
            {"products": {"step": {"float32": 2900, "tf32": 100}, "answer": {"float32": 100}}},
            "2,900 FLOP in float32 and 100 FLOP in tf32",
        ),
        (
            {"products": {"step": {"float32": 2000, "float64": 1000}, "answer": {"float32": 100}}},
            "2,000 FLOP in float32 and 1,000 FLOP in float64",
        ),
        ({"recorded": 4}, "recorded for a gradient"),
        ({"stored": {"float32": 500, "bfloat16": 100}}, "100 elements in bfloat16"),
        ({"unknown": {"step": "it reads a value"}}, "step cannot be counted: it reads a value"),
        ({"products": None}, "not"),
        ({"products": {"step": {"float32": -1}}}, "not"),
        ({"stored": "cut"}, "not"),
        ({"unknown": "cut"}, "not"),
        ({"widest": {"answer": -1}}, "not"),
    ],
)
def test_what_differs_is_named(change, word):
    assert word in said(summary(), summary(**change))


def test_rounding_passes_and_what_may_be_in_the_widest_floats():
    near = {"step": {"float32": 3003}, "answer": {"float32": 60, "float64": 40}}
    assert said(summary(widest={"answer": 40}), summary(products=near, widest={"answer": 40})) == ""
    refused = said(summary(widest={"answer": 30}), summary(products=near, widest={"answer": 30}))
    assert "40 FLOP in float64" in refused


def test_the_parts_of_ranks_add_up():
    parts = [Operations({"float32": 10}, 1), Operations({"float32": 5, "bfloat16": 2}, 2)]
    assert total(parts) == Operations({"bfloat16": 2, "float32": 15}, 3)
    assert total([*parts, Operations({}, unknown="so")]).unknown == "so"
    assert tally([("float32", 3)], [("float32", 2), ("int8", 1)]) == {"float32": 5, "int8": 1}


def test_what_a_step_records_for_its_gradient_is_its_own_affair():
    counted = Counted({"step": Operations({}, 7), "answer": Operations({}, 2)}, {})
    assert counted.summary()["recorded"] == 2

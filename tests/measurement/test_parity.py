"""Evidence of equal work: equal passes, nothing else does."""

from __future__ import annotations

import copy
import json
import math
import zlib

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from measurement.audit import fingerprint, parity_difference
from measurement.comparison import (
    GRADIENT_FLOOR,
    KINK_TOLERANCE,
    TOLERANCES,
    UPDATE_TOLERANCES,
    first_difference,
    first_distance,
    gradient_difference,
    largest_difference,
    largest_distance,
    largest_gradient,
    largest_update,
)
from measurement.evidence import Evidence, work_digest

COUNTS = ("items", "steps", "flops", "eval_items", "inference_items", "latency_calls")
RECEIPT = {**dict.fromkeys(COUNTS, 300), "weight_change_norm": 3.5, "check_value": 0.21}
finite = st.floats(-1e6, 1e6, allow_subnormal=False)
bad = st.sampled_from([math.nan, math.inf, -math.inf])


def evidence(dtype: str = "float32") -> dict:
    return {
        "work": "a1",
        "dtype": dtype,
        "parameters": 26506,
        "output": [12.0, -3.5],
        "gradient": [2.0, 0.1],
        "update": [0.3, 0.01],
        "losses": [2.3 - 0.01 * i for i in range(10)],
    }


@st.composite
def evidences(draw: st.DrawFn) -> dict:
    pair = st.tuples(st.floats(1e-3, 1e6), finite).map(list)
    return {
        "work": draw(st.text("0123456789abcdef", min_size=1)),
        "dtype": draw(st.sampled_from(list(TOLERANCES))),
        "parameters": draw(st.integers(1, 10**9)),
        "output": draw(pair),
        "gradient": draw(pair),
        "update": draw(pair),
        "losses": draw(st.lists(st.floats(1e-3, 1e3), min_size=10, max_size=10)),
    }


def bound(dtype: str, field: str) -> float:
    outputs, gradients, losses = TOLERANCES[dtype]
    updates = UPDATE_TOLERANCES["sgd"][dtype]
    gradients = max(gradients, KINK_TOLERANCE)
    return {"output": outputs, "gradient": gradients, "losses": losses, "update": updates}[field]


# --- parity_difference


@given(evidences())
def test_identical_evidence_passes(a):
    assert parity_difference(a, copy.deepcopy(a)) is None
    assert parity_difference(a, json.loads(json.dumps(a))) is None


@given(evidences(), evidences())
def test_parity_is_symmetric(a, b):
    assert (parity_difference(a, b) is None) == (parity_difference(b, a) is None)


@given(
    evidences(),
    st.sampled_from(["output", "gradient", "update", "losses"]),
    st.integers(0, 9),
    st.floats(1.01, 1e6),
    st.sampled_from([-1, 1]),
)
def test_a_perturbation_above_tolerance_is_named(a, field, index, factor, sign):
    tolerance = bound(a["dtype"], field)
    b = copy.deepcopy(a)
    if field == "losses":
        scale = a["losses"][index]
    else:
        index %= 2
        scale = a[field][0]
    b[field][index] += (
        sign * factor * tolerance / (1 - factor * tolerance) * scale
        if (factor * tolerance < 0.9)
        else sign * 10 * scale
    )
    if field != "losses" and index == 0:
        b[field][0] = abs(b[field][0])  # a norm
        assume(abs(b[field][0] - a[field][0]) > tolerance * max(b[field][0], a[field][0]))
    said = parity_difference(a, b)
    assert said is not None
    assert "\n" not in said
    assert (f"the loss of step {index}" if field == "losses" else field) in said
    assert parity_difference(b, a) is not None


@given(evidences(), st.sampled_from(["output", "gradient", "update"]), st.floats(0, 0.9))
def test_a_perturbation_below_tolerance_passes(a, field, factor):
    b = copy.deepcopy(a)
    b[field][1] += factor * bound(a["dtype"], field) * a[field][0]
    b["losses"] = [loss * (1 + factor * bound(a["dtype"], "losses")) for loss in a["losses"]]
    assert parity_difference(a, b) is None


@given(evidences(), st.sampled_from(["output", "gradient", "update", "losses"]), bad, st.booleans())
def test_what_is_not_finite_never_passes(a, field, value, both):
    b = copy.deepcopy(a)
    b[field][1] = value
    if both:
        a[field][1] = value
    assert parity_difference(a, b) is not None
    assert parity_difference(b, a) is not None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_norm_that_is_not_finite_never_passes(value):
    a, b = evidence(), evidence()
    a["output"] = [value, 1.0]  # an infinite norm must not make an infinite allowance
    assert parity_difference(a, b) is not None
    b["output"] = [value, 2.0]
    assert parity_difference(a, b) is not None


@pytest.mark.parametrize("field", ["work", "dtype", "parameters"])
def test_another_work_dtype_or_size_is_named(field):
    a, b = evidence(), evidence()
    b[field] = {"work": "b2", "dtype": "bfloat16", "parameters": 26507}[field]
    assert field in (parity_difference(a, b) or "")


@pytest.mark.parametrize("field", list(evidence()))
def test_evidence_with_a_gap_is_refused(field):
    whole, gap = evidence(), evidence()
    del gap[field]
    for a, b in ((whole, gap), (gap, whole), (gap, copy.deepcopy(gap))):
        assert field in (parity_difference(a, b) or "")


@pytest.mark.parametrize(
    "change",
    [
        {"output": []},
        {"output": [1.0]},
        {"update": None},
        {"losses": []},
        {"losses": None},
        {"losses": [None] * 10},
        {"gradient": ["1.0", "2.0"]},
        {"dtype": "float8"},
    ],
)
def test_malformed_evidence_is_refused_and_not_raised(change):
    a = {**evidence(), **change}
    for x, y in ((a, evidence()), (evidence(), a), (a, copy.deepcopy(a))):
        said = parity_difference(x, y)
        assert said is not None and "\n" not in said


def test_missing_evidence_is_refused():
    for a, b in ((None, None), (None, evidence()), (evidence(), None), ({}, {})):
        assert "missing" in (parity_difference(a, b) or "")


def test_losses_of_another_number_are_refused():
    a, b = evidence(), evidence()
    b["losses"] = b["losses"][:9]
    assert "losses" in (parity_difference(a, b) or "")


# --- fingerprint


@given(st.integers(0, 2**32 - 1), st.integers(2, 40))
def test_a_fingerprint_sees_sign_order_and_exchange(seed, size):
    r = np.random.default_rng(seed)
    x = {"a": r.standard_normal(size), "b": r.standard_normal(size)}
    changed = [
        {"a": -x["a"], "b": x["b"]},
        {"a": np.roll(x["a"], 1), "b": x["b"]},
        {"a": x["b"], "b": x["a"]},
    ]
    seen = [abs(fingerprint(y)[1] - fingerprint(x)[1]) > 1e-9 for y in changed]
    assert fingerprint(x) == fingerprint(dict(reversed(x.items())))
    assert all(math.isclose(fingerprint(y)[0], fingerprint(x)[0]) for y in changed)
    if size > 30:  # a projection can meet by chance only where the signs happen to agree
        assert all(seen)


def test_a_fingerprint_is_taken_in_float64():
    x = np.full(10**6, 0.1, np.float32)
    assert fingerprint({"x": x})[0] == pytest.approx(0.1 * 1000, rel=1e-7)
    assert fingerprint({"x": np.full(4, 1e30, np.float32)})[0] == pytest.approx(2e30)
    assert fingerprint({}) == [0.0, 0.0]


def test_the_summary_of_evidence_is_small_and_compares():
    arrays = {"hidden.0": np.arange(6.0), "": np.ones(3)}
    summary = Evidence("w", "float32", 9, arrays, arrays, [1.0], arrays, "sgd").summary()
    assert len(json.dumps(summary)) < 500
    assert parity_difference(summary, json.loads(json.dumps(summary))) is None


def test_the_work_digest_depends_on_everything_but_the_order_of_sizes():
    digest = work_digest("mnist", {"layers": 2, "batch_size": 256}, "d1")
    assert digest == work_digest("mnist", {"batch_size": 256, "layers": 2}, "d1")
    others = [
        work_digest("other", {"layers": 2, "batch_size": 256}, "d1"),
        work_digest("mnist", {"layers": 3, "batch_size": 256}, "d1"),
        work_digest("mnist", {"layers": 2, "batch_size": 256}, "d2"),
    ]
    assert len({digest, *others}) == 4


# --- optimisers, generations


def generated(**changes):
    base = {k: v for k, v in evidence().items() if k not in ("gradient", "update")}
    nothing = {"gradient": [0.0, 0.0], "update": [0.0, 0.0]}
    return {**base, **nothing, "optimiser": "none", **changes}


def test_a_generation_needs_no_gradient_but_its_losses():
    assert parity_difference(generated(), generated()) is None
    other = [*generated()["losses"][:9], 1.01]
    assert "loss of step 9" in (parity_difference(generated(), generated(losses=other)) or "")
    assert "output" in (parity_difference(generated(), generated(output=[9.0, 9.0])) or "")


def test_a_training_and_a_generation_do_not_compare():
    for a, b in ((evidence(), generated()), (generated(), evidence())):
        assert "optimiser" in (parity_difference(a, b) or "")


def test_an_array_of_rounding_alone_is_compared_on_the_scale_of_all():
    a = {"weight": np.ones(4), "key.bias": np.array([1e-11, -1e-11])}
    b = {"weight": np.ones(4), "key.bias": np.array([-1e-11, 2e-11])}
    assert "key.bias" in (first_difference(a, b, 1e-4) or "")
    assert first_difference(a, b, 1e-4, GRADIENT_FLOOR) is None
    b["key.bias"] = np.array([1e-9, 0.0])  # small, but more than rounding
    assert "key.bias" in (first_difference(a, b, 1e-4, GRADIENT_FLOOR) or "")


def test_a_distance_forgives_single_elements_and_nothing_else():
    a = {"w": np.ones(10_000)}
    one = a["w"].copy()
    one[7] = -1.0  # AdamW moved a weight with no gradient the other way
    assert first_difference(a, {"w": one}, 2e-2) is not None
    assert first_distance(a, {"w": one}, 2.1e-2) is None
    assert "w differs by" in (first_distance(a, {"w": a["w"] * 1.03}, 2e-2) or "")
    assert "missing" in (first_distance(a, {}, 2e-2) or "")
    assert first_distance(a, {"w": np.full(10_000, np.nan)}, 2e-2) is not None


def test_a_gradient_may_be_off_where_a_relu_turned_and_not_as_a_whole():
    a = {"w": np.ones(10_000, np.float32), "v": np.ones(10_000, np.float32)}
    turned = a["w"].copy()
    turned[5] += 0.05  # 5e-2 of the largest, 5e-4 of the norm
    assert gradient_difference(a, {**a, "w": turned}, "float32") is None
    scaled = a["w"] * np.float32(1.002)
    assert "w differs" in (gradient_difference(a, {**a, "w": scaled}, "float32") or "")
    assert gradient_difference(a, {**a, "w": scaled}, "bfloat16") is None
    assert "w differs" in (gradient_difference(a, {**a, "w": 2 * a["w"]}, "bfloat16") or "")


@pytest.mark.parametrize("dtype", ["float32", "tf32", "bfloat16"])
def test_the_largest_is_what_the_tolerance_is_for(dtype):
    rng = np.random.default_rng(0)
    a = {name: rng.normal(size=(20, 30)).astype(np.float32) for name in "uvw"}
    b = {**a, "v": a["v"] * (1 + 1e-6), "w": a["w"] * (1 + 1e-5)}
    allowed = TOLERANCES[dtype][1]
    for found, difference in (
        (largest_difference(a, b), lambda most: first_difference(a, b, most)),
        (largest_distance(a, b), lambda most: first_distance(a, b, most)),
    ):
        assert found == pytest.approx(1e-5, rel=0.02)
        assert difference(found) is None and difference(found * 0.999) is not None
    assert largest_gradient(a, b, dtype) == pytest.approx(1e-5, rel=0.02)
    assert largest_update(a, b, "adamw", dtype) == pytest.approx(1e-5, rel=0.02)
    turned = a["w"].copy()
    turned[0, 0] += 5 * allowed * np.abs(turned).max()
    by_norm = largest_distance(a, {**a, "w": turned}, GRADIENT_FLOOR)
    assert largest_gradient(a, {**a, "w": turned}, dtype) == pytest.approx(by_norm)


@pytest.mark.parametrize(
    "b", [{}, {"x": np.zeros(3)}, {"x": np.full(2, np.nan)}, {"x": np.ones(2), "y": np.ones(2)}]
)
def test_the_largest_of_what_does_not_fit_is_no_number(b):
    assert np.isnan(largest_difference({"x": np.ones(2)}, b))
    assert np.isnan(largest_distance({"x": np.ones(2)}, b))


def test_the_largest_of_nothing_is_zero():
    assert largest_difference({}, {}) == largest_distance({}, {}) == 0


@pytest.mark.parametrize("size", [1, 2, 7, 65_536, 65_537, 200_001])
def test_signs_are_those_of_numpys_own_integers(size):
    """Fingerprints of earlier versions were taken so; what stands in stores has to compare."""
    values = np.random.default_rng(1).normal(size=size)
    rng = np.random.default_rng(zlib.crc32(b"a"))
    pieces = [values[start : start + 65_536] for start in range(0, size, 65_536)]
    projection = sum(float(piece @ (rng.integers(0, 2, piece.size) * 2 - 1)) for piece in pieces)
    norm = float(np.linalg.norm(values))
    assert fingerprint({"a": values}) == pytest.approx([norm, projection], abs=1e-9 * norm)

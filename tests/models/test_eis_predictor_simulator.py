"""The simulator against closed forms, another package and the physics of a circuit."""

from __future__ import annotations

import cmath
import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.eis_predictor import simulator
from models.eis_predictor.simulator import GRID, HIGH, LOW, PARAMETERS, PATTERNS

HERTZ = simulator.frequencies(50)
points = st.lists(st.integers(0, GRID - 1), min_size=5, max_size=5).map(lambda p: np.array([p]))
circuits = st.tuples(
    *(st.floats(low, high) for low, high in zip(LOW, HIGH, strict=True))
).map(lambda c: np.array([c]))  # fmt: skip


def closed_form(circuit: np.ndarray, hertz: float) -> complex:
    """In Python's own complex numbers, from log10 of the parameters."""
    shunt, ra, ca, rb, cb = (10.0**x for x in circuit)
    w = 2 * math.pi * hertz
    series = 1 / (1 / ra + 1j * w * ca) + 1 / (1 / rb + 1j * w * cb)
    return 1 / (1 / shunt + 1 / series)


def test_the_grid_is_the_documents():
    assert PARAMETERS == ("Rsh", "Ra", "Ca", "Rb", "Cb")
    ends = 10.0 ** simulator.values(np.array([[0] * 5, [GRID - 1] * 5]))
    np.testing.assert_allclose(ends[0], [10, 10, 1e-7, 10, 1e-7], rtol=1e-12)
    np.testing.assert_allclose(ends[1], [1e4, 1e4, 5e-5, 1e4, 5e-5], rtol=1e-12)
    every = simulator.values(np.arange(GRID)[:, None] * np.ones(5))
    np.testing.assert_allclose(np.diff(every, n=2, axis=0), 0, atol=1e-12)  # logarithmic
    assert (HERTZ[0], len(HERTZ)) == (1, 50) and HERTZ[-1] == pytest.approx(1e6)


def test_ten_patterns_of_three_known_and_two_unknown():
    expected = {p for p in itertools.product((False, True), repeat=5) if sum(p) == 3}
    assert len(expected) == len(PATTERNS) == 10
    assert {tuple(map(bool, p)) for p in PATTERNS} == expected


@given(circuits)
def test_impedance_is_the_closed_form(circuit):
    found = simulator.impedance(circuit, HERTZ)[0]
    expected = [closed_form(circuit[0], hertz) for hertz in HERTZ]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@given(points)
def test_the_table_of_the_grid_is_the_closed_form(point):
    found = simulator.grid_impedance(point, HERTZ)[0]
    expected = [closed_form(simulator.values(point)[0], hertz) for hertz in HERTZ]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_every_grid_point_by_both_ways():
    every = np.array(list(itertools.product(range(0, GRID, 3), repeat=5)))
    np.testing.assert_allclose(
        simulator.grid_impedance(every, HERTZ[::7]),
        simulator.impedance(simulator.values(every), HERTZ[::7]),
        rtol=1e-12,
    )


@pytest.mark.filterwarnings("ignore:Simulating circuit")
def test_impedance_is_that_of_the_impedance_package():
    circuits_of = pytest.importorskip(
        "impedance.models.circuits", reason="needs the package impedance 1.7.1"
    )
    rng = np.random.default_rng(3)
    for circuit in LOW + (HIGH - LOW) * rng.random((20, 5)):
        shunt, ra, ca, rb, cb = 10.0**circuit
        theirs = circuits_of.CustomCircuit(
            "p(R0,p(R1,C1)-p(R2,C2))", initial_guess=[shunt, ra, ca, rb, cb]
        )
        np.testing.assert_allclose(
            simulator.impedance(circuit[None], HERTZ)[0],
            theirs.predict(HERTZ, use_initial=True),
            rtol=1e-10,
        )


# --- physics


@given(circuits)
def test_a_passive_circuit(circuit):
    """Its magnitude never exceeds Rsh nor the direct current's value, it takes power, and its
    current leads: it has capacitors and no coils."""
    z = simulator.impedance(circuit, HERTZ)[0]
    shunt, ra, _, rb, _ = 10.0 ** circuit[0]
    direct = shunt * (ra + rb) / (shunt + ra + rb)
    assert (np.abs(z) <= direct * (1 + 1e-12)).all() and direct <= shunt
    assert (z.real > 0).all() and (z.imag <= 0).all()
    assert (np.diff(np.abs(z)) <= 1e-12 * direct).all()


@given(circuits)
def test_limits_and_symmetry(circuit):
    shunt, ra, _, rb, _ = 10.0 ** circuit[0]
    slow, fast, forth, back = simulator.impedance(circuit, np.array([1e-12, 1e18, 70.0, -70.0]))[0]
    assert slow == pytest.approx(shunt * (ra + rb) / (shunt + ra + rb), rel=1e-9)
    assert abs(fast) < 1e-6
    assert cmath.isclose(forth, back.conjugate(), rel_tol=1e-14)


@given(circuits)
def test_the_pairs_are_exchangeable(circuit):
    np.testing.assert_allclose(
        simulator.impedance(circuit, HERTZ),
        simulator.impedance(circuit[:, [0, 3, 4, 1, 2]], HERTZ),
        rtol=1e-12,
    )


@given(circuits, circuits, circuits)
def test_a_resnorm_is_a_distance(a, b, c):
    x, y, z = (simulator.impedance(circuit, HERTZ) for circuit in (a, b, c))
    one, two, whole = (simulator.distance(*p)[0] for p in ((x, y), (y, z), (x, z)))
    assert whole <= (one + two) * (1 + 1e-12)
    assert one == pytest.approx(simulator.distance(y, x)[0], rel=1e-12)
    assert simulator.distance(x, x)[0] == 0
    assert (one > 0) == bool((x != y).any())


def test_a_resnorm_by_hand():
    a, b = np.array([[3 + 4j, 1j, 2]]), np.array([[0j, 0j, 2]])
    assert simulator.distance(a, b)[0] == pytest.approx((5 + 1 + 0) / 3)


def test_resnorms_of_samples_are_those_of_their_circuits():
    truths = simulator.ground_truths(7, [1])
    rng = np.random.default_rng(0)
    which = rng.integers(0, 7, 2 * simulator.CHUNK + 5)
    classes = simulator.nearby(truths[which], rng.standard_normal((len(which), 5)))
    found = simulator.resnorms(classes, truths, which, HERTZ)
    for i in (0, 1, simulator.CHUNK, len(which) - 1):
        terms = [
            abs(closed_form(simulator.values(classes[i]), f) - closed_form(truths[which[i]], f))
            for f in HERTZ
        ]
        assert found[i] == pytest.approx(sum(terms) / len(terms), rel=1e-10)


# --- ground truths and samples


def test_ground_truths_follow_the_membranes():
    found = simulator.ground_truths(50_000, [5])
    assert (found >= LOW - 1e-9).all() and (found <= HIGH + 1e-9).all()
    times = found[:, [1, 3]] + found[:, [2, 4]]
    assert (times[:, 0] <= times[:, 1]).all()
    np.testing.assert_allclose(
        np.median(times, axis=0), simulator.TIME_CONSTANTS, atol=0.005
    )  # log10 of seconds
    np.testing.assert_allclose(times.std(axis=0), simulator.SPREAD, rtol=0.03)
    # Resistance falls as capacitance rises; the shunt follows nothing.
    correlation = np.corrcoef(found.T)
    assert correlation[1, 2] < -0.9 and correlation[3, 4] < -0.9
    assert np.abs(correlation[0, 1:]).max() < 0.02
    assert np.histogram(found[:, 0], 5)[0].min() > 0.95 * 50_000 / 5


@given(st.integers(1, 40), st.integers(0, 5))
def test_the_first_circuits_of_more_are_the_same(count, seed):
    more = simulator.ground_truths(count + 9, [seed])
    np.testing.assert_array_equal(simulator.ground_truths(count, [seed]), more[:count])


@settings(max_examples=30)
@given(circuits, st.lists(st.floats(-50, 50), min_size=5, max_size=5))
def test_samples_are_grid_points(circuit, steps):
    found = simulator.nearby(circuit, np.array([steps]))
    assert found.dtype == np.uint8 and (found < GRID).all()
    nearest = simulator.nearby(circuit, np.zeros((1, 5)))
    away = np.abs(simulator.values(nearest) - circuit) / simulator.STEP
    assert (away <= 0.5 + 1e-9).all()


def test_most_samples_are_the_nearest_grid_point_or_next_to_it():
    truths = simulator.ground_truths(20_000, [2])
    moves = simulator.nearby(
        truths, np.random.default_rng(1).standard_normal(truths.shape)
    ) - simulator.nearby(truths, np.zeros(truths.shape)).astype(int)
    counts = Counter(np.abs(moves).ravel().tolist())
    stays = math.erf(0.5 / simulator.OFFSET / math.sqrt(2))
    assert counts[0] / moves.size == pytest.approx(stays, abs=0.02)  # the ends of the grid clip
    assert set(counts) <= {0, 1, 2}


def test_the_ceiling_lies_above_chance_and_its_parts_are_as_reasoned(monkeypatch):
    best, blind = simulator.ceiling(400_000)
    assert 1 / GRID < blind < 0.15 < best < 0.5
    # With nothing that spreads, all but Rsh and a pair both of whose parts are unknown is told.
    monkeypatch.setattr(simulator, "SPREAD", 1e-9)
    monkeypatch.setattr(simulator, "OFFSET", 1e-9)
    assert simulator.ceiling(400_000)[0] > best + 0.1

"""How far two twins' outputs, gradients and updates lie apart, array by array, and how far they may."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

# Relative tolerances of the evidence by dtype as run: (outputs, gradients, losses).
# float32 differs by the order of additions; bfloat16 keeps 8 bits of every product's result. Seen on
# an H200: outputs 4.1e-2 apart in 22 layers, each as far from float32; MLX adds bfloat16 columns
# in bfloat16, which puts the gradient of a bias over 32,768 rows 0.25 of its norm off.
TOLERANCES = {
    "float32": (1e-5, 1e-4, 1e-5),
    # As float16, which has the same ten bits; not measured: bert_tiny and deit_small lie within.
    "tf32": (4e-3, 2e-2, 3e-3),
    "bfloat16": (6e-2, 3e-1, 2e-2),
    "float16": (4e-3, 2e-2, 3e-3),
}
# Of the updates that ten steps made, by optimiser. In 16 bits an update is a few units in the last
# place of the weight: correct twins differed by up to 0.33 of the largest in bfloat16, a doubled
# step by 0.5. AdamW divides a gradient by its own size, so that where a gradient is nothing but
# rounding (one near zero; that of a key's bias in attention is zero in exact arithmetic) the update
# is rounding too, blown up to the size of all others.
UPDATE_TOLERANCES = {
    "sgd": {"float32": 1e-4, "tf32": 0.05, "bfloat16": 0.4, "float16": 0.05},
    "adamw": {"float32": 2e-2, "tf32": 0.3, "bfloat16": 0.45, "float16": 0.3},
    # Of a small network of ReLUs at a large rate, where one ReLU in millions that rounding puts on the
    # other side of 0 sends a row of weights elsewhere: see models/eis_predictor/config.py.
    "adamw_relu": {"float32": 0.1, "tf32": 0.3, "bfloat16": 0.45, "float16": 0.3},
}
# Of a float32 gradient by norm, where single elements are further apart. In 4 sequences of a language
# model of 12 blocks 3 to 9 of 16.8 million inputs of a ReLU had another sign than in float64: PyTorch's
# float32 gradients were up to 4.9e-4 of their norm off, MLX's less, and with GELU both within 6e-6.
KINK_TOLERANCE = 1e-3
# Below this share of the largest gradient of all, an array's own gradient is not its scale: what
# is left there is what rounding left of cancelling terms.
GRADIENT_FLOOR = 1e-6


def first_difference(
    a: Mapping[str, Any], b: Mapping[str, Any], tolerance: float, floor: float = 0.0
) -> str | None:
    """The first array, in `a`'s order, that differs by more than `tolerance` times its largest
    magnitude, or `floor` times the largest of all arrays where that is more; None when all agree."""
    return _first(a, b, tolerance, _by_element(a, floor), "of its largest value")


def first_distance(
    a: Mapping[str, Any], b: Mapping[str, Any], tolerance: float, floor: float = 1e-3
) -> str | None:
    """The first array whose Euclidean distance is more than `tolerance` times its norm, or `floor`
    times the norm of all where that is more; None when all agree. For updates: single elements may
    be rounding alone, see UPDATE_TOLERANCES."""
    return _first(a, b, tolerance, _by_norm(a, floor), "of its norm")


def largest_difference(a: Mapping[str, Any], b: Mapping[str, Any], floor: float = 0.0) -> float:
    """Of all arrays, what `first_difference` compares with its tolerance; NaN where they do not fit."""
    return _largest(a, b, _by_element(a, floor))


def largest_distance(a: Mapping[str, Any], b: Mapping[str, Any], floor: float = 1e-3) -> float:
    """Of all arrays, what `first_distance` compares with its tolerance; NaN where they do not fit."""
    return _largest(a, b, _by_norm(a, floor))


def largest_gradient(a: Mapping[str, Any], b: Mapping[str, Any], dtype: str) -> float:
    """What `gradient_difference` compares: by element, or by norm where that is what it decides by."""
    found = largest_difference(a, b, GRADIENT_FLOOR) if dtype == "float32" else math.inf
    if found <= TOLERANCES[dtype][1]:
        return found
    return largest_distance(a, b, GRADIENT_FLOOR if dtype == "float32" else 1e-3)


def largest_update(a: Mapping[str, Any], b: Mapping[str, Any], optimiser: str, dtype: str) -> float:
    """What `update_difference` compares."""
    return largest_distance(a, b, _update_floor(optimiser, dtype))


def gradient_difference(a: Mapping[str, Any], b: Mapping[str, Any], dtype: str) -> str | None:
    """The first gradient that differs; None when all agree: element by element, or else by norm,
    see KINK_TOLERANCE; in 16 bits by norm alone."""
    tolerance = TOLERANCES[dtype][1]
    if dtype != "float32":
        return first_distance(a, b, tolerance)
    said = first_difference(a, b, tolerance, GRADIENT_FLOOR)
    if said is None or first_distance(a, b, KINK_TOLERANCE, GRADIENT_FLOOR) is None:
        return None
    return said


def update_difference(
    a: Mapping[str, Any], b: Mapping[str, Any], optimiser: str, dtype: str
) -> str | None:
    """The first parameter whose update differs; None when all agree."""
    floor = _update_floor(optimiser, dtype)
    return first_distance(a, b, UPDATE_TOLERANCES[optimiser][dtype], floor)


def _update_floor(optimiser: str, dtype: str) -> float:
    """In 16 bits AdamW makes a whole array of rounding, a key's bias, as long as any other of its size."""
    return 0.1 if optimiser.startswith("adamw") and dtype != "float32" else 1e-3


_Error = Callable[[np.ndarray, np.ndarray], float]


def _by_element(a: Mapping[str, Any], floor: float) -> _Error:
    least = floor * max((float(np.max(np.abs(x), initial=0.0)) for x in a.values()), default=0.0)

    def error(x: np.ndarray, y: np.ndarray) -> float:
        scale = max(np.max(np.abs(x), initial=0.0), np.max(np.abs(y), initial=0.0), least, 1e-30)
        return float(np.max(np.abs(x - y), initial=0.0) / scale)

    return error


def _by_norm(a: Mapping[str, Any], floor: float) -> _Error:
    whole = math.sqrt(sum(float(np.sum(np.square(x, dtype=np.float64))) for x in a.values()))

    def error(x: np.ndarray, y: np.ndarray) -> float:
        scale = max(float(np.linalg.norm(x)), float(np.linalg.norm(y)), floor * whole, 1e-30)
        return float(np.linalg.norm(x - y)) / scale

    return error


def _largest(a: Mapping[str, Any], b: Mapping[str, Any], error: _Error) -> float:
    if set(a) != set(b) or any(np.shape(a[name]) != np.shape(b[name]) for name in a):
        return math.nan
    with np.errstate(invalid="ignore"):
        found = [error(*(np.asarray(e[name], np.float64) for e in (a, b))) for name in a]
    return float(np.max(found, initial=0.0))  # NaN where one is


def _first(
    a: Mapping[str, Any],
    b: Mapping[str, Any],
    tolerance: float,
    error: _Error,
    unit: str,
) -> str | None:
    for name in a:
        if name not in b:
            return f"{name} is missing in one twin"
        x, y = np.asarray(a[name], np.float64), np.asarray(b[name], np.float64)
        if x.shape != y.shape:
            return f"{name} has shape {x.shape} against {y.shape}"
        with np.errstate(invalid="ignore"):
            found = error(x, y)
        if not found <= tolerance:  # also catches NaN
            return f"{name} differs by {found:.2e} {unit} (allowed {tolerance:.2g})"
    extra = [name for name in b if name not in a]
    return f"{extra[0]} is missing in one twin" if extra else None

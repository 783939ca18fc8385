"""What a statistic accepts: one finite number above zero a run, a confidence inside (0, 1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from measurement.errors import InputError

Values = Sequence[float] | np.ndarray


def numbers(values: Values, what: str = "values") -> np.ndarray:
    """One-dimensional float64, infinity and NaN included; InputError for text, None and tables.

    >>> numbers([1, 2])
    array([1., 2.])
    """
    try:
        array = np.asarray(values)
    except ValueError as error:  # rows of unequal length
        raise InputError(f"{what}: expected one number a run, got nested lists") from error
    if array.ndim != 1:
        raise InputError(f"{what}: expected one number a run, got shape {array.shape}")
    if len(array) and array.dtype.kind not in "iuf":
        items = list(values)
        wrong = next((v for v in items if not isinstance(v, (int, float))), items[0])
        raise InputError(f"{what}: {wrong!r} is no number; expected seconds, bytes or the like")
    return array.astype(np.float64, copy=False)


def positive(values: Values, what: str = "values") -> np.ndarray:
    """The values as float64; InputError unless all are finite and above zero.

    >>> positive([1, 2])
    array([1., 2.])
    """
    array = numbers(values, what)
    if len(array) and not (array.min() > 0 and array.max() < np.inf):  # NaN fails both
        wrong = array[~(np.isfinite(array) & (array > 0))]
        raise InputError(
            f"{what}: {wrong[0]} is no measurement; expected finite numbers above 0"
            " (a run that never arrived belongs to a time-to-target analysis)"
        )
    return array


def pairs(first: Values, second: Values) -> tuple[np.ndarray, np.ndarray]:
    """Both arms of a paired comparison: equally many positive values, at least one.

    >>> pairs([1.0], [2.0])
    (array([1.]), array([2.]))
    """
    a, b = positive(first, "first arm"), positive(second, "second arm")
    if len(a) != len(b):
        raise InputError(f"pairs need both arms, got {len(a)} and {len(b)} runs")
    if not len(a):
        raise InputError("no pairs: expected at least one run of each arm")
    return a, b


def arms(first: Values, second: Values) -> tuple[np.ndarray, np.ndarray]:
    """Both arms of an unpaired comparison: positive values, at least one in each.

    >>> arms([1.0], [2.0, 3.0])
    (array([1.]), array([2., 3.]))
    """
    a, b = positive(first, "first arm"), positive(second, "second arm")
    if not len(a) or not len(b):
        raise InputError(f"an arm is empty: got {len(a)} and {len(b)} runs")
    return a, b


def tail(confidence: float) -> float:
    """One side's error of a two-sided interval: (1 - confidence) / 2.

    >>> round(tail(0.95), 12)
    0.025
    """
    if not 0 < confidence < 1:
        raise InputError(f"confidence {confidence}: expected a number between 0 and 1, as 0.95")
    return (1 - confidence) / 2


def quantile(percentile: float) -> float:
    """A percentile as a share: 90 -> 0.9.

    >>> quantile(90)
    0.9
    """
    if not 1 <= percentile < 100:  # 0.9 would be the share, by mistake
        raise InputError(f"percentile {percentile}: expected a number from 1 to below 100, as 90")
    return percentile / 100

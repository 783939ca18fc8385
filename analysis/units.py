"""Quantities for people: a value and its unit in the prefix that reads best."""

from __future__ import annotations

import math

_PREFIXES = {
    "s": ((1, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")),
    "B": ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B")),
    "FLOP/s": ((1e12, "TFLOP/s"), (1e9, "GFLOP/s"), (1e6, "MFLOP/s")),
    "items/s": ((1e6, "million items/s"), (1, "items/s")),
    "tokens/s": ((1e6, "million tokens/s"), (1, "tokens/s")),
}


def scale(value: float, unit: str) -> tuple[float, str]:
    """(divisor, name of the unit with its prefix) that suits a value in the base unit.

    >>> scale(0.0123, "s"), scale(3.1e8, "B")
    ((0.001, 'ms'), (1000000.0, 'MB'))
    """
    steps = _PREFIXES.get(unit, ((1, unit),))
    for divisor, name in steps:
        if abs(value) >= divisor:
            return divisor, name
    return steps[-1]


def quantity(value: float, unit: str) -> str:
    """A value with three significant digits.

    >>> quantity(0.01234, "s"), quantity(0.96512, ""), quantity(181234.0, "items/s")
    ('12.3 ms', '0.965', '181000 items/s')
    """
    divisor, name = scale(value, unit)
    return f"{digits(value / divisor)} {name}".strip()


def digits(value: float) -> str:
    """Three significant digits without an exponent between 0.001 and 10 million.

    >>> digits(0.5), digits(1234.5), digits(1e-5)
    ('0.500', '1230', '1.00e-05')
    """
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    exponent = math.floor(math.log10(abs(value)))
    if not -4 <= exponent < 7:
        return f"{value:.2e}"
    return f"{round(value, 2 - exponent):.{max(0, 2 - exponent)}f}"

"""What an hour of this machine costs: given as a number, or looked up in a table by its chip."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

from entrypoints.probe import probe
from measurement import machine, untrusted
from measurement.errors import InputError
from measurement.untrusted import shown

NONE = "none"
_COLUMNS = ("chip", "usd_per_hour")
_LARGEST = 1 << 20  # bytes of a table


def per_hour(price: float, table: str, framework: str, device: str) -> float:
    """USD an hour: `price`, or the row of the chip of `device` in `table`, a CSV file with the
    columns chip and usd_per_hour; 0 where neither is given. Raises InputError."""
    if table == NONE:
        return price
    if price:
        raise InputError(
            f"price_per_hour={price:g} and price_table={table} are both given; expected one of them"
        )
    rows, chip = read(table), _chip(framework, device)
    if chip not in rows:
        raise InputError(
            f"price_table={table} has no chip '{chip}'; expected it among: {', '.join(sorted(rows))}: "
            "add a row, or give price_per_hour"
        )
    return rows[chip]


def _chip(framework: str, device: str) -> str:
    """The name of a device as a run records it: of the GPU where the work uses one, else of the CPU."""
    if device not in ("cpu", "cpu-cpu"):
        gpu = probe(framework)["devices"][1]
        if "gpu" in gpu.get("versions", {}):
            return str(gpu["versions"]["gpu"])
    return machine.facts()["machine_cpu"]


def read(table: str) -> dict[str, float]:
    """chip -> USD an hour, of a file. Raises InputError."""
    path = Path(table).expanduser()
    columns = f"the columns {' and '.join(_COLUMNS)}"
    try:
        text = untrusted.read_text(path, _LARGEST, f"a CSV file with {columns}")
    except InputError as error:
        raise InputError(f"price_table={error}") from error
    return parse(text, str(path))


def parse(text: str, path: str) -> dict[str, float]:
    """chip -> USD an hour, of a table's text. Raises InputError."""
    try:
        lines = list(csv.DictReader(io.StringIO(text, newline="")))
    except csv.Error as error:
        raise InputError(
            f"price_table={path} cannot be read ({error}); expected a CSV file with the columns "
            f"{' and '.join(_COLUMNS)}"
        ) from None
    found: dict[str, float] = {}
    for number, line in enumerate(lines, start=2):
        chip, price_text = (str(line.get(column) or "").strip() for column in _COLUMNS)
        try:
            price = float(price_text)
        except ValueError:
            price = math.nan
        if not chip or not 0 <= price < math.inf or chip in found:
            raise InputError(
                f"price_table={path}, line {number}: '{shown(chip)}' at '{shown(price_text)}'; expected each chip once, "
                f"with USD an hour, under the columns {' and '.join(_COLUMNS)}"
            )
        found[chip] = price
    if not found:
        raise InputError(
            f"price_table={path} has no rows; expected the columns {' and '.join(_COLUMNS)}"
        )
    return found

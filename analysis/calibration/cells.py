"""Every cell of the calibration, by name."""

from __future__ import annotations

from analysis.calibration import ratios, studies, targets
from analysis.calibration.cell import Cell

CELLS: dict[str, Cell] = {}
for _cell in (*ratios.cells(), *targets.cells(), *studies.cells()):
    if _cell.name in CELLS:
        raise ValueError(f"two cells are named {_cell.name}")
    CELLS[_cell.name] = _cell

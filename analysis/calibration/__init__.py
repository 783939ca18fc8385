"""Error rates of the shipped statistics, by simulation: false positives, coverage, power.

A cell is a simulated experiment whose truth is known, a public function of `analysis.statistics`
and the band in which its rate must lie.
"""

from __future__ import annotations

from analysis.calibration.cell import Band, Cell, Rate, measure
from analysis.calibration.cells import CELLS
from analysis.calibration.run import PRESETS, Preset, chosen, measure_all

__all__ = ["CELLS", "PRESETS", "Band", "Cell", "Preset", "Rate", "chosen", "measure", "measure_all"]

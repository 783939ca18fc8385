"""Simulate many cells, in several processes, each with a random stream of its own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass

from analysis.calibration.cell import Cell, Rate, measure
from analysis.calibration.cells import CELLS

QUICK_SIZE = 6


@dataclass(frozen=True)
class Preset:
    """How much is simulated. one_size: of every row only the n nearest to six, the most delicate."""

    replicates: int
    dear_replicates: int
    one_size: bool

    def of(self, cell: Cell) -> int:
        """Replicates of a cell; a refusal is no matter of chance and needs few."""
        if cell.kind == "refused":
            return 50
        return self.dear_replicates if cell.dear else self.replicates


PRESETS: dict[str, Preset] = {
    "full": Preset(8000, 2000, one_size=False),
    "quick": Preset(1500, 200, one_size=True),
}


def chosen(preset: Preset) -> list[Cell]:
    """The cells that a preset simulates."""
    if not preset.one_size:
        return list(CELLS.values())
    nearest: dict[tuple[str, ...], Cell] = {}
    for cell in CELLS.values():
        row = cell.question, cell.function, cell.kind, cell.setting, cell.variant
        if row not in nearest or abs(cell.n - QUICK_SIZE) < abs(nearest[row].n - QUICK_SIZE):
            nearest[row] = cell
    return list(nearest.values())


def measure_all(preset: Preset, seed: int, processes: int) -> Iterator[Rate]:
    """Simulate the cells of a preset, the dear ones first; yields each as it is done.

    A worker process finds a cell by its name, since what a cell simulates is a function.
    """
    ordered = sorted(chosen(preset), key=lambda c: (not c.dear, -c.n))
    if processes == 1:
        yield from (measure(cell, preset.of(cell), seed) for cell in ordered)
        return
    # Spawned: a forked copy of a process with threads (MLflow has some) may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        waiting = {pool.submit(_hits, c.name, preset.of(c), seed): c for c in ordered}
        try:
            for done in as_completed(waiting):
                cell = waiting[done]
                yield Rate(cell, preset.of(cell), done.result())
        finally:
            pool.shutdown(cancel_futures=True)


def _hits(name: str, replicates: int, seed: int) -> int:
    return measure(CELLS[name], replicates, seed).hits

"""A report's folder: texts, tables and figures, whole or not at all, and attached to the run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.findings import Drawing
from analysis.page import Page, html, markdown
from analysis.report import write_csv
from measurement.errors import InputError
from tracking import write

Records = Sequence[dict[str, Any]]


def write_report(
    folder: Path,
    run_id: str | None,
    texts: Mapping[str, str],
    tables: Mapping[str, Records],
    drawings: Iterable[Drawing],
) -> None:
    """Files by name; figures go to figures/. Raises InputError when the folder cannot be written.

    run_id: the run to attach them to, under "report"; None = no run.
    """
    try:
        (folder / "figures").mkdir(parents=True, exist_ok=True)
        for name, records in tables.items():
            write_csv(folder / name, records)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        for drawing in drawings:
            (folder / "figures" / f"{drawing.name}.png").write_bytes(drawing.light)
    except OSError as error:
        raise InputError(
            f"cannot write the report to '{folder}' ({error.strerror}); "
            "expected a folder that can be written, give another as output"
        ) from None
    if run_id:
        write.attach(run_id, folder, "report")


def write_page(page: Page, tables: Mapping[str, Records], folder: Path) -> None:
    """Writes report.md, report.html, figures/*.png and one CSV a table; existing files are replaced.

    tables: file name without ending -> records. Raises InputError when the folder cannot be written.
    """
    texts = {"report.md": markdown(page), "report.html": html(page)}  # whole or absent
    try:
        (folder / "figures").mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        for name, records in tables.items():
            write_csv(folder / f"{name}.csv", records)
        for drawing in page.drawings:
            (folder / "figures" / f"{drawing.name}.png").write_bytes(drawing.light)
            (folder / "figures" / f"{drawing.name}_dark.png").write_bytes(drawing.dark)
    except OSError as error:
        raise InputError(
            f"cannot write the report to '{folder}' ({error.strerror}); "
            "expected a folder that can be written, give another as output"
        ) from None


def writable(folder: Path) -> None:
    """Raises InputError now, not after minutes of work, when a folder cannot be made or written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"cannot write to '{folder}' ({error.strerror}); "
            "expected a folder that can be written, give another as output"
        ) from None

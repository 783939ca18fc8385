"""The large study of the benchmark is one that the analysis takes: equal work, signed, with samples."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import report_speed, study_store


def test_a_study_made_of_tables_is_analysed_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.chdir(tmp_path)
    uri = study_store.fill(tmp_path, pairs=6)
    found = report_speed.reported(uri, str(tmp_path), profiled=False)
    text = (tmp_path / "report/report.md").read_text()
    assert "mlx blas=mkl is faster than pytorch blas=mkl" in text
    assert "equal work in 6 of 6 pairs." in text and "ALTERED" not in text
    assert "| mlx blas=mkl | 6 | 6 | 6 | 6 |" in text  # evidence, receipts, signed
    assert found["seconds"] > found["seconds_of_imports"] >= 0
    assert found["bytes_of_report.html"] == (tmp_path / "report/report.html").stat().st_size

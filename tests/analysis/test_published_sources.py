"""Faults, sources and tables as data: complete, consistent, unchanged."""

from __future__ import annotations

import hashlib
import json

import pytest

from analysis.published import records, runs, sources
from analysis.published.ratios import table_ratios
from analysis.published.sources import CHECKLIST, DATA, FAULTS
from measurement.errors import InputError
from tracking.names import METRICS

ALL = [sources.load(name) for name in sources.names()]
LISTED = (
    "L1 L2 L3 L4 L5 L6 L7 L8 L10 L11 L12 L13 L14 L15 L16 L17 L18 L19 L20 L21 "
    "R1 R2 R3 R4 R5 R6 R7 R8 R9 T1 T2 T3 T4 T6 T7 T8 T9 T10 T11 X1 X3 X5 X6 E1 E2 E3 E4 E5 "
    "K1 K2 K3 K4 K5 K6 K7 K8 K9 K10 K11 K13 S0a S0b S0c S0d S2a S2b S2c S2d S2e S4a S4b"
)


def test_every_fault_once_with_a_known_class() -> None:
    rows = json.loads(FAULTS.read_text(encoding="utf-8"))["faults"]
    assert len({row["id"] for row in rows}) == len(rows)
    assert set(LISTED.split()) <= set(sources.faults())
    classes = sources.fault_classes()
    assert set(classes) == set("WTMDSPE")
    for fault in sources.faults().values():
        assert fault.classes and set(fault.classes) <= set(classes), fault.id
        assert fault.project and fault.fault and fault.evidence, fault.id


def test_every_fault_that_is_used_exists() -> None:
    used = set(records.fault_ids(ALL))
    assert used <= set(sources.faults())
    ours = {fault.id for fault in sources.faults().values() if fault.id[0] in "LRS"}
    assert ours == used  # a fault of a bundled source is attached to it


def test_bundled_files_are_the_originals() -> None:
    for name in ("richiksc_csv", "lucasste_raw"):
        raw = json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))
        folder = DATA / raw["folder"]
        for file in raw["files"]:
            found = hashlib.sha256((folder / file["file"]).read_bytes()).hexdigest()
            assert found == file["sha256"], file["file"]
        assert {path.suffix for path in folder.iterdir()} <= {".csv", ".txt", ""}
        licence = sources.load(name).licence_text
        assert "MIT License" in licence and "Copyright" in licence


def test_bundled_recordings() -> None:
    files = sources.load("richiksc_csv").files
    assert len(files) == 16 and sum(file.recording.runs for file in files) == 8 * 100 + 8 * 11
    listed = {path.name for path in (DATA / "richiksc_mlx-benchmarks").glob("*.csv")}
    assert {file.recording.file for file in files} == listed


@pytest.mark.parametrize("source", ALL, ids=lambda source: source.name)
def test_sources_say_what_they_state(source: sources.Source) -> None:
    assert set(source.given) <= set(CHECKLIST)
    assert source.title and source.summary and source.url and source.commit and source.licence
    for table in source.tables:
        assert set(source.missing(table)) | set(source.given) | set(table.given) == set(CHECKLIST)
        assert table.location and table.lines
        for line in table.lines:
            assert line.framework in ("mlx", "pytorch") and line.machine and line.workload
            for cell in line.cells:
                assert cell.stated and cell.bounds[0] <= cell.bounds[1]
                assert cell.approximate == ("~" in cell.stated) or not cell.stated.startswith("~")
                if not cell.metric.startswith("published/"):
                    assert METRICS[cell.metric].unit == cell.unit, cell.metric


def value(source: str, table: int, arm: int, metric: str) -> sources.Cell:
    cells = sources.load(source).tables[table].lines[arm].cells
    return next(cell for cell in cells if cell.metric == metric)


def test_values_as_the_documents_have_them() -> None:
    time = value("mnist_mlx_ddp", 0, 3, "published/inference_seconds")
    assert time.value is None and time.bounds == (6, 7) and time.stated == "6–7 s"
    assert value("mnist_mlx_ddp", 0, 0, "eval/accuracy").approximate
    assert value("eis_predictor", 0, 1, "train/epoch_seconds").value == 49
    assert value("eis_predictor", 2, 0, "published/throughput_items_per_second").value == 31.2
    assert "S2a" in value("eis_predictor", 2, 0, "published/throughput_items_per_second").faults
    assert value("eis_predictor", 6, 1, "train/total_seconds").value == pytest.approx(8.2 * 3600)
    assert value("lucasste_readme", 0, 2, "published/wall_seconds_mean").value == 780.76
    assert value("richiksc_readme", 0, 1, "published/cpu_seconds").value == 599.66
    assert [len(sources.load(name).tables) for name in ("vit_plan", "eis_predictor")] == [0, 8]


def test_raw_results_are_read_from_the_file() -> None:
    tables = sources.load("lucasste_raw").tables
    assert [table.title for table in tables] == ["M1 Pro", "M1 Max", "M3 Max"]
    assert all(len(table.lines) == 10 for table in tables)
    whisper = tables[1].lines[4]
    assert (whisper.framework, whisper.workload) == ("pytorch", "Whisper inference")
    assert [cell.value for cell in whisper.cells] == [21.27653947197935, 21.204530119895964]
    assert whisper.configuration == {"runs": "ten"} and "L13" in whisper.faults


def test_ratios_of_tables_keep_ranges_and_never_divide_by_zero() -> None:
    ratios = [ratio for source in ALL for ratio in table_ratios(source)]
    assert len(ratios) > 40 and all(0 < ratio.low <= ratio.high for ratio in ratios)
    memory = [r for r in ratios if r.source == "mnist_mlx_ddp" and "memory" in r.metric][0]
    assert memory.low == pytest.approx(0.001) and memory.high == pytest.approx(0.4)
    assert "S0c" in memory.faults
    assert not [r for r in ratios if r.source == "richiksc_readme" and "mlx gpu" in r.devices]


def test_runs_of_a_source_hold_all_of_it() -> None:
    groups = runs.groups(sources.load("richiksc_csv"))
    train = next(group for group in groups if group.name == "mlx-train-cpu-n100-e20")
    assert len(train.entries) == 100 and "LICENSE" in train.files
    entry = train.entries[99]
    assert len(entry.metrics) == 21 and entry.metrics[-1][0] == "train/total_seconds"
    assert "kind" not in entry.tags and "pair" not in entry.tags
    assert entry.tags["faults"].split(",")[0] == "R3" and entry.tags["missing"]
    assert runs.groups(sources.load("vit_plan")) == []
    table = runs.groups(sources.load("mnist_mlx_ddp"))[0].entries[2]
    assert {name for name, _, _ in table.metrics} >= {"published/inference_seconds.low"}
    assert "published/inference_seconds" not in {name for name, _, _ in table.metrics}
    digests = [group.sha256 for source in ALL for group in runs.groups(source)]
    assert len(set(digests)) == len(digests)


def test_an_unknown_source() -> None:
    with pytest.raises(InputError, match="unknown source 'x'; choose one of: all, eis_predictor"):
        sources.load("x")

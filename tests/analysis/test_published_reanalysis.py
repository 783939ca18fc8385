"""The M1 recordings through the shipped statistics: published values to 1e-6, and the warnings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from analysis.page import html, markdown
from analysis.published import page, records, sources, warnings
from analysis.published.reanalysis import Reading, Reanalysis, block_ratio, reanalyse, supported
from analysis.published.recordings import file_name, text_of

GPU, CPU, MLX, TORCH, CPU_PASS, GPU_PASS = range(6)


@pytest.fixture(scope="module")
def m1() -> Reanalysis:
    return reanalyse(sources.load("richiksc_csv"), np.random.default_rng(20240229))


def limits(result) -> tuple[float, float, float]:  # noqa: ANN001
    return result.estimate, result.low, result.high


def near(*values: float):  # noqa: ANN201
    return pytest.approx(values, abs=1e-6)


def test_values_of_the_gpu_arms(m1: Reanalysis) -> None:
    gpu = m1.readings[GPU]
    assert gpu.typical and gpu.average and gpu.tail and gpu.run_p90 and gpu.blocks and gpu.same
    assert limits(gpu.typical) == near(0.56399348, 0.55716732, 0.56944843)
    assert gpu.typical.p == pytest.approx(2.0**-99, rel=1e-6)
    assert (gpu.same.low, gpu.same.high) == near(0.55932423, 0.56831228)
    assert limits(gpu.average) == near(0.51404167, 0.49816000, 0.53042967)
    assert gpu.average.df == pytest.approx(134.87611, abs=1e-5)
    assert limits(gpu.tail) == near(0.40635088, 0.36506261, 0.47446013)
    assert limits(gpu.run_p90) == near(0.58057218, 0.57663052, 0.58309309)
    assert limits(gpu.blocks) == near(0.51404167, 0.48102416, 0.54932551)
    assert (gpu.blocks.least, gpu.blocks.greatest) == near(0.39968277, 0.57605135)


def test_values_of_the_other_arms(m1: Reanalysis) -> None:
    expected = {
        MLX: (3.5744959, 3.5309549, 3.6147777),
        TORCH: (6.3992137, 6.3756475, 6.4209792),
        CPU_PASS: (0.89043893, 0.88232258, 0.90567909),
    }
    for index, values in expected.items():
        assert limits(m1.readings[index].typical) == near(*values)
    adjusted = [reading.holm for reading in m1.readings]
    assert adjusted[MLX] == pytest.approx(4.5e-14, rel=0.02)
    assert adjusted[GPU] == pytest.approx(3.9e-12, rel=0.02)
    assert adjusted[CPU] == pytest.approx(0.385, abs=1e-3)
    assert adjusted[TORCH] is None and adjusted[CPU_PASS] is None


def names(reading: Reading) -> set[str]:
    return {flag.name for flag in reading.flags}


def test_warnings_of_the_data_set(m1: Reanalysis) -> None:
    assert all({"NOT-INTERLEAVED", "ONE-PROCESS"} <= names(reading) for reading in m1.readings)
    arms = {arm.file.recording.file: arm for arm in m1.arms}
    train = [arm for name, arm in arms.items() if "train" in name and "vbatch" not in name]
    assert len(train) == 4 and all("DRIFT" in {f.name for f in arm.flags} for arm in train)
    assert "SPLIT" in names(m1.readings[GPU]) and "SPLIT" not in names(m1.readings[CPU])
    assert "EPOCH-TIMER" in names(m1.readings[CPU])
    assert "EPOCH-TIMER" not in names(m1.readings[GPU])
    assert m1.readings[CPU].run_p90 is None
    shares = [
        arms[f"{arm}-n100-e20.csv"].epoch_share for arm in ("mlx-train-cpu", "torch-train-cpu")
    ]
    assert shares == pytest.approx([0.976, 0.999], abs=5e-4)
    halves = [arms[f"{arm}-n100-e20.csv"].halves for arm in ("torch-train-mps", "mlx-train-cpu")]
    assert halves == pytest.approx([1.1449, 1.0133], abs=5e-5)
    assert "HALVES" in {flag.name for flag in arms["torch-train-mps-n100-e20.csv"].flags}
    warm = [f for f in arms["torch-test-mps-n100.csv"].flags if f.name == "WARM-UP"]
    assert len(warm) == 1 and "80.9 ms" in warm[0].sentence
    assert "WARM-UP" in {flag.name for flag in arms["torch-train-mps-n100-e20.csv"].flags}
    assert not arms["mlx-test-cpu-n100.csv"].flags


def test_unequal_work_has_no_ratio(m1: Reanalysis) -> None:
    refused = m1.readings[GPU_PASS]
    assert refused.typical is None and refused.average is None and refused.blocks is None
    assert refused.refused and "10000 test images" in refused.refused and "96" in refused.refused
    assert "UNEQUAL-WORK" in names(refused) and "R1" in refused.second.file.faults
    record = records.ratio_records([m1])[GPU_PASS]
    assert "typical" not in record and "R1" in record["faults"]


def test_what_is_supported_is_said_and_no_verdict(m1: Reanalysis) -> None:
    side, least, greatest = supported(m1.readings[GPU]) or ("", 0, 0)
    assert side == "below" and (round(least, 2), round(greatest, 2)) == (0.4, 0.58)
    assert (supported(m1.readings[CPU]) or ("",))[0] == "both sides"
    assert m1.readings[CPU].same and m1.readings[CPU].same.same
    built = page.build("M1", [m1])
    said = page.terminal(built)
    assert "faster" not in said and "slower" not in said
    assert "No verdict: NOT-INTERLEAVED, ONE-PROCESS" in built.verdict[GPU]
    assert "0.400 to 0.576" in built.verdict[GPU]
    assert "which they are not" in built.verdict[CPU]


def test_a_sweep_lists_ratios_without_interval(m1: Reanalysis) -> None:
    sweep = m1.readings[8]
    assert [size for size, _ in sweep.sweep] == [2**i for i in range(4, 15)]
    assert sweep.typical is None and "FEW" in names(sweep)
    assert dict(sweep.sweep)[16] == pytest.approx(30.968509124941193 / 119.9222186250845)


def test_the_report_holds_every_table_figure_and_fault(m1: Reanalysis) -> None:
    chosen = [sources.load(name) for name in sources.names()]
    found = [
        m1 if s.name == "richiksc_csv" else reanalyse(s, np.random.default_rng(1)) for s in chosen
    ]
    built = page.build("Published results", found)
    text, web = markdown(built), html(built)
    for fault in set(records.fault_ids(chosen)):
        assert f"| {fault} |" in text and f"{fault}" in web
    assert "~0.3–120 MB" in text and "31.2 samples/sec" in text
    figures = {drawing.name for drawing in built.drawings}
    assert {"train_runs_in_order", "train_distribution", "ratios_lucasste_raw"} <= figures
    assert all(drawing.light != drawing.dark and drawing.alt for drawing in built.drawings)


def folder(path: Path, arms: dict[str, list[float]]) -> sources.Source:
    for framework, totals in arms.items():
        name = file_name(framework, "train", "cpu", "", len(totals), 1)
        (path / name).write_text(text_of([[total] for total in totals], totals))
    return sources.from_folder(path, "w", "m", "l", "u")


@pytest.mark.parametrize("n", [1, 2, 5, 6, 12])
def test_a_folder_of_any_size(tmp_path: Path, n: int) -> None:
    times = np.random.default_rng(n).lognormal(0, 0.05, (2, n)).tolist()
    source = folder(tmp_path, {"mlx": times[0], "pytorch": times[1]})
    reading = reanalyse(source, np.random.default_rng(0)).readings[0]
    assert "NO-EVIDENCE" in names(reading) and reading.typical is not None
    assert (reading.typical.low is None) == (n < 6) == ("FEW" in names(reading))
    assert reading.blocks is None and reading.tail is not None and reading.tail.low is None
    assert page.sentence(reading)


def test_one_arm_alone_has_nothing_to_compare(tmp_path: Path) -> None:
    source = folder(tmp_path, {"mlx": [1.0, 1.1]})
    assert reanalyse(source, np.random.default_rng(0)).readings == ()
    assert (
        "Nothing to compare"
        in page.build("x", [reanalyse(source, np.random.default_rng(0))]).verdict[0]
    )


def test_bundled_files_in_a_folder_keep_what_is_known(tmp_path: Path) -> None:
    for file in ("mlx-test-gpu-n100.csv", "torch-test-mps-n100.csv"):
        original = sources.DATA / "richiksc_mlx-benchmarks" / file
        (tmp_path / file).write_bytes(original.read_bytes())
    source = sources.from_folder(tmp_path, "w", "m", "l", "u")
    reading = reanalyse(source, np.random.default_rng(0)).readings[0]
    assert reading.typical is None and "UNEQUAL-WORK" in names(reading)


def test_blocks_need_runs() -> None:
    assert block_ratio([1.0] * 49, [1.0] * 100) is None
    assert warnings.WORK_UNKNOWN.remedy

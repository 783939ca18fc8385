"""A price by the hour: a number, or a row of a table by the chip of the device."""

from __future__ import annotations

from pathlib import Path

import pytest

from entrypoints import prices
from measurement import machine
from measurement.errors import InputError


@pytest.fixture
def table(tmp_path: Path):
    def write(text: str) -> str:
        path = tmp_path / "prices.csv"
        path.write_text(text)
        return str(path)

    return write


def test_the_price_of_this_chip(table, monkeypatch) -> None:
    cpu = machine.facts()["machine_cpu"]
    path = table(f'chip,usd_per_hour,note\n"{cpu}",0.25,ours\nNVIDIA H200,3.5,\n')
    assert prices.per_hour(0.0, path, "mlx", "cpu") == 0.25
    found = {"devices": [{"device": "cpu"}, {"versions": {"gpu": "NVIDIA H200"}}]}
    monkeypatch.setattr(prices, "probe", lambda framework: found)
    assert prices.per_hour(0.0, path, "pytorch", "gpu") == 3.5
    assert prices.per_hour(0.0, path, "pytorch", "auto") == 3.5


def test_without_a_table_the_price_is_the_number_given() -> None:
    assert prices.per_hour(1.5, prices.NONE, "mlx", "cpu") == 1.5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("chip,usd_per_hour\nanother,1\n", "has no chip"),
        ("chip,usd_per_hour\n", "has no rows"),
        ("", "has no rows"),
        ("name,price\nx,1\n", "line 2"),
        ("chip,usd_per_hour\nx,free\n", "'x' at 'free'"),
        ("chip,usd_per_hour\nx,-1\n", "line 2"),
        ("chip,usd_per_hour\nx,nan\n", "line 2"),
        ("chip,usd_per_hour\nx,1\nx,2\n", "line 3"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_line(table, text: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as raised:
        prices.per_hour(0.0, table(text), "mlx", "cpu")
    assert "expected" in str(raised.value) and "\n" not in str(raised.value)


def test_a_missing_or_binary_table_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name in ("nowhere.csv", "binary"):
        with pytest.raises(InputError, match="cannot be read"):
            prices.per_hour(0.0, str(tmp_path / name), "mlx", "cpu")


def test_number_and_table_together_are_refused(table) -> None:
    with pytest.raises(InputError, match="both given"):
        prices.per_hour(1.0, table("chip,usd_per_hour\nx,1\n"), "mlx", "cpu")

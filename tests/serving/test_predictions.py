"""What the training process answered is kept as it was, and compared without mercy in float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

import models
from measurement.errors import InputError
from serving import predictions
from serving.predictions import Predictions

TRAINED = [name for name in models.names() if models.load(name, "config").KIND == "train"]


@pytest.mark.parametrize("workload", TRAINED)
@pytest.mark.parametrize("public", [True, False])
def test_what_is_asked_is_what_a_client_sends(workload: str, public: bool) -> None:
    config = models.load(workload, "config")
    example = config.SMOKE.example()
    items = np.repeat(example, 40, axis=0)
    found = predictions.choose(items, example, public)
    assert found.dtype == example.dtype and found.shape[1:] == example.shape[1:]
    assert 2 <= len(found) <= predictions.MOST_ITEMS
    assert found.min() >= example.min() and found.max() <= example.max()
    assert (found == items[: len(found)]).all() == public  # nothing of a user's own data is kept


def test_large_items_are_few() -> None:
    items = np.zeros((40, 512, 512, 3), np.uint8)
    assert len(predictions.choose(items, items[:2], True)) == 2


def test_pixels_go_back_to_what_a_client_sends() -> None:
    config = models.load("mnist", "config")
    pixels = np.linspace(0, 1, 784, dtype=np.float32)[None]
    stored = ((pixels - config.PIXEL_MEAN) / config.PIXEL_STD).astype(np.float32)
    sent = models.setting("mnist", "as_sent")(stored)
    assert sent.dtype == np.float32 and np.allclose(sent, pixels, atol=1e-6)
    assert sent.min() >= 0 and sent.max() <= 1


def test_a_file_comes_back(tmp_path: Path) -> None:
    found = Predictions(np.ones((3, 2), np.float32), np.array([1, 0, 2]))
    predictions.save(tmp_path / predictions.FILE, found)
    again = predictions.read(tmp_path / predictions.FILE)
    assert (again.inputs == found.inputs).all() and again.answers.tolist() == [1, 0, 2]
    turned = np.arange(6).reshape(2, 3).T  # as frameworks leave what they have transposed
    predictions.save(tmp_path / predictions.FILE, Predictions(found.inputs, turned))
    assert predictions.read(tmp_path / predictions.FILE).answers.tolist() == turned.tolist()


@pytest.mark.parametrize(
    "arrays",
    [
        {"inputs": np.zeros((2, 1), np.float32)},
        {"inputs": np.zeros((2, 1), np.float32), "answers": np.zeros(3, np.int64)},
        {"inputs": np.zeros((0, 1), np.float32), "answers": np.zeros(0, np.int64)},
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    save_file(arrays, tmp_path / predictions.FILE)
    with pytest.raises(InputError, match="train again"):
        predictions.read(tmp_path / predictions.FILE)
    with pytest.raises(InputError):
        predictions.read(tmp_path / "none")


@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), st.data())
def test_one_other_answer_is_a_difference_in_float32(
    answers: list[int], data: st.DataObject
) -> None:
    recorded = np.array(answers)
    assert predictions.difference(recorded, recorded.copy(), "float32") is None
    turned = recorded.copy()
    turned[data.draw(st.integers(0, len(answers) - 1))] += 1
    assert "1 of" in str(predictions.difference(recorded, turned, "float32"))
    assert predictions.difference(recorded, recorded + 1, "bfloat16")  # of 16 bits not all may turn


def test_several_answers_to_an_item_count_as_one() -> None:
    recorded = np.zeros((4, 5), np.int64)
    turned = recorded.copy()
    turned[1] = 1
    assert "1 of 4 answers" in str(predictions.difference(recorded, turned, "float32"))
    assert predictions.difference(recorded, turned, "bfloat16") is None
    assert "shape" in str(predictions.difference(recorded, turned[:, :4], "float32"))
